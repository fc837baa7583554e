"""Which arguments an answer exchanges, ignores or overwrites: found by running it.

Nothing here knows the exercise. Each sentence is true by construction: the reference gives the same when its arguments
are exchanged, or the answer stays the same while an argument changes that the reference reacts to.
"""

import copy
from collections.abc import Callable, Iterable
from itertools import permutations
from typing import Any

import numpy as np

from lora_course.checking.comparing import is_numbers, recognized

MOST_ROWS = 16
CHANGES = (lambda value: 1.7 * value + 0.3, lambda value: -2.3 * value, lambda value: 0.01 * value)
Case = tuple[Any, ...]


def exchanged(got: list, made: Callable[[list[Case]], list], cases: list[Case], names: list[str]) -> str | None:
    """Whether the reference gives what was got when two arguments change places, or one stands for another.

    Numbers only change places: where one stands for another, a step says more.
    """
    pairs = [(i, j) for i, j in permutations(range(len(names)), 2) if all(_alike(c[i], c[j]) for c in cases)]
    swapped = [
        (i, j)
        for i, j in permutations(range(len(names)), 2)
        if all(map(_is_number, (*(c[i] for c in cases), *(c[j] for c in cases))))
    ]
    tried = {f"`{names[i]}` and `{names[j]}` have changed places.": {i: j, j: i} for i, j in pairs + swapped if i < j}
    tried |= {f"`{names[j]}` stands where `{names[i]}` belongs.": {i: j} for i, j in pairs}
    return recognized(got, ((said, made([_moved(case, places) for case in cases])) for said, places in tried.items()))


def ignored(
    answer: Callable[[Case], Any], reference: Callable[[Case], Any], cases: list[Case], names: list[str]
) -> str | None:
    """The first argument that the reference reacts to and the answer in no case does; or a row of one in the first.

    Both functions give something to compare, or None where they cannot.
    """
    case, before = cases[0], [(answer(case), reference(case)) for case in cases]
    if before[0][0] is None or before[0][0] != answer(case):  # an answer that draws random numbers
        return None
    if not all(is_numbers(value) for value in before[0][0].values()):
        return None

    def without_effect(changed: Iterable[Case], k: int = 0) -> bool | None:
        """None if the reference does not react, either. It goes first: where it refuses, a loop might never end."""
        seen = []
        for there in changed:
            right = reference(there)
            if right is not None and right != before[k][1]:
                seen.append(answer(there) == before[k][0])
        return all(seen) if seen else None

    for position, name in enumerate(names):
        found = (
            without_effect((_with(there, {position: value}) for value in _others(there[position])), k)
            for k, there in enumerate(cases)
        )
        if next(found) and False not in found:
            return f"`{name}` has no part in your result: with another `{name}` it stays the same."
    for k, name in enumerate(names):
        rows = range(len(case[k])) if _is_array(case[k]) and 1 < len(case[k]) <= MOST_ROWS else ()
        dead = [row for row in rows if without_effect(_with(case, {k: value}) for value in _other_rows(case[k], row))]
        if dead:
            return _of_rows(dead, len(rows), name, "row" if case[k].ndim > 1 else "entry")
    return None


def overwritten(before: Case, after: Case) -> list[int]:
    """Which arguments a function has changed: arrays, and lists and dictionaries of them."""
    return [k for k, (one, other) in enumerate(zip(before, after, strict=True)) if not _same(one, other)]


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return not _is_array(one) or np.array_equal(_numbers(one), _numbers(other), equal_nan=True)


def _of_rows(dead: list[int], count: int, name: str, what: str) -> str:
    if len(dead) == count - 1:
        (alive,) = set(range(count)) - set(dead)
        return f"only {what} {alive} of `{name}` has a part in your result."
    place = "first" if dead[0] == 0 else "last" if dead[-1] == count - 1 else ""
    which = f"the {place} {what}" if place else f"{what} {dead[0]}"
    return f"{which} of `{name}` has no part in your result: with another one it stays the same."


def _others(value: Any) -> list:
    """The same argument with other values, of the same shape; numbers stay close, for a loop may wait for them."""
    if _is_number(value):
        return [value + 1, value + 2, 2 * value] if isinstance(value, int | np.integer) else [1.7 * value, 0.01 * value]
    if not _is_array(value) or not len(value):
        return []
    if _is_float(value):
        return [*(change(value) for change in CHANGES), _turned(value, 1)]
    return [_turned(value, by) for by in (1, 2)]


def _other_rows(value: Any, row: int) -> list:
    """The same argument with another row: larger, smaller, with the other sign."""
    others = [value[k] for k in range(len(value)) if k != row]
    rows = [change(value[row]) for change in CHANGES] if _is_float(value) else others
    changed = [copy.deepcopy(value) for _ in rows]
    for array, new in zip(changed, rows, strict=True):
        array[row] = new
    return changed


def _turned(value: Any, by: int) -> Any:
    """Whole numbers stay among those that there are: they may be indices."""
    return np.roll(value, by) if isinstance(value, np.ndarray) else value.roll(by)


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, bool) and isinstance(other, bool):
        return True
    if not (_is_array(one) and _is_array(other)):
        return False
    return tuple(one.shape) == tuple(other.shape) and type(one) is type(other)


def _is_array(value: Any) -> bool:
    return hasattr(value, "ndim") and hasattr(value, "dtype") and value.ndim > 0


def _is_float(value: Any) -> bool:
    return "float" in str(value.dtype)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)


def _numbers(value: Any) -> np.ndarray:
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _with(case: Case, changed: dict[int, Any]) -> Case:
    return tuple(changed.get(k, value) for k, value in enumerate(case))


def _moved(case: Case, places: dict[int, int]) -> Case:
    return _with(case, {k: case[source] for k, source in places.items()})
