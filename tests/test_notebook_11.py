"""Notebook 11: what its sentences lean on, its stored runs, its figures."""

import copy
import math
import re
import statistics
from pathlib import Path

import pytest
import torch
from torch import nn

from lora_edu import GPT, GPTConfig, LoRALinear, add_lora, evaluate, train
from lora_edu.exercises import nb11 as check
from lora_edu.experiments import load_results, nb11_starts
from lora_edu.experiments import nb11 as experiment
from lora_edu.experiments import nb11_runs as records
from lora_edu.experiments.nb10 import block_weights, relative_norm
from lora_edu.experiments.nb11_starts import BEST_RATES
from lora_edu.experiments.sweeps import interval, stored_runs, t_of_three
from lora_edu.figures import nb11 as pictures
from lora_edu.figures import nb11_published as published
from lora_edu.lora import lora_layers
from lora_edu.training import training_step
from lora_edu.variants import lora_plus_groups

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"


@pytest.fixture(scope="module")
def runs():
    return experiment.all_runs()


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


def test_the_best_rates_are_bracketed_and_have_three_seeds(runs):
    """A best rate at the end of a sweep would be no best rate."""
    for name in records.RANKED:
        rates, best = list(runs.where(name=name).sweep()), records.best_rate(runs, name)
        assert rates[0] < best < rates[-1] or name == experiment.CHANGES_NOTHING, name
        assert experiment.BEST_RATES.get(name, best) == best
        assert len(records.at_best(runs, name)) == 3


def test_what_section_4_and_5_say(runs):
    verdicts = {name: records.verdict(records.paired(runs, name)) for name in records.RANKED if name != "LoRA"}
    assert verdicts == {
        experiment.CHANGES_NOTHING: "cannot tell",
        "LoRA, rank 16": "better",
        "rsLoRA": "cannot tell",
        "LoRA+": "cannot tell",
        "DoRA": "perhaps better",
        "PiSSA": "worse",
    }
    assert next(iter(records.losses_at(runs, 0.003))) == list(records.losses_at(runs, 0.01))[-1] == "LoRA+"
    assert records.kept_order(runs, 0.003) == (11, 21) and records.kept_order(runs, 0.003, True) == (7, 12)
    assert records.kept_order(runs, 0.01) == (12, 15) and records.kept_order(runs, 0.01, True) == (7, 8)
    assert sum(records.best_rate(runs, name) == 0.01 for name in records.RANKED) == 4
    for name in ("LoRA, rank 16", "LoRA+", "PiSSA"):  # for each seed they forget more than LoRA
        assert min(records.paired(runs, name, "addresses")) > 0.03, name
    norms = {name: records.at_best(runs, name, "update")[0] for name in records.RANKED if name != "LoRA"}
    norms["LoRA"] = next(run.update for run in runs.where(name="LoRA", lr=1e-2, seed=0))
    assert min(norms, key=norms.get) == "PiSSA" and sorted(norms, key=norms.get)[-2:] == ["LoRA, rank 16", "LoRA+"]
    dora, lora = (runs.where(name=name).sweep() for name in ("DoRA", "LoRA"))
    both = [rate for rate in dora if rate in lora]
    assert len(both) == 3 and all(dora[rate] < lora[rate] - 0.005 for rate in both)


def test_dora_is_better_in_six_seeds_and_in_the_three_that_were_run_to_ask_again(runs):
    six, later = (records.paired(runs, "DoRA", seeds=seeds) for seeds in (range(6), experiment.MORE_SEEDS))
    assert six[:3] == records.paired(runs, "DoRA") and six[3:] == later
    assert experiment.BEST_RATES["DoRA"] == records.best_rate(runs, "LoRA") == 0.01  # the rate of the later ones
    mean, half = interval(later)
    assert mean + half < 0
    mean, error = records.mean_and_error(six)
    assert max(six) < 0 and round(mean, 2) == -0.01  # "by a hundredth of a nat"
    assert abs(mean) > 10 * error
    forgotten, error = records.mean_and_error(records.paired(runs, "DoRA", "addresses", seeds=range(6)))
    assert forgotten > 4 * error and 1.5 < forgotten / abs(mean) < 2.5  # "about twice that"


