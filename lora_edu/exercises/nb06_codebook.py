"""The check of exercise 6.1: the codebook of NF4 from its offset."""

import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations

# The quantile function, and what is taken for it.
KINDS = {
    "normal": NormalDist().inv_cdf,
    "even": lambda p: p - 0.5,
    "density": lambda p: NormalDist().pdf(p),
    "cdf": NormalDist().cdf,
    "logistic": lambda p: math.log(p / (1 - p)),
}


def _grid(offset: float, count: int, grid: str) -> list[float]:
    """The probabilities of a side, from the outermost inward."""
    return {
        "right": np.linspace(offset, 0.5, count + 1)[:-1],
        "to the median": np.linspace(offset, 0.5, count),
        "one fewer": np.linspace(offset, 0.5, count)[:-1],
        "inner": np.linspace(offset, 0.5, count + 2)[1:-1],
        "middles": np.linspace(offset, 0.5, 2 * count + 1)[1::2],
        "fixed": np.linspace(0.9677083, 0.5, count + 1)[:-1],
    }[grid].tolist()


def _normal(offset, half, sides="right", kind="normal", grid="right", zeros=1, divide="right", order="sorted"):
    """The codebook, with a mistake in one part or several."""

    def side(count):
        return [KINDS[kind](p) for p in _grid(offset, count, grid)]

    more, fewer = side(half), side(half - 1)
    above, below = {
        "right": (more, fewer),
        "mirror": (fewer, more),
        "equal": (more, more),
        "short": (fewer, fewer),
        "inner dropped": (more, more[:-1]),
        "outer dropped": (more, more[1:]),
        "inner dropped above": (more[:-1], more),
        "8 levels": (side(8), side(7)),
        "twice as many": (side(2 * half), side(2 * half - 1)),
    }[sides]
    levels = np.array([-v for v in below] + [0.0] * zeros + above)
    # fmt: off
    levels = levels / {"right": max(levels), "none": 1.0, "half": 2 * max(levels), "sum": np.abs(levels).sum(),
                       "spread": levels.std(), "norm": np.linalg.norm(levels), "range": np.ptp(levels)}[divide]
    return {"sorted": np.sort(levels), "falling": -np.sort(-levels), "as made": levels,
            "magnitudes": np.sort(np.abs(levels))}[order]
    # fmt: on


SIDES = {
    "mirror": "this is the mirror image: the extra level sits on the negative side. NF4 has 8 positive levels and 7 "
    "negative ones, and the zero.",
    "equal": "this has as many levels below 0 as above it: 2 * half + 1 in all, one more than the bits can number.",
    "short": "this uses 2 * half - 1 levels, and wastes a code: the positive side has half of them.",
    "inner dropped": "the negative side is the positive one without its innermost level. Both sides start at the "
    "offset, each with steps of its own: half - 1 equal ones in probability.",
    "outer dropped": "the negative side is the positive one without its outermost level. Both sides start at the "
    "offset, each with steps of its own.",
    "inner dropped above": "the positive side is the negative one without its innermost level. Each side has steps of "
    "its own, and the positive one has half of them.",
    "8 levels": "this has 8 levels above 0 whatever `half` says, as NF4.",
    "twice as many": "this has twice as many levels: `half` is the number of those above 0.",
}
OTHER_KINDS = {
    "even": "these levels are equally far apart. They are quantiles of the bell curve: `NormalDist().inv_cdf`.",
    "density": "this is the density of the bell curve. The levels are its quantiles: `NormalDist().inv_cdf`.",
    "cdf": "this is the probability below a value. The levels are values: `NormalDist().inv_cdf`, the other way round.",
    "logistic": "these are quantiles of the logistic curve. The bell curve's come from `NormalDist().inv_cdf`.",
}
GRIDS = {
    "to the median": "the probabilities reach 1/2 here, whose quantile is a second 0. Take one more and leave the last "
    "out.",
    "one fewer": "each side has a level too few: `count` steps have `count + 1` ends, and the last one is left out.",
    "inner": "the outermost probability is left out here. It is the offset itself: leave out 1/2, the innermost.",
    "middles": "these are quantiles of the middles of equal steps. Each side starts at the offset itself.",
    "fixed": "this takes NF4's offset whatever `offset` says.",
}
DIVISORS = {
    "none": "this forgets to divide by the maximum. The codebook must end at 1, so that the absmax of a block "
    "is exact.",
    "spread": "this divides by the standard deviation. The codebook must end at 1: divide by the largest level.",
    "sum": "this divides by the sum. The codebook must end at 1: divide by the largest level.",
    "norm": "this divides by the norm. The codebook must end at 1: divide by the largest level.",
    "half": "this ends at 1/2. The codebook must end at 1.",
    "range": "this divides by the whole range. The codebook goes from -1 to 1: divide by the largest level.",
}
ORDERS = {
    "falling": "this falls from 1 to -1. The codebook is sorted upwards: code 0 is -1.",
    "as made": "this is not sorted. Code 0 is the smallest level, -1.",
    "magnitudes": "the signs are lost: one side lies below 0.",
}


def _bin_middles(offset: float, half: int, divide: bool = True) -> np.ndarray:
    levels = np.array([NormalDist().inv_cdf((i + 0.5) / (2 * half)) for i in range(2 * half)])
    return levels / (levels.max() if divide else 1)


def _eq_4(half: int, divide: bool = True) -> np.ndarray:
    """The finite part of Eq. 4 for 2 * half codes: means of neighboring quantiles, without the first and the last."""
    quantiles = np.array([NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)])
    levels = (quantiles[:-1] + quantiles[1:]) / 2
    return levels / (levels.max() if divide else 1)


