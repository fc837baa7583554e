"""What is measured where the relative error ||a - b|| / ||a|| is asked for: the measures that are taken for it."""

from collections.abc import Callable

import numpy as np


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The relative Frobenius error of b, beside a."""
    return float(np.linalg.norm(a - b) / np.linalg.norm(a))


def _rows(values: np.ndarray) -> np.ndarray:
    """The norm of each row; of one row, it is the norm."""
    return np.linalg.norm(np.atleast_2d(values), axis=1)


def _each(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.abs(a - b) / np.where(a == 0, np.inf, np.abs(a))


# sentence -> measure of (a, b). {error} is what a - b is called, {whole} what it is compared with, {other} what b is.
MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "this is the norm of {error}. Divide it by the norm of {whole}.": lambda a, b: np.linalg.norm(a - b),
    "this divides by the norm of {other}. Divide by that of {whole}.": (
        lambda a, b: np.linalg.norm(a - b) / np.linalg.norm(b)
    ),
    "this is the square of the relative error: take the root, or divide norms.": lambda a, b: relative(a, b) ** 2,
    "this divides mean magnitudes. Divide norms, the roots of sums of squares.": (
        lambda a, b: np.abs(a - b).mean() / np.abs(a).mean()
    ),
    "this is the mean squared error, which depends on the unit. Divide norms.": lambda a, b: np.mean((a - b) ** 2),
    "this is the root of the mean squared error, which depends on the unit. Divide norms.": (
        lambda a, b: np.sqrt(np.mean((a - b) ** 2))
    ),
    "this is the mean magnitude of {error}, which depends on the unit. Divide norms.": lambda a, b: np.abs(
        a - b
    ).mean(),
    "this is a mean of the relative errors of single numbers: the smallest ones decide it. Take one norm above and "
    "one below: ||a - b|| / ||a||.": lambda a, b: _each(a, b).mean(),
    "this is a root mean square of the relative errors of single numbers: the smallest ones decide it. Take one norm "
    "above and one below.": lambda a, b: np.sqrt(np.mean(_each(a, b) ** 2)),
    "this is a norm of the relative errors of single numbers. Take one norm above and one below: ||a - b|| / ||a||.": (
        lambda a, b: np.linalg.norm(_each(a, b))
    ),
    "this is the largest relative error of a single number. Divide norms.": lambda a, b: _each(a, b).max(),
    "this is a mean over the rows of their relative errors. One norm goes over all rows.": (
        lambda a, b: np.mean(_rows(a - b) / _rows(a))
    ),
    "this is the largest relative error of a row. One norm goes over all rows.": (
        lambda a, b: np.max(_rows(a - b) / _rows(a))
    ),
    "this is a mean over the columns of their relative errors. One norm goes over all of them.": (
        lambda a, b: np.mean(_rows((a - b).T) / _rows(a.T))
    ),
    "this divides the mean norm of the rows of {error} by that of {whole}. One norm goes over all rows.": (
        lambda a, b: np.mean(_rows(a - b)) / np.mean(_rows(a))
    ),
    "this is the largest single error. The norm takes all of them.": lambda a, b: np.abs(a - b).max(),
    "this is the largest error over the largest magnitude. The relative error divides norms.": (
        lambda a, b: np.abs(a - b).max() / np.abs(a).max()
    ),
    "this is the norm of {error} over the largest magnitude. Divide by the norm of {whole}.": (
        lambda a, b: np.linalg.norm(a - b) / np.abs(a).max()
    ),
    "this is the root mean square error over the largest magnitude. Divide norms.": (
        lambda a, b: np.sqrt(np.mean((a - b) ** 2)) / np.abs(a).max()
    ),
    "this takes sums of magnitudes (a norm with `ord=1`). The Frobenius norm is the default: the root of the sum of "
    "squares.": lambda a, b: np.linalg.norm(np.atleast_2d(a - b), 1) / np.linalg.norm(np.atleast_2d(a), 1),
    "this is the spectral norm, `np.linalg.norm(..., 2)`. The Frobenius norm is the default.": (
        lambda a, b: np.linalg.norm(np.atleast_2d(a - b), 2) / np.linalg.norm(np.atleast_2d(a), 2)
    ),
    "this is the nuclear norm. The Frobenius norm is the default.": (
        lambda a, b: np.linalg.norm(np.atleast_2d(a - b), "nuc") / np.linalg.norm(np.atleast_2d(a), "nuc")
    ),
    "this adds differences with their signs, so that they cancel. Take norms.": lambda a, b: (a - b).sum() / a.sum(),
    "this adds differences with their signs and then drops the sign: they have cancelled. Take norms.": (
        lambda a, b: abs((a - b).sum() / a.sum())
    ),
    "this is a mean of differences with their signs, so that they cancel. Take norms.": lambda a, b: (a - b).mean(),
    "this compares the two norms. Numbers can change while their norm stays: take the norm of the difference.": (
        lambda a, b: abs(1 - np.linalg.norm(b) / np.linalg.norm(a))
    ),
    "this is the difference of the two norms, with its sign, over one of them. Take the norm of the difference.": (
        lambda a, b: 1 - np.linalg.norm(b) / np.linalg.norm(a)
    ),
    "this divides one norm by the other, and is 1 where nothing changes. Take the norm of the difference.": (
        lambda a, b: np.linalg.norm(b) / np.linalg.norm(a)
    ),
    "this divides one norm by the other. Take the norm of the difference.": (
        lambda a, b: np.linalg.norm(a) / np.linalg.norm(b)
    ),
    "this divides by the number of entries. Divide by the norm of {whole}.": (
        lambda a, b: np.linalg.norm(a - b) / a.size
    ),
    "this divides the variance of {error} by that of {whole}. Divide norms.": lambda a, b: np.var(a - b) / np.var(a),
    "this divides standard deviations: a shift of all numbers would not count. Divide norms.": (
        lambda a, b: np.std(a - b) / np.std(a)
    ),
    "this divides medians of magnitudes. Divide norms.": lambda a, b: np.median(np.abs(a - b)) / np.median(np.abs(a)),
    "this is what is left: 1 minus the relative error.": lambda a, b: 1 - relative(a, b),
    "this is in percent. A share is asked for: no factor 100.": lambda a, b: 100 * relative(a, b),
    "this has a sum of both norms below. Divide by the norm of {whole}.": (
        lambda a, b: np.linalg.norm(a - b) / (np.linalg.norm(a) + np.linalg.norm(b))
    ),
    "this is the cosine of the two. The relative error is ||a - b|| / ||a||.": (
        lambda a, b: (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    ),
    "this is 1 minus the cosine of the two. The relative error is ||a - b|| / ||a||.": (
        lambda a, b: 1 - (a * b).sum() / np.linalg.norm(a) / np.linalg.norm(b)
    ),
    "this is the share of the numbers that have changed. How far they have is the question.": (
        lambda a, b: np.mean(a != b)
    ),
}


# What may stand above and below the line, where it is none of the known measures.
ABOVE = {
    "the norm": np.linalg.norm,
    "the squared norm": lambda d: np.sum(d**2),
    "the mean square": lambda d: np.mean(d**2),
    "the root mean square": lambda d: np.sqrt(np.mean(d**2)),
    "the mean magnitude": lambda d: np.abs(d).mean(),
    "the sum of magnitudes": lambda d: np.abs(d).sum(),
    "the largest magnitude": lambda d: np.abs(d).max(),
    "the median magnitude": lambda d: np.median(np.abs(d)),
    "the standard deviation": np.std,
}
BELOW = {
    **ABOVE,
    "the standard deviation (of a sample)": lambda a: np.std(a, ddof=1),
    "the variance": np.var,
    "the largest value": np.max,
    "the range": np.ptp,
    "the mean": np.mean,
}


def _quotients(error: str, whole: str, other: str) -> dict[Callable, str]:
    """All quotients of such parts."""
    found = {}
    for above, take in ABOVE.items():
        for below, share in BELOW.items():
            for name, k in ((whole, 0), (other, 1)):
                said = f"this divides {above} of {error} by {below} of {name}. Divide the norm by the norm of {whole}."
                found[lambda a, b, take=take, share=share, k=k: take(a - b) / share((a, b)[k])] = said
        said = f"this is {above} of {error}. Divide the norm of {error} by the norm of {whole}."
        found[lambda a, b, take=take: take(a - b)] = said
    return found


def measures(error: str, whole: str, other: str) -> dict[Callable, str]:
    """measure -> its sentence, for `mistakes.combinations`, in the words of an exercise."""
    known = {take: said.format(error=error, whole=whole, other=other) for said, take in MEASURES.items()}
    return known | _quotients(error, whole, other)
