"""Runs of a sweep, and what one asks of them."""

import math
from types import SimpleNamespace

import pytest

from lora_course.running import sweeps
from lora_course.running.sweeps import Runs, paired, stored_runs


def test_of_rates_that_tie_the_best_is_the_one_with_most_seeds():
    losses = {1e-3: [2.004, 2.1], 2e-3: [2.0], 3e-3: [2.5, 2.5, 2.5]}
    runs = Runs(
        SimpleNamespace(lr=lr, seed=seed, loss=loss) for lr, some in losses.items() for seed, loss in enumerate(some)
    )
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
