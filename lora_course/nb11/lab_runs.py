"""What the stored runs of notebook 11 say: whose best rate is which, who is ahead of whom, and whether one can tell.

`runs` is everywhere what `lora_course.nb11.lab.all_runs` returns.
"""

import math
import statistics

from lora_course.nb11.lab import DORAS_TIME, KINDS, ROW_SEEDS, SEEDS
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


def over_lora() -> dict[str, float]:
    """The time of a step of DoRA, and of LoRA with gains, over LoRA's in the same round: taken later, in turns."""
    seconds = load_results("variant-times")["arms"]["gains, 21 rounds"]["seconds"]
    return {name: ratio(seconds[name], seconds["LoRA"]) for name in ("DoRA", "gains")}


def ratio(one: list[float], other: list[float]) -> float:
    """The median of one number over another, round by round."""
    return statistics.median(a / b for a, b in zip(one, other, strict=True))


def at_equal_time(runs: Runs, which: str = "loss") -> list[float]:
    """DoRA's 100 steps minus as many of LoRA as last as long, 112: one difference for each of six seeds."""
    return paired(runs, "DoRA", which, SIX, stored_runs("variants", "loss").where(steps=DORAS_TIME))


def even_at(runs: Runs, name: str = "DoRA") -> float:
    """At which ratio of times a variant and LoRA would end equal: what LoRA wins by 12 more steps, on a line."""
    longer = stored_runs("variants", "loss").where(name="LoRA", steps=DORAS_TIME, own=None)
    ends = {run.seed: run.loss for run in longer}
    now = {run.seed: run.loss for run in runs.where(name="LoRA").best()}
    a_step = statistics.mean(now[seed] - ends[seed] for seed in SIX) / (DORAS_TIME - 100)
    return 1 - statistics.mean(row_gaps(runs, name)) / a_step / 100


# --- one number a row ------------------------------------------------------------------------------------------------


def row_gaps(runs: Runs, name: str, which: str = "loss", other: str = "LoRA") -> list[float]:
    """One way minus another at the rate 0.01, the best of both, for the same batches: a difference a seed.

    A name that ends in ", x3" has numbers of rows that learn three times as fast.
    """
    one, two = ({run.seed: getattr(run, which) for run in _at_best(runs, each)} for each in (name, other))
    return [one[seed] - two[seed] for seed in ROW_SEEDS if seed in one and seed in two]


def _at_best(runs: Runs, name: str) -> Runs:
    kind, _, own = name.partition(", x")
    return stored_runs("variants", "loss").where(name=kind, own=int(own)) if own else runs.where(name=kind, lr=1e-2)


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
