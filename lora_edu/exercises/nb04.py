"""The checks of notebook 04, LoRA in torch. That of a whole layer, 4.2, is in `nb04_layer`.

4.1 looks for broken promises: its observer returns the sentence about the first one, or `KEPT`. A sentence stands for
itself among the misconceptions, so that the check can be asked for each of them.
"""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.nb04_layer import lora_layer
from lora_edu.exercises.nb04_update import (
    CHANGED_INPUTS,
    PAIRS,
    UPDATE_MISTAKES,
    UPDATE_SENTENCES,
    observe_update,
    said,
    same,
    weighted_sum,
)

__all__ = ["beside", "grow", "lora_layer", "training_operations", "weighted_update"]

KEPT = "kept"


# --- 4.1: more rank, the same function -------------------------------------------------------------------------------

NOT_A_PAIR = "return both factors, A and then B: `return A, B`."
SWAPPED = "this returns B before A."
BAD_SHAPES = "A gets `extra` new rows and B as many new columns: (r + extra, d_in) and (d_out, r + extra)."
SHRUNK = "the old part shrinks. The new layer divides alpha by r + extra, so its product must grow by (r + extra) / r."
SQUARED = "the factor (r + extra) / r sits on A and on B, so that it counts squared. It goes to one of the two."
UPSIDE_DOWN = "the factor is upside down: the new scaling is smaller, so the product must grow."
BY_EXTRA = "the factor divides by `extra`, or multiplies by it alone. The new rank is r + extra, the old one is r."
WRONG_AXIS = "the factor takes the rank from the wrong axis: r is the number of rows of A and of columns of B."
OTHER_FACTOR = (
    "the product grows, but not by (r + extra) / r, which undoes the change from alpha / r to alpha / (r + extra)."
)
NEW_PART_ACTS = "the function changes: the new columns of B are not zero, and the new rows of A are not, either."
OLD_PART_LOST = "the old part is lost, or stands in another place of A than of B: row k of A belongs to column k of B."
DEAD = "the new rows of A and the new columns of B are all zero. Each one's gradient holds the other: they never move."
NO_NEW_DIRECTION = (
    "the new rows of A lie in the span of the old ones: the layer looks at its input in no new direction."
)
GROW = [text for name, text in list(globals().items()) if name.isupper() and isinstance(text, str) and " " in text]


def grown(A, B, extra):
    """A: (r, d_in), B: (d_out, r) -> A: (r + extra, d_in), B: (d_out, r + extra) with the same update."""
    new_rows = np.random.default_rng(9).normal(size=(extra, A.shape[1])) / A.shape[1] ** 0.5
    factor = (len(A) + extra) / len(A)
    return np.concatenate([A, new_rows]), np.concatenate([factor * B, np.zeros((len(B), extra))], axis=1)


def observe_grown(solution: Callable | str, A: np.ndarray, B: np.ndarray, extra: int) -> Any:
    """The first promise that the grown factors break, as a sentence; KEPT if there is none."""
    if isinstance(solution, str):
        return solution
    given = copy.deepcopy((A, B))
    result = solution(A, B, extra)
    if result is ... or result is None:
        return result
    if not (np.array_equal(A, given[0]) and np.array_equal(B, given[1])):
        return CHANGED_INPUTS
    pair = [as_array(part) for part in result] if isinstance(result, tuple | list) and len(result) == 2 else [None]
    if any(part is None or part.ndim != 2 for part in pair):
        return NOT_A_PAIR
    return _broken_growth(*pair, *given, extra)


def _broken_growth(new_A, new_B, A, B, extra) -> str:
    r, d_in = A.shape
    shapes = [new_A.shape, new_B.shape]
    if shapes != [(r + extra, d_in), (len(B), r + extra)]:
        return SWAPPED if shapes[::-1] == [(r + extra, d_in), (len(B), r + extra)] else BAD_SHAPES
    factor, wanted = (r + extra) / r, B @ A
    if not same(new_B @ new_A, factor * wanted):
        old = new_B[:, :r] @ new_A[:r]
        return _wrong_factor((old * wanted).sum() / (wanted**2).sum(), old, wanted, factor, extra, len(B), d_in)
    if not (new_A[r:].any() or new_B[:, r:].any()):
        return DEAD
    alive = np.linalg.matrix_rank(new_A) == r + extra or not new_A[r:].any()
    return KEPT if alive else NO_NEW_DIRECTION


