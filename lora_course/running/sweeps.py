"""Runs at several learning rates: the arms of a sweep, the stored runs as records, and what one asks of them.

An experiment stores the settings of each arm beside what it measured, so no name is ever taken apart:

    stored_runs("qlora-quality", "after").where(method="lora", text="all plays").at_best("addresses")
"""

import math
import statistics
from collections.abc import Iterable
from types import SimpleNamespace

from lora_course.running.stored import load_results

SEEDS = (0, 1, 2)
TIE = 0.01  # nats: a difference between two rates moves by less from seed to seed (a test holds it)
UNSAID = {"rank": 8, "scaling": 2.0, "targets": "all-linear", "steps": 100, "text": ""}


def arm_name(way: str, lr: float, seed: int, steps: int = 100) -> str:
    """The name of an arm, for example `qlora, all plays, lr 0.01, seed 0`."""
    return f"{way}, lr {lr:g}, seed {seed}" + ("" if steps == 100 else f", {steps} steps")


def arms_of(way: str, lrs: Iterable[float], seeds: Iterable[int] = (0,), **options) -> dict[str, dict]:
    """Arms of one way to train, by name: every rate with every seed."""
    steps = options.get("steps", 100)
    return {arm_name(way, lr, seed, steps): {"lr": lr, "repeat": seed} | options for lr in lrs for seed in seeds}


def sweep_arms(way: str, lrs: Iterable[float], best: float, **options) -> dict[str, dict]:
    """Arms of one way to train: every rate with the first seed, the best one with all of SEEDS."""
    return arms_of(way, lrs, **options) | arms_of(way, (best,), SEEDS, **options)


def seeded(name: str, /, seeds: Iterable[int] = SEEDS, **options) -> dict[str, dict]:
    """Arms that differ in nothing but their seed, by name, for example `cuts of lora r8, seed 0`."""
    return {f"{name}, seed {seed}": options | {"repeat": seed} for seed in seeds}


class Runs(list):
    """Runs, each with its settings and what it measured: `run.lr`, `run.seed`, `run.loss`, `run.addresses` ..."""

    def where(self, **settings) -> "Runs":
        """The runs that were made with these settings."""
        return Runs(run for run in self if all(getattr(run, name, None) == value for name, value in settings.items()))

    def sweep(self) -> dict[float, float]:
        """Rate -> loss with seed 0, the smallest rate first. A run that diverged has an infinite loss."""
        return dict(sorted((run.lr, run.loss) for run in self if run.seed == 0))

    def tied(self, within: float = TIE) -> list[float]:
        """The rates that may be the best: with seed 0 their loss lies within so much of the lowest."""
        losses = self.sweep()
        return [lr for lr, loss in losses.items() if loss <= min(losses.values()) + within]

    def best_rate(self, within: float = 0.0) -> float:
        """The rate with the lowest loss with seed 0; of rates that tie, one that was run with the most seeds."""
        losses, seeds = self.sweep(), {lr: sum(run.lr == lr for run in self) for lr in self.tied(within)}
        return min(seeds, key=lambda lr: (-seeds[lr] if within else 0, losses[lr]))

    def best(self, within: float = 0.0) -> "Runs":
        """The runs at the best rate, one for each seed, in the order of the seeds."""
        return Runs(sorted(self.where(lr=self.best_rate(within)), key=lambda run: run.seed))

    def at_best(self, which: str = "loss", within: float = 0.0) -> list[float]:
        """What was measured at the best rate, one number for each seed."""
        return [getattr(run, which) for run in self.best(within)]


def stored_runs(experiment: str, loss: str) -> Runs:
    """The stored runs of an experiment. loss: what the sweeps are judged by, by the name under which it is stored."""
    stored, found = load_results(experiment), Runs()
    for arm, measured in stored["arms"].items():
        run = UNSAID | stored["settings"][arm] | measured
        run |= {"seed": run.get("repeat", run.get("draw", 0)), "loss": run.get(loss, math.inf)}
        found.append(SimpleNamespace(**run))
    return found


def paired(one: Runs, other: Runs, which: str = "loss") -> list[float]:
    """One way minus another, each at its own best rate, seed by seed: runs with one seed share their batches."""
    return [a - b for a, b in zip(one.at_best(which), other.at_best(which), strict=True)]


def interval(differences: list[float], comparisons: int = 1) -> tuple[float, float]:
    """Mean and half-width of the 95% interval of the mean of three differences.

    comparisons: of how many intervals all together shall be right 95 times in 100; one by one, each is wider then.
    """
    spread = statistics.stdev(differences)
    return statistics.mean(differences), t_of_three(0.05 / comparisons) * spread / math.sqrt(len(differences))


def t_of_three(outside: float) -> float:
    """What Student's t of three values exceeds, to either side, with this probability: 4.30 for 0.05."""
    inside = 1 - outside
    return inside * math.sqrt(2 / (1 - inside**2))
