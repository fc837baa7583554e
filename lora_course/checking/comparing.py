"""Results as plain data, and whether two of them agree: what every check of an exercise or assignment rests on.

`plain` turns what a learner's function returned into numbers and text that JSON can hold. The other functions compare
such plain data in plain Python. They call nothing that a learner's notebook could have replaced (`np.allclose`, say),
and the grader runs them in a process of their own.

    a number, bool      -> {"shape": [], "values": [3.0]}
    a list, array, tensor -> {"shape": [2, 3], "values": [... 6 numbers, row by row]}
    a text              -> "float32"
    anything else       -> {"unknown": "Module"}, equal to nothing
"""

import math
from collections.abc import Iterable
from decimal import Decimal
from itertools import product
from numbers import Real
from typing import Any, TypeGuard, TypeVar

LARGEST = 100_000  # numbers in one observation
RESULT = "result"  # the name of the only part, where a function's result is all that is observed
Said = TypeVar("Said")  # a sentence, or a mistake with its sentence
HALF = 0.4  # nearer than that a rounding error leaves a whole number what it is


def plain(value: Any) -> Any:
    """What was observed, as JSON can hold it. Works for numbers, lists, NumPy arrays and torch tensors."""
    if value is None or isinstance(value, str):
        return value
    import numpy as np

    try:
        array = np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value)
        exact = array.dtype == object and all(isinstance(v, Real | Decimal) for v in array.flat)  # fractions, say
        if not exact and array.dtype.kind not in "biuf":
            raise TypeError("not numbers")
        array = array.astype(np.float64)
    except (TypeError, ValueError, OverflowError):  # the last: a whole number that no float holds
        return {"unknown": type(value).__name__}
    if array.size > LARGEST:
        return {"unknown": f"array of {array.size} numbers"}
    return {"shape": list(array.shape), "values": [float(v) for v in array.ravel()]}


def parts(observed: Any) -> dict[str, Any]:
    """What was observed in one case: name of a promise -> its value as plain data."""
    named = observed if isinstance(observed, dict) else {RESULT: observed}
    return {name: plain(value) for name, value in named.items()}


def equal(got: Any, expected: Any, tolerance: float = 1e-5) -> bool:
    """Whether two plain values agree: in shape, and in every number up to `tolerance` times the largest expected.

    Whole numbers are counts of bytes or bits, and a large one that is off by 1 is another count.
    """
    if not (is_numbers(got) and is_numbers(expected)):
        return got == expected and not _is("unknown", got)
    if got["shape"] != expected["shape"]:
        return False
    finite = [abs(v) for v in expected["values"] if math.isfinite(v)]
    allowed = tolerance * max(1e-30, max(finite, default=0.0))
    if all(v.is_integer() for v in finite):
        allowed = min(allowed, HALF)
    return all(_close(g, e, allowed) for g, e in zip(got["values"], expected["values"], strict=True))


def difference(got: Any, expected: Any) -> str:
    """Where two plain values differ most, in words: shapes, or what one entry is and should be."""
    if _is("error", got):
        return f"your answer stopped with {got['error']}"
    if not is_numbers(expected):
        if isinstance(got, str) and " " in got:  # a sentence from the observer says what is wrong
            return f"{got} (expected: {expected})" if isinstance(expected, str) and expected != "-" else got
        return f"expected {_word(expected)}, got {_word(got)}"
    if isinstance(got, str):  # a sentence comes from the observer, which says what is wrong
        return got if " " in got else "the result should be numbers, got str"
    if not is_numbers(got):
        return f"the result should be numbers, got {_word(got)}"
    if got["shape"] != expected["shape"]:
        wanted = f"have shape {_shape(expected)}" if expected["shape"] else "be one number"
        return f"the result should {wanted}, got {_shape(got) if got['shape'] else 'one number'}"
    if not expected["shape"]:
        return "expected {}, got {}".format(*_digits(expected["values"][0], got["values"][0]))
    gaps = [_gap(g, e) for g, e in zip(got["values"], expected["values"], strict=True)]
    worst = gaps.index(max(gaps))
    places = list(product(*map(range, expected["shape"])))  # row by row, as the values
    place = ", ".join(map(str, places[worst]))
    return f"entry [{place}] should be {{}}, got {{}}".format(*_digits(expected["values"][worst], got["values"][worst]))


def first_difference(got: dict, expected: dict) -> str:
    """The first part that is not as expected, in words; empty if there is none."""
    if got.keys() != expected.keys():  # a sentence from the observer, or a dictionary where a number was asked for
        made = got[RESULT] if list(got) == [RESULT] else {"unknown": "dict"}
        return difference(made, next(iter(expected.values())))
    for name, value in expected.items():
        if not equal(got[name], value):
            if name != RESULT and value == plain(True):  # a promise: its 0 and 1 tell a reader nothing
                return f"this should be true, and is not: {name}"
            return ("" if name == RESULT else f"{name}: ") + difference(got[name], value)
    return ""


def recognized(got: list, mistakes: Iterable[tuple[Said, list]], tolerance: float = 1e-5) -> Said | None:
    """The sentence of the first known mistake that gives in all cases exactly what was got; None for an unknown one.

    got: what was observed in each case, {part: plain value}, and mistakes: the same of each known mistake, beside its
    sentence. A part may have any name. A mistake that only stops with errors is not recognized.
    """
    for sentence, made in mistakes:
        if len(made) == len(got) and all(_agree(g, m, tolerance) for g, m in zip(got, made, strict=True)):
            if any(not _is("error", value) for there in made for value in there.values()):
                return sentence
    return None


def _agree(got: dict, made: dict, tolerance: float) -> bool:
    return got.keys() == made.keys() and all(equal(got[part], made[part], tolerance) for part in got)


def _close(got: float, expected: float, allowed: float) -> bool:
    if math.isfinite(expected) and math.isfinite(got):
        return abs(got - expected) <= allowed
    return got == expected or (math.isnan(got) and math.isnan(expected))


def _gap(got: float, expected: float) -> float:
    gap = abs(got - expected)
    return 0.0 if got == expected else math.inf if math.isnan(gap) else gap


def is_numbers(value: Any) -> TypeGuard[dict[str, list]]:
    return isinstance(value, dict) and "values" in value


def _is(kind: str, value: Any) -> bool:
    return isinstance(value, dict) and kind in value


def _digits(*values: float) -> list[str]:
    """Numbers with as few digits as tell them apart, counts in full."""
    for digits in (6, 9, 17):
        texts = [f"{v:.0f}" if v.is_integer() and abs(v) < 1e15 else f"{v:.{digits}g}" for v in values]
        if len(set(texts)) == len(texts):
            break
    return texts


def _shape(value: dict) -> str:
    return str(tuple(value["shape"]))


def _word(value: Any) -> str:
    if is_numbers(value):
        return f"{value['values'][0]:.6g}" if not value["shape"] else f"numbers of shape {_shape(value)}"
    return value["unknown"] if _is("unknown", value) else repr(value)