def _wrong_factor(times, old, wanted, factor, extra, d_out, d_in) -> str:
    """What is wrong with the old part, which should be `factor` times the product that was given."""
    if not same(old, times * wanted):
        return OLD_PART_LOST
    looks = {
        NEW_PART_ACTS: [factor],
        SHRUNK: [1],
        SQUARED: [factor**2],
        UPSIDE_DOWN: [1 / factor],
        BY_EXTRA: [1 / (factor - 1), factor - 1],
        WRONG_AXIS: [(side + extra) / side for side in (d_in, d_out)],
    }
    return next((name for name, known in looks.items() if np.isclose(times, known).any()), OTHER_FACTOR)


def _adapters() -> list[tuple]:
    """Cases (A, B, extra): no matrix is square, and `extra` is never the rank."""
    cases = []
    for seed, (d_in, d_out, rank, extra) in enumerate([(9, 7, 2, 3), (6, 12, 3, 2)]):
        rng = np.random.default_rng(4100 + seed)  # no seed that a learner's new rows are drawn with
        cases.append((rng.normal(size=(rank, d_in)), rng.normal(size=(d_out, rank)), extra))
    return cases


grow = Exercise(
    "4.1", grown, _adapters(), {sentence: sentence for sentence in GROW}, observe=observe_grown, explain=said
)

# --- 4.3: two adapters, one update -----------------------------------------------------------------------------------

weighted_update = Exercise(
    "4.3",
    weighted_sum,
    PAIRS,
    UPDATE_MISTAKES | {sentence: sentence for sentence in UPDATE_SENTENCES},
    observe=observe_update,
    explain=said,
)

# --- 4.4: count the operations ---------------------------------------------------------------------------------------

NO_NUMBER = "return one number: how many multiply-adds there are."
PRODUCTS_WITH_W = "the products with W are two: forward, and for the gradient of x. Here another number is counted."
PRODUCTS_WITH_FACTORS = "A and B are trained: each takes part in three products. Here another number is counted."
NO_PRODUCTS = "this is no sum of products: one of an (a, b) and a (b, c) matrix takes a b c multiply-adds."
OPERATION_SENTENCES = (NO_NUMBER, PRODUCTS_WITH_W, PRODUCTS_WITH_FACTORS, NO_PRODUCTS)


def operations(T: int, d_in: int, d_out: int, r: int) -> int:
    return T * (2 * d_in * d_out + 3 * r * (d_in + d_out))


