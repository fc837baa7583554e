"""What a grader in notebooks/assignments/graders/<name>.py consists of: right answers and well-known wrong ones.


SOLUTIONS = {"1.1": Solutions(reference=..., right={...}, wrong=[Wrong(...), ...])}
"""

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from lora_edu.assignments.core import Constants
from lora_edu.classroom import folders

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
    """The reference, at least three differently written right answers, and the wrong ones, of one task."""

    reference: Maker
    right: dict[str, Maker] = field(default_factory=dict)
    wrong: list[Wrong] = field(default_factory=list)


def load_solutions(name: str) -> dict[str, Solutions]:
    """SOLUTIONS of notebooks/assignments/graders/<name>.py."""
    return _module(name).SOLUTIONS


def _module(name: str) -> ModuleType:
    path = folders.required() / "graders" / f"{name}.py"
    if not path.exists():
        raise FileNotFoundError(f"there is no grader {path}")
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))  # helper modules lie beside the graders
    spec = importlib.util.spec_from_file_location(f"graders_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
