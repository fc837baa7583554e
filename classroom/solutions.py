"""What a grader in classroom/graders/<name>.py consists of: right answers, and well-known wrong ones as edits.

SOLUTIONS = {"1.1": Solutions(reference, right={...}, wrong=[(name, "old -> new", 2, sentence, see), Wrong(...), ...])}
"""

import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lora_edu.assignments.core import Constants

Maker = Callable[[Constants], Any]  # from a cohort's constants to an answer, a function or a class


@dataclass(frozen=True)
class Wrong:
    """A wrong answer. keeps: exactly the points that remain. sentence: what the student is told, for a named one."""

    name: str
    make: Maker
    keeps: float
    sentence: str | None = None
    see: str | None = None  # where to read on, such as "notebook 02, section 3"


@dataclass
class Solutions:
    """The reference, at least two right answers that are written differently, and the wrong ones, of one task.

    A wrong one may be a row, (name, edit of the reference, points kept[, sentence, where to read on]).
    """

    reference: Maker
    right: dict[str, Maker] = field(default_factory=dict)
    wrong: list = field(default_factory=list)

    def __post_init__(self) -> None:
        self.wrong = [
            row if isinstance(row, Wrong) else Wrong(row[0], edited(self.reference, row[1]), *row[2:])
            for row in self.wrong
        ]


def edited(make: Maker, edit: str) -> Maker:
    """A maker with "old -> new" done to its source; several edits are parted by " & ". Each needs exactly one place."""
    source = inspect.getsource(make)
    for change in edit.split(" & "):
        old, new = change.split(" -> ")
        if source.count(old) != 1:
            raise ValueError(f"{make.__name__}: {old!r} is there {source.count(old)} times, an edit needs one place")
        source = source.replace(old, new)
    space = dict(make.__globals__)
    exec(source, space)
    return space[make.__name__]


def has_solutions(name: str) -> bool:
    return importlib.util.find_spec(f"classroom.graders.{name}") is not None


def load_solutions(name: str) -> dict[str, Solutions]:
    """SOLUTIONS of classroom/graders/<name>.py. Raises FileNotFoundError where there is none."""
    if not has_solutions(name):
        raise FileNotFoundError(f"there is no grader classroom/graders/{name}.py")
    return importlib.import_module(f"classroom.graders.{name}").SOLUTIONS
