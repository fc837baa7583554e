"""Notebook 11: what its sentences lean on, its stored runs, its figures."""

import copy
import math
import statistics

import pytest
import torch
from torch import nn

from lora_course.experiments import load_results
from lora_course.nb10.lab import block_weights, relative_norm
from lora_course.nb11 import check, pictures
from lora_course.nb11 import lab as experiment
from lora_course.nb11 import lab_runs as records
from lora_course.nb11 import pictures_published as published
from lora_course.running.sweeps import interval, stored_runs, t_of_three
from lora_edu import LoRALinear, add_lora, train
from lora_edu.lora import lora_layers
from lora_edu.training import trainable_parameters
from lora_edu.variants import lora_plus_groups

RUNS = experiment.all_runs()


def mean_and_error(differences: list[float]) -> tuple[float, float]:
    """Their mean, and its standard error: the standard deviation over the root of their number."""
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def test_the_loop_is_that_of_train(tiny_gpt, tiny_text, monkeypatch):
    monkeypatch.setattr(experiment, "batches", lambda data, n, length, generator: batches(data, n, 16, generator))
    from lora_edu.texts import batches

    models = [add_lora(copy.deepcopy(tiny_gpt), 2, 4, "all-linear") for _ in range(2)]
    models[1].load_state_dict(models[0].state_dict())
    how = {"batch_size": 2, "seq_len": 16, "eval_windows": 1, "progress": False, "device": "cpu"}
    by_train = train(models[0], tiny_text, 14, lr=1e-2, seed=3, **how).train_loss
    ours = experiment.train_groups(
        models[1], tiny_text, experiment.groups_of("LoRA", models[1], 1e-2), 14, seed=3, batch_size=2
    )
    assert ours == by_train


def test_who_leads_at_one_rate_and_who_can_be_told():
    verdicts = {name: records.verdict(records.paired(RUNS, name)) for name in records.RANKED if name != "LoRA"}
    assert verdicts == {
        experiment.CHANGES_NOTHING: "cannot tell",
        "LoRA, rank 16": "better",
        "rsLoRA": "cannot tell",
        "LoRA+": "cannot tell",
        "DoRA": "perhaps better",
        "PiSSA": "worse",
    }
    low, high = (list(records.losses_at(RUNS, rate)) for rate in (0.003, 0.01))
    assert low[0] == high[-1] == "LoRA+" and low[-1] == "LoRA"
    newer = {"rsLoRA", "LoRA+", "DoRA", "PiSSA"}
    assert newer & set(high[: high.index("LoRA")]) == {"DoRA"}  # "most of them lose to it"
    assert round(statistics.mean(records.paired(RUNS, "LoRA, rank 16")), 2) == -0.02


def test_dora_is_better_in_six_seeds_and_in_the_three_that_were_run_to_ask_again():
    six, later = (records.paired(RUNS, "DoRA", seeds=seeds) for seeds in (range(6), experiment.MORE_SEEDS))
    assert six[:3] == records.paired(RUNS, "DoRA") and six[3:] == later
    assert experiment.RATES["DoRA"][1] == records.best_rate(RUNS, "LoRA") == 0.01  # the rate of the later ones
    mean, half = interval(later)
    assert mean + half < 0
    mean, error = mean_and_error(six)
    assert max(six) < 0 and round(mean, 2) == -0.01  # "by a hundredth of a nat"
    assert abs(mean) > 10 * error
    forgotten = records.paired(RUNS, "DoRA", "addresses", seeds=range(6))
    assert min(forgotten) > 0  # on addresses DoRA ends higher


