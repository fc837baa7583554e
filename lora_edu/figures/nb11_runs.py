"""What the stored runs of notebook 11 say: whose best rate is which, who is ahead of whom, and whether one can tell.

`Runs` is everywhere (variant, rate, seed) -> what a run measured, as `lora_edu.experiments.nb11.all_runs` returns it.
"""

import itertools
import math
import statistics

from lora_edu.experiments.nb11 import CHANGES_NOTHING, KINDS, SEEDS

Runs = dict[tuple[str, float, int], dict]
OWN = "its own"
RANKED = tuple(KINDS)


def sweep(runs: Runs, name: str, which: str = "loss") -> dict[float, float]:
    """Rate -> loss with seed 0, the smallest rate first. A run that diverged has an infinite loss."""
    found = {lr: run.get(which, math.inf) for (who, lr, seed), run in runs.items() if who == name and seed == 0}
    return dict(sorted(found.items()))


def best_rate(runs: Runs, name: str) -> float:
    """The rate with the lowest loss in the sweep with seed 0. What is LoRA again takes LoRA's."""
    losses = sweep(runs, "LoRA" if name == CHANGES_NOTHING else name)
    return min(losses, key=losses.get)


def at_best(runs: Runs, name: str, which: str = "loss") -> list[float]:
    """What the runs of a variant at its own best rate measured, one for each seed that there is."""
    rate = best_rate(runs, name)
    return [runs[name, rate, seed][which] for seed in SEEDS if (name, rate, seed) in runs]


def means_at(runs: Runs, name: str, rate: float) -> tuple[float, float]:
    """The losses on plays and on addresses of a variant at one rate, means of the three seeds."""
    plays, addresses = (
        statistics.mean(runs[name, rate, seed][which] for seed in SEEDS) for which in ("loss", "addresses")
    )
    return plays, addresses


def paired(runs: Runs, name: str, which: str = "loss") -> list[float]:
    """A variant minus LoRA, each at its own best rate, for the same batches: one difference a seed."""
    return [mine - lora for mine, lora in zip(at_best(runs, name, which), at_best(runs, "LoRA", which), strict=True)]


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


def verdict(differences: list[float]) -> str:
    """ "better" or "worse"; "perhaps" where only the interval of this one comparison leaves 0 out; "cannot tell"."""
    (mean, alone), (_, together) = interval(differences), interval(differences, len(RANKED) - 1)
    which = "better" if mean < 0 else "worse"
    return "cannot tell" if abs(mean) <= alone else f"perhaps {which}" if abs(mean) <= together else which


def losses_at(runs: Runs, rate: float | str) -> dict[str, float]:
    """The loss of each variant with seed 0 at one rate for all, or each at its own: the best first."""
    rates = {name: best_rate(runs, name) if rate == OWN else rate for name in RANKED}
    losses = {name: runs[name, lr, 0].get("loss", math.inf) for name, lr in rates.items() if (name, lr, 0) in runs}
    return dict(sorted(losses.items(), key=lambda item: item[1]))


def kept_order(runs: Runs, rate: float, only_told: bool = False) -> tuple[int, int]:
    """How many pairs of variants have the same order (seed 0) at one rate for all and at their own; of how many.

    A pair whose own rates are both this one cannot turn, for its runs are the same: it does not count. only_told: of
    pairs that three seeds can tell at their own rates (95%, one by one).
    """
    one, own = losses_at(runs, rate), losses_at(runs, OWN)
    pairs = [pair for pair in itertools.combinations(RANKED, 2) if {best_rate(runs, n) for n in pair} != {rate}]
    pairs = [pair for pair in pairs if told(runs, *pair) or not only_told]
    return sum((one[a] < one[b]) == (own[a] < own[b]) for a, b in pairs), len(pairs)


def told(runs: Runs, one: str, other: str) -> bool:
    """Whether three seeds can tell two variants at their own rates: the 95% interval of this pair leaves 0 out."""
    mean, half = interval([a - b for a, b in zip(at_best(runs, one), at_best(runs, other), strict=True)])
    return abs(mean) > half
