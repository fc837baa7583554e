"""The checks of notebook 06, NF4: packing, who takes a rounding error over, and the codebook."""

from statistics import NormalDist

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "normal_float", "packed_codes", "taken_over"]

# --- 6.1: two codes a byte -------------------------------------------------------------------------------------------


def _in_pairs(solution, codes):
    """The bytes; where the halves have different lengths, what that means."""
    try:
        return solution(codes)
    except (ValueError, IndexError) as error:
        if len(codes) % 2 and ("broadcast" in str(error) or f"index {len(codes)} " in str(error)):
            return f"with {len(codes)} codes the last one has no partner. Something has to fill its byte up."
        raise


FILLED = "filled = np.append(codes, [7] * alone).astype(int)"
LAST = "np.array([*codes[:-1], {}, codes[-1]]) if alone else codes"


@exercise(
    "6.1",
    [(np.array(codes),) for codes in ([0, 15, 7, 8], [3, 1, 4, 1, 5], [9], [15, 0, 2, 11, 12, 6, 13])],
    taught={
        "first * 16 + second -> first + second * 16": "Your answer puts the first code of a pair into the low half of "
        "the byte. bitsandbytes and this course put it into the high half.",
        "[7] * alone -> [0] * alone": "Your answer fills the last byte with code 0, which stands for -1. The value 0 "
        "has code 7.",
        f"{FILLED} -> filled = codes[: len(codes) - alone]": "Your answer drops the last code where their number is "
        "odd. It needs a byte too: fill up with code 7.",
        f"{FILLED} -> filled = {LAST.format(0)}": "A code without a partner stands in the low half here, below zeros. "
        "It is the first of its pair: the high half, and code 7 below it.",
        "filled[0::2] -> filled[: len(filled) // 2] & filled[1::2] -> filled[len(filled) // 2 :]": "Your answer "
        "pairs the first half of the codes with the second half. Neighbors share a byte.",
        "first * 16 + second -> first * 16&second": "Your answer joins the two halves with `&`, which keeps a bit only "
        "where both have it. They share no bit, so nothing is left.",
        f"{FILLED} -> filled = np.append([7] * alone, codes).astype(int)": "Your answer fills up in front. That "
        "moves every code into another half: what is missing is missing behind the last code.",
    },
    noticed={
        "two codes share a byte, so there are (n + 1) // 2 of them: here are others.": (
            lambda made, codes: made.shape != ((len(codes) + 1) // 2,)
        ),
        "a byte goes from 0 to 255.": lambda made, codes: (made < 0).any() or (made > 255).any(),
        "a byte is a whole number.": lambda made, codes: (made % 1).any(),
    },
    observe=_in_pairs,
)
def packed_codes(codes):
    alone = len(codes) % 2  # whether the last code is alone
    filled = np.append(codes, [7] * alone).astype(int)  # what fills the last byte up
    first, second = filled[0::2], filled[1::2]  # which two codes make a pair
    return first * 16 + second  # how a pair becomes a byte


# --- 6.2: what the others take over ----------------------------------------------------------------------------------


def _rows():
    """Cases (w, q, X): a row of a weight, its first weight rounded to q, and inputs whose columns go together."""
    for seed, (n, d_in) in enumerate([(6, 3), (9, 4), (7, 5)]):
        rng = np.random.default_rng(seed)
        X = rng.normal(size=(n, d_in)) @ rng.normal(size=(d_in, d_in))
        w = rng.normal(size=d_in)
        yield w, float(np.round(w[0])), X


SHARE = "np.linalg.solve(H[1:, 1:], H[1:, 0])"


@exercise(
    "6.2",
    list(_rows()),
    taught={
        "w[1:] + share -> w[1:] - share": "Your answer makes the error worse: the others move the wrong way. What the "
        "first weight lost, they must gain.",
        f"{SHARE} -> H[1:, 0] / np.diag(H)[1:]": "In your answer each weight takes over all it can, as if it were "
        "alone. Columns that go together do it twice: solve for all at once.",
        f"{SHARE} -> np.ones(len(w) - 1) / (len(w) - 1)": "Your answer spreads the error evenly. A weight can stand in "
        "for the first only as far as their inputs go together: X says it.",
        f"{SHARE} -> H[1:, 0] / H[0, 0]": "Your answer asks how well the first column stands for the others. It is the "
        "others that must stand for the first.",
        "return w[1:] + share * off -> return w[1:]": "Your answer leaves the others as they are. That is rounding to "
        "the nearest: nobody takes the error over.",
        "off = w[0] - q -> off = w[0]": "In your answer the first weight is gone, and the others make up for all of "
        "it. It is still there, as q.",
        "return w[1:] + share * off -> return np.round(w[1:])": "Your answer rounds the others. They stay exact here: "
        "their turn comes later, one by one.",
    },
    noticed={"one number is asked for each weight after the first.": lambda got, w, q, X: got.shape != (len(w) - 1,)},
)
def taken_over(w, q, X):
    H = X.T @ X  # which inputs go together
    off = w[0] - q  # what the first weight lost
    share = np.linalg.solve(H[1:, 1:], H[1:, 0])  # how far the others can stand in for the first
    return w[1:] + share * off  # the others, with what they take over


# --- 6.3: the codebook from its offset -------------------------------------------------------------------------------


def _eq_4(half):
    """The finite part of Eq. 4: means of neighboring quantiles."""
    quantiles = np.array([NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)])
    return (quantiles[:-1] + quantiles[1:]) / 2


