"""What a grader in classroom/graders/<name>.py consists of: right answers and well-known wrong ones.

SOLUTIONS = {"1.1": Solutions(reference=..., right={...}, wrong=[Wrong(...), ...])}
"""

import importlib.util
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


@dataclass(frozen=True)
class Solutions:
    """The reference, at least two right answers that are written differently, and the wrong ones, of one task."""

    reference: Maker
    right: dict[str, Maker] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)


def has_solutions(name: str) -> bool:
    return importlib.util.find_spec(f"classroom.graders.{name}") is not None


def load_solutions(name: str) -> dict[str, Solutions]:
    """SOLUTIONS of classroom/graders/<name>.py. Raises FileNotFoundError where there is none."""
    if not has_solutions(name):
        raise FileNotFoundError(f"there is no grader classroom/graders/{name}.py")
    return importlib.import_module(f"classroom.graders.{name}").SOLUTIONS
