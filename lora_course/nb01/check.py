"""The checks of notebook 01, Low rank: what factors hold, and what they keep."""

import numpy as np

from lora_course.checking.describing import as_array
from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "entries_share", "kept_share", "largest_saving_rank", "update_factors"]

# --- 1.1: counting ---------------------------------------------------------------------------------------------------


@exercise(
    "1.1",
    [(12, 20), (12, 4), (36, 10), (6, 3)],
    taught={
        "return rank -> return min(d_out, d_in)": "Your answer is the largest rank that W can have. A and B hold "
        "{each:,} numbers for each rank: long before it they hold more than W.",
        "< whole -> <= whole": "Your answer allows as many numbers as W has, {whole:,}. Fewer are asked for: at rank "
        "{result}.",
        "return rank -> return whole / each": "Your answer is where the two counts are equal. A rank is a whole "
        "number, and there nothing is saved yet.",
        "return rank -> return min(d_out, d_in) // 2": "Your answer is half the shorter side, which is right of a "
        "square matrix only. Count A and B of this shape: section 4.",
        "each = d_out + d_in -> each = 2 * d_out": "Your answer counts {d_out} numbers in each row of A. A has shape "
        "(r, d_in): a row has {d_in}.",
        "each = d_out + d_in -> each = 2 * d_in": "Your answer counts {d_in} numbers in each column of B. B has shape "
        "(d_out, r): a column has {d_out}.",
        "return rank -> return rank * each": "Your answer is how many numbers the two factors hold. The rank itself "
        "is asked for.",
    },
    noticed={
        "a rank is a whole number, and this is none.": lambda got, *case: got % 1 != 0,
        "at this rank A and B hold as many numbers as W, or more: go down.": lambda got, d_out, d_in: (
            got * (d_out + d_in) >= d_out * d_in
        ),
        "at this rank A and B hold fewer numbers than W, and at the next rank they do too.": lambda got, d_out, d_in: (
            got.ndim == 0
        ),
    },
)
def largest_saving_rank(d_out, d_in):
    each = d_out + d_in  # the numbers that each rank takes
    whole = d_out * d_in  # the numbers in W
    rank = 0  # the rank at which the search begins
    while (rank + 1) * each < whole:  # which counts are compared, and how
        rank += 1  # how the rank grows
    return rank  # the rank at which the search ends


def _matrices() -> list[tuple]:
    """Pairs of a matrix and a rank; no matrix is square."""
    rng = np.random.default_rng(1)
    return [(rng.normal(size=shape), rank) for shape, rank in (((5, 8), 2), ((9, 4), 1), ((6, 7), 3))]


OUTSIDE = {"a share lies between 0 and 1.": lambda got, *case: not 0 <= got <= 1 + 1e-9}

# --- 1.2: the rival at equal numbers ---------------------------------------------------------------------------------


@exercise(
    "1.2",
    _matrices(),
    taught={
        "rank * sum(matrix.shape) -> rank": "Your answer keeps {rank} entries. A and B of this rank hold many more "
        "numbers, {count}: section 4.",
        "np.sort(matrix**2, axis=None) -> np.sort(matrix, axis=None) ** 2": "Your answer keeps the largest values. An "
        "entry of -3 counts more than one of 2: sort by magnitude, or by square.",
        "[-count:] -> [:count]": "Your answer keeps the smallest entries. `np.sort` puts the smallest first.",
        "return part / whole -> return (np.linalg.svd(matrix, compute_uv=False)[:rank] ** 2).sum() / whole": "Your "
        "answer is what the first {rank} components keep. Their rival keeps the {count} largest entries of the matrix.",
        "return part / whole -> return np.sqrt(part / whole)": "Your answer is a share of the norm. That of the "
        "*squared* norm is asked for, {result:.3f}.",
        "matrix**2 -> abs(matrix)": "Your answer adds magnitudes. The squared norm is a sum of squares, here "
        "{whole:.3g}.",
        "return part / whole -> return count / matrix.size": "Your answer is the share of the entries that are kept. "
        "Which share of the squared norm do these {count} hold?",
    },
    noticed=OUTSIDE,
)
def entries_share(matrix, rank):
    count = rank * sum(matrix.shape)  # how many numbers A and B hold
    squares = np.sort(matrix**2, axis=None)  # the squares of all entries, sorted
    kept = squares[-count:]  # which of them are kept
    part = kept.sum()  # the squared norm of what is kept
    whole = squares.sum()  # the squared norm of the matrix
    return part / whole  # the share


