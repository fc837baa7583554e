"""What the stored runs of notebook 11 say: whose best rate is which, who is ahead of whom, and whether one can tell.

`runs` is everywhere what `lora_course.nb11.lab.all_runs` returns.
"""

import math
import statistics

from lora_course.nb11.lab import DORAS_TIME, KINDS, SEEDS
from lora_course.running.stored import load_results
from lora_course.running.sweeps import Runs, interval, stored_runs

OWN = "its own"
RANKED = tuple(KINDS)
SIX = range(6)  # the seeds of DoRA and LoRA


def best_rate(runs: Runs, name: str) -> float:
    """The rate with the lowest loss in the sweep with seed 0."""
    return runs.where(name=name).best_rate()


def paired(runs: Runs, name: str, which: str = "loss", seeds=SEEDS, lora: Runs | None = None) -> list[float]:
    """A variant minus LoRA, each at its own best rate, for the same batches: one difference a seed.

    lora: other runs of LoRA than those among `runs`.
    """
    one, two = (
        {run.seed: getattr(run, which) for run in some.where(name=each).best()}
        for some, each in ((runs, name), (lora or runs, "LoRA"))
    )
    return [one[seed] - two[seed] for seed in seeds]


def doras_times() -> dict[str, float]:
    """The time of a step of DoRA over that of each other in the same round: the median of the stored rounds."""
    (measured,) = load_results("variant-times")["arms"].values()
    seconds = measured["seconds"]
    pairs = {name: zip(seconds["DoRA"], seconds[name], strict=True) for name in RANKED if name != "DoRA"}
    return {name: statistics.median(one / other for one, other in rounds) for name, rounds in pairs.items()}


def at_equal_time(runs: Runs, which: str = "loss") -> list[float]:
    """DoRA's 100 steps minus as many of LoRA as last as long, 112: one difference for each of six seeds."""
    return paired(runs, "DoRA", which, SIX, stored_runs("variants", "loss").where(steps=DORAS_TIME))


def even_at(runs: Runs) -> float:
    """At which ratio of times DoRA and LoRA would end equal, on a line from its lead at 1 to that at 1.12."""
    at_one, at_its = (statistics.mean(gaps) for gaps in (paired(runs, "DoRA", seeds=SIX), at_equal_time(runs)))
    return 1 + (DORAS_TIME / 100 - 1) * at_one / (at_one - at_its)


def at_shared_rates(runs: Runs) -> dict[float, float]:
    """DoRA minus LoRA with seed 0, at each rate that both were tried with."""
    dora, lora = (runs.where(name=name).sweep() for name in ("DoRA", "LoRA"))
    return {rate: dora[rate] - lora[rate] for rate in dora if rate in lora}


def mean_and_error(differences: list[float]) -> tuple[float, float]:
    """Their mean, and its standard error: the standard deviation over the root of their number."""
    return statistics.mean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def verdict(differences: list[float]) -> str:
    """ "better" or "worse"; "perhaps" where only the interval of this one comparison leaves 0 out; "cannot tell"."""
    (mean, alone), (_, together) = interval(differences), interval(differences, len(RANKED) - 1)
    which = "better" if mean < 0 else "worse"
    return "cannot tell" if abs(mean) <= alone else f"perhaps {which}" if abs(mean) <= together else which


def losses_at(runs: Runs, rate: float | str) -> dict[str, float]:
    """The loss of each variant with seed 0 at one rate for all, or each at its own: the best first."""
    rates = {name: best_rate(runs, name) if rate == OWN else rate for name in RANKED}
    losses = {name: run.loss for name, lr in rates.items() for run in runs.where(name=name, lr=lr, seed=0)}
    return dict(sorted(losses.items(), key=lambda item: item[1]))
