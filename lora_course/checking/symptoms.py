"""What a wrong result looks like, where it is none of the known mistakes: upside down, twice too large, added up ...

`symptom(got, expected)` compares the results of all cases and says one sentence, if it holds in every case.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from lora_course.checking.comparing import HALF, is_numbers

NAN = (
    "some of what your function returns is not a number (nan): look for 0 / 0, or the logarithm or root of a negative "
    "number."
)


def symptom(got: Sequence[Any], expected: Sequence[Any]) -> str | None:
    """got, expected: one plain value for each case (`comparing.plain`). None if no sentence fits all of them."""
    if not all(is_numbers(value) for value in (*got, *expected)):
        return None
    pairs = [(as_numpy(g), as_numpy(e)) for g, e in zip(got, expected, strict=True)]
    if not all(e.size for _, e in pairs):
        return None
    if any(np.isnan(g).any() and not np.isnan(e).any() for g, e in pairs):
        return NAN
    if all(g.shape == e.shape for g, e in pairs):
        return _same_shape(pairs)
    if all(g.shape == () for g, e in pairs):
        return _first_fitting(ONE_NUMBER, pairs)
    if all(e.shape == () for g, e in pairs):
        return _first_fitting(OF_A_LIST, [(e, g) for g, e in pairs])
    if all(g.size == e.size for g, e in pairs):
        return _first_fitting(ARRANGED, pairs)
    return _first_fitting(A_PART, pairs)


ONE_NUMBER: dict[str, Callable] = {
    "this is the sum of all the numbers that are asked for: hand over each of them.": np.sum,
    "this is the mean of the numbers that are asked for: hand over each of them.": np.mean,
    "this is the largest of the numbers that are asked for: hand over each of them.": np.max,
    "this is the first of the numbers that are asked for: hand over all of them.": lambda e: e.flat[0],
    "this is the last of the numbers that are asked for: hand over all of them.": lambda e: e.flat[-1],
}
# One number is asked for, and this is what it is of the numbers that came.
OF_A_LIST: dict[str, Callable] = {
    "the number is right, but it stands in a list or an array: hand over the number itself.": lambda g: g.item(),
    "these are parts of what is asked for: their sum is it.": np.sum,
    "these are several numbers: their mean is what is asked for.": lambda g: g.sum() / max(1, g.size),
    "these are several numbers: the last of them is what is asked for.": lambda g: g.flat[-1],
    "these are several numbers: the first of them is what is asked for.": lambda g: g.flat[0],
    "these are several numbers: the largest of them is what is asked for.": np.max,
    "these are several numbers: the smallest of them is what is asked for.": np.min,
    "these are several numbers: how many there are is what is asked for.": np.size,
}
A_PART: dict[str, Callable] = {
    "this is the last row of what is asked for.": lambda e: e[-1],
    "this is the first row of what is asked for.": lambda e: e[0],
    "this is what is asked for without its last row.": lambda e: e[:-1],
    "this is what is asked for without its first row.": lambda e: e[1:],
    "this is what is asked for, summed over the rows.": lambda e: e.sum(0),
    "this is what is asked for, summed within each row.": lambda e: e.sum(-1),
    "this is what is asked for, averaged over the rows.": lambda e: e.mean(0),
    "this is the diagonal of what is asked for.": lambda e: np.diagonal(e),
    "what is asked for is the diagonal of this.": lambda e: np.diag(e),
}
ARRANGED: dict[str, Callable] = {
    "this is transposed: rows and columns are exchanged.": lambda e: e.T,
    "the numbers are right, but not their shape.": lambda e: e,
}
KNOWN_FACTORS = {
    "1 / ln 2: bits and nats": 1 / np.log(2),
    "ln 10: the logarithm to base 10 and the natural one": np.log(10),
    "log2 10: the logarithms to base 10 and 2": np.log2(10),
    "8 ln 2: bytes and bits, and bits and nats": 8 * np.log(2),
    "the number of bits of a byte": 8,
    "2**10": 2**10,
    "2**20": 2**20,
    "2**30": 2**30,
    "the square root of 2": 2**0.5,
}
CHANGED: dict[str, Callable] = {
    "the sign is wrong everywhere.": np.negative,
    "this is the square of what is asked for.": np.square,
    "this is the square root of what is asked for.": lambda e: np.sqrt(np.abs(e)),
    "this is upside down: 1 divided by what is asked for.": lambda e: 1 / np.where(e == 0, np.inf, e),
    "this is transposed: rows and columns are exchanged.": lambda e: e.T,
    "the magnitudes are right and the signs are lost.": np.abs,
    "this is what is asked for, rounded to whole numbers.": np.round,
    "this is what is asked for, rounded down to whole numbers.": np.floor,
    "this is what is asked for, cut to whole numbers: `int` or `astype(int)`.": np.trunc,
    "this is what is asked for, rounded to one decimal: hand over all digits.": lambda e: np.round(e, 1),
    "this is what is asked for, rounded to 2 decimals: hand over all digits.": lambda e: np.round(e, 2),
    "this is what is asked for, rounded to 3 decimals: hand over all digits.": lambda e: np.round(e, 3),
    "this is what is asked for, rounded to 4 decimals: hand over all digits.": lambda e: np.round(e, 4),
    "each number has those before it added to it (`cumsum`).": lambda e: np.cumsum(e, 0) if e.ndim else e,
    "the order is turned around: the first number stands last.": lambda e: np.flip(e, 0) if e.ndim else e,
    "the numbers wrap around at 128, as in 8 bits with a sign (int8): compute in `int`.": lambda e: (
        (e + 128) % 256 - 128
    ),
    "the numbers wrap around at 256, as in 8 bits (uint8): compute in `int`.": lambda e: e % 256,
    "the numbers wrap around, as in 16 bits (int16): compute in `int`.": lambda e: (e + 2**15) % 2**16 - 2**15,
    "everything stands one place too late.": lambda e: np.roll(e, 1, 0) if e.ndim else e,
    "everything stands one place too early.": lambda e: np.roll(e, -1, 0) if e.ndim else e,
}


def _same_shape(pairs: list) -> str | None:
    if all(not g.any() for g, _ in pairs) and any(e.any() for _, e in pairs):
        return "this is zero everywhere."
    known = _constant_factor(pairs) or _constant_offset(pairs) or _first_fitting(CHANGED, pairs)
    return known or _first_digits(pairs) or _another_order(pairs)


def _first_digits(pairs: list) -> str | None:
    """Right up to a thousandth of the largest number: float16, or digits that were cut off."""
    if all(np.abs(g - e).max(initial=0) <= 1e-3 * np.abs(e).max(initial=0) for g, e in pairs):
        return "the first digits are right, no more: a small part differs, or something is rounded, as 16 bits do."
    return None


def _another_order(pairs: list) -> str | None:
    if all(e.size > 1 and _close(np.sort(g.ravel()), np.sort(e.ravel())) for g, e in pairs):
        return "the numbers are right, but they stand in another order."
    return None


def _constant_factor(pairs: list) -> str | None:
    if any((g[e == 0] != 0).any() for g, e in pairs):  # no factor makes another number of a zero
        return None
    factors = np.concatenate([g[e != 0] / e[e != 0] for g, e in pairs])
    if len(factors) < 2 or not factors[0] > 0 or not np.ptp(factors) < 1e-5 * min(factors[0], abs(factors[0] - 1)):
        return None
    larger = max(factors[0], 1 / factors[0])
    number = f"{round(larger):,}" if abs(larger - round(larger)) < 1e-5 * larger else f"{larger:.4g}"
    known = next(
        (f" {number} is {name}." for name, value in KNOWN_FACTORS.items() if abs(larger / value - 1) < 1e-5), ""
    )
    size = f"{number} times" if factors[0] > 1 else f"1 / {number} of"
    return f"this is {size} what is asked for, in every case.{known}"


def _constant_offset(pairs: list) -> str | None:
    offsets = np.concatenate([(g - e).ravel() for g, e in pairs])
    small = 1e-6 * max(np.abs(e).max(initial=0) for _, e in pairs)
    if all((e == np.round(e)).all() for _, e in pairs):  # counts
        small = min(small, HALF)
    if len(offsets) < 2 or not np.ptp(offsets) < small or not abs(offsets[0]) > small:
        return None
    return f"this is {abs(offsets[0]):.4g} too {'large' if offsets[0] > 0 else 'small'}, in every case."


def _first_fitting(sentences: dict[str, Callable], pairs: list) -> str | None:
    """The first sentence whose function makes what was got from what was expected, in all cases.

    "The numbers are right, but not their shape" is the one that does not look at the shape.
    """
    for sentence, change in sentences.items():
        try:
            with np.errstate(all="ignore"):
                made = [np.asarray(change(e)) for _, e in pairs]
        except (ValueError, IndexError):  # nothing has a first row, or a diagonal
            continue
        loose = "not their shape" in sentence
        if not loose and all(np.array_equal(m, e) for (_, e), m in zip(pairs, made, strict=True)):
            continue  # it changes nothing here: no reason for what is nearly right
        if all(
            _close(g.ravel(), m.ravel()) and (loose or g.shape == m.shape)
            for (g, _), m in zip(pairs, made, strict=True)
        ):
            return sentence
    return None


def _close(got: np.ndarray, made: np.ndarray) -> bool:
    return got.shape == made.shape and bool(np.abs(got - made).max(initial=0) <= 1e-5 * np.abs(made).max(initial=1e-30))


def as_numpy(value: dict) -> np.ndarray:
    return np.array(value["values"]).reshape(value["shape"])