OPERATION_MISTAKES: dict[str, Callable] = {
    "this counts the gradient of W as well. W is frozen: that product is what LoRA saves.": (
        lambda T, i, o, r: T * (3 * i * o + 3 * r * (i + o))
    ),
    "this is the forward pass alone.": lambda T, i, o, r: T * (i * o + r * (i + o)),
    "this is the backward pass alone: the forward pass comes on top.": (
        lambda T, i, o, r: T * (i * o + 2 * r * (i + o))
    ),
    "this leaves the gradient of the input through W out: the layers below need it.": (
        lambda T, i, o, r: T * (i * o + 3 * r * (i + o))
    ),
    "this counts A and B twice. They are trained, so each takes part in three products.": (
        lambda T, i, o, r: T * (2 * i * o + 2 * r * (i + o))
    ),
    "this counts A and B once. They are trained, so each takes part in three products.": (
        lambda T, i, o, r: T * (2 * i * o + r * (i + o))
    ),
    "this leaves A and B out: each takes part in three products.": lambda T, i, o, r: T * 2 * i * o,
    "this is full training, 3 products with W. LoRA leaves one of them out and adds those of A and B.": (
        lambda T, i, o, r: T * 3 * i * o
    ),
    "this counts the products with W twice over: forward once, and once for the gradient of the input.": (
        lambda T, i, o, r: T * (4 * i * o + 3 * r * (i + o))
    ),
    "this forms B A in each step, which costs the gradient of the whole weight after all.": (
        lambda T, i, o, r: 3 * T * i * o + 3 * r * i * o
    ),
    "this counts floating-point operations: a multiply-add is two of them. The exercise counts it as one.": (
        lambda T, i, o, r: 2 * T * (2 * i * o + 3 * r * (i + o))
    ),
    "this counts one input. There are T of them.": lambda T, i, o, r: 2 * i * o + 3 * r * (i + o),
    "the products with W are counted for one input only. There are T of them.": (
        lambda T, i, o, r: 2 * i * o + T * 3 * r * (i + o)
    ),
    "the products with A and B are counted for one input only. There are T of them.": (
        lambda T, i, o, r: T * 2 * i * o + 3 * r * (i + o)
    ),
    "this takes the layer as a square of side d_in. It is not square.": (
        lambda T, i, o, r: T * (2 * i * i + 6 * r * i)
    ),
    "this takes the layer as a square of side d_out. It is not square.": (
        lambda T, i, o, r: T * (2 * o * o + 6 * r * o)
    ),
    "this counts A alone: B takes part in three products as well.": (lambda T, i, o, r: T * (2 * i * o + 3 * r * i)),
    "this counts B alone: A takes part in three products as well.": (lambda T, i, o, r: T * (2 * i * o + 3 * r * o)),
    "the gradient of what goes into A is left out: it is a part of the gradient of x.": (
        lambda T, i, o, r: T * (2 * i * o + 2 * r * i + 3 * r * o)
    ),
    "the gradient of what goes into B is left out: A learns from it.": (
        lambda T, i, o, r: T * (2 * i * o + 3 * r * i + 2 * r * o)
    ),
    "a trained factor takes part in three products, not in six: A and B have r d_in and r d_out numbers.": (
        lambda T, i, o, r: T * (2 * i * o + 6 * r * (i + o))
    ),
    "this leaves the products with W out: the frozen weight is used forward and for the gradient of x.": (
        lambda T, i, o, r: T * 3 * r * (i + o)
    ),
    "this forms B A once in the forward pass. The layer never does: it computes B (A x).": (
        lambda T, i, o, r: T * (2 * i * o + 3 * r * (i + o)) + r * i * o
    ),
    "this is a share of full training. The exercise asks for the number of multiply-adds.": (
        lambda T, i, o, r: (2 * i * o + 3 * r * (i + o)) / (3 * i * o)
    ),
    "this counts parameters. Each is used in several multiply-adds, and for each of the T inputs.": (
        lambda T, i, o, r: r * (i + o)
    ),
    "this counts parameters, W's as well. Each is used in several multiply-adds, for each of the T inputs.": (
        lambda T, i, o, r: i * o + r * (i + o)
    ),
    "T counts squared.": lambda T, i, o, r: T * T * (2 * i * o + 3 * r * (i + o)),
    "the rank is missing in the products with A and B.": lambda T, i, o, r: T * (2 * i * o + 3 * (i + o)),
    "A and B together have r (d_in + d_out) numbers, not r squared.": (lambda T, i, o, r: T * (2 * i * o + 3 * r * r)),
    "the scaling by s is counted as well: d_out multiplications for each input. The exercise counts products of "
    "matrices.": lambda T, i, o, r: T * (2 * i * o + 3 * r * (i + o)) + T * o,
    "W has d_in d_out numbers, not d_in + d_out.": lambda T, i, o, r: T * (2 * (i + o) + 3 * r * (i + o)),
    "this takes the layer as a square of the mean side. It is not square: W has d_in d_out numbers.": (
        lambda T, i, o, r: T * (2 * ((i + o) / 2) ** 2 + 3 * r * (i + o))
    ),
    "A and B have r (d_in + d_out) numbers together, not r d_in d_out.": (
        lambda T, i, o, r: T * (2 * i * o + 3 * r * i * o)
    ),
}
SIZES = [(32, 512, 256, 8), (100, 64, 512, 4), (7, 30, 20, 3)]  # T, d_in, d_out, r


def observe_operations(solution: Callable | str, *sizes: int) -> Any:
    """The count, where it is right or a mistake from the table; else a sentence about the products that it counts."""
    if isinstance(solution, str):
        return solution
    result = solution(*sizes)
    if result is ... or result is None:
        return result
    array = as_array(result)
    if array is None or array.ndim:
        return NO_NUMBER
    counted = np.array([solution(*others) for others in SIZES], dtype=float)
    for made in (operations, *OPERATION_MISTAKES.values()):
        if np.allclose(counted, [made(*others) for others in SIZES], rtol=1e-5):
            return result
    products = np.array([(T * i * o, T * r * i, T * r * o) for T, i, o, r in SIZES], dtype=float)
    W, A, B = np.linalg.solve(products, counted)
    if not np.allclose((W, A, B), np.round((W, A, B)), atol=1e-6) or min(W, A, B) < -1e-6:
        return NO_PRODUCTS
    return PRODUCTS_WITH_W if round(W) != 2 else PRODUCTS_WITH_FACTORS


training_operations = Exercise(
    "4.4",
    operations,
    SIZES,
    OPERATION_MISTAKES | {sentence: sentence for sentence in OPERATION_SENTENCES},
    observe=observe_operations,
    explain=said,
)