def test_at_equal_time_lora_is_better_than_dora_with_each_of_six_seeds(runs):
    """The old page compared equal steps only, and named the time of a step two sections later."""
    (measured,) = load_results("variant-times")["arms"].values()
    dora, lora = (measured["seconds"][name] for name in ("DoRA", "LoRA"))
    ratio = statistics.median(one / other for one, other in zip(dora, lora, strict=True))
    assert round(100 * ratio) == experiment.DORAS_TIME == 112
    found = records.at_equal_time(runs)
    assert len(found) == 6 and min(found) > 0, "DoRA is worse with each"
    mean, error = records.mean_and_error(found)
    assert mean > 2.571 * error, "and the interval of six, 2.571 standard errors, leaves zero out"
    mean, error = records.mean_and_error(records.at_equal_time(runs, "addresses"))
    assert abs(mean) < 2.571 * error, "on addresses it cannot be told: the page says plays"
    text = (NOTEBOOKS / "11_variants.ipynb").read_text(encoding="utf-8")
    assert "At equal steps DoRA is better; at equal time LoRA is" in text


def test_dora_is_ahead_at_each_shared_rate(runs):
    found = records.at_shared_rates(runs)
    assert list(found) == [0.003, 0.01, 0.02] and max(found.values()) < -0.005


def test_the_table_of_dora_says_what_is_stored(runs):
    _, rows = pictures.dora_table(runs)
    said = {row[0]: row[-1] for row in rows}
    assert said["plays, equal steps"] == "6 of 6 seeds" and said["plays, equal time"] == "0 of 6 seeds"
    assert [len(row) for row in rows] == [4] * 4


def test_a_standard_error_is_the_deviation_over_the_root_of_the_number():
    assert records.mean_and_error([1.0, 2.0, 3.0]) == (2, pytest.approx(1 / math.sqrt(3)))
    assert records.mean_and_error([1.0, 3.0] * 8) == (2, pytest.approx(math.sqrt(16 / 15) / 4))


