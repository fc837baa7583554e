"""What the stored runs of notebook 11 say: whose best rate is which, who is ahead of whom, and whether one can tell.

`runs` is everywhere what `lora_course.nb11.lab.all_runs` returns.
"""

import numpy as np

from lora_course.nb11.lab import BEST_MULTIPLE, DORAS_TIME, KINDS, SEEDS, all_runs
from lora_course.running.stored import load_results
from lora_course.running.sweeps import Runs, interval, stored_runs

OWN = "its own"
RANKED = tuple(KINDS)


def best_rate(runs: Runs, name: str) -> float:
    """The rate with the lowest loss in the sweep with seed 0."""
    return runs.where(name=name).best_rate()


def paired(runs: Runs, name: str, which: str = "loss", seeds=SEEDS) -> list[float]:
    """A variant minus LoRA, each at its own best rate, for the same batches: one difference a seed."""
    one, two = ({run.seed: getattr(run, which) for run in runs.where(name=each).best()} for each in (name, "LoRA"))
    return [one[seed] - two[seed] for seed in seeds]


def over_lora() -> dict[str, float]:
    """The median time of a step of DoRA, and of LoRA with gains, over LoRA's in the same round: taken in turns."""
    seconds = load_results("variant-times")["arms"]["gains, 21 rounds"]["seconds"]
    return {name: float(np.median(np.divide(seconds[name], seconds["LoRA"]))) for name in ("DoRA", "gains")}


def at_equal_time(name: str, which: str = "loss") -> list[float]:
    """100 steps of a way, at its best, minus as many of LoRA as last as long as DoRA's, 112: a difference a seed."""
    longer = stored_runs("variants", "loss").where(name="LoRA", steps=DORAS_TIME)
    return _differences(at_multiple(name), longer, which)


# --- one number a row ------------------------------------------------------------------------------------------------


def at_multiple(name: str, multiple: int | None = None) -> Runs:
    """LoRA, or a way with one number a row: A and B at 1e-2, the best rate of LoRA and of DoRA.

    multiple: how many times that rate the numbers of rows have; None takes their best.
    """
    multiple = multiple or BEST_MULTIPLE.get(name, 1)
    runs = stored_runs("variants", "loss").where(name=name, lr=1e-2, own=None if multiple == 1 else multiple, steps=100)
    return runs if name != "LoRA" else all_runs().where(name=name, lr=1e-2)


def row_gaps(name: str, which: str = "loss", other: str = "LoRA", multiple: int | None = None) -> list[float]:
    """One way minus another for the same batches, each at its best multiple: a difference a seed."""
    return _differences(at_multiple(name, multiple), at_multiple(other), which)


def _differences(one: Runs, other: Runs, which: str = "loss") -> list[float]:
    ours, theirs = ({run.seed: getattr(run, which) for run in runs} for runs in (one, other))
    return [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]


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
