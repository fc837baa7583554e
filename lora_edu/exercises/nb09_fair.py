"""The check of exercise 9.4: a fair comparison of two sweeps."""

import itertools
import math
from statistics import median

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations

# --- 9.4: a fair comparison ------------------------------------------------------------------------------------------


def _mean(losses):
    return sum(losses) / len(losses)


SCORES = {
    min: "the luckiest run",
    max: "the worst run",
    median: "the median",
    (lambda losses: losses[0]): "the first seed",
    (lambda losses: losses[-1]): "the last seed",
    sum: "the sum",
    (lambda losses: _mean(losses) + np.std(losses)): "the mean plus the standard deviation",
    (lambda losses: _mean(losses) - np.std(losses)): "the mean minus the standard deviation",
    np.std: "the standard deviation",
    (lambda losses: (min(losses) + max(losses)) / 2): "the middle of the best and the worst run",
    (lambda losses: float(np.exp(np.mean(np.log(losses))))): "the geometric mean",
}
CHOOSERS = {
    score: f"{words} over the seeds chooses the rate here. The mean must choose it."
    for score, words in SCORES.items()
    if score is not sum
}
VALUES = {score: f"{words} over the seeds is compared here. Compare the means." for score, words in SCORES.items()}
RATES = {
    "full's": "this gives both the rate that is best for full fine-tuning. LoRA needs a larger one: each gets its own.",
    "LoRA's": "this gives both the rate that is best for LoRA. For full fine-tuning it is too large: each gets "
    "its own.",
    "shared": "this gives both the same learning rate, the best that they share. Each gets its own.",
    "smallest gap": "this takes the rate at which the two are closest. Each gets its own best one.",
    "largest": "this takes the largest rate of each. The rate with the lowest mean loss is the best.",
    "smallest": "this takes the smallest rate of each. The rate with the lowest mean loss is the best.",
    "first": "this takes the first rate of each sweep. The rate with the lowest mean loss is the best.",
    "worst": "this takes the rate with the highest mean loss. The lowest is the best.",
    "all": "this averages over all rates. Nobody would use the bad ones: take each method's best rate first.",
    "median": "this takes the median over all rates. Take each method's best rate first.",
    "by seed": "this lets each seed choose a rate of its own. A rate is chosen once, by the mean over the seeds: else "
    "luck chooses.",
}
ENDS = {
    "turned": "this is full fine-tuning minus LoRA: the sign is the other way round.",
    "ratio": "this is the ratio of the two losses. The difference is asked for.",
    "share": "this is the share of full fine-tuning's loss by which LoRA ends above. The difference itself is "
    "asked for.",
    "percent": "this is the difference in percent of full fine-tuning's loss. The difference itself is asked for.",
    "share of LoRA": "this divides by LoRA's loss. The difference itself is asked for.",
    "no sign": "this has lost the sign. A negative number means that LoRA is better.",
    "LoRA alone": "this is LoRA's loss alone. Take that of full fine-tuning off.",
    "full alone": "this is full fine-tuning's loss alone. Take it off LoRA's.",
    "sum": "this adds the two losses. Their difference is asked for.",
    "perplexities": "this is a difference of perplexities. That of the losses is asked for.",
}


def _best(runs, score=_mean):
    """The learning rate whose losses have the lowest score."""
    return min(runs, key=lambda lr: score(runs[lr]))


def _result(full, lora, choose=_mean, value=_mean, rates="own", end="right"):
    """LoRA minus full, with a mistake in one part or several."""
    shared = sorted(set(full) & set(lora))
    both = {
        "full's": lambda: _best(full, choose),
        "LoRA's": lambda: _best(lora, choose),
        "shared": lambda: min(shared, key=lambda lr: choose(full[lr]) + choose(lora[lr])),
        "smallest gap": lambda: min(shared, key=lambda lr: abs(choose(full[lr]) - choose(lora[lr]))),
    }
    each = {
        "own": lambda runs: value(runs[_best(runs, choose)]),
        "largest": lambda runs: value(runs[max(runs)]),
        "smallest": lambda runs: value(runs[min(runs)]),
        "first": lambda runs: value(runs[next(iter(runs))]),
        "worst": lambda runs: value(runs[max(runs, key=lambda lr: choose(runs[lr]))]),
        "all": lambda runs: _mean([*map(value, runs.values())]),
        "median": lambda runs: median([loss for run in runs.values() for loss in run]),
        "by seed": lambda runs: value([min(losses) for losses in zip(*runs.values(), strict=True)]),
    }
    if rates in both:
        rate = both[rates]()
        mine, other = (value(runs[min(runs, key=lambda lr: abs(lr - rate))]) for runs in (lora, full))
    else:
        mine, other = each[rates](lora), each[rates](full)
    # fmt: off
    return {"right": mine - other, "turned": other - mine, "ratio": mine / other, "share": mine / other - 1,
            "percent": 100 * (mine / other - 1), "share of LoRA": 1 - other / mine, "no sign": abs(mine - other),
            "LoRA alone": mine, "full alone": other, "sum": mine + other,
            "perplexities": math.exp(mine) - math.exp(other)}[end]
    # fmt: on


