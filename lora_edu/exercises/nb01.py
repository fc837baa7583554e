"""The checks of notebook 01, Low rank."""

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise, beside, wrong

__all__ = ["beside", "entries_share", "kept_share", "largest_saving_rank", "update_factors"]

# --- 1.1: counting ---------------------------------------------------------------------------------------------------


def _saving(d_out, d_in):
    return (d_out * d_in - 1) // (d_out + d_in)


def _number(result):
    """The result as one number, or None."""
    return as_array(result).item() if as_array(result) is not None and as_array(result).size == 1 else None


def _explain_saving(result, d_out, d_in) -> str:
    rank = _number(result)
    if rank is None or not np.isfinite(rank):
        return ""
    if rank != round(rank):
        return f"a rank is a whole number, and this is {rank:.4g}."
    held, whole = int(rank) * (d_out + d_in), d_out * d_in
    verdict = "fewer, and so it is at the next rank" if held < whole else "not fewer, so go down"
    return f"for {d_out} x {d_in}, A and B of rank {rank:.0f} hold {held:,} of {whole:,} numbers: that is {verdict}."


largest_saving_rank = Exercise(
    "1.1",
    _saving,
    [(256, 1024), (12, 4), (1024, 200), (6, 3)],
    {
        "this is the largest rank that W can have. Long before it, the two factors hold more numbers than W.": (
            lambda d_out, d_in: min(d_out, d_in)
        ),
        "at this rank the factors hold as many numbers as W, or more: for a 12 x 4 matrix rank 3 takes 48 of 48.": (
            lambda d_out, d_in: d_out * d_in // (d_out + d_in)
        ),
        "this is where the two counts are equal. A rank is a whole number, and at this one nothing is saved yet.": (
            lambda d_out, d_in: d_out * d_in / (d_out + d_in)
        ),
        "this is the first rank that saves nothing. Go one down.": lambda d_out, d_in: _saving(d_out, d_in) + 1,
        "half the shorter side is right for a square matrix only. Count d_out * r + r * d_in for this shape.": (
            lambda d_out, d_in: min(d_out, d_in) // 2
        ),
        "this counts d_out numbers in each row of A. A has shape (r, d_in).": lambda d_out, d_in: (d_in - 1) // 2,
        "this counts d_in numbers in each column of B. B has shape (d_out, r).": lambda d_out, d_in: (d_out - 1) // 2,
        "this is how many numbers the two factors hold at that rank. The question asks for the rank.": (
            lambda d_out, d_in: _saving(d_out, d_in) * (d_out + d_in)
        ),
        "this is how many numbers are saved at that rank. The question asks for the rank.": (
            lambda d_out, d_in: d_out * d_in - _saving(d_out, d_in) * (d_out + d_in)
        ),
    },
    explain=_explain_saving,
)


def _matrices() -> list[tuple]:
    """Pairs of a matrix and a rank; no matrix is square."""
    rng = np.random.default_rng(1)
    return [(rng.normal(size=shape), rank) for shape, rank in (((5, 8), 2), ((9, 4), 1), ((6, 7), 3))]


def _singular_values(matrix):
    return np.linalg.svd(np.asarray(matrix), compute_uv=False)


def _share(matrix, rank, power=2, start=0):
    S = _singular_values(matrix) ** power
    return S[start : start + rank].sum() / S.sum()


# --- 1.2: the rival at equal numbers ---------------------------------------------------------------------------------


def _largest(matrix, count, size=np.square):
    """The share that the `count` largest entries have of the sum of all, each measured by its `size`."""
    sizes = np.sort(size(np.asarray(matrix)), axis=None)
    return sizes[len(sizes) - min(count, len(sizes)) :].sum() / sizes.sum()


def _count(matrix, rank):
    return rank * sum(np.shape(matrix))


def _largest_signed(matrix, rank):
    entries = np.sort(matrix, axis=None)
    return (entries[-_count(matrix, rank) :] ** 2).sum() / (entries**2).sum()


