"""Where a wrong answer is wrong, found by repairing it: one small change after another is tried on a copy of its code.

If one makes every case right, the learner is told the place and the kind of the change, and not the change itself:

    nearly right. A change at one place makes every case right, in line 3: `x / absmax.sum()`. Look at what ...

It is true by construction: the changed function has passed every case of the check.
"""

import ast
import contextlib
import copy
import inspect
import io
import linecache
import math
import operator
import textwrap
import time
import types
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from lora_course.checking import edits
from lora_course.checking.stopping import is_a_cell

TRIES = 3000  # changes that are tried, so that what is said never depends on the load
SECONDS = 1.5  # of this thread's own time, for all of them: a safety stop
TURNS = 50  # times as many turns of its loops as the answer itself may a change take: it may have made an endless one
LONGEST, ENOUGH, CHAIN = 60, 8, 20  # characters of code in a sentence; fewer than that are shown with what is around
# What a function may not call if it is to be run a thousand times: it writes, asks, trains, or starts something.
FORBIDDEN = {
    *("open", "exec", "eval", "input", "exit", "quit", "os", "sys", "subprocess", "shutil", "Path", "requests"),
    *("train", "evaluate", "finetune", "pretrain", "save", "savez", "savetxt", "tofile", "write", "write_text"),
    *("write_bytes", "unlink", "remove", "rmtree", "sleep", "display", "show", "savefig", "load_base", "load_text"),
}
TICK = "__tick__"
POWER: dict[type, str] = {ast.Pow: "__power__", ast.LShift: "__shift__"}  # names that a changed function calls
TIMES = "__times__"
MOST_BITS, MOST_ENTRIES = 4096, 10**6


class TooLong(BaseException):
    """A changed function runs on and on; no `except Exception` of a learner stops this."""


class Slot(NamedTuple):
    """A place in the tree."""

    parent: ast.AST
    field: str
    position: int | None
    node: ast.expr | ast.stmt

    def put(self, node: ast.AST) -> None:
        if self.position is None:
            setattr(self.parent, self.field, node)
        else:
            getattr(self.parent, self.field)[self.position] = node


class Change(NamedTuple):
    slot: Slot
    hint: str
    node: ast.AST


def located(attempt: Callable, passes: Callable[[Callable], bool], fails_alike: Callable[[Callable], bool]) -> str:
    """A sentence about the one place where a change makes every case right; empty if there is none.

    passes(function): whether it is right in every case. fails_alike(function): whether it is as wrong as the attempt,
    as a copy of the attempt has to be.
    """
    with contextlib.suppress(Exception):  # the check goes on without this sentence
        code = Code.of(attempt)
        if code and code.runs(fails_alike):
            code.deadline = time.thread_time() + SECONDS
            code.allowed = 1000 + TURNS * code.turns
            for changes in code.rounds():
                if found := [change for change in changes if code.runs(passes, change)]:
                    return code.said(min(found, key=code.simplicity))
    return ""