# --- 1.3: how much is kept -------------------------------------------------------------------------------------------


@exercise(
    "1.3",
    _matrices(),
    taught={
        "kept**2 -> kept & S**2 -> S": "Your answer adds the singular values themselves. The squared norm of a "
        "matrix is the sum of their squares: section 2.",
        "return part / whole -> return S[:rank].sum() ** 2 / S.sum() ** 2": "Your answer squares the sums. The squared "
        "norm is the sum of the squares, {whole:.3g} for the whole matrix.",
        "kept**2 -> kept**4 & S**2 -> S**4": "Your answer squares twice. Eigenvalues of M M^T are squares of singular "
        "values already.",
        "return part / whole -> return np.sqrt(part / whole)": "Your answer is a share of the norm. Those of the "
        "*squared* norm add up to 1 over all components: it is {result:.3f}.",
        "return part / whole -> return np.sqrt(1 - part / whole)": "Your answer is the relative error. Its square is "
        "the share that is missing; the one that is kept is asked for.",
        "return part / whole -> return rank / len(S)": "Your answer counts components, {rank} of them. They are not "
        "equally strong: weigh each with its squared singular value.",
        "[:rank] -> [-rank:]": "Your answer keeps the weakest components. NumPy puts the strongest first.",
    },
    noticed=OUTSIDE,
)
def kept_share(matrix, rank):
    S = np.linalg.svd(matrix, compute_uv=False)  # the singular values
    kept = S[:rank]  # which of them are kept
    part = np.sum(kept**2)  # the squared norm of what is kept
    whole = np.sum(S**2)  # the squared norm of the matrix
    return part / whole  # the share


# --- 1.4: an adapter out of an update --------------------------------------------------------------------------------


def _updates() -> list[tuple]:
    """Updates with a rank and an alpha; alpha is never the rank, and no update is square."""
    rng = np.random.default_rng(2)
    return [(rng.normal(size=shape), r, alpha) for shape, r, alpha in (((5, 8), 2, 16.0), ((9, 4), 3, 1.5))]


def _of_the_layer(solution, update, rank, alpha):
    """The update that a LoRA layer makes of the factors, (d_out, d_in); or what is wrong with their shapes."""
    factors, (d_out, d_in) = solution(update, rank, alpha), update.shape
    if factors is ... or factors is None:
        return factors
    if not isinstance(factors, tuple | list) or len(factors) != 2:
        return "the function should return two matrices, `return B, A`."
    B, A = map(as_array, factors)
    shapes = np.shape(B), np.shape(A)
    if shapes == ((rank, d_in), (d_out, rank)):
        return "return B first, then A."
    if shapes != ((d_out, rank), (rank, d_in)):
        return f"B should have shape {(d_out, rank)} and A {(rank, d_in)}, got {shapes[0]} and {shapes[1]}."
    return alpha / rank * B @ A


@exercise(
    "1.4",
    _updates(),
    taught={
        "return B / s, rows -> return B, rows": "Your answer makes B A the update. The layer multiplies it by "
        "s = alpha / rank, here {s:g}, so divide by s.",
        "return B / s, rows -> return B * s, rows": "Your answer multiplies by s, and so does the layer. Divide by it, "
        "and the two cancel.",
        "return B / s, rows -> return B / s, rows / s": "Your answer divides both factors by s. Divide one of them, or "
        "each by the root of s.",
        "return B / s, rows -> return B / s, strengths[:, None] * rows": "Your answer puts the singular values into "
        "both factors, so they count twice. Put them into one, or their square roots into each.",
        "return B / s, rows -> return columns, rows": "Your answer has neither the singular values nor s. Each "
        "component needs its strength, and the layer multiplies by {s:g}.",
    },
    noticed={
        "B A is zero here, as in an adapter before its training. This one should hold the update already.": (
            lambda got, *case: not got.any()
        ),
    },
    observe=_of_the_layer,
)
def update_factors(update, rank, alpha):
    U, S, Vt = np.linalg.svd(update, full_matrices=False)  # the components of the update
    s = alpha / rank  # the scaling of the layer
    strengths = S[:rank]  # the singular values that are kept
    columns = U[:, :rank]  # the columns of U that are kept
    rows = Vt[:rank]  # the rows of Vt that are kept
    B = columns * strengths  # where the singular values go
    return B / s, rows  # what becomes of the scaling in the two factors
