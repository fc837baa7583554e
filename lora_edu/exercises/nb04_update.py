"""Exercise 4.3 of notebook 04: what an update that somebody computed is made of.

`observe_update` returns the update where it is right or a mistake from the table. Any other one it takes apart, by
least squares, into the four products of a B and an A, and returns a sentence.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_edu.exercises.describing import as_array

CHANGED_INPUTS = "this changes the arrays that it was given (`+=`, or writing into them). Make new ones."


def said(result: Any, *case) -> str:
    """The sentence that an observer returned, also where it did so in some of the cases only."""
    return result if isinstance(result, str) else ""


def same(got: np.ndarray, expected: np.ndarray) -> bool:
    """Up to 1e-5 of the largest expected number."""
    return bool(np.abs(got - expected).max() < 1e-5 * np.abs(expected).max())


def _pairs() -> list[tuple]:
    """Cases (A1, B1, A2, B2, weights, alpha): the weights differ and do not add up to 1."""
    cases = []
    for seed, (d_in, d_out, rank, alpha) in enumerate([(8, 6, 2, 8.0), (5, 12, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        shapes = ((rank, d_in), (d_out, rank)) * 2
        cases.append((*(rng.normal(size=shape) for shape in shapes), (0.75, 2 * seed - 1.5), alpha))
    return cases


def weighted_sum(A1, B1, A2, B2, weights, alpha, scaling=None):
    scaling = alpha / len(A1) if scaling is None else scaling
    return scaling * (weights[0] * B1 @ A1 + weights[1] * B2 @ A2)


UPDATE_MISTAKES: dict[str, Callable] = {
    "this averages A with A and B with B. The product then contains B1 A2 and B2 A1, which nobody trained.": (
        lambda A1, B1, A2, B2, w, alpha: alpha / len(A1) * (w[0] * B1 + w[1] * B2) @ (w[0] * A1 + w[1] * A2)
    ),
    "this adds the factors before multiplying: the product contains B1 A2 and B2 A1, which nobody trained.": (
        lambda A1, B1, A2, B2, w, alpha: alpha / len(A1) * (w[0] * B1 + w[1] * B2) @ (A1 + A2)
    ),
    "this multiplies the plain means of the factors: B1 A2 and B2 A1 come in, and the weights are left out.": (
        lambda A1, B1, A2, B2, w, alpha: alpha / len(A1) * (B1 + B2) / 2 @ (A1 + A2) / 2
    ),
    "this applies each weight to A and to B, so that it counts squared. It goes to one of the two.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, (w[0] ** 2, w[1] ** 2), alpha)
    ),
    "this divides alpha by the rank of both adapters together. Each was trained with alpha / r of its own rank.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha / (2 * len(A1)))
    ),
    "this scales by alpha. The paper divides alpha by the rank.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha)
    ),
    "this leaves the scaling alpha / r out.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=1)
    ),
    "this divides the rank by alpha. The scaling is alpha / r.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=len(A1) / alpha)
    ),
    "this divides alpha by the square root of the rank: that is rsLoRA. LoRA divides by the rank.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha / len(A1) ** 0.5)
    ),
    "this scales each of the two by alpha / r, and their sum once more.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=(alpha / len(A1)) ** 2)
    ),
    "this divides alpha by d_in, the columns of A. The rank is the number of rows of A.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha / A1.shape[1])
    ),
    "this divides alpha by d_out, the rows of B. The rank is the number of columns of B.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha / len(B1))
    ),
    "`alpha // r` rounds down to a whole number: use `/`.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha, scaling=alpha // len(A1))
    ),
    "this leaves the weights out: both adapters count fully.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, (1, 1), alpha)
    ),
    "this is the plain mean of the two updates. Each has a weight of its own.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, (0.5, 0.5), alpha)
    ),
    "this divides by the sum of the weights. They need not add up to 1.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha) / sum(w)
    ),
    "this divides by the sum of the sizes of the weights. They need not add up to 1.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha) / sum(map(abs, w))
    ),
    "each weight stands at the other adapter.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w[::-1], alpha)
    ),
    "the second weight has the wrong sign: the updates are added, also with a negative weight.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, (w[0], -w[1]), alpha)
    ),
    "a negative weight lost its sign. It takes an adapter's update away.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, tuple(map(abs, w)), alpha)
    ),
    "this is the first adapter alone.": lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, (w[0], 0), alpha),
    "this is the second adapter alone.": lambda A1, B1, A2, B2, w, alpha: weighted_sum(
        A1, B1, A2, B2, (0, w[1]), alpha
    ),
    "this multiplies the A of one adapter by the B of the other.": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A2, B1, A1, B2, w, alpha)
    ),
    "this is the transpose. W, and so its update, has shape (d_out, d_in).": (
        lambda A1, B1, A2, B2, w, alpha: weighted_sum(A1, B1, A2, B2, w, alpha).T
    ),
}
NO_UPDATE = "return one array, the change of W: the product of the factors, not the factors."
NOT_ITS_SHAPE = (
    "the result should have the shape of W, (d_out, d_in): look at which sides of A and B meet in the product."
)
CROSS_TERMS = (
    "the products B1 A2 and B2 A1 come in, which nobody trained: factors were added before they were multiplied."
)
SAME_FACTOR = (
    "both updates carry the same wrong factor. Each is scaled by alpha / r, with the rank that it was trained with."
)
UNLIKE_FACTORS = "the two updates do not count with their weights: each takes its own weight and the same alpha / r."
NOT_THEIR_SUM = "this is no sum of the two updates B1 A1 and B2 A2: something else was added or multiplied."
UPDATE_SENTENCES = (
    CHANGED_INPUTS, NO_UPDATE, NOT_ITS_SHAPE, CROSS_TERMS, SAME_FACTOR, UNLIKE_FACTORS, NOT_THEIR_SUM
)  # fmt: skip


def observe_update(solution: Callable | str, A1, B1, A2, B2, weights, alpha) -> Any:
    """The update, where it is right or a mistake from the table; else a sentence about what it is made of."""
    if isinstance(solution, str):
        return solution
    case = (A1, B1, A2, B2, weights, alpha)
    given = copy.deepcopy(case)
    result = solution(*case)
    if result is ... or result is None:
        return result
    if not all(np.array_equal(np.asarray(now), np.asarray(then)) for now, then in zip(case, given, strict=True)):
        return CHANGED_INPUTS
    array, wanted = as_array(result), weighted_sum(*given)
    if array is None or array.ndim != 2:
        return NO_UPDATE
    known = (made(*given) for made in (weighted_sum, *UPDATE_MISTAKES.values()))
    if any(array.shape == made.shape and same(array, made) for made in known):
        return result
    return NOT_ITS_SHAPE if array.shape != wanted.shape else _made_of(array, *given)


def _made_of(array, A1, B1, A2, B2, weights, alpha) -> str:
    """Which products of a B and an A the result consists of, and with which factors, by least squares."""
    products = np.stack([(B @ A).ravel() for B, A in ((B1, A1), (B2, A2), (B1, A2), (B2, A1))], axis=1)
    factors = np.linalg.lstsq(products, array.ravel(), rcond=None)[0]
    if not same(products @ factors, array.ravel()):
        return NOT_THEIR_SUM
    if np.abs(factors[2:]).max() > 1e-6:
        return CROSS_TERMS
    against = factors[:2] / np.multiply(alpha / len(A1), weights)
    return SAME_FACTOR if np.isclose(*against) else UNLIKE_FACTORS


PAIRS = _pairs()
