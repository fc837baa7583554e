"""Which arguments an answer exchanges or overwrites: found by running it.

Nothing here knows the exercise. What is said is true by construction: the reference gives the same when its arguments
are exchanged.
"""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import numpy as np

from lora_course.checking.comparing import recognized

Case = tuple[Any, ...]


def exchanged(got: list, made: Callable[[list[Case]], list], cases: list[Case], names: list[str]) -> str | None:
    """Whether the reference gives what was got when two arguments change places, or one stands for another.

    Numbers only change places: where one stands for another, a step says more.
    """
    pairs = [(i, j) for i, j in permutations(range(len(names)), 2) if all(_alike(c[i], c[j]) for c in cases)]
    tried = {f"`{names[i]}` and `{names[j]}` have changed places.": {i: j, j: i} for i, j in pairs if i < j}
    arrays = [(i, j) for i, j in pairs if not _is_number(cases[0][i])]
    tried |= {f"`{names[j]}` stands where `{names[i]}` belongs.": {i: j} for i, j in arrays}
    return recognized(got, ((said, made([_moved(case, places) for case in cases])) for said, places in tried.items()))


def _moved(case: Case, places: dict[int, int]) -> Case:
    return tuple(case[places.get(k, k)] for k in range(len(case)))


def overwritten(before: Case, after: Case) -> list[int]:
    """Which arguments a function has changed: arrays, and lists and dictionaries of them."""
    return [k for k, (one, other) in enumerate(zip(before, after, strict=True)) if not _same(one, other)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return not _is_array(one) or np.array_equal(_numbers(one), _numbers(other), equal_nan=True)


def _alike(one: Any, other: Any) -> bool:
    if _is_array(one) and _is_array(other):
        return tuple(one.shape) == tuple(other.shape) and type(one) is type(other)
    return all(map(_is_number, (one, other))) or all(isinstance(value, bool) for value in (one, other))


def _is_array(value: Any) -> bool:
    return hasattr(value, "ndim") and hasattr(value, "dtype") and value.ndim > 0


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
