"""How far a wrong answer gets: which step of the reference has a value that the answer, too, computes on its way.

Nothing is claimed of how it should be computed. Numbers are looked for in any order, so that a transposed array counts.
"""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_course.checking import edits, repair
from lora_course.checking.describing import as_array
from lora_course.checking.reference import Reference

NOTE = "__note__"  # a name that a noting function calls
MOST = 5000  # values that are noted
SMALL = 2  # whole numbers up to it come up by chance


class _Noting(ast.NodeTransformer):
    """Puts a call around every expression that has a value of its own."""

    def visit_Call(self, node: ast.Call) -> ast.expr:
        if isinstance(node.func, ast.Attribute):
            node.func.value = self.visit(node.func.value)
        node.args, node.keywords = list(map(self.visit, node.args)), list(map(self.visit, node.keywords))
        return edits.called(NOTE, node)

    def generic_visit(self, node: ast.AST) -> ast.AST:
        node = super().generic_visit(node)
        loaded = isinstance(getattr(node, "ctx", ast.Load()), ast.Load)
        kinds = ast.BinOp | ast.UnaryOp | ast.Name | ast.Subscript | ast.Attribute | ast.IfExp | ast.List | ast.ListComp
        return edits.called(NOTE, node) if isinstance(node, kinds) and loaded else node


def computed(attempt: Callable, run: Callable[[Callable], Any]) -> list[np.ndarray]:
    """All numbers and arrays that a function computes in a run, each sorted, (n,); nothing without its source."""
    seen: list[np.ndarray] = []

    def note(value: Any) -> Any:
        if len(seen) < MOST and (found := _sorted(value)) is not None:
            seen.append(found)
        return value

    if code := repair.Code.of(attempt):
        code.tree, code.known[NOTE] = _Noting().visit(code.tree), note
        code.runs(lambda function: bool(run(function)))
    return seen


def how_far(right: Reference, values: dict[str, Any], seen: list[np.ndarray]) -> tuple[ast.stmt | None, bool]:
    """The first step whose values are not among those seen, while nothing that is made of them is there, either.

    And whether all are there, or something that is made of them.
    """
    used: set[str] = set()
    steps = [step for step in right.steps if step is not right.body[-1]]
    missing, unknown = None, not steps
    for step in reversed(steps):
        made = right.made(step)
        there = True if used & set(made) else _are_there([values[name] for name in made if name in values], seen)
        used |= {node.id for node in ast.walk(step) if isinstance(node, ast.Name)} if there else set()
        missing, unknown = step if there is False else missing, unknown or there is None
    return missing, not (missing or unknown)


def _are_there(values: list[Any], seen: list[np.ndarray]) -> bool | None:
    """None where there are no numbers, or small ones alone."""
    wanted = [there for value in values if (there := _sorted(value)) is not None and there.size]
    if not any(there.size > 1 or there.item() % 1 or abs(there.item()) > SMALL for there in wanted):
        return None
    return all(any(_same(there, value) for there in seen) for value in wanted)


def _sorted(value: Any) -> np.ndarray | None:
    array = as_array(value)
    return None if array is None else np.sort(array, axis=None)


def _same(one: np.ndarray, other: np.ndarray) -> bool:
    with np.errstate(all="ignore"):
        return one.shape == other.shape and np.allclose(one, other, rtol=1e-5, atol=1e-30, equal_nan=True)