COUNTS, GRID = "counts = half, half - 1", "np.linspace(offset, 0.5, count + 1)[:-1]"
IN_ORDER = "np.sort([*(-level for level in below), 0.0, *above])"


@exercise(
    "6.3",
    [(0.9677083, 8), (0.95, 8), (0.9, 4), (0.98, 16)],
    taught={
        f"{COUNTS} -> counts = half - 1, half": "Your answer is the mirror image. NF4 has the extra level above 0: "
        "{half} there, one fewer below.",
        f"{COUNTS} -> counts = half, half": "Your answer has {half} levels below 0 as well as above. With the 0 that "
        "is one more than the bits can number.",
        f"{COUNTS} -> counts = half, half & 0.0, -> ": "Your answer has {half} levels on each side, and so no exact 0. "
        "A weight of 0, as in padding, must come back as 0.",
        "in below) -> in above[:-1])": "Your answer takes the levels above 0 for those below, without the innermost. "
        "Each side has steps of its own.",
        f"{GRID} -> np.linspace(offset, 0.5, count)": "The probabilities of your answer reach 1/2, whose quantile is a "
        "second 0. Take one more, and leave the last out.",
        f"{IN_ORDER} -> np.array([-quantile(p) for p in np.linspace(offset, 1 - offset, 2 * half)])": "Your answer is "
        "one row of equal steps in probability, from 1 - offset to the offset. It has no exact 0: build two sides.",
        f"{IN_ORDER} -> _eq_4(half)": "Your answer is the finite part of Eq. 4: one level fewer than the {half} + "
        "{half} that the bits number. Begin at the offset, in two sides.",
    },
    noticed={
        "the quantile of a probability of 0 or 1 is infinite, as in Eq. 4 taken literally. The outermost probability "
        "is the offset.": lambda levels, *case: np.isinf(levels).any(),
        "the codebook has 2 * half numbers: half above 0, half - 1 below it, and 0.": (
            lambda levels, offset, half: levels.shape != (2 * half,)
        ),
        "the codebook is sorted upwards, from -1 to 1.": lambda levels, *case: (np.diff(levels) < 0).any(),
        "0 is no level here, and a weight of 0, as in padding, must come back as 0.": (
            lambda levels, *case: np.abs(levels).min() > 1e-12
        ),
        "the codebook does not end at 1.": lambda levels, *case: abs(levels[-1] - 1) > 1e-6,
        "the codebook does not begin at -1: both sides start at the same offset.": (
            lambda levels, *case: abs(levels[0] + 1) > 1e-6
        ),
        "half of the levels belong above 0, half - 1 below it, and the 0 between.": (
            lambda levels, offset, half: (levels > 0).sum() != half
        ),
    },
)
def normal_float(offset, half):
    quantile = NormalDist().inv_cdf  # what makes a level of a probability
    counts = half, half - 1  # how many levels lie above 0 and below it
    sides = [np.linspace(offset, 0.5, count + 1)[:-1] for count in counts]  # the probabilities of each side
    above, below = ([quantile(p) for p in side] for side in sides)  # the levels of each side
    levels = np.sort([*(-level for level in below), 0.0, *above])  # the two sides and the zero, in order
    return levels / levels.max()  # the division by the largest level