def _explain_share(what: str):
    """Says of a number that is no known mistake what is to be added, and divided by what."""

    def explain(result, matrix, rank) -> str:
        share = _number(result)
        if share is None or not np.isfinite(share):
            return ""
        range_of = "a share lies between 0 and 1. " if not 0 <= share <= 1 + 1e-9 else ""
        count, all_of = (_count(matrix, rank), matrix.size) if "entries" in what else (rank, min(matrix.shape))
        shape = " x ".join(map(str, matrix.shape))
        return (
            f"{range_of}For a {shape} matrix and rank {rank}, add up the squares of the {count} largest {what}, and "
            f"divide by the sum of all {all_of} squares. Yours is {share:.4g}."
        )

    return explain


COUNTS = {
    "this keeps `rank` entries. A and B hold many more numbers: rank * d_in and d_out * rank.": lambda m, r: r,
    "this leaves the rank out of the count: d_out + d_in numbers are what rank 1 takes.": lambda m, r: sum(m.shape),
    "this counts the numbers of B only. A holds rank * d_in more.": lambda m, r: r * m.shape[0],
    "this counts the numbers of A only. B holds d_out * rank more.": lambda m, r: r * m.shape[1],
    "this counts d_out numbers for each row of A. A has shape (rank, d_in).": lambda m, r: 2 * r * m.shape[0],
    "this counts d_in numbers for each column of B. B has shape (d_out, rank).": lambda m, r: 2 * r * m.shape[1],
    "this keeps one entry too few.": lambda m, r: _count(m, r) - 1,
    "this keeps one entry too many.": lambda m, r: _count(m, r) + 1,
    "this keeps rank * rank entries. A holds rank * d_in numbers, B holds d_out * rank.": lambda m, r: r * r,
    "this counts the strengths too. They are multiplied into A or B, so they cost nothing more.": (
        lambda m, r: r * (sum(m.shape) + 1)
    ),
}

entries_share = Exercise(
    "1.2",
    lambda m, r: _largest(m, _count(m, r)),
    _matrices(),
    {
        "this is what the first `rank` components keep. Their rival keeps single entries of the matrix.": _share,
        "this is the share of the norm. The question is about the squared norm.": (
            lambda m, r: _largest(m, _count(m, r)) ** 0.5
        ),
        "this adds magnitudes. The squared norm is the sum of squares.": lambda m, r: _largest(m, _count(m, r), np.abs),
        "this squares twice: the squares themselves are what is added.": (
            lambda m, r: _largest(m, _count(m, r), lambda e: e**4)
        ),
        "this keeps the largest values. An entry of -3 counts more than one of 2: sort by magnitude, or by square.": (
            _largest_signed
        ),
        "this keeps the smallest entries. `np.sort` puts the smallest first.": (
            lambda m, r: np.sort(m**2, axis=None)[: _count(m, r)].sum() / (m**2).sum()
        ),
        "this sorts every row by itself. `axis=None` sorts all entries together.": (
            lambda m, r: np.sort(m**2)[:, -r:].sum() / (m**2).sum()
        ),
        "this sorts every column by itself. `axis=None` sorts all entries together.": (
            lambda m, r: np.sort(m**2, axis=0)[-r:].sum() / (m**2).sum()
        ),
        "this leaves out the smallest entries, as many as A and B hold numbers. Keep that many: `[-count:]`.": (
            lambda m, r: np.sort(m**2, axis=None)[_count(m, r) :].sum() / (m**2).sum()
        ),
        "this keeps the first entries, not the largest.": (
            lambda m, r: (m.flatten()[: _count(m, r)] ** 2).sum() / (m**2).sum()
        ),
        "this keeps the last entries, not the largest: sort first.": (
            lambda m, r: (m.flatten()[-_count(m, r) :] ** 2).sum() / (m**2).sum()
        ),
        "this is the share that is lost. What is kept is one minus that.": lambda m, r: 1 - _largest(m, _count(m, r)),
        "this is the relative error. One minus its square is the share that is kept.": (
            lambda m, r: (1 - _largest(m, _count(m, r))) ** 0.5
        ),
        "this is the share of the numbers. The question is which share of the squared norm they hold.": (
            lambda m, r: _count(m, r) / m.size
        ),
        "this is the squared norm of what is kept. Divide by that of the whole matrix.": (
            lambda m, r: _largest(m, _count(m, r)) * (m**2).sum()
        ),
        "this is the norm of what is kept. The share is its square, divided by the squared norm of the matrix.": (
            lambda m, r: (_largest(m, _count(m, r)) * (m**2).sum()) ** 0.5
        ),
        "this keeps all entries, or as many as the matrix has. Count the numbers in A and B.": lambda m, r: 1.0,
        **{sentence: lambda m, r, count=count: _largest(m, max(1, count(m, r))) for sentence, count in COUNTS.items()},
    },
    explain=_explain_share("entries, in magnitude"),
)

