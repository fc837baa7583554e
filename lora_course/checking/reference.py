"""A right answer as a row of commented steps: each has a value and words, and an edit of its source is a mistake."""

import ast
import copy
import inspect
import textwrap
from collections.abc import Callable
from typing import Any, Self

import numpy as np

from lora_course.checking.describing import shown

ANSWER = "__answer__"  # what a reference returns


class Reference:
    """A right answer. Its only `return` is its last statement."""

    def __init__(self, function: Callable, source: str = "") -> None:
        """source: of the function, unless it has another one than its file."""
        self.function, self.source = function, source or _source(function)
        (definition,) = ast.parse(self.source).body
        if not isinstance(definition, ast.FunctionDef) or not isinstance(definition.body[-1], ast.Return):
            raise ValueError(f"{function.__name__}: a reference is a `def` whose last line is its only `return`")
        self.name, self.body = definition.name, definition.body
        self.arguments = [argument.arg for argument in definition.args.args]
        stored = [node for node in ast.walk(definition) if isinstance(getattr(node, "ctx", None), ast.Store)]
        self.stored = [node.id for node in stored if isinstance(node, ast.Name)]
        self.steps = [step for step in self.body if self.comment(step)]

    def edited(self, change: str) -> Self:
        """The version in which this `edited` the source."""
        return type(self)(self.function, edited(self.source, change, self.name))

    # --- run it ---

    def solution(self) -> Callable:
        """The function of this source."""
        space = self._known()
        exec(compile(self.source, "<a reference>", "exec"), space)
        return space[self.name]

    def values(self, see: Callable[[Callable], Any]) -> dict[str, Any]:
        """What the arguments and each step are, by their names, as `see` runs it: an observer may hand over others."""
        space = self._known()
        *steps, last = self.body
        assert isinstance(last, ast.Return) and last.value
        body = [*steps, ast.Assign([ast.Name(ANSWER, ast.Store())], last.value)]
        code = compile(ast.fix_missing_locations(ast.Module(body, [])), "<the steps>", "exec")

        def noting(*given: Any) -> Any:
            space.update(zip(self.arguments, given, strict=True))
            exec(code, space)
            return space[ANSWER]

        see(noting)
        return {name: space[name] for name in (*self.arguments, *self.stored) if name in space}

    def _known(self) -> dict[str, Any]:
        return {**self.function.__globals__, **inspect.getclosurevars(self.function).nonlocals}

    def made(self, step: ast.stmt) -> list[str]:
        """The names of what a step makes, if nothing changes that later."""
        names = [node.id for node in ast.walk(step) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        return [name for name in names if self.stored.count(name) == 1]

    # --- words ---

    def words(self, step: ast.stmt, values: dict[str, Any]) -> str:
        """The comment of a step, with its value where that is a number."""
        number = self.number(step, values)
        return self.comment(step) + (f" ({number} in the example below)" if number else "")

    def number(self, step: ast.stmt, values: dict[str, Any]) -> str:
        """The value of a step where that is one number, else nothing: what an array is helps nobody."""
        made = [values[name] for name in self.made(step) if name in values]
        is_number = isinstance(step, ast.Assign) and len(made) == 1 and isinstance(made[0], int | float | np.number)
        return shown(made[0]) if is_number else ""

    def comment(self, step: ast.stmt) -> str:
        """The comment beside a step; of a loop or a branch, beside its first line."""
        last = step.lineno if hasattr(step, "body") else step.end_lineno
        lines = self.source.splitlines()[step.lineno - 1 : last]
        return next((line.partition("  # ")[2] for line in lines if "  # " in line), "")


def edited(source: str, change: str, name: str) -> str:
    """A right answer in which "old -> new" was done to the source; several edits are parted by " & ".

    Raises ValueError, with the name of the answer, where `old` is not in exactly one place.
    """
    for edit in change.split(" & "):
        old, new = edit.split(" -> ")
        if source.count(old) != 1:
            raise ValueError(f"{name}: {old!r} is there {source.count(old)} times, an edit needs one place")
        source = source.replace(old, new)
    return source


def _source(function: Callable) -> str:
    """From its `def` on, without the decorator above."""
    lines = textwrap.dedent(inspect.getsource(function)).splitlines()
    first = ast.parse("\n".join(lines)).body[0].lineno
    return "\n".join(lines[first - 1 :])


def copied(case: tuple) -> tuple:
    """A deep copy; of the usual arguments a quick one, for there are thousands."""
    return tuple(map(_copied, case))


def _copied(value: Any) -> Any:
    if isinstance(value, int | float | str | np.ndarray):
        return value.copy() if isinstance(value, np.ndarray) else value
    return value.clone() if hasattr(value, "clone") and not value.requires_grad else copy.deepcopy(value)