def test_the_figure_shows_the_later_seeds_of_dora_hollow(runs):
    figure, words = pictures.pairs_figure(runs)
    hollow = [line for line in figure.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [list(line.get_xdata()) for line in hollow] == [records.paired(runs, "DoRA", seeds=experiment.MORE_SEEDS)]
    assert len(words.split()) <= 85


def test_pissa_forgets_most_and_not_because_of_its_rate(runs):
    """At its best rate, and at a smaller one at which it moves W less than any other and is as good within chance."""
    others = [statistics.mean(records.at_best(runs, name, "addresses")) for name in records.RANKED if name != "PiSSA"]
    plays, addresses = zip(*(records.means_at(runs, "PiSSA", rate) for rate in (0.003, 0.0045, 0.006)), strict=True)
    assert sorted(addresses) == list(addresses) and addresses[0] > max(others) + 0.03
    assert plays[1] == min(plays) and max(plays) - min(plays) < 0.015
    assert max(records.at_rate(runs, "PiSSA", 0.003, "update")) < 0.2


def test_a_pair_whose_runs_are_the_same_is_not_counted(runs):
    same = [n for n in records.RANKED if records.best_rate(runs, n) == 0.01]
    pairs = len(records.RANKED) * (len(records.RANKED) - 1) // 2
    assert records.kept_order(runs, 0.01)[1] == pairs - len(same) * (len(same) - 1) // 2
    assert not records.told(runs, "LoRA", experiment.CHANGES_NOTHING) and records.told(runs, "LoRA", "PiSSA")


def test_the_update_of_a_variant_is_measured_from_the_base(tiny_gpt):
    before = block_weights(tiny_gpt)
    for kind in ("LoRA", "PiSSA", "DoRA"):
        model = experiment.add_variant(copy.deepcopy(tiny_gpt), kind, 2, 4)
        assert relative_norm(before, block_weights(model)) < 1e-6
    for layer in lora_layers(model).values():
        layer.magnitude.data *= 1.5
    assert relative_norm(before, block_weights(model)) == pytest.approx(0.5, rel=1e-4)


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


# --- starts on a rounded base ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def starts():
    return stored_runs("starts", "loss")


def test_the_best_rates_of_the_starts_are_bracketed_and_have_three_seeds(starts):
    for start, rate in BEST_RATES.items():
        own = starts.where(start=start, bits=2)
        rates = list(own.sweep())
        assert own.best_rate() == rate and rates[0] < rate < rates[-1] and len(own.at_best()) == 3, start


def test_a_start_is_what_it_says(tiny_gpt, in_small, monkeypatch):
    """All but none begin as Q + B A of theirs; the controls of QERA repair without factors, and have factors without a
    repair."""
    in_small(nb11_starts)
    linears = experiment.block_linears(tiny_gpt)
    generator = torch.Generator().manual_seed(0)
    made = {path: [torch.randn(shape, generator=generator) for shape in ((W.shape), (len(W), 8), (8, W.shape[1]))]
            for path, W in ((path, layer.weight) for path, layer in linears.items())}  # fmt: skip
    monkeypatch.setattr(nb11_starts, "starts_of", lambda start, bits: made)
    for start in BEST_RATES:
        for path, layer in lora_layers(nb11_starts.prepared(start, 2)).items():
            Q, B, A = made[path.removeprefix("blocks.")]
            whole = layer.base.weight + layer.delta_weight()
            expected = Q if start in ("none", nb11_starts.SIZES) else Q + B @ A
            assert torch.allclose(whole, expected, atol=1e-4), start
            zero = start in ("none", nb11_starts.FROZEN)
            assert zero == (not layer.lora_B.any())
            if start == nb11_starts.SIZES:
                lengths = layer.lora_B.norm(dim=0) * layer.scaling**0.5
                assert torch.allclose(lengths, B.norm(dim=0), rtol=1e-4) and layer.delta_weight().norm() > 1


def test_the_losses_of_windows_are_those_of_evaluate(tiny_gpt, tiny_text):
    many = tiny_text.validation.repeat(1 + 5000 // len(tiny_text.validation))
    model = GPT(GPTConfig(context=256, n_layers=1, n_heads=2, d_model=16)).eval()
    by_window = experiment.window_losses(model, many)
    assert by_window.shape == (16,) and by_window.mean().item() == pytest.approx(evaluate(model, many, max_windows=16))


def test_the_figure_and_the_table_of_starts_say_what_is_stored(starts):
    _, words = pictures.starts_figure(starts)
    assert words.startswith("Before training QPiSSA, QERA is ahead, after it QERA.") and len(words.split()) < 85
    _, rows = pictures.trained_table(starts)
    assert len(rows) == len(BEST_RATES) + len(nb11_starts.AT_FOUR_BITS) and rows[0][-2:] == ["+0.000 ± 0.000", ""]
    said = {row[0]: row[-1] for row in rows[1:]}
    perhaps = {f"2 bits: {name}" for name in ("LoftQ", "QERA", nb11_starts.FROZEN)}
    assert {name for name, verdict in said.items() if verdict == "perhaps better"} == perhaps
    assert set(said.values()) == {"", "perhaps better", "cannot tell"} and said["4 bits: QERA"] == "cannot tell"
    mean, half = interval(pictures.lead(starts, "QERA", "calibrated"))
    assert half < abs(mean) < interval(pictures.lead(starts, "QERA", "calibrated"), 6)[1]  # perhaps, too
    mean, half = interval(pictures.lead(starts, "QERA", bits=4))
    assert rows[-1][-2] == f"{mean:+.3f} ± {half:.3f}"
    assert rows[-1][:2] == ["4 bits: QERA", f"{BEST_RATES['QERA']:g}"]  # its rate of 2 bits


def test_the_repair_of_qera_is_better_than_its_sizes(starts):
    """The old page gave the sizes' mean, 0.000, as "gain nothing": its interval holds most of QERA's lead."""
    sizes, repair, frozen, place = (
        pictures.lead(starts, one, other=other)
        for one, other in (
            (nb11_starts.SIZES, "none"),
            ("QERA", nb11_starts.SIZES),
            (nb11_starts.FROZEN, nb11_starts.SIZES),
            ("QERA", nb11_starts.FROZEN),
        )
    )
    mean, half = interval(sizes)
    assert half > 0.75 * abs(statistics.mean(pictures.lead(starts, "QERA"))) and abs(mean) < 0.001
    assert [records.verdict(pairs) for pairs in (repair, frozen, place)] == ["better", "perhaps better", "cannot tell"]
    rates = {BEST_RATES[name] for name in ("none", "QERA", nb11_starts.SIZES, nb11_starts.FROZEN)}
    assert rates == {0.01}  # so the rate is no rival
    _, rows = pictures.apart_table(starts)
    assert len(rows) == 5 and {row[0]: row[4] for row in rows}["QERA minus none"] == "perhaps better"
    assert {row[0]: row[2:] for row in rows}[f"QERA minus {nb11_starts.SIZES}"][::2] == ["better", "cannot tell"]


def test_the_best_start_before_training_is_not_the_best_after_it(starts):
    """Seed by seed, and by an interval that is right for all 21 pairs of seven starts at once."""
    pairs = len(BEST_RATES) * (len(BEST_RATES) - 1) // 2
    assert pairs == 21
    before, after = (pictures.lead(starts, "QERA", which, other="QPiSSA, QERA") for which in ("before", "loss"))
    (began, _), (ended, half) = interval(before), interval(after, pairs)
    assert min(before) > 0.04 and round(began, 3) == 0.053
    assert ended + half < 0 and max(after) < -0.02


# --- figures ---------------------------------------------------------------------------------------------------------


def test_a_verdict_needs_an_interval_without_zero():
    assert records.verdict([-0.02, -0.021, -0.019]) == "better"
    assert records.verdict([0.02, 0.021, 0.019]) == "worse"
    assert records.verdict([-0.02, -0.001, -0.03]) == "cannot tell"  # one sign, and too wide
    assert records.verdict([-0.02, -0.014, -0.017]) == "perhaps better"  # alone, and not as one of six
    mean, half = interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.303 / math.sqrt(3), rel=1e-3)
    assert t_of_three(0.05 / 6) == pytest.approx(10.886, rel=1e-3)  # from a table of t


def test_the_slider_shows_every_rate(runs):
    for rate in pictures.RATES:
        losses = records.losses_at(runs, rate)
        assert set(losses) == set(records.RANKED) and list(losses.values()) == sorted(losses.values())


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


def test_the_table_of_rivals_has_a_row_for_each(runs):
    header, rows = pictures.rivals_table(runs, load_results("variant-times")["arms"])
    assert {row[0] for row in rows} == set(records.RANKED) and all(len(row) == len(header) for row in rows)
    losses = [statistics.mean(records.at_best(runs, row[0])) for row in rows]
    assert losses == sorted(losses)


def test_every_time_in_the_table_was_measured(runs):
    """Of the row that changes nothing, too. Only DoRA's quartiles lie above 1."""
    (measured,) = load_results("variant-times")["arms"].values()
    assert measured["seconds"].keys() == experiment.KINDS.keys()
    _, rows = pictures.rivals_table(runs, {"": measured})
    quartiles = {row[0]: [float(x) for x in re.findall(r"\d+\.\d+", row[-1])][1:] for row in rows}
    assert [name for name, ends in quartiles.items() if ends and min(ends) > 1] == ["DoRA"]
    assert min(quartiles[experiment.CHANGES_NOTHING]) < 1 < max(quartiles[experiment.CHANGES_NOTHING])
    del measured["seconds"][experiment.CHANGES_NOTHING]
    with pytest.raises(KeyError):
        pictures.rivals_table(runs, {"": measured})
