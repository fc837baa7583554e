"""How large an array is, and how far from another, as one number: what is taken for one another, in NumPy and torch."""

from collections.abc import Callable
from typing import Any

import numpy as np

from lora_edu.exercises.describing import as_array

SIZES: tuple[Callable[[np.ndarray], float], ...] = (
    np.linalg.norm,
    lambda x: np.abs(x).mean(),
    lambda x: np.sqrt(np.mean(x**2)),
    lambda x: np.mean(x**2),
    lambda x: np.sum(x**2),
    lambda x: np.abs(x).sum(),
    lambda x: np.abs(x).max(),
    np.max,
    np.min,
    np.mean,
    np.sum,
    np.median,
    lambda x: np.median(np.abs(x)),
    np.std,
    lambda x: np.std(x, ddof=1),
    np.var,
    np.ptp,
    lambda x: np.ptp(x) / 2,
    lambda x: (np.max(x) + np.min(x)) / 2,
    lambda x: np.exp(np.mean(np.log(x))),
    lambda x: x.flat[0],
    lambda x: np.linalg.norm(np.atleast_2d(x), 2),
    lambda x: np.linalg.norm(np.atleast_2d(x), "nuc"),
    lambda x: np.linalg.norm(np.atleast_2d(x), 1),
    lambda x: 1.0,
)


def size(which: int, values: Any) -> np.float64:
    array = as_array(values)
    return np.float64(SIZES[which](array) if np.isfinite(array).all() else np.nan)


# What is measured where the relative error of b beside a is asked for.
MEASURES = (
    "(({a} - {b}) ** 2).mean()",
    "(({a} - {b}) ** 2).mean() ** 0.5",
    "(({a} - {b}) ** 2).sum() ** 0.5",
    "(({a} - {b}) ** 2).sum() / ({a} ** 2).sum()",
    "((({a} - {b}) ** 2).sum() / ({b} ** 2).sum()) ** 0.5",
    "abs({a} - {b}).mean()",
    "abs({a} - {b}).mean() / abs({a}).mean()",
    "abs({a} - {b}).max() / abs({a}).max()",
    "(abs({a} - {b}) / abs({a})).mean()",
    "((({a} - {b}) / {a}) ** 2).mean() ** 0.5",
    "({a} * {b}).sum() / (({a} ** 2).sum() * ({b} ** 2).sum()) ** 0.5",
    "1 - ({a} * {b}).sum() / (({a} ** 2).sum() * ({b} ** 2).sum()) ** 0.5",
)


def measures(line: str, a: str, b: str) -> tuple[str, ...]:
    """Edits that put each of them into the place of a line of a reference."""
    return tuple(f"{line} -> return {measure.format(a=a, b=b)}" for measure in MEASURES)
