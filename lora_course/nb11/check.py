"""The checks of notebook 11, the variants of LoRA, and of a published table."""

import numpy as np

from lora_course.checking.describing import as_array
from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "dora_weight", "plain_lora", "suspects", "vera_weight"]

# --- 11.1: VeRA ------------------------------------------------------------------------------------------------------


def _vera_layers():
    """A and B are larger than the layer, and no side equals another."""
    for seed, (d_in, d_out, rank, widest, tallest) in enumerate([(5, 7, 3, 9, 11), (8, 4, 2, 10, 6)]):
        rng = np.random.default_rng(seed)
        shapes = ((d_out, d_in), (rank, widest), (tallest, rank), (rank,), (d_out,))
        yield tuple(rng.normal(size=shape) for shape in shapes)


def _cut(solution, W, A, B, d, b):
    """What it returns; where the whole of A or B is taken, how much of it belongs to the layer."""
    try:
        return solution(W, A, B, d, b)
    except ValueError as error:
        (d_out, d_in), columns, rows = W.shape, A.shape[1], len(B)
        pairs = (columns, d_in), (rows, d_out)
        if not any(f"{whole}" in str(error) and f"{part}" in str(error) for whole, part in pairs):
            raise
        return (
            f"A has {columns} columns and B has {rows} rows, for the largest layer of the model. W is {d_out} x "
            f"{d_in}: take the first {d_in} columns of A and the first {d_out} rows of B."
        )


@exercise(
    "11.1",
    list(_vera_layers()),
    taught={
        "d[:, None] * -> 1 * & b[:, None] * -> 1 *": "Your answer leaves both vectors out. A and B are random and "
        "frozen: d and b are all that VeRA trains.",
        "left @ right -> left @ right / len(d)": "Your answer divides by the rank. VeRA has no alpha / rank: d and b "
        "set the size.",
        "W + left @ right -> left @ right": "Your answer is the update alone. The weight is W plus the update.",
        "A[:, :d_in] -> A[:, -d_in:] & B[:d_out] -> B[-d_out:]": "Your answer takes the last columns of A and the last "
        "rows of B. Every layer takes the first ones.",
        "d[:, None] * -> np.linalg.norm(d) * & b[:, None] * -> np.linalg.norm(b) *": "Your answer takes one number for "
        "each vector. Each row of A has its own number in d, each row of B its own in b.",
        "d[:, None] * -> d[:, None] + & b[:, None] * -> b[:, None] +": "Your answer adds the vectors to the matrices. "
        "They multiply their rows.",
        "W + left @ right -> b[:, None] * W + left @ right": "Your answer multiplies W by b, too. b belongs to B "
        "alone.",
    },
    observe=_cut,
)
def vera_weight(W, A, B, d, b):
    d_out, d_in = W.shape  # the sizes of the layer
    right = d[:, None] * A[:, :d_in]  # the part of A, each row times d
    left = b[:, None] * B[:d_out]  # the part of B, each row times b
    return W + left @ right  # W and the update


# --- 11.3: DoRA ------------------------------------------------------------------------------------------------------