# --- 1.3: how much is kept -------------------------------------------------------------------------------------------

kept_share = Exercise(
    "1.3",
    _share,
    _matrices(),
    {
        "this adds the singular values themselves. The squared norm of a matrix is the sum of their squares.": (
            lambda m, r: _share(m, r, power=1)
        ),
        "this squares the sums. The squared norm of a matrix is the sum of the squares.": (
            lambda m, r: _share(m, r, power=1) ** 2
        ),
        "this squares the singular values twice. Eigenvalues of M M^T are squares already.": (
            lambda m, r: _share(m, r, power=4)
        ),
        "this is the share of the norm. The question is about the squared norm: the parts of that add up to 1.": (
            lambda m, r: _share(m, r) ** 0.5
        ),
        "this is the share that is missing. What is kept is one minus that.": lambda m, r: 1 - _share(m, r),
        "this is the relative error. Its square is the share that is missing.": lambda m, r: (1 - _share(m, r)) ** 0.5,
        "this is one minus the relative error. Square the error first.": lambda m, r: 1 - (1 - _share(m, r)) ** 0.5,
        "this keeps the last singular values. NumPy puts the largest first.": lambda m, r: (
            (_singular_values(m)[-r:] ** 2).sum() / (_singular_values(m) ** 2).sum()
        ),
        "this leaves the first component out. Python counts from 0, and `S[:rank]` is the first `rank` of them.": (
            lambda m, r: _share(m, r, start=1)
        ),
        "this keeps one component too many: `S[:rank]` ends before index `rank`.": lambda m, r: _share(m, r + 1),
        "this is the share of a single component. Add up the first `rank` of them.": (
            lambda m, r: _share(m, 1, start=r - 1)
        ),
        "this is the squared norm that is kept. Divide by that of the whole matrix.": (
            lambda m, r: _share(m, r) * (m**2).sum()
        ),
        "this counts components. They are not equally strong: weigh each with its squared singular value.": (
            lambda m, r: r / min(m.shape)
        ),
        "this keeps the largest entries, not the strongest components.": lambda m, r: _largest(m, _count(m, r)),
        "this keeps the first columns of the matrix, not its strongest components.": (
            lambda m, r: (m[:, :r] ** 2).sum() / (m**2).sum()
        ),
        "this keeps the first rows of the matrix, not its strongest components.": (
            lambda m, r: (m[:r] ** 2).sum() / (m**2).sum()
        ),
        "this compares means. The share compares sums.": lambda m, r: _share(m, r) * min(m.shape) / r,
        "the singular values are missing: U and Vt alone have no strengths.": lambda m, r: r / (m**2).sum(),
        "the squared norm is divided by a norm. Divide by the squared norm of the matrix.": (
            lambda m, r: _share(m, r) * (m**2).sum() ** 0.5
        ),
        "this is in percent. A share lies between 0 and 1.": lambda m, r: 100 * _share(m, r),
    },
    explain=_explain_share("singular values"),
)


# --- 1.4: an adapter out of an update --------------------------------------------------------------------------------


def _updates() -> list[tuple]:
    """Updates with a rank and an alpha; alpha is never the rank, and no update is square."""
    rng = np.random.default_rng(2)
    return [(rng.normal(size=shape), r, alpha) for shape, r, alpha in (((5, 8), 2, 16.0), ((9, 4), 3, 1.5))]


def _best(update, rank, alpha=None, factor=1.0, power=1.0, first=0):
    U, S, Vt = np.linalg.svd(np.asarray(update), full_matrices=False)
    kept = slice(first, first + rank)
    return factor * (U[:, kept] * S[kept] ** power) @ Vt[kept]


