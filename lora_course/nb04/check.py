"""The checks of notebook 04, LoRA in torch. That of a whole layer, 4.2, is in `check_layer`."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lora_course.checking.describing import as_array
from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_course.nb04.check_layer import lora_layer

__all__ = ["beside", "grow", "lora_layer", "training_operations", "weighted_update"]

# --- 4.1: more rank, the same function -------------------------------------------------------------------------------


def observe_grown(solution: Callable, A: np.ndarray, B: np.ndarray, extra: int) -> Any:
    """What a grown adapter promises. Its new rows are random: what counts is the product, and that it can learn."""
    made = solution(A, B, extra)
    if made is ... or made is None:
        return made
    given = [as_array(factor) for factor in made] if isinstance(made, tuple | list) else []
    pair = [factor for factor in given if factor is not None]
    if len(given) != 2 or len(pair) != 2:
        return "return both factors, A and then B: `return A, B`."
    r, wanted = len(A), ((len(A) + extra, A.shape[1]), (len(B), len(A) + extra))
    for name, factor, shape in zip("AB", pair, wanted, strict=True):
        if factor.shape != shape:
            return f"the new {name} should have the shape {shape}, and has {factor.shape}."
        if not np.isfinite(factor).all():
            return f"some entries of the new {name} are no finite numbers."
    (new_A, new_B), rank = pair, np.linalg.matrix_rank
    of_new = new_B[:, r:] @ new_A[r:]  # what the new rows and columns give by themselves
    times, times_without = _multiple(new_B @ new_A, B @ A), _multiple(new_B @ new_A - of_new, B @ A)
    return {
        "row k of A still belongs to column k of B": bool(times or times_without),
        "the new rows of A and the new columns of B add nothing at the start": bool(times or not times_without),
        "how often the old B A counts in the new one": times or times_without,
        "a new row of A or a new column of B is not zero": np.any(new_A[r:]) or np.any(new_B[:, r:]),
        "the rows of A, or the columns of B, are independent": max(rank(factor) for factor in pair) == r + extra,
    }


def _multiple(product: np.ndarray, of: np.ndarray) -> float:
    """How often one product is the other; 0 if it is no multiple of it."""
    times = (product * of).sum() / (of**2).sum()
    return times if np.allclose(product, times * of, atol=1e-5) else 0.0


def _adapters() -> list[tuple]:
    """Cases (A, B, extra): no matrix is square, and `extra` is never the rank."""
    rng = np.random.default_rng(4100)  # no seed that a learner's new rows are drawn with
    sizes = ((9, 7, 2, 3), (6, 12, 3, 2))  # d_in, d_out, rank, extra
    return [(rng.normal(size=(r, d_in)), rng.normal(size=(d_out, r)), extra) for d_in, d_out, r, extra in sizes]


RANDOM_ROWS = "np.random.default_rng(9).normal(size=(extra, d_in)) / d_in**0.5"


@exercise(
    "4.1",
    _adapters(),
    taught={
        "factor = rank / r -> factor = 1": "Your adapter makes its old part count less than before: the new "
        "layer divides alpha by {rank}, the old one divided it by {r}.",
        "[A, new_rows] -> [factor * A, new_rows]": "Your adapter multiplies both A and B by {factor:.3g}, so in their "
        "product the factor counts squared.",
        "np.zeros((len(B), extra)) -> np.random.default_rng(8).normal(size=(len(B), extra))": "Your adapter changes "
        "the function: new rows of A meet new columns of B, and neither is zero. One must be, as at the start of LoRA.",
        f"{RANDOM_ROWS} -> np.zeros((extra, d_in))": "Your adapter has zeros in its new rows and in its new columns. "
        "Each one's gradient is multiplied by the other: they never move.",
        f"{RANDOM_ROWS} -> np.tile(A, (extra, 1))[:extra]": "Your new rows of A are made of the old ones: the layer "
        "looks at its input in no new direction. Draw them at random.",
    },
    observe=observe_grown,
)
def grow(A, B, extra):
    r, d_in = A.shape  # the old rank
    rank = r + extra  # the new rank
    new_rows = np.random.default_rng(9).normal(size=(extra, d_in)) / d_in**0.5  # the new rows of A
    new_columns = np.zeros((len(B), extra))  # the new columns of B
    factor = rank / r  # what makes up for the smaller scaling
    return np.concatenate([A, new_rows]), np.concatenate([factor * B, new_columns], axis=1)  # both factors


# --- 4.3: two adapters, one update -----------------------------------------------------------------------------------


def _pairs() -> list[tuple]:
    """Cases (A1, B1, A2, B2, weights, alpha): the weights differ and do not add up to 1."""
    rng, cases = np.random.default_rng(0), []
    for d_in, d_out, r, alpha, weights in ((8, 6, 2, 8.0, (0.75, -1.5)), (5, 12, 3, 1.5, (0.75, 0.5))):
        factors = (rng.normal(size=shape) for shape in ((r, d_in), (d_out, r)) * 2)
        cases.append((*factors, weights, alpha))
    return cases


@exercise(
    "4.3",
    _pairs(),
    taught={
        "first + second -> (weights[0] * B1 + weights[1] * B2) @ (weights[0] * A1 + weights[1] * A2)": "Your answer "
        "averages A with A and B with B. The product then holds B1 A2 and B2 A1, which nobody trained.",
        "first + second -> (weights[0] * B1 + weights[1] * B2) @ (A1 + A2)": "Your answer adds the factors before it "
        "multiplies them. The product then holds B1 A2 and B2 A1, which nobody trained.",
        "weights[0] * B1 @ A1 -> weights[0] ** 2 * B1 @ A1 & weights[1] * B2 @ A2 -> weights[1] ** 2 * B2 @ A2": "Your "
        "answer puts each weight on both A and B, so in their product it counts squared.",
        "alpha / len(A1) -> alpha / (2 * len(A1))": "Your answer divides alpha by the rank of both adapters together. "
        "Each was trained with its own alpha / r, which is {scaling:.3g} here.",
        "return scaling * (first + second) -> return first + second": "I can't find the scaling in your answer; in "
        "the example below it is {scaling:.3g}. Section 1 says where it belongs.",
        "first + second -> (first + second) / sum(weights)": "Your answer divides by the sum of the weights. They need "
        "not add up to 1, and are taken as they are.",
        "first + second -> (B1 @ A1 + B2 @ A2) / 2": "Your answer is the plain mean of the two updates. Each has a "
        "weight of its own, and nothing is divided by 2.",
    },
    noticed={
        "one array is asked for, the change of W: the product of the factors.": lambda got, *case: got.ndim != 2,
        "the change has the shape of W, (d_out, d_in).": (
            lambda got, A1, B1, *rest: got.shape != (len(B1), A1.shape[1])
        ),
    },
)
def weighted_update(A1, B1, A2, B2, weights, alpha):
    scaling = alpha / len(A1)  # the scaling
    first = weights[0] * B1 @ A1  # the weighted update of the first adapter
    second = weights[1] * B2 @ A2  # the weighted update of the second adapter
    return scaling * (first + second)  # their sum, scaled


# --- 4.4: count the operations ---------------------------------------------------------------------------------------


@exercise(
    "4.4",
    [(32, 512, 256, 8), (100, 64, 512, 4), (7, 30, 20, 3)],
    taught={
        "2 * in_W -> 3 * in_W": "Your answer also counts the gradient of W. But W is frozen, and nobody needs that "
        "gradient: section 8.",
        "2 * in_W -> in_W & 3 * in_A_and_B -> in_A_and_B": "Your answer is the forward pass alone. Backward, each "
        "matrix is used again, a trained one twice.",
        "3 * in_A_and_B -> 2 * in_A_and_B": "Your answer counts A and B twice. They are trained, so each takes part in "
        "three products, its own gradient too.",
        "2 * in_W -> in_W": "Your answer leaves out the gradient of the input through W. The layers below need it.",
        "3 * in_A_and_B -> 3 * in_W * r & 2 * in_W -> 3 * in_W": "Your answer forms B A in each step. That costs the "
        "gradient of the whole weight after all: the layer computes B (A x).",
        "with_W + with_A_and_B -> 2 * (with_W + with_A_and_B)": "Your answer counts floating-point operations. A "
        "multiply-add is two of them, and counts once here.",
        "T * (with_W + with_A_and_B) -> in_W + in_A_and_B": "Your answer counts parameters. Each is used in several "
        "multiply-adds, and for each of the {T} inputs.",
    },
    noticed={"one number is asked for: how many multiply-adds there are.": lambda got, *case: got.ndim > 0},
)
def training_operations(T, d_in, d_out, r):
    in_W = d_in * d_out  # the multiply-adds of a product with W, for one input
    in_A_and_B = r * (d_in + d_out)  # those of a product with A and one with B
    with_W = 2 * in_W  # the products with W, forward and backward
    with_A_and_B = 3 * in_A_and_B  # the products with A and B
    return T * (with_W + with_A_and_B)  # those of all inputs