def _dora_layers():
    """No side equals another, alpha is never the rank, m is no row's length."""
    for seed, (d_in, d_out, rank, alpha) in enumerate([(5, 7, 2, 8.0), (8, 4, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        W, A, B = (rng.normal(size=shape) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
        yield W, A, B, rng.uniform(0.5, 3, size=d_out), alpha


def _lengths(got):
    return np.linalg.norm(got, axis=1)


def _along(got, W, A, B, alpha):
    """Whether every row has the direction of that row of W + s B A."""
    V = W + alpha / len(A) * B @ A
    return np.allclose((got * V).sum(axis=1), _lengths(got) * _lengths(V))


LENGTHS = "np.linalg.norm(V, axis=1, keepdims=True)"


@exercise(
    "11.3",
    list(_dora_layers()),
    taught={
        f"{LENGTHS} -> np.linalg.norm(W, axis=1, keepdims=True)": "Your answer divides by the lengths of the rows of "
        "W. The direction is that of V, so divide by the lengths of V's rows: section 1.",
        f"{LENGTHS} -> np.linalg.norm(V)": "Your answer divides by the norm of the whole matrix. Each row has a length "
        "of its own.",
        f"{LENGTHS} -> np.linalg.norm(V, axis=0, keepdims=True)": "Your answer gives the columns length 1. Here m has "
        "one number for each row.",
        f"{LENGTHS} -> 1": "Your answer multiplies each row by its m, and does not give it length 1 before.",
        "return m[:, None] * V / lengths -> return m[:, None] * W / np.linalg.norm(W, axis=1, keepdims=True) + s * B @ "
        "A": "Your answer normalizes W alone and adds the update afterwards. The sum is normalized: section 1.",
        "return m[:, None] * V / lengths -> return W + m[:, None] * (B @ A) / np.linalg.norm(B @ A, axis=1, "
        "keepdims=True)": "Your answer normalizes the update alone. The sum of W and the update is normalized: section "
        "1.",
        f"{LENGTHS} -> np.abs(V).max(axis=1, keepdims=True)": "Your answer divides by the largest magnitude of a row, "
        "as quantization does. A length is the root of the sum of squares.",
    },
    noticed={
        "every row has the right direction, and a wrong length: m has the lengths.": (
            lambda got, W, A, B, m, alpha: _along(got, W, A, B, alpha)
        ),
        "every row has the right length, and a wrong direction.": lambda got, W, A, B, m, alpha: np.allclose(
            _lengths(got), m
        ),
    },
)
def dora_weight(W, A, B, m, alpha):
    s = alpha / len(A)  # the scaling
    V = W + s * B @ A  # the sum V
    lengths = np.linalg.norm(V, axis=1, keepdims=True)  # the lengths of its rows
    return m[:, None] * V / lengths  # each row with the length m


# --- 11.4: PiSSA beside the unchanged W ------------------------------------------------------------------------------


def _factors():
    for seed, (d_in, d_out, rank) in enumerate([(5, 7, 2), (8, 4, 3)]):
        rng = np.random.default_rng(seed)
        yield tuple(rng.normal(size=shape) for shape in ((rank, d_in), (d_out, rank)) * 2)


def _update(solution, A, B, A0, B0):
    """The update that the two factors make; where their shapes are others than asked for, what that means."""
    made = solution(A, B, A0, B0)
    if made is ... or made is None:
        return made
    factors = list(map(as_array, made)) if isinstance(made, tuple | list) and len(made) == 2 else [None]
    if any(factor is None or factor.ndim != 2 for factor in factors):
        return "return two matrices, the new A and the new B."
    rank, d_in, d_out = len(A), A.shape[1], len(B)
    said = {
        ((d_out, 2 * rank), (2 * rank, d_in)): "A and B have changed places: return the new A first.",
        ((rank, 2 * d_in), (2 * d_out, rank)): "this joins along the wrong side. A grows by rows (axis 0), B by "
        "columns (axis 1): the ranks add up.",
        ((rank, d_in), (d_out, rank)): "the rank has stayed r. A difference of two products of rank r has rank 2r: put "
        "the factors side by side.",
    }
    shapes, wanted = tuple(factor.shape for factor in factors), ((2 * rank, d_in), (d_out, 2 * rank))
    if shapes != wanted:
        right = f"the new A should be (2r, d_in) = {wanted[0]}, the new B (d_out, 2r) = {wanted[1]}"
        return said.get(shapes, f"{right}; yours are {shapes[0]} and {shapes[1]}.")
    return factors[1] @ factors[0]


@exercise(
    "11.4",
    list(_factors()),
    taught={
        "minus = -B0 -> minus = B0": "Your answer adds the start. What was learned is B A - B0 A0: one of the four "
        "needs a minus.",
        "minus = -B0 -> minus = 0 * B0": "Your answer is B A alone. Beside the unchanged W, PiSSA's start B0 A0 would "
        "be counted twice.",
        "first = [A, A0] -> first = [A0, A]": "Your answer joins the factors in different orders: B meets A0, and B0 "
        "meets A.",
        "first = [A, A0] -> first = [A - A0, A - A0] & second = [B, minus] -> second = [B + minus, 0 * B]": "Your "
        "answer multiplies the differences, (B - B0)(A - A0). That has cross terms which nobody learned.",
        "first = [A, A0] -> first = [A0, A] & second = [B, minus] -> second = [B0, -B]": "Your answer is B0 A0 - B A, "
        "the other way round. What was learned is the new product minus the old.",
        "first = [A, A0] -> first = [A, A] & second = [B, minus] -> second = [B, B]": "Your answer is the trained "
        "product twice. The start is missing.",
    },
    observe=_update,
)
def plain_lora(A, B, A0, B0):
    minus = -B0  # the sign of the start
    first = [A, A0]  # what stands in the new A
    second = [B, minus]  # what stands in the new B
    return np.concatenate(first), np.concatenate(second, axis=1)  # how they are joined


# --- 11.2: a published table -----------------------------------------------------------------------------------------
# A row holds `method`, `rank`, `alpha`, `rate` and `accuracy` (a share of the questions). At one rank, a weight moves
# in Adam's first step in proportion to s times the rate: s is alpha / rank, and alpha / sqrt(rank) for rsLoRA. Rows of
# two ranks cannot be compared so: r columns of B move, not one.

STEP, GAP = "how many times larger the step is", "the gap in standard errors"


def _both(solution, one, other, questions):
    made = solution(one, other, questions)
    if made is ... or made is None:
        return made
    numbers = as_array(made)
    if numbers is None or numbers.shape != (2,):
        return "return two numbers: the ratio of the steps, and the gap in standard errors."
    return {STEP: float(numbers[0]), GAP: float(numbers[1])}


def _row(method, rank, alpha, rate, accuracy):
    return {"method": method, "rank": rank, "alpha": alpha, "rate": rate, "accuracy": accuracy}


ROOTS = 'row["rank"] ** 0.5 if row["method"] == "rsLoRA" else row["rank"]'


@exercise(
    "11.2",
    [
        (_row("LoRA", 16, 24, 2e-4, 0.41), _row("rsLoRA", 16, 48, 1e-4, 0.47), 900),
        (_row("DoRA", 8, 12, 3e-4, 0.62), _row("LoRA", 8, 16, 5e-4, 0.58), 400),
    ],
    taught={
        f"{ROOTS} -> row['rank']": "Your answer divides every alpha by the rank. That of rsLoRA is divided by the root "
        "of the rank: section 1.",
        "alphas / below * rates -> alphas / below": "Your answer compares the two s alone. The rates may differ as "
        "well: a weight moves by s times the rate (section 2).",
        "alphas / below * rates -> (alphas / below) ** 2 * rates": "Your answer has s twice, as with plain gradient "
        "descent. Adam's first step is s times the rate: section 2.",
        "error = squares.sum() ** 0.5 -> error = squares[0] ** 0.5": "Your answer takes the error of `one` alone. Both "
        "accuracies are uncertain, and the squares of their errors add.",
        "error = squares.sum() ** 0.5 -> error = (squares**0.5).sum()": "Your answer adds the two errors. Those of "
        "independent draws add in squares: {error:.3g} in the example below.",
        "p * (1 - p) / questions -> p.mean() * (1 - p.mean()) / questions": "Your answer has one p for both rows, "
        "their mean. It comes close: take each accuracy's own p (1 - p).",
        "p * (1 - p) / questions -> 0 * p + 0.25 / questions": "Your answer takes the largest error that there is, at "
        "p = 1/2. Take each accuracy's own p (1 - p).",
    },
    observe=_both,
)
def suspects(one, other, questions):
    alphas, rates, p = (np.array([row[key] for row in (one, other)]) for key in ("alpha", "rate", "accuracy"))
    below = np.array(
        [row["rank"] ** 0.5 if row["method"] == "rsLoRA" else row["rank"] for row in (one, other)]
    )  # what alpha is divided by
    steps = alphas / below * rates  # the steps of both rows
    squares = p * (1 - p) / questions  # the squared errors of both accuracies
    error = squares.sum() ** 0.5  # the error of their difference
    gap = p[1] - p[0]  # the gap of the accuracies
    return steps[1] / steps[0], gap / error  # the ratio, or the quotient
