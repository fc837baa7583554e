"""Notebook 11: what its sentences lean on, its stored runs, its figures."""

import copy
import math
import statistics

import matplotlib.pyplot as plt
import pytest
import torch

from lora_edu import add_lora, train
from lora_edu.exercises import nb11 as check
from lora_edu.experiments import load_results
from lora_edu.experiments import nb11 as experiment
from lora_edu.figures import nb11 as pictures
from lora_edu.figures import nb11_published as published
from lora_edu.lora import lora_layers
from lora_edu.training import training_step
from lora_edu.variants import lora_plus_groups


@pytest.fixture(scope="module")
def runs():
    return experiment.all_runs(load_results("variants")["arms"], load_results("qlora-quality")["arms"])


# --- the runs --------------------------------------------------------------------------------------------------------


def test_lora_is_that_of_notebook_09_to_the_digit():
    ours, theirs = (load_results(name)["arms"] for name in ("variants", "qlora-quality"))
    for rate in ("0.003", "0.01"):
        mine, its = ours[f"LoRA, lr {rate}, seed 0"], theirs[f"lora, all plays, lr {rate}, seed 0"]
        assert [mine[key] for key in ("loss", "addresses", "training")] == [
            its[key] for key in ("after", "addresses", "training")
        ]


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


def test_every_stored_arm_is_one_of_the_experiment():
    stored = load_results("variants")
    assert stored["settings"].keys() == experiment.VARIANT_ARMS.keys() == stored["arms"].keys()


def test_the_best_rates_are_bracketed_and_have_three_seeds(runs):
    """A best rate at the end of a sweep would be no best rate."""
    for name in pictures.RANKED:
        rates, best = list(pictures.sweep(runs, name)), pictures.best_rate(runs, name)
        assert rates[0] < best < rates[-1] or name == experiment.CHANGES_NOTHING, name
        assert experiment.BEST_RATES.get(name, best) == best
        assert len(pictures.at_best(runs, name)) == 3


def test_what_section_4_and_5_say(runs):
    verdicts = {name: pictures.verdict(pictures.paired(runs, name)) for name in pictures.RANKED if name != "LoRA"}
    assert verdicts == {
        experiment.CHANGES_NOTHING: "cannot tell",
        "LoRA, rank 16": "better",
        "rsLoRA": "cannot tell",
        "LoRA+": "cannot tell",
        "DoRA": "perhaps better",
        "PiSSA": "worse",
    }
    assert next(iter(pictures.losses_at(runs, 0.003))) == list(pictures.losses_at(runs, 0.01))[-1] == "LoRA+"
    assert pictures.kept_order(runs, 0.003) == (11, 21) and pictures.kept_order(runs, 0.01)[0] > 16
    assert sum(pictures.best_rate(runs, name) == 0.01 for name in pictures.RANKED) == 4
    for name in ("LoRA, rank 16", "LoRA+", "PiSSA"):  # for each seed they forget more than LoRA
        assert min(pictures.paired(runs, name, "addresses")) > 0.03, name
    norms = {name: runs[name, pictures.best_rate(runs, name), 0]["update"] for name in pictures.RANKED}
    assert min(norms, key=norms.get) == "PiSSA" and sorted(norms, key=norms.get)[-2:] == ["LoRA, rank 16", "LoRA+"]
    means = {name: statistics.mean(pictures.at_best(runs, name)) for name in pictures.RANKED if name != "PiSSA"}
    assert max(means.values()) / min(means.values()) < 1.02  # all but PiSSA within 1 to 2%


