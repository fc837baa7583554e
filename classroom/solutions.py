"""What a grader in classroom/graders/<name>.py consists of: other right answers, and well-known wrong ones as edits.

RANK = Answer("a1_lora_numpy", "needed_rank")           # the reference: the solution in the source notebook
Solutions(RANK, right={...}, wrong=[("off by one", ")) + 1 -> ))", 0, sentence, where to read on), ...])
"""

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from classroom import folders
from lora_course.assignments.core import Constants

Maker = Callable[[Constants], Any]  # from a cohort's constants to an answer, a function or a class


@dataclass
class Answer:
    """The answer of a cell in a source notebook: a maker, as it stands there or with an edit.

    edit: "old -> new", or several, parted by " & ". Each needs exactly one place. names: what else an edit may use.
    """

    assignment: str
    cell: str
    edit: str = ""
    names: dict[str, Any] = field(default_factory=dict)

    def edited(self, edit: str) -> "Answer":
        return Answer(self.assignment, self.cell, edit, self.names)

    def __call__(self, constants: Constants) -> Any:
        """The function or class, or the two functions, that the notebook hands to the check of this cell."""
        code, answer = self.code
        space = {"c": constants, **self.names}
        exec(code, space)
        return eval(answer, space)

    @cached_property
    def code(self) -> tuple[Any, str]:
        """What the cell needs and holds, compiled; and what its check is given."""
        texts = _texts(self.assignment)
        source = texts[self.cell]
        for change in filter(None, self.edit.split(" & ")):
            old, new = change.split(" -> ")
            if source.count(old) != 1:
                raise ValueError(f"{self.cell}: {old!r} is there {source.count(old)} times, an edit needs one place")
            source = source.replace(old, new)
        imports = [line for line in texts["setup"].splitlines() if line.startswith(("from ", "import "))]
        answer = texts[f"check_{self.cell}"].partition(f"check.{self.cell}(")[2].removesuffix(")")
        return compile("\n".join([*imports, source]), f"<{self.cell}>", "exec"), answer


@cache
def _texts(assignment: str) -> dict[str, str]:
    """The cells of a source notebook by their grade_id, read once for all edits of its answers."""
    path = folders.CLONE / "notebooks" / "assignments" / "source" / assignment / f"{assignment}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell["metadata"].get("nbgrader", {}).get("grade_id"): "".join(cell["source"]) for cell in cells}


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

    A right one may be an edit of the reference. A wrong one may be a row: (name, edit, points kept, sentence, where to
    read on); the last two where the check names it.
    """

    reference: Answer | Maker
    right: dict[str, Maker | str] = field(default_factory=dict)
    wrong: list = field(default_factory=list)

    def __post_init__(self) -> None:
        for name, right in self.right.items():
            self.right[name] = self.reference.edited(right) if isinstance(right, str) else right
        self.wrong = [
            row if isinstance(row, Wrong) else Wrong(row[0], self.reference.edited(row[1]), *row[2:])
            for row in self.wrong
        ]


def has_solutions(name: str) -> bool:
    return importlib.util.find_spec(f"classroom.graders.{name}") is not None


def load_solutions(name: str) -> dict[str, Solutions]:
    """SOLUTIONS of classroom/graders/<name>.py. Raises FileNotFoundError where there is none."""
    if not has_solutions(name):
        raise FileNotFoundError(f"there is no grader classroom/graders/{name}.py")
    return importlib.import_module(f"classroom.graders.{name}").SOLUTIONS
