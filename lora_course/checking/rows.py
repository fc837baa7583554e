"""What was observed in all cases as one row of numbers, so that thousands of rows are compared at once."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from lora_course.checking.comparing import HALF, is_numbers
from lora_course.checking.repair import Change

Changes = tuple[Change, ...]


@dataclass(frozen=True)
class Flat:
    """What was observed in all cases, as one row of numbers; `kind` is everything about it that is no number."""

    kind: tuple
    values: np.ndarray
    sizes: list[int]  # of the arrays in the row

    @cached_property
    def allowed(self) -> np.ndarray:
        """How far each number of another row may be off, and count as the same: as `comparing.equal` has it."""
        allowed = [np.empty(0)]
        for numbers in np.split(self.values, np.cumsum(self.sizes)[:-1]):
            finite = np.abs(numbers[np.isfinite(numbers)])
            tolerance = 1e-5 * max(1e-30, finite.max(initial=0))
            whole = (finite == np.floor(finite)).all()
            allowed.append(np.full(len(numbers), min(tolerance, HALF) if whole else tolerance))
        return np.concatenate(allowed)

    def same(self, other: "Flat") -> bool:
        if self.kind != other.kind:
            return False
        near = np.abs(self.values - other.values) <= other.allowed
        return bool((near | (self.values == other.values) | np.isnan(self.values) & np.isnan(other.values)).all())


def flat(made: list[dict]) -> Flat:
    parts = [part for seen in made for part in seen.items()]
    kind = [(name, tuple(value["shape"]) if is_numbers(value) else repr(value)) for name, value in parts]
    numbers = [value["values"] for _, value in parts if is_numbers(value)]
    return Flat((len(made), *kind), np.array([number for row in numbers for number in row]), list(map(len, numbers)))


class Table:
    """Changes, and what the reference gave with each of them."""

    def __init__(self) -> None:
        self.rows: dict[tuple, list[np.ndarray]] = {}
        self.changes: dict[tuple, list[Changes]] = {}

    def add(self, changes: Changes, made: Flat) -> None:
        self.rows.setdefault(made.kind, []).append(made.values)
        self.changes.setdefault(made.kind, []).append(changes)

    def found(self, got: Flat) -> list[Changes]:
        """All changes that give this."""
        rows = np.array(self.rows.get(got.kind, []))
        if not rows.size:
            return []
        with np.errstate(invalid="ignore"):
            same = np.isclose(rows, got.values, rtol=0, atol=got.allowed, equal_nan=True).all(axis=1)
        return [self.changes[got.kind][k] for k in np.flatnonzero(same)]
