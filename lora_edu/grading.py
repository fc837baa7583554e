"""Checks for the exercises in the notebooks. A check that fails says which mistake it recognizes.

An exercise is a reference solution, a few well-known wrong ones with the sentence that helps, and cases that tell them
apart (alpha is never equal to the rank, no matrix is square). The learner's function is run on all cases:

    returns ... (the untouched stub)     prints "Exercise 9.1: not done yet"
    equals the reference                 prints "Exercise 9.1: correct"
    equals a wrong solution              AssertionError with that mistake's sentence
    anything else                        AssertionError with the smallest failing case
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

last_result = ""


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
            return self._say("not done yet")
        wrong = [i for i, case in enumerate(self.cases) if not same(results[i], self._expected(case))]
        if not wrong:
            return self._say("correct")
        for sentence, mistake in self.misconceptions.items():
            made = (self._observe(mistake, case) for case in self.cases)
            if all(same(result, there) for result, there in zip(results, made, strict=True)):
                raise AssertionError(f"Exercise {self.number}: {sentence}")
        case = self.cases[wrong[0]]
        shown = ", ".join(describe(argument) for argument in case)
        raise AssertionError(
            f"Exercise {self.number}: for ({shown}) " + difference(self._expected(case), results[wrong[0]])
        )

    def _run(self, attempt: Callable, case: tuple) -> Any:
        try:
            return self._observe(attempt, case)
        except Exception as error:
            shown = ", ".join(describe(argument) for argument in case)
            raise AssertionError(
                f"Exercise {self.number}: your function stopped with {type(error).__name__} ({error}) for ({shown})"
            ) from error

    def _expected(self, case: tuple) -> Any:
        return self._observe(self.reference, case)

    def _observe(self, solution: Callable, case: tuple) -> Any:
        return self.observe(solution, *copy.deepcopy(case))  # a function that changes its inputs changes only a copy

    def _say(self, result: str) -> None:
        global last_result
        last_result = f"Exercise {self.number}: {result}"
        print(last_result)


def beside(my_guess: Any, measured: str) -> None:
    """Print what was measured, and the reader's guess beside it."""
    print(f"measured: {measured}" + ("" if my_guess is None else f"     your guess: {my_guess}"))


def as_array(value: Any) -> np.ndarray | None:
    """A number, list, NumPy array or torch tensor as a float64 array; None for anything else."""
    try:
        return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=np.float64)
    except (TypeError, ValueError):
        return None


def same(result: Any, expected: Any) -> bool:
    """Whether two results agree in shape and in every value, up to rounding in float32."""
    result, expected = as_array(result), as_array(expected)
    if result is None or expected is None or result.shape != expected.shape:
        return False
    return bool(np.all(np.abs(result - expected) <= 1e-5 * max(1e-30, np.abs(expected).max(initial=0))))


def difference(expected: Any, result: Any) -> str:
    """The first difference between two results, in words."""
    expected, got = as_array(expected), as_array(result)
    if got is None:
        return f"the result should be numbers, got {type(result).__name__}"
    if got.shape != expected.shape:
        return f"the result should have shape {expected.shape}, got {got.shape}"
    if expected.ndim == 0:
        return f"expected {expected:.6g}, got {got:.6g}"
    index = np.unravel_index(np.argmax(np.abs(got - expected)), expected.shape)
    place = ", ".join(str(i) for i in index)
    return f"entry [{place}] should be {expected[index]:.6g}, got {got[index]:.6g}"


def describe(argument: Any) -> str:
    """An argument in an error message: a number as it is, an array by its shape."""
    array = as_array(argument)
    return repr(argument) if array is None or array.ndim == 0 else f"array of shape {array.shape}"
