"""What the sentences of notebook 11 lean on. What it says of its stored runs, its own cells print and assert."""

import copy
import math

import pytest
import torch
from torch import nn

from lora_course.nb11 import check, pictures
from lora_course.nb11 import lab as experiment
from lora_course.nb11 import lab_runs as records
from lora_course.nb11 import pictures_published as published
from lora_course.running.sweeps import interval, t_of_three
from lora_edu import LoRALinear, add_lora, train
from lora_edu.training import trainable_parameters
from lora_edu.variants import lora_plus_groups

RUNS = experiment.all_runs()


def test_the_loop_is_that_of_train(tiny_gpt, tiny_text, monkeypatch):
    monkeypatch.setattr(experiment, "batches", lambda data, n, length, generator: batches(data, n, 16, generator))
    from lora_edu.texts import batches

    models = [add_lora(copy.deepcopy(tiny_gpt), 2, 4, "all-linear") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    how = {"batch_size": 2, "seq_len": 16, "eval_windows": 1, "progress": False, "device": "cpu"}
    by_train = train(models[0], tiny_text, 14, lr=1e-2, seed=3, **how).train_loss
    groups = experiment.groups_of("LoRA", models[1], 1e-2)
    assert experiment.train_groups(models[1], tiny_text, groups, 14, seed=3, batch_size=2) == by_train


def test_dora_ends_below_lora_with_each_of_six_seeds():
    assert max(records.paired(RUNS, "DoRA", seeds=range(6))) < 0


def test_the_longer_runs_take_about_dora_s_time():
    assert records.over_lora()["DoRA"] == pytest.approx(experiment.DORAS_TIME / 100, abs=0.03)


# --- one number a row ------------------------------------------------------------------------------------------------


def test_each_has_as_many_numbers_as_dora_s_lengths_and_they_may_have_a_rate_of_their_own():
    trained = {name: experiment.prepared(name) for name in ("LoRA", "DoRA", *experiment.ONE_A_ROW)}
    counts = {name: sum(p.numel() for p in trainable_parameters(model)) for name, model in trained.items()}
    for name in ("DoRA", *experiment.ONE_A_ROW):
        assert counts[name] == counts["LoRA"] + 9216
        one, other = experiment.groups_of(name, trained[name], 0.1, own=3)
        assert (one["lr"], other["lr"]) == (0.1, pytest.approx(0.3))
        assert sum(p.numel() for p in other["params"]) == 9216


@pytest.mark.parametrize("name", pictures.ROWS)
def test_the_own_rate_is_swept_to_both_sides_of_its_best(name):
    losses = {multiple: records.row_gaps(name, multiple=multiple)[0] for multiple in experiment.MULTIPLES}
    best = min(losses, key=losses.get)
    assert best == experiment.BEST_MULTIPLE[name] and min(losses) < best < max(losses)


def test_an_own_rate_is_no_run_at_the_shared_one():
    assert all(not hasattr(run, "own") for run in RUNS)


def test_the_step_in_proportion_to_s_times_the_rate_holds_at_one_rank_only():
    """What exercise 11.2 leans on: Adam's first step. At the same s, twice the rank moves a weight further."""

    def first_step(rank, alpha, rate):
        torch.manual_seed(0)
        layer = LoRALinear(nn.Linear(96, 80), rank, alpha)
        optimizer = torch.optim.AdamW(lora_plus_groups(layer, rate, 1), eps=1e-30, weight_decay=0.0)
        layer(torch.randn(20, 96, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        optimizer.step()
        return layer.delta_weight().norm().item()

    start = first_step(16, 32, 1e-4)
    assert first_step(16, 96, 1e-4) == pytest.approx(3 * start, rel=1e-3)
    assert first_step(16, 32, 5e-4) == pytest.approx(5 * start, rel=0.01)  # A has moved a little, too
    assert first_step(32, 64, 1e-4) > 1.3 * start


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_verdict_needs_an_interval_without_zero():
    assert records.verdict([-0.02, -0.021, -0.019]) == "better"
    assert records.verdict([0.02, 0.021, 0.019]) == "worse"
    assert records.verdict([-0.02, -0.001, -0.03]) == "cannot tell"  # one sign, and too wide
    assert records.verdict([-0.02, -0.014, -0.017]) == "perhaps better"  # alone, and not as one of six
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert t_of_three(0.05 / 6) == pytest.approx(10.886, rel=1e-3)  # from a table of t


# --- the published rows ----------------------------------------------------------------------------------------------


def test_what_the_solution_says_of_the_published_rows():
    rows, suspects = published.PUBLISHED, check.suspects.reference
    step, gap = suspects(rows["LoRA, rank 64"], rows["rsLoRA, rank 64"], published.QUESTIONS)
    assert step == pytest.approx(4) and round(gap, 1) == 2.1
    assert suspects(rows["LoRA, rank 32"], rows["DoRA, rank 32"], published.QUESTIONS) == (1, 0)
    again = suspects(rows["DoRA, rank 32"], rows["DoRA again"], published.QUESTIONS)
    assert again[0] == 1 and 0 < again[1] < 1
    assert rows["DoRA again"]["right"] - rows["DoRA, rank 32"]["right"] == 16
    same = suspects(rows["rsLoRA, rank 64"], rows["LoRA, rank 64"] | {"alpha": 512}, published.QUESTIONS)
    assert same[0] == pytest.approx(1)  # the same layer
    assert all(one["rank"] == other["rank"] for one, other, _ in check.suspects.cases)
    assert [f"{row['accuracy']:.3f}" for row in rows.values()] == ["0.482", "0.489", "0.530", "0.482", "0.494"]
