"""The checks of notebook 01, Low rank."""

import numpy as np

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "kept_share", "largest_saving_rank", "update_factors"]

largest_saving_rank = Exercise(
    "1.1",
    lambda d_out, d_in: (d_out * d_in - 1) // (d_out + d_in),
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
        "half the shorter side is right for a square matrix only. Count d_out * r + r * d_in for this shape.": (
            lambda d_out, d_in: min(d_out, d_in) // 2
        ),
    },
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


kept_share = Exercise(
    "1.2",
    _share,
    _matrices(),
    {
        "this adds the singular values themselves. The squared norm of a matrix is the sum of their squares.": (
            lambda m, r: _share(m, r, power=1)
        ),
        "this is the share of the norm. The question is about the squared norm: the parts of that add up to 1.": (
            lambda m, r: _share(m, r) ** 0.5
        ),
        "this is the share that is missing. What is kept is one minus that.": lambda m, r: 1 - _share(m, r),
        "this is the relative error. Its square is the share that is missing.": lambda m, r: (1 - _share(m, r)) ** 0.5,
        "this keeps the last singular values. NumPy puts the largest first.": lambda m, r: (
            (_singular_values(m)[-r:] ** 2).sum() / (_singular_values(m) ** 2).sum()
        ),
        "this leaves the first layer out. Python counts from 0, and `S[:rank]` is the first `rank` of them.": (
            lambda m, r: _share(m, r, start=1)
        ),
        "this keeps one layer too many: `S[:rank]` ends before index `rank`.": lambda m, r: _share(m, r + 1),
    },
)


def _updates() -> list[tuple]:
    """Updates with a rank and an alpha; alpha is never the rank, and no update is square."""
    rng = np.random.default_rng(2)
    return [(rng.normal(size=shape), r, alpha) for shape, r, alpha in (((5, 8), 2, 16.0), ((9, 4), 3, 1.5))]


def _best(update, rank, alpha=None, factor=1.0, power=1):
    U, S, Vt = np.linalg.svd(np.asarray(update), full_matrices=False)
    return factor * (U[:, :rank] * S[:rank] ** power) @ Vt[:rank]


_product = Exercise(
    "1.3",
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
    },
)


def update_factors(attempt) -> None:
    """Check a function (update, rank, alpha) -> (B, A) by the update that a LoRA layer makes of its factors."""

    def update_of_the_layer(update, rank, alpha):
        factors = attempt(update, rank, alpha)
        if factors is ... or factors is None:
            return factors
        B, A = (np.asarray(factor, dtype=np.float64) for factor in factors)
        (d_out, d_in), shapes = update.shape, (B.shape, A.shape)
        if shapes == ((rank, d_in), (d_out, rank)):
            raise ValueError("return B first, then A")
        if shapes != ((d_out, rank), (rank, d_in)):
            raise ValueError(
                f"B should have shape {(d_out, rank)} and A {(rank, d_in)}, got {shapes[0]} and {shapes[1]}"
            )
        return alpha / rank * (B @ A)

    _product(update_of_the_layer)
