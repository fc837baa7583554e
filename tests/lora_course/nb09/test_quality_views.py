import math
from types import SimpleNamespace

import pytest

from lora_course.nb09 import pictures_quality as views
from lora_course.nb09.lab import RATES, TEXT_SIZES, of
from lora_course.running import sweeps
from lora_course.running.sweeps import SEEDS, Runs, paired, stored_runs


def run_of(method, text, lr, seed, **measured):
    measured = {"loss": math.inf} | measured
    return SimpleNamespace(method=method, text=text, lr=lr, seed=seed, rank=8, **measured)


@pytest.fixture
def runs():
    """Made-up results: the second rate of each sweep is the best with seed 0, and the last one diverges."""
    made = Runs()
    for text in TEXT_SIZES:
        for place, method in enumerate(RATES):
            tried = RATES[method][text]
            for lr in tried[:-1]:
                loss = 2 + place + abs(tried.index(lr) - 1)
                made += [run_of(method, text, lr, seed, loss=loss + seed / 10, training=loss - 1) for seed in SEEDS]
            made.append(run_of(method, text, tried[-1], 0))
    return made


def test_the_best_rate_is_chosen_with_the_first_seed_alone(runs):
    runs.where(method="lora", text="20 kB", lr=1e-2, seed=1)[0].loss = 0.0  # a lucky run with another seed
    assert of(runs, "lora", "20 kB").best_rate() == 3e-3


def test_of_rates_that_tie_the_best_is_the_one_with_most_seeds():
    losses = {1e-3: [2.004, 2.1], 2e-3: [2.0], 3e-3: [2.5, 2.5, 2.5]}
    runs = Runs(run_of("full", "", lr, seed, loss=x) for lr, some in losses.items() for seed, x in enumerate(some))
    assert runs.best_rate() == 2e-3 and runs.tied(0.01) == [1e-3, 2e-3] and runs.tied(0) == [2e-3]
    assert runs.best_rate(0.01) == 1e-3 and runs.at_best(within=0.01) == [2.004, 2.1]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        paired(runs.where(lr=1e-3), runs.where(lr=3e-3))


def test_a_stored_run_has_the_settings_that_its_arm_leaves_unsaid(monkeypatch):
    """Nothing is read from the name of an arm."""
    settings = {"a": {"lr": 1e-3, "rank": 4, "repeat": 2}, "b": {"lr": 1e-2, "draw": 1}}
    stored = {"settings": settings, "arms": {"a": {"after": 1.5}, "b": {"diverged": True}}}
    monkeypatch.setattr(sweeps, "load_results", lambda name: stored)
    one, other = stored_runs("some", "after")
    assert (one.lr, one.rank, one.seed, one.loss, one.steps) == (1e-3, 4, 2, 1.5, 100)
    assert (other.rank, other.seed, other.loss) == (8, 1, math.inf)


def test_the_figures_show_every_rate_and_every_seed(runs):
    figure, words = views.sweep_figure(runs)
    assert "full fine-tuning 0.0003" in words
    for axes, text in zip(figure.axes, TEXT_SIZES, strict=True):
        curves, rings = axes.lines[::2], axes.lines[1::2]
        assert axes.get_title(loc="left") == text and axes.get_xscale() == "log"
        for method, curve, ring in zip(views.NAMES, curves, rings, strict=True):
            assert dict(zip(*curve.get_data(), strict=True)) == of(runs, method, text).sweep()
            assert ring.get_xdata()[0] == of(runs, method, text).best_rate()
