"""A right answer as a row of commented steps that can be changed: by an edit of its source, or by any small change."""

import ast
import copy
import inspect
import textwrap
from collections import defaultdict
from collections.abc import Callable
from types import CodeType
from typing import Any, Self

import numpy as np

from lora_course.checking import repair
from lora_course.checking.describing import shown
from lora_course.checking.rows import Changes

ANSWER = "__answer__"  # what a reference returns
TURNS = 2_000  # of all loops together: a right answer takes dozens, and a changed one may be endless
HANDED_OVER = "what is handed over"


class Reference(repair.Code):
    """A right answer. Its only `return` is its last statement.

    Each step is compiled by itself, so that a change compiles one of them.
    """

    def __init__(self, function: Callable, see: Callable[..., list[dict]], searched: bool, source: str = "") -> None:
        """see: a function, and the number of a case or None for all -> what is observed, as plain data.

        source: of the function, unless it has another one than its file.
        """
        source = source or _source(function)
        super().__init__(function, source, ast.parse(source))
        self.function, self.see, self.searched = function, see, searched
        self.deadline, self.allowed = float("inf"), TURNS if searched else float("inf")
        definition = self.tree.body[0]
        self.body = definition.body if isinstance(definition, ast.FunctionDef) else []
        if not isinstance(definition, ast.FunctionDef) or not isinstance(self.body[-1], ast.Return):
            raise ValueError(f"{self.name}: a reference is a `def` whose last line is its only `return`")
        self.arguments = [argument.arg for argument in definition.args.args]
        self.codes = [self._compiled(k) for k in range(len(self.body))]

    def edited(self, change: str) -> Self:
        """The version in which this `edited` the source."""
        return type(self)(self.function, self.see, self.searched, edited(self.source, change, self.name))

    # --- run it, changed or not ---

    def solution(self, changes: Changes = ()) -> Callable:
        """The function with these changes."""
        if not self.searched:  # nothing is searched for: it runs in one piece, and no step outlives the call
            space = dict(self.known)
            exec(compile(ast.fix_missing_locations(self.tree), "<a reference>", "exec"), space)
            return space[self.name]
        codes = self._codes(changes)
        return lambda *case: self._run(codes, case)[ANSWER]

    def _codes(self, changes: Changes) -> list[CodeType]:
        codes, places = list(self.codes), defaultdict(list)
        for change in changes:
            places[self._place(change)].append(change)
        for place, there in places.items():
            codes[place] = self._compiled(place, tuple(there))
        return codes

    def steps(self, case: int) -> dict[str, Any]:
        """What the arguments and each step are in a case, by their names: an observer may hand over others."""
        space: dict[str, Any] = {}

        def noting(*given: Any) -> Any:
            space.update(self._run(self.codes, given))
            return space[ANSWER]

        self.see(noting, case)
        return {name: space[name] for name in self.names if name in space}

    def values_of(self, space: dict[str, Any]) -> list[tuple[ast.stmt, list[Any]]]:
        """Each step but the last (and the count of turns) with what it makes, if nothing changes that later."""
        stored = [node for node in self._stored() if isinstance(node, ast.Name)]
        once = {node: node.id for node in stored if sum(node.id == other.id for other in stored) == 1}
        made = {step: [once[node] for node in ast.walk(step) if node in once] for step in self.body[1:-1]}
        return [(step, [space[name] for name in names if name in space]) for step, names in made.items()]

    def _run(self, codes: list[CodeType], case: tuple) -> dict[str, Any]:
        self.turns, space = 0, dict(self.known)
        space.update(zip(self.arguments, case, strict=True))
        for code in codes:
            exec(code, space)
        return space

    def _compiled(self, place: int, changes: Changes = ()) -> CodeType:
        for change in changes:
            change.slot.put(change.node)
        try:
            step = self.body[place]
            if isinstance(step, ast.Return) and step.value:
                step = ast.Assign([ast.Name(ANSWER, ast.Store())], step.value)
            tree = ast.fix_missing_locations(ast.Module([step], []))
            if not changes or repair.is_risky(tree) or any(map(repair.multiplies, changes)):
                tree = ast.fix_missing_locations(repair.guarded(tree))
            return compile(tree, "<a step>", "exec")
        finally:  # also of what is no Python
            for change in changes:
                change.slot.put(change.slot.node)

    def _place(self, change: repair.Change) -> int:
        """The number of the step in which a change is."""
        node: ast.AST = change.slot.node
        while self.parents[node] is not self.tree.body[0]:
            node = self.parents[node]
        return next(k for k, step in enumerate(self.body) if step is node)

    # --- words ---

    def words(self, node: ast.AST, values: dict[str, Any]) -> str:
        """The comment of the step in which a node is, with its value where that is to be shown."""
        while node is not self.tree.body[0] and not self._comment(node):
            node = self.parents[node]
        name = node.targets[0].id if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) else ""
        once = sum(getattr(other, "id", "") == name for other in self._stored()) == 1  # a loop changes its own numbers
        there = once and isinstance(values.get(name), int | float | np.number)  # what an array is helps nobody
        return self._comment(node) + (f" ({shown(values[name])} in the case below)" if there else "")

    def _stored(self) -> list[ast.AST]:
        return [node for node in ast.walk(self.tree) if isinstance(getattr(node, "ctx", None), ast.Store)]

    def _comment(self, node: ast.AST) -> str:
        """The comment beside a statement; of a loop or a branch, beside its first line."""
        if node is self.tree.body[0]:
            return HANDED_OVER
        if not isinstance(node, ast.stmt):
            return ""
        last = node.lineno if hasattr(node, "body") else node.end_lineno
        lines = self.source.splitlines()[node.lineno - 1 : last]
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
