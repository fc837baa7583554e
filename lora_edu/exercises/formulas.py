"""The formula that a function computes, found from its values: for answers that are sums of products of arguments.

It is shown with what is wrong with it, and without the right one: "yours is 6 d + d * rank + 2. There, d * rank does
not belong; rank is missing; all else is right."
"""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LONGEST = 8  # terms of a formula that can still be read


@dataclass(frozen=True)
class Formula:
    """What a formula may consist of, and where it is tried, with the flags of a failing case."""

    terms: dict[str, Callable]  # "n / block_size" -> a function of all arguments
    probes: Sequence[tuple]

    def compared(self, answer: Callable, reference: Callable, case: tuple, names: list[str]) -> str:
        """The answer's formula and what is wrong with it; empty if it has none of these terms."""
        flags = {k: value for k, value in enumerate(case) if isinstance(value, bool)}
        cases = [tuple(flags.get(k, value) for k, value in enumerate(probe)) for probe in self.probes]
        yours, right = self._fitted(answer, cases), self._fitted(reference, cases)
        if yours is None or right is None or not names:
            return ""
        wrong = [said for name in self.terms if (said := _judged(name, yours.get(name, 0), right.get(name, 0)))]
        if not wrong or len(yours) > LONGEST:
            return ""
        given = " and ".join(f"`{names[k]}` is {value}" for k, value in flags.items())
        shown = " + ".join(_product(number, name) for name, number in yours.items()).replace("+ -", "- ") or "0"
        rest = "; all else is right" if yours.keys() & right.keys() and len(wrong) < len(right) else ""
        return f"{f'where {given}, ' if given else ''}yours is {shown}. There, {'; '.join(wrong)}{rest}."

    def _fitted(self, function: Callable, cases: list[tuple]) -> dict[str, float] | None:
        """Term -> the number before it, of those that are in the formula."""
        values = [function(case) for case in cases]
        if not all(isinstance(value, int | float) for value in values):
            return None
        columns = np.array([[float(term(*case)) for term in self.terms.values()] for case in cases])
        sizes = np.abs(columns).max(axis=0)
        found = np.linalg.lstsq(columns / sizes, np.array(values, dtype=float), rcond=None)[0]
        largest = np.abs(values).max()
        if np.abs(columns / sizes @ found - values).max() > 1e-8 * largest:
            return None
        numbers = zip(self.terms, found, sizes, strict=True)
        return {name: number / size for name, number, size in numbers if abs(number) > 1e-7 * largest}


def _judged(name: str, yours: float, right: float) -> str:
    what = "the number that stands alone" if name == "1" else name
    if abs(yours - right) <= 1e-5 * abs(right):
        return ""
    if not right:
        return f"{what} does not belong"
    if not yours:
        return f"{what} is missing"
    size = "has the wrong sign" if yours * right < 0 else f"is too {'large' if abs(yours) > abs(right) else 'small'}"
    return f"{what} {size}" if name == "1" else f"the number before {what} {size}"


def _product(number: float, name: str) -> str:
    shown = f"{number:.5g}"
    return shown if name == "1" else name if shown == "1" else f"{shown} {name}"


def polynomial(names: Sequence[str], degree: int, flags: int = 0, seed: int = 0) -> Formula:
    """All products of up to `degree` of the arguments, tried at numbers between 2 and 60; flags come last."""
    terms = {}
    for count in range(degree, -1, -1):
        for chosen in itertools.combinations_with_replacement(range(len(names)), count):
            words = " * ".join(names[k] for k in chosen) or "1"
            terms[words] = lambda *case, chosen=chosen: np.prod([float(case[k]) for k in chosen])
    rng = np.random.default_rng(seed)
    numbers = rng.integers(2, 60, size=(3 * len(terms), len(names))).tolist()
    return Formula(terms, [(*row, *[False] * flags) for row in numbers])


def value_of(seen: Any) -> float | None:
    """The number in what was observed of one case; None if it is no single number."""
    parts = list(seen.values()) if isinstance(seen, dict) else []
    found = parts[0].get("values", []) if len(parts) == 1 and isinstance(parts[0], dict) else []
    return found[0] if len(found) == 1 and np.isfinite(found[0]) else None
