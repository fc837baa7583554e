"""Answers that know nothing of the subject and try to look right. The proof applies all of them to every task.

A cheat is made from the reference: a function, a class, or a tuple of functions (such as save and load). The proof also
hands over, as if a cheat had observed it, what everybody knows: what is expected in the visible cases.
"""

import copy
import sys
from collections.abc import Callable
from typing import Any


def cheats(answer: Any) -> dict[str, Any]:
    """name -> the cheat"""
    files = isinstance(answer, tuple)  # what a function writes to a file is there, whatever it returns
    return ({} if files else {"prints the result and returns nothing": printing(answer)}) | {
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