class Code:
    """The source of a function as a tree that can be changed and run."""

    def __init__(self, function: Callable, source: str, tree: ast.Module) -> None:
        assert isinstance(function, types.FunctionType)
        self.name, self.source, self.tree = function.__name__, source, tree
        self.deadline, self.allowed, self.turns, self.tried = time.thread_time() + SECONDS, float(10**6), 0, 0
        self.known = {"math": math, **function.__globals__, **inspect.getclosurevars(function).nonlocals}
        powers = {ast.Pow: operator.pow, ast.LShift: operator.lshift}
        self.known |= {TICK: self, TIMES: _times} | {POWER[op]: partial(_raised, how) for op, how in powers.items()}
        names = [node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)]
        names = [*(node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)), *names]
        self.names = list(dict.fromkeys(names))
        self.other_names = partial(edits.other_names, names=self.names)
        for node in ast.walk(tree):  # every loop and call is counted, so that none goes on for ever
            if isinstance(node, ast.While | ast.For | ast.FunctionDef):
                node.body.insert(0, ast.Expr(edits.called(TICK)))
            elif isinstance(node, ast.comprehension):
                node.ifs.insert(0, edits.called(TICK))
        self.slots = list(_slots(tree))
        self.risky = is_risky(tree)
        self.parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}

    @staticmethod
    def of(function: Callable) -> "Code | None":
        """None where the source is not at hand, is no `def`, or does what must not be done a thousand times."""
        if not isinstance(function, types.FunctionType):
            return None
        try:
            file = function.__code__.co_filename
            lines = linecache.getlines(file) if is_a_cell(file) else inspect.getsourcelines(function)[0]
            source = textwrap.dedent("".join(lines))
            tree = ast.Module(_own(ast.parse(source), function.__name__), [])
        except (OSError, SyntaxError):
            return None
        nodes = list(ast.walk(tree))
        words = {getattr(node, "id", getattr(node, "attr", "")) for node in nodes}
        words |= {alias.name.split(".")[0] for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        if not tree.body or words & FORBIDDEN or any(isinstance(node, ast.Global | ast.Nonlocal) for node in nodes):
            return None
        return Code(function, source, tree)

    def __call__(self) -> bool:
        """Called at every turn of a loop in the changed code."""
        self.turns += 1
        if self.turns > self.allowed or time.thread_time() > self.deadline:
            raise TooLong
        return True

    def runs(self, judge: Callable[[Callable], bool], changes: tuple[Change, ...] = ()) -> bool:
        """Whether the changed function satisfies the judge: without a sound, and whatever it does."""
        if time.thread_time() > self.deadline or self.tried > TRIES:
            return False
        self.turns, self.tried = 0, self.tried + 1
        for change in changes:
            change.slot.put(change.node)
        try:
            space: dict[str, Any] = dict(self.known)
            with silence():
                risky = self.risky or any(is_risky(change.node) or multiplies(change) for change in changes)
                tree = _Guarded().visit(copy.deepcopy(self.tree)) if risky else self.tree
                exec(compile(ast.fix_missing_locations(tree), "<a change>", "exec"), space)
                return judge(space[self.name])
        except (Exception, TooLong):
            return False
        finally:
            for change in changes:
                change.slot.put(change.slot.node)

    def rounds(self) -> Iterator[Iterator[tuple[Change, ...]]]:
        """Likely changes first; then the same change at two places; then what is forgotten."""
        yield ((change,) for change in self.changes(edits.local_changes, edits.changed_statements))
        yield ((change,) for change in self.changes(self.other_names, partial(edits.wraps, names=self.names)))
        yield self._pairs()
        yield ((change,) for change in self.changes(partial(edits.missing, names=self.names)))

    def changes(self, *kinds: Callable) -> Iterator[Change]:
        for kind in kinds:
            for slot in self.slots:
                if isinstance(slot.node, ast.stmt) == (kind is edits.changed_statements):
                    axis = edits.AXIS if edits.is_axis(slot.node, slot.parent) else ""
                    counted = isinstance(slot.parent, ast.Call) and getattr(slot.parent.func, "id", "") == "len"
                    for hint, node in kind(slot.node):  # the length of a transpose is that of the other axis
                        hint = edits.AXIS if counted and hint == edits.TRANSPOSE else axis or hint
                        yield Change(slot, hint, node)

    def _pairs(self) -> Iterator[tuple[Change, ...]]:
        groups: dict[tuple, list[Change]] = {}
        for change in self.changes(edits.local_changes, edits.changed_statements, self.other_names):
            key = (change.hint, ast.dump(change.slot.node), ast.dump(change.node))
            groups.setdefault(key, []).append(change)
        return (tuple(group) for group in groups.values() if len(group) == 2)

    def said(self, changes: tuple[Change, ...]) -> str:
        slots = [change.slot for change in changes]
        places = [f"`{self._shown(slot)}`, in line {slot.node.lineno}" for slot in slots]
        if len(slots) == 2:
            where = " and at ".join(places)
            return f"The same change at {where}, makes every case right. {changes[0].hint}"
        return f"A change at {places[0]}, makes every case right. {changes[0].hint}"

    def simplicity(self, changes: tuple[Change, ...]) -> tuple[bool, int]:
        """Of several changes one that only leaves something out is named; of those, the one at the smallest place."""
        slot, _, new = changes[0]
        return new not in list(ast.walk(slot.node)), len(self._text(slot.node))

    def _shown(self, slot: Slot) -> str:
        """The code at a place: a name or a number with what it stands in, a long chain of calls from its last dot."""
        node: ast.AST = slot.node
        text = self._text(node)
        alone = isinstance(node, ast.Name | ast.Constant)
        while alone or (len(text) < ENOUGH and not isinstance(self.parents[node], ast.stmt)):
            node = self.parents[node]
            called = getattr(self.parents[node], "func", None) is node
            if not isinstance(node, ast.keyword) and not called:
                text, alone = self._text(node) or text, False
        return text if len(text) <= LONGEST else text[:LONGEST] + " ..."

    def _text(self, node: ast.AST) -> str:
        """The code of an expression, or the first line of a statement."""
        text = ast.get_source_segment(self.source, node) or ""
        if isinstance(node, ast.stmt):
            return text.splitlines()[0].rstrip(":")
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and len(text) > CHAIN:
            before = ast.get_source_segment(self.source, node.func) or ""
            text = text[len(before) - len(node.func.attr) - 1 :] if len(before) > CHAIN else text
        return " ".join(text.split())


class _Guarded(ast.NodeTransformer):
    """Powers and products become calls that refuse what would take for ever: one number may be a count of billions."""

    def visit_BinOp(self, node: ast.BinOp) -> ast.expr:
        self.generic_visit(node)
        if isinstance(node.op, ast.Mult):
            return edits.called(TIMES, node.left, node.right)
        return edits.called(POWER[type(node.op)], node.left, node.right) if _is_power(node) else node


def is_risky(tree: ast.AST) -> bool:
    return any(_is_power(node) for node in ast.walk(tree))


def _is_power(node: ast.AST) -> bool:
    return isinstance(node, ast.BinOp) and type(node.op) in POWER and not isinstance(node.right, ast.Constant)


def multiplies(change: Change) -> bool:
    """Whether a change puts something else into a product: a list, say, times a large number."""
    return any(isinstance(getattr(node, "op", None), ast.Mult) for node in (change.slot.parent, change.node))


def _times(left: Any, right: Any) -> Any:
    for many, count in ((left, right), (right, left)):
        if isinstance(many, list | tuple) and isinstance(count, int | np.integer) and len(many) * count > MOST_ENTRIES:
            raise OverflowError("a list that would fill the memory")
    return left * right


def _raised(how: Callable, base: Any, exponent: Any) -> Any:
    """A power or a shift."""
    if isinstance(base, int) and isinstance(exponent, int) and exponent > MOST_BITS:
        raise OverflowError("a number with too many digits")
    return how(base, exponent)


def _own(cell: ast.Module, name: str) -> list[ast.stmt]:
    """A function, and the functions and classes of the same cell that it uses."""
    defined = {node.name: node for node in cell.body if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    used, found = [name], {}
    while used:
        name = used.pop()
        if name in defined and name not in found:
            found[name] = defined[name]
            used += [node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name)]
    return [node for node in cell.body if node in found.values()]


def _slots(node: ast.AST) -> Iterator[Slot]:
    """All places of expressions and statements in which something is computed."""
    for field, value in ast.iter_fields(node):
        if field in ("decorator_list", "annotation", "returns", "args") and not isinstance(node, ast.Call):
            continue
        for index, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
            computes = isinstance(child, ast.expr | ast.stmt)
            if not isinstance(child, ast.AST) or (computes and not hasattr(child, "lineno")):
                continue  # the last: what was put in to count
            in_call = isinstance(node, ast.Call) and field == "func"
            stored = isinstance(getattr(child, "ctx", None), ast.Store) and isinstance(child, ast.Name)
            if isinstance(child, ast.expr | ast.stmt) and not in_call and not stored:
                yield Slot(node, field, index, child)
            yield from _slots(child)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with warnings.catch_warnings(action="ignore"), np.errstate(all="ignore"):
            yield