def _which_rates(results, sweeps) -> str:
    """Of results that compare two means in every sweep, at which rates; of more than numbers, that one is asked for."""
    numbers = [as_array(result) for result in results]
    if any(number is None for number in numbers):
        return ""
    if any(number.ndim for number in numbers):
        return "one number is asked for: the mean at LoRA's best rate, minus the mean at full fine-tuning's."
    compared = [_rates_of(result, *sweep) for result, sweep in zip(numbers, sweeps, strict=True)]
    if not all(compared):
        return ""
    for pair, (full, lora) in zip(compared, sweeps, strict=True):
        if pair != (_best(lora), _best(full)):
            return (
                f"in one of the sweeps this compares LoRA at {pair[0]:g} with full fine-tuning at {pair[1]:g}. By "
                f"their means, the best rates are {_best(lora):g} and {_best(full):g}."
            )
    return ""


def _rates_of(result, full, lora) -> tuple | None:
    """The rates of LoRA and of full fine-tuning whose means have this difference, the right ones first."""
    right = (_best(lora), _best(full))
    pairs = [right, *itertools.product(lora, full)]
    return next((pair for pair in pairs if abs(_mean(lora[pair[0]]) - _mean(full[pair[1]]) - result) < 1e-9), None)


# Learning rate -> the loss of each seed. In each case the best rates differ, and a lucky run has another rate than the
# best mean, so that no two of the ways below give the same number.
_SWEEPS = [
    (
        {1e-4: [1.8, 1.79, 1.83], 3e-4: [1.62, 1.58, 1.6], 1e-3: [1.7, 1.56, 1.75], 3e-3: [2.2, 2.4, 2.3]},
        {3e-4: [2.31, 2.3, 2.26], 1e-3: [1.93, 1.9, 1.88], 3e-3: [1.68, 1.61, 1.65], 1e-2: [1.64, 1.8, 1.52]},
    ),
    (
        {3e-4: [2.05, 2.1], 1e-3: [1.84, 1.9], 3e-3: [1.81, 2.36], 1e-2: [2.6, 2.7]},
        {1e-3: [2.15, 2.2], 3e-3: [1.84, 1.85], 1e-2: [1.86, 1.78], 3e-2: [1.75, 2.95]},
    ),
    (
        {
            1e-4: [1.62, 1.87, 1.71, 1.72],
            2e-4: [1.77, 1.39, 1.61, 1.94],
            5e-4: [1.85, 1.61, 1.65, 1.79],
            1e-3: [1.55, 1.39, 1.76, 1.94],
            2e-3: [1.54, 1.61, 1.87, 1.71],
        },
        {
            5e-4: [1.6, 1.85, 1.97, 1.3],
            1e-3: [1.56, 1.69, 2.11, 1.87],
            2e-3: [1.61, 1.66, 1.7, 1.57],
            5e-3: [1.71, 1.42, 1.58, 1.82],
            1e-2: [1.72, 1.59, 1.84, 1.9],
        },
    ),
]


def _unequal(score, lucky):
    """One method by another score than the other."""

    def judge(full, lora):
        mine, other = (min(map(score if one == lucky else _mean, runs.values())) for one, runs in
                       (("LoRA", lora), ("full fine-tuning", full)))  # fmt: skip
        return mine - other

    return judge


_UNEQUAL = {
    f"{lucky} is judged by {words} over the seeds here, and the other by the mean. The same rule holds for both.": (
        _unequal(score, lucky)
    )
    for score, words in SCORES.items()
    for lucky in ("LoRA", "full fine-tuning")
}


lora_minus_full = Exercise(
    "9.4",
    _result,
    _SWEEPS,
    combinations(
        _result,
        _SWEEPS,
        {
            "rates": ("own", RATES),
            "choose": (_mean, CHOOSERS),
            "value": (_mean, VALUES),
            "end": ("right", ENDS),
        },
        {
            "this compares the luckiest run of each. Whoever has more runs has more luck: take the mean over the "
            "seeds.": lambda full, lora: _result(full, lora, min, min),
            "this looks at the first seed alone. Take the mean over the seeds, to choose the rate and to compare.": (
                lambda full, lora: _result(full, lora, lambda losses: losses[0], lambda losses: losses[0])
            ),
            "this looks at the last seed alone. Take the mean over the seeds, to choose the rate and to compare.": (
                lambda full, lora: _result(full, lora, lambda losses: losses[-1], lambda losses: losses[-1])
            ),
            "this takes the median over the seeds. The mean chooses the rate, and the mean is compared.": (
                lambda full, lora: _result(full, lora, median, median)
            ),
            "this chooses by the worst run and compares it. Take the mean over the seeds for both.": (
                lambda full, lora: _result(full, lora, max, max)
            ),
            **_UNEQUAL,
            "this is the difference of the two best rates. The difference of their losses is asked for.": (
                lambda full, lora: _best(lora) - _best(full)
            ),
        },
    ),
    together=_which_rates,
)