def test_the_update_of_a_variant_is_measured_from_the_base(tiny_gpt, monkeypatch):
    monkeypatch.setattr(experiment, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    for kind in ("LoRA", "PiSSA", "DoRA"):
        model = experiment.add_variant(copy.deepcopy(tiny_gpt), kind, 2, 4)
        assert experiment.update_norm(model) < 1e-6
    for layer in lora_layers(model).values():
        layer.magnitude.data *= 1.5
    assert experiment.update_norm(model) == pytest.approx(0.5, rel=1e-4)


# --- LoRA+ is alpha --------------------------------------------------------------------------------------------------


def race(base, alpha, ratio, optimizer=torch.optim.AdamW, clip=1e9, **how):
    model = copy.deepcopy(base)
    for layer in lora_layers(model).values():
        layer.alpha, layer.scaling = alpha, alpha / layer.rank
    how = {"eps": 1e-30, "weight_decay": 0.0} | how if optimizer is torch.optim.AdamW else how
    optimizer = optimizer(lora_plus_groups(model, 1e-2, ratio), **how)
    tokens = torch.arange(60).view(2, 30)
    return [training_step(model.train(), tokens, tokens + 1, optimizer, max_grad_norm=clip) for _ in range(6)]


@pytest.mark.parametrize(
    ("ratio", "k", "how", "equal"),
    [
        (16, 16, {}, True),
        (4, 4, {}, True),
        (10, 10, {}, False),  # the last digit is rounded
        (16, 8, {}, False),
        (16, 16, {"eps": 1e-4}, False),
        (16, 16, {"weight_decay": 0.1}, False),
        (16, 16, {"clip": 1e-3}, False),
        (16, 16, {"optimizer": torch.optim.SGD}, False),
        (256, 16, {"optimizer": torch.optim.SGD}, True),  # the factor enters twice
    ],
)
def test_lora_plus_is_alpha_under_its_conditions(tiny_gpt, ratio, k, how, equal):
    base = add_lora(tiny_gpt, 4, 8, "all-linear")
    assert (race(base, 8, ratio, **how) == race(base, 8 * k, 1, **how)) is equal


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_verdict_needs_an_interval_without_zero():
    assert pictures.verdict([-0.02, -0.021, -0.019]) == "better"
    assert pictures.verdict([0.02, 0.021, 0.019]) == "worse"
    assert pictures.verdict([-0.02, -0.001, -0.03]) == "cannot tell"  # one sign, and too wide
    assert pictures.verdict([-0.02, -0.014, -0.017]) == "perhaps better"  # alone, and not as one of six
    mean, half = pictures.interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert pictures.t_of_three(0.05 / 6) == pytest.approx(10.886, rel=1e-3)  # from a table of t


def test_the_slider_shows_every_rate(runs):
    view = pictures.ranking_view(runs)
    seen = [view.render(rate=rate) for rate in pictures.RATES]
    assert len({picture for picture, _ in seen}) == len(seen)
    for rate in pictures.RATES:
        losses = pictures.losses_at(runs, rate)
        assert set(losses) == set(pictures.RANKED) and list(losses.values()) == sorted(losses.values())
    plt.close("all")


def test_areas_are_counts():
    counts = {name: pictures.trained_in_a_layer(name) for name in pictures.PARTS}
    assert counts == {"LoRA": 4096, "rsLoRA": 4096, "LoRA+": 4096, "PiSSA": 4096, "DoRA": 4096 + 256, "VeRA": 512}


# --- the published rows ----------------------------------------------------------------------------------------------


def test_what_the_solution_says_of_the_published_rows():
    rows, suspects = published.PUBLISHED, check.suspects.reference
    step, gap = suspects(rows["LoRA, rank 64"], rows["rsLoRA, rank 64"], published.QUESTIONS)
    assert step == pytest.approx(4) and round(gap, 1) == 2.1
    assert suspects(rows["LoRA, rank 32"], rows["DoRA, rank 32"], published.QUESTIONS) == (1, 0)
    again = suspects(rows["DoRA, rank 32"], rows["DoRA again"], published.QUESTIONS)
    assert again[0] == 1 and 0 < again[1] < 1
    assert rows["DoRA again"]["right"] - rows["DoRA, rank 32"]["right"] == 16
    assert [f"{row['accuracy']:.3f}" for row in rows.values()] == ["0.482", "0.489", "0.530", "0.482", "0.494"]


def test_the_table_of_rivals_has_a_row_for_each(runs):
    header, rows = pictures.rivals_table(runs, load_results("variant-times")["arms"])
    assert {row[0] for row in rows} == set(pictures.RANKED) and all(len(row) == len(header) for row in rows)
    losses = [statistics.mean(pictures.at_best(runs, row[0])) for row in rows]
    assert losses == sorted(losses)
