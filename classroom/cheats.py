"""Answers that know nothing of the subject and try to look right. The proof applies all of them to every task.

A cheat is made from the reference: a function, a class, or a tuple of functions (such as save and load).
"""

import copy
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

Recorded = list[tuple[tuple, Any]]  # the arguments of each call, and what came back


def recorded(answer: Any) -> tuple[Any, list[Recorded]]:
    """The same answer, and what each of its functions was asked and said, filled as it is called."""
    records: list[Recorded] = []

    def recording(function: Callable) -> Callable:
        records.append(calls := [])

        def call(*arguments, **options):
            kept = copy.deepcopy(arguments)
            calls.append((kept, function(*arguments, **options)))
            return calls[-1][1]

        return call

    return _each(answer, recording), records


def cheats(answer: Any, records: list[Recorded]) -> dict[str, Any]:
    """name -> the cheat. records: what the reference was asked and said in the visible cases."""
    remaining = iter(records)
    files = isinstance(answer, tuple)  # what a function writes to a file is there, whatever it returns
    return ({} if files else {"prints the result and returns nothing": printing(answer)}) | {
        "knows the visible cases by heart": _each(answer, lambda _: by_heart(next(remaining))),
        "replaces the functions that compare": _each(answer, replacing_allclose),
        "leaves the program": _each(answer, lambda _: exiting),
    }


def _each(answer: Any, change: Callable) -> Any:
    return tuple(map(change, answer)) if isinstance(answer, tuple) else change(answer)


def printing(answer: Callable) -> Callable:
    """Prints the right result instead of returning it; what it does to its arguments, it does to copies."""

    def attempt(*arguments, **options):
        print(answer(*copy.deepcopy(arguments), **options))

    return attempt


def by_heart(calls: Recorded) -> Callable:
    """Returns what the reference returned for these arguments, and the first result for others."""

    def attempt(*arguments, **options):
        found = (result for asked, result in calls if all(map(_same, asked, arguments)))
        return copy.deepcopy(next(found, calls[0][1]))

    return attempt


def _same(one: Any, other: Any) -> bool:
    if hasattr(one, "shape") and hasattr(other, "shape"):
        return bool(one.shape == other.shape and np.array_equal(np.asarray(one), np.asarray(other)))
    return one is other or (type(one) is type(other) and repr(one) == repr(other))


def replacing_allclose(answer: Callable) -> Callable:
    """Returns nothing right, and makes NumPy's and torch's comparisons say yes."""

    def attempt(*arguments, **options):
        for module in ("numpy", "torch"):
            for name in ("allclose", "isclose", "array_equal", "equal"):
                if hasattr(sys.modules.get(module), name):
                    setattr(sys.modules[module], name, lambda *_, **__: True)
        return arguments[0]

    return attempt


def exiting(*arguments, **options) -> None:
    """Leaves the program."""
    raise SystemExit