def _not_the_best(result, update, rank, alpha) -> str:
    """Of a result that is none of the known mistakes: what is wrong with it."""
    result = np.asarray(result, dtype=np.float64) if not isinstance(result, str) else np.empty(0)
    if result.shape != update.shape:
        return ""
    if not result.any():
        return "B A is zero here, as in an adapter before its training. This one should hold the update already."
    best = _best(update, rank)
    factor = (result * best).sum() / (best**2).sum()
    if np.allclose(result, factor * best, atol=1e-6 * np.abs(result).max()):
        return (
            f"the components are right, and the update of the layer is {factor:.4g} times as large as it should be for "
            f"rank {rank} and alpha {alpha:g}. The layer multiplies B A by alpha / rank."
        )
    error, least = (np.linalg.norm(update - part) / np.linalg.norm(update) for part in (result, best))
    return (
        f"the update of the layer has a relative error of {error:.3f}, and {least:.3f} is possible at rank {rank}: "
        f"take the first {rank} columns of U, the first {rank} rows of Vt, and each strength once."
    )


_product = Exercise(
    "1.4",
    _best,
    _updates(),
    {
        "B A alone is the update here. A LoRA layer multiplies it by s = alpha / rank, so divide by s.": (
            lambda m, r, alpha: _best(m, r, factor=alpha / r)
        ),
        "this multiplies by s, and so does the layer. Divide by it, and the two cancel.": (
            lambda m, r, alpha: _best(m, r, factor=(alpha / r) ** 2)
        ),
        "this divides by s twice. Divide one factor by s, or each of the two by its square root.": (
            lambda m, r, alpha: _best(m, r, factor=r / alpha)
        ),
        "this divides by the root of s only. Divide one factor by s, or each of the two by its root.": (
            lambda m, r, alpha: _best(m, r, factor=(alpha / r) ** 0.5)
        ),
        "this divides by alpha. The scaling of the layer is s = alpha / rank.": (
            lambda m, r, alpha: _best(m, r, factor=1 / r)
        ),
        "the singular values are missing. They belong into one of the factors, or their square roots into both.": (
            lambda m, r, alpha: _best(m, r, power=0)
        ),
        "the singular values and the division by s are both missing.": (
            lambda m, r, alpha: _best(m, r, power=0, factor=alpha / r)
        ),
        "the singular values stand in both factors, so they count twice. Put their square roots into each.": (
            lambda m, r, alpha: _best(m, r, power=2)
        ),
        "the singular values stand in both factors, so they count twice, and the division by s is missing.": (
            lambda m, r, alpha: _best(m, r, power=2, factor=alpha / r)
        ),
        "this puts the root of the singular values into one factor only. The other needs it too.": (
            lambda m, r, alpha: _best(m, r, power=0.5)
        ),
        "this leaves the first component out: `U[:, :rank]` begins with it.": (
            lambda m, r, alpha: _best(m, r, first=1)
        ),
    },
    explain=_not_the_best,
)


def _misshapen(factors, update, rank) -> str:
    """What is wrong with the shapes of the factors, if anything is; the untouched stub and None are not looked at."""
    (d_out, d_in), wanted = update.shape, "the function should return two matrices, `return B, A`"
    if factors is ... or factors is None:
        return ""
    if not isinstance(factors, tuple | list) or len(factors) != 2:
        return wanted
    shapes = tuple(np.shape(as_array(factor)) for factor in factors)
    if shapes == ((rank, d_in), (d_out, rank)):
        return "return B first, then A"
    if shapes != ((d_out, rank), (rank, d_in)):
        return f"B should have shape {(d_out, rank)} and A {(rank, d_in)}, got {shapes[0]} and {shapes[1]}"
    return ""


def update_factors(attempt) -> None:
    """Check a function (update, rank, alpha) -> (B, A) by the update that a LoRA layer makes of its factors."""

    def update_of_the_layer(update, rank, alpha):
        factors = attempt(update, rank, alpha)
        return (
            factors if factors is ... or factors is None else alpha / rank * as_array(factors[0]) @ as_array(factors[1])
        )

    for update, rank, alpha in _product.cases:
        try:
            sentence = _misshapen(attempt(update.copy(), rank, alpha), update, rank)
        except Exception:
            break  # the check says what stopped, and for which input
        if sentence:
            raise wrong("1.4", sentence)
    _product(update_of_the_layer)