def _one_grid(offset: float, half: int) -> np.ndarray:
    levels = np.array([NormalDist().inv_cdf(p) for p in np.linspace(1 - offset, offset, 2 * half)])
    return levels / levels.max()


def _one_grid_with_zero(offset: float, half: int) -> np.ndarray:
    levels = _one_grid(offset, half)
    levels[np.abs(levels).argmin()] = 0.0
    return levels


def _with_the_median(offset: float, half: int) -> np.ndarray:
    """The slice [:-1] forgotten on both sides: the quantile of 1/2, which is 0, comes along with each."""
    levels = [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, half + 1)]
    levels += [-NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, half)] + [0.0]
    return np.sort(levels) / max(levels)


def _right_side(above: bool):
    """Whether the levels above 0, or those below it, are the right ones."""

    def is_so(levels, offset, half):
        right = _normal(offset, half)
        mine, there = (values[values > 0] if above else values[values < 0] for values in (levels, right))
        return mine.shape == there.shape and np.abs(mine - there).max() < 1e-5

    return is_so


OFFSETS = [(0.9677083, 8), (0.95, 8), (0.9, 4), (0.98, 16)]

_normal_float = Exercise(
    "6.1",
    _normal,
    OFFSETS,
    combinations(
        _normal,
        OFFSETS,
        {
            "sides": ("right", SIDES),
            "divide": ("right", DIVISORS),
            "zeros": (1, {0: "this has no exact 0. A weight of 0, as in padding, must come back as 0."}),
            "grid": ("right", GRIDS),
            "kind": ("normal", OTHER_KINDS),
            "order": ("sorted", ORDERS),
        },
        {
            "this has no exact 0, and as many levels below as above. A weight of 0, as in padding, must come back as "
            "0.": lambda offset, half: _normal(offset, half, sides="equal", zeros=0),
            "this is NF4's own codebook, whatever `offset` and `half` say.": (
                lambda offset, half: _normal(0.9677083, 8)
            ),
            "this is one row of equal steps in probability, from 1 - offset to the offset, with a 0 put in the place "
            "of a level. Each side has equal steps of its own.": _one_grid_with_zero,
            "this is one row of equal steps in probability, from 1 - offset to the offset. It has no exact 0: build "
            "two sides and put the 0 between them.": _one_grid,
            "these are the middles of 2 * half equally likely bins. They have no exact 0 and leave the offset "
            "unused.": _bin_middles,
            "these are the middles of 2 * half equally likely bins, and not divided by the largest. They have no exact "
            "0 and leave the offset unused.": lambda offset, half: _bin_middles(offset, half, divide=False),
            "this has several zeros: the quantile of 1/2 is 0 already. Leave the last probability of each side out.": (
                _with_the_median
            ),
            "this is the finite part of Eq. 4: 2 * half - 1 levels, where the bits number 2 * half. Start at the "
            "offset, and give each side steps of its own.": lambda offset, half: _eq_4(half),
            "this is the finite part of Eq. 4, and not divided by its largest level. Start at the offset, give each "
            "side steps of its own, and divide.": lambda offset, half: _eq_4(half, divide=False),
        },
    ),
    symptoms={
        "the codebook has 2 * half numbers: half above 0, half - 1 below it, and 0.": (
            lambda levels, offset, half: levels.shape != (2 * half,)
        ),
        "the codebook is sorted upwards, from -1 to 1.": lambda levels, *case: bool((np.diff(levels) < 0).any()),
        "0 is no level here, and a weight of 0, as in padding, must come back as 0.": (
            lambda levels, *case: np.abs(levels).min() > 1e-12
        ),
        "the codebook does not end at 1: divide by its largest level.": lambda levels, *case: (
            abs(levels[-1] - 1) > 1e-6
        ),
        "the codebook does not begin at -1: both sides start at the same offset.": (
            lambda levels, *case: abs(levels[0] + 1) > 1e-6
        ),
        "the levels are divided otherwise here: half of them belong above 0, half - 1 below it, and the 0 between.": (
            lambda levels, offset, half: (levels > 0).sum() != half
        ),
    },
    broadly={
        "the levels above 0 are right, those below it not. They have half - 1 steps from the offset to 1/2, equal in "
        "probability.": _right_side(above=True),
        "the levels below 0 are right, those above it not. They have half steps from the offset to 1/2, equal in "
        "probability.": _right_side(above=False),
        "the ends and the 0 are right, the levels between them not. On each side the *probabilities* are equally far "
        "apart, from the offset to 1/2: a level is the quantile of one.": lambda levels, *case: True,
    },
)

_LITERALLY = (
    "Exercise 6.1: this is Eq. 4 taken literally, or a probability of 0 or 1: the normal quantile there is infinite. "
    "The outermost probability is the offset."
)


def normal_float(attempt: Callable) -> None:
    """Exercise 6.1: the codebook from its offset. Infinite ends are named before anything else is compared."""
    for case in _normal_float.cases:
        try:
            result = as_array(attempt(*case))
        except Exception as error:
            if "0.0 < p < 1.0" in str(error):  # what NormalDist().inv_cdf says at 0 and at 1
                raise AssertionError(_LITERALLY) from error
            break  # the exercise itself tells what went wrong
        if result is not None and np.isinf(result).any():
            raise AssertionError(_LITERALLY)
    _normal_float(attempt)
