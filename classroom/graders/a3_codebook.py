"""Exercise 3.1, a codebook with two offsets: right and wrong answers."""

from statistics import NormalDist

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong

RECIPE = "notebook 06, section 2"
Q = NormalDist().inv_cdf  # the quantile of the normal distribution


def reference(below, above, offset_below, offset_above):
    positive = [Q(p) for p in np.linspace(offset_above, 0.5, above + 1)[:-1]]
    negative = [-Q(p) for p in np.linspace(offset_below, 0.5, below + 1)[:-1]]
    levels = np.sort([*negative, 0.0, *positive])
    return levels / levels.max()


# --- right -----------------------------------------------------------------------------------------------------------


def in_torch(below, above, offset_below, offset_above):
    def side(offset, count):
        return torch.special.ndtri(torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:count])

    levels = torch.cat([-side(offset_below, below), torch.zeros(1), side(offset_above, above).flip(0)])
    return (levels / levels[-1]).float()


def one_list_of_probabilities(below, above, offset_below, offset_above):
    lower = np.linspace(1 - offset_below, 0.5, below + 1)  # ends in 1/2, whose quantile is the zero
    upper = np.linspace(0.5, offset_above, above + 1)[1:]
    levels = np.array([NormalDist(0, 1 / Q(offset_above)).inv_cdf(p) for p in np.concatenate([lower, upper])])
    levels[below] = 0
    return levels.astype(np.float32)


# --- wrong -----------------------------------------------------------------------------------------------------------


def _levels(below, above, offset_below, offset_above, zeros=1, divide="largest", extra=1, keep=slice(None, -1)):
    """The recipe with one thing changed."""
    positive = np.array([Q(p) for p in np.linspace(offset_above, 0.5, above + extra)[keep]])
    negative = np.array([-Q(p) for p in np.linspace(offset_below, 0.5, below + extra)[keep]])
    if divide == "own":
        positive, negative = positive / positive.max(), negative / -negative.min()
    levels = np.sort([*negative, *[0.0] * zeros, *positive])
    return levels / levels.max() if divide == "largest" else levels


def _eq_4_literally(below, above, offset_below, offset_above):
    n = below + above + 1

    def q(p):
        return -np.inf if p == 0 else np.inf if p == 1 else Q(p)

    return np.array([(q(i / (n + 1)) + q((i + 1) / (n + 1))) / 2 for i in range(n + 1)])


def _eq_4_finite(below, above, offset_below, offset_above):
    levels = _eq_4_literally(below, above, offset_below, offset_above)[1:-1]
    return levels / levels.max()


def _bin_middles(below, above, offset_below, offset_above):
    n = below + above + 1
    levels = np.array([Q((i + 0.5) / n) for i in range(n)])
    return levels / levels.max()


def _equal_steps(below, above, offset_below, offset_above):
    bottom = -Q(offset_below) / Q(offset_above)
    return np.concatenate([np.linspace(bottom, 0, below + 1)[:-1], np.linspace(0, 1, above + 1)])


def _falling_above(below, above, offset_below, offset_above):
    levels = reference(below, above, offset_below, offset_above)
    return np.concatenate([levels[: below + 1], levels[:below:-1]])


QUANTILES = "notebook 06, section 1"

WRONG = [
    Wrong("mirrored", lambda c: lambda below, above, b, a: -reference(below, above, b, a)[::-1], 0,
          "this is the mirror image, with its exact 1 on the wrong side. The constant of a block keeps its "
          "sign, so the value that it came from is scaled to +1, never to -1.", RECIPE),
    Wrong("the numbers of levels swapped", lambda c: lambda below, above, b, a: _levels(above, below, b, a), 0,
          "the two sides have each other's number of levels: `below` counts the levels under 0.", RECIPE),
    Wrong("the offsets swapped", lambda c: lambda below, above, b, a: _levels(below, above, a, b), 1,
          "the two sides have each other's offset: the levels under 0 start at `offset_below`.", RECIPE),
    Wrong("one offset for both sides", lambda c: lambda below, above, b, a: _levels(below, above, a, a), 1,
          "both sides start at `offset_above`, as both sides of NF4 start at one offset. Here the side below 0 "
          "has one of its own.", RECIPE),
    Wrong("no exact 0", lambda c: lambda *sides: _levels(*sides, zeros=0), 0,
          "this has no exact 0. A weight of 0, as in padding, must come back as 0.", RECIPE),
    Wrong("several zeros", lambda c: lambda *sides: _levels(*sides, keep=slice(None)), 0,
          "this has several zeros: the quantile of 1/2 is 0 already. Leave the last probability of each side out.",
          RECIPE),
    Wrong("Eq. 4 taken literally", lambda c: _eq_4_literally, 0,
          "this is Eq. 4 of the paper taken literally: the quantiles of the probabilities 0 and 1 are infinite. "
          "The outermost probabilities are the offsets.", QUANTILES),
    Wrong("the finite part of Eq. 4", lambda c: _eq_4_finite, 0,
          "this is the finite part of Eq. 4. Start at the offsets, and give each side steps of its own.", QUANTILES),
    Wrong("middles of equally likely bins", lambda c: _bin_middles, 0,
          "these are the middles of equally likely bins. They leave the offsets and the two sides unused.", RECIPE),
    Wrong("not divided by the largest", lambda c: lambda *sides: _levels(*sides, divide="no"), 1,
          "this forgets to divide by the largest level. The codebook must end at 1, so that the value that gave "
          "a block its constant comes back exactly.", RECIPE),
    Wrong("each side divided by its own end", lambda c: lambda *sides: _levels(*sides, divide="own"), 1,
          "each side is divided by its own end, and so the codebook begins at -1. Divide all levels by the "
          "largest: here no value is ever scaled to exactly -1 by its own constant, and the lower end need not "
          "be there.", RECIPE),
    Wrong("one probability too few on each side", lambda c: lambda *sides: _levels(*sides, extra=0), 0,
          "each side has one level too few. From the offset to 1/2, both counted, are count + 1 probabilities; "
          "the last one is left out.", RECIPE),
    Wrong("the outermost probability left out", lambda c: lambda *sides: _levels(*sides, keep=slice(1, None), zeros=0),
          0,
          "the wrong end is left out: the offset itself is the outermost probability, and 1/2, whose quantile "
          "is 0, is the one to leave out.", RECIPE),
    Wrong("falling order", lambda c: lambda *sides: reference(*sides)[::-1].copy(), 0,
          "these are the right levels in falling order. The codebook is sorted: code 0 is its lowest level.", RECIPE),
    Wrong("not sorted", lambda c: _falling_above, 1,
          "these are the right levels, but those above 0 stand in falling order. The codebook is sorted.", RECIPE),
    Wrong("equal steps between the ends", lambda c: _equal_steps, 1,
          "the ends are right, and between them the *levels* have equal steps. Take equal steps in probability, "
          "and the quantile of each.", QUANTILES),
]  # fmt: skip


RIGHT = {"torch, float32": lambda c: in_torch, "one list of probabilities": lambda c: one_list_of_probabilities}
SOLUTIONS = Solutions(lambda c: reference, RIGHT, WRONG)
