"""Checks for the exercises in the notebooks. A check that fails says which mistake it recognizes.

An exercise is a reference solution, a few well-known wrong ones with the sentence that helps, and cases that tell them
apart (alpha is never equal to the rank, no matrix is square). The learner's function is run on all cases:

    returns ... (the untouched stub)     prints "Exercise 9.1: not done yet"
    equals the reference                 prints "Exercise 9.1: correct"
    equals a wrong solution              AssertionError with that mistake's sentence
    anything else                        AssertionError with the smallest failing case

The checks of the assignments (`lora_edu.assignments`) speak in the same way and share what is compared and how.
`progress()` prints what is done in this notebook.
"""

import copy
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_edu.exercises.comparing import difference, equal, plain, recognized

last_result = ""
_results: dict[str, str] = {}  # number of an exercise -> what its check said last
_announced: dict[str, tuple[str, ...]] = {}  # number of a graded exercise -> title, minutes, points


@dataclass(frozen=True)
class Exercise:
    """One exercise; calling it with the learner's function checks that function."""

    number: str
    reference: Callable
    cases: Sequence[tuple]
    misconceptions: dict[str, Callable] = field(default_factory=dict)  # sentence -> the wrong solution
    # What is compared, for a learner's class instead of a function: numbers observed of it in a case.
    observe: Callable = lambda solution, *case: solution(*case)

    def __call__(self, attempt: Callable) -> None:
        results = [self._run(attempt, case) for case in self.cases]
        if all(result is ... or result is None for result in results):
            return record(self.number, "not done yet")
        got, expected = [plain(result) for result in results], self._made_by(self.reference)
        failed = [i for i in range(len(got)) if not equal(got[i], expected[i])]
        if not failed:
            return record(self.number, "correct")
        known = ((sentence, _results_only(self._made_by(wrong))) for sentence, wrong in self.misconceptions.items())
        first = failed[0]
        raise wrong(
            self.number,
            recognized(_results_only(got), known)
            or f"for ({self._shown(self.cases[first])}) " + difference(got[first], expected[first]),
        )

    def _run(self, attempt: Callable, case: tuple) -> Any:
        try:
            return self._observe(attempt, case)
        except Exception as error:
            text = f"your function stopped with {type(error).__name__} ({error}) for ({self._shown(case)})"
            raise wrong(self.number, text) from error

    def _made_by(self, solution: Callable) -> list:
        return [plain(self._observe(solution, case)) for case in self.cases]

    def _observe(self, solution: Callable, case: tuple) -> Any:
        return self.observe(solution, *copy.deepcopy(case))  # a function that changes its inputs changes only a copy

    def _shown(self, case: tuple) -> str:
        return ", ".join(describe(argument) for argument in case)


def record(number: str, result: str) -> None:
    """Print what a check found, and keep it for `progress()`."""
    global last_result
    _results[number] = result
    last_result = f"Exercise {number}: {result}"
    print(last_result)


def wrong(number: str, text: str) -> AssertionError:
    """The error that a check raises; kept for `progress()` as "not right yet"."""
    _results[number] = "not right yet"
    return AssertionError(f"Exercise {number}: {text}")


def announce(number: str, *columns: str) -> None:
    """Make a graded exercise known to `progress()`: title, minutes, points."""
    _announced[number] = columns


def progress() -> None:
    """Print what is done in this notebook: a line for each exercise, whether its check has run or not."""
    names = [value for module in _loaded() for value in vars(module).values()]
    numbers = {value.number for value in names if isinstance(value, Exercise)} | {*_results, *_announced}
    if not numbers:
        return print("No exercise is known in this notebook yet: run its first cells, then a check.")
    ordered = sorted(numbers, key=lambda number: [int(part) for part in number.split(".")])
    rows = [(number, _results.get(number, "not checked yet"), *_announced.get(number, ())) for number in ordered]
    widths = [max(len(row[i]) for row in rows if i < len(row)) for i in range(max(map(len, rows)))]
    for row in rows:
        print("   ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip())
    print(f"{sum(_results.get(number) == 'correct' for number in numbers)} of {len(numbers)} done")


def _loaded() -> list:
    return [module for name, module in list(sys.modules.items()) if name.startswith("lora_edu.exercises.nb")]


def beside(my_guess: Any, measured: str) -> None:
    """Print what was measured, and the reader's guess beside it."""
    print(f"measured: {measured}" + ("" if my_guess is None else f"     your guess: {my_guess}"))


def as_array(value: Any) -> np.ndarray | None:
    """A number, list, NumPy array or torch tensor as a float64 array; None for anything else."""
    try:
        return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=np.float64)
    except (TypeError, ValueError, RuntimeError):  # the last: a tensor in a list that asks for a gradient
        return None


def describe(argument: Any) -> str:
    """An argument in an error message: a few numbers or a shape as they are, arrays by their shapes."""
    if isinstance(argument, dict):
        return "{" + _listed(f"{key!r}: {describe(value)}" for key, value in argument.items()) + "}"
    array = as_array(argument)
    if isinstance(argument, tuple | list):
        if array is not None:
            return repr(argument) if array.size <= 4 else f"array of shape {array.shape}"
        inner = _listed(map(describe, argument))
        return f"[{inner}]" if isinstance(argument, list) else f"({inner})"
    if array is None or array.ndim:
        return repr(argument) if array is None else f"array of shape {array.shape}"
    return repr(argument.item() if hasattr(argument, "item") else argument)


def _listed(items: Iterable[str], most: int = 4) -> str:
    items = list(items)
    return ", ".join(items[:most] + [f"... {len(items)} in all"] * (len(items) > most))


def _results_only(values: list) -> list[dict]:
    return [{"result": value} for value in values]