def test_at_equal_time_nobody_can_be_told_to_be_ahead():
    """The page once compared DoRA at A's rate alone, and found LoRA ahead with each of six seeds."""
    arms = load_results("variant-times")["arms"]
    seconds = arms["21 rounds"]["seconds"]
    ratios = {name: records.ratio(seconds["DoRA"], seconds[name]) for name in seconds if name != "DoRA"}
    assert round(100 * ratios["LoRA"]) == experiment.DORAS_TIME == 112
    assert {arm["threads"] for arm in arms.values()} == {1}
    assert published.SECONDS["DoRA"] / published.SECONDS["LoRA"] > max(ratios.values())
    for name, ratio in records.over_lora().items():
        found = records.at_equal_time(name)
        assert len(found) == 5 and min(found) < 0 < max(found)
        assert abs(records.even_at(name) - ratio) < 0.04, "about even"
        assert min(records.at_equal_time(name, "addresses")) > 0.01, "not for having learned more"
    at_one = [run.loss for run in sorted(records.at_multiple("DoRA", 1), key=lambda run: run.seed)]
    longer = stored_runs("variants", "loss").where(name="LoRA", steps=experiment.DORAS_TIME)
    assert all(loss > run.loss for loss, run in zip(at_one, sorted(longer, key=lambda run: run.seed), strict=True))


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


def test_gains_win_as_much_as_dora_each_at_its_best_rate():
    """Not "gains beat DoRA": their order at one rate is the rate's. And not "the norm helps"."""
    for name in ("gains", "DoRA"):
        gaps = records.row_gaps(name)
        assert len(gaps) == 5 and max(gaps) < -0.006
        assert min(records.row_gaps(name, "addresses")) > 0.02, "all forget more than LoRA"
    gaps = records.row_gaps("gains", other="DoRA")
    mean, error = mean_and_error(gaps)
    assert min(gaps) < 0 < max(gaps) and abs(mean) + 2.776 * error < 0.005  # t of five
    ours, theirs = (sorted(records.at_multiple(name, 1), key=lambda run: run.seed) for name in ("gains", "DoRA"))
    assert all(gain.loss < dora.loss for gain, dora in zip(ours, theirs, strict=False)), "at one rate for all"


def test_at_one_rate_gains_and_lengths_win_with_each_seed_and_biases_cannot_be_told_from_none():
    """Not "any number a row": with seed 0 alone biases would lead them both."""
    found = {name: records.row_gaps(name, multiple=1)[:5] for name in ("DoRA", *experiment.ONE_A_ROW)}
    assert max(found["DoRA"]) < -0.006 and max(found["gains"]) < -0.009
    mean, error = mean_and_error(found["biases"])
    assert found["biases"][0] < found["gains"][0] and abs(mean) < 2.776 * error  # t of five
    assert min(found["biases"]) < 0 < max(found["biases"])


def test_whether_three_times_the_rate_is_better_than_once_five_seeds_cannot_tell():
    for name in ("gains", "DoRA"):
        gaps = records.row_gaps(name)
        at_one = records.row_gaps(name, multiple=1)
        more = [a - b for a, b in zip(gaps, at_one, strict=False)]
        assert min(more) < 0 < max(more)


def test_an_own_rate_is_no_run_at_the_shared_one():
    assert all(not hasattr(run, "own") for run in RUNS)


def test_the_update_of_a_variant_is_measured_from_the_base(tiny_gpt):
    before = block_weights(tiny_gpt)
    for kind in ("LoRA", "PiSSA", "DoRA"):
        model = experiment.add_variant(copy.deepcopy(tiny_gpt), kind, 2, 4)
        assert relative_norm(before, block_weights(model)) < 1e-6
    for layer in lora_layers(model).values():
        layer.magnitude.data *= 1.5
    assert relative_norm(before, block_weights(model)) == pytest.approx(0.5, rel=1e-4)


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
    assert all(rows[one]["rank"] == rows[other]["rank"] for one, other in published.PAIRS)
    assert all(one["rank"] == other["rank"] for one, other, _ in check.suspects.cases)
    assert [f"{row['accuracy']:.3f}" for row in rows.values()] == ["0.482", "0.489", "0.530", "0.482", "0.494"]
