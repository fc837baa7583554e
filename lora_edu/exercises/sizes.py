"""How large an array is, as one number: the ways that are taken for one another, in NumPy and in torch."""

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
