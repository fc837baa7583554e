"""What a grader in classroom/graders/<name>.py consists of: other right answers, and well-known wrong ones as edits.

RANK = Answer("a1_lora_numpy", "needed_rank")           # the reference: the solution in the source notebook
Solutions(RANK, right={...}, wrong=[("off by one", ")) + 1 -> ))", 0, sentence, where to read on), ...])
"""

import importlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, NamedTuple

from classroom import folders
from lora_course.assignments.core import Constants
from lora_course.checking.reference import edited

Maker = Callable[[Constants], Any]  # from a cohort's constants to an answer, a function or a class


@dataclass
class Answer:
    """The answer of a cell in a source notebook: a maker, as it stands there or with an edit.

    edit: "old -> new", or several, parted by " & ", see `edited`. names: what else an edit may use.
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
        source = edited(texts[self.cell], self.edit, self.cell) if self.edit else texts[self.cell]
        imports = [line for line in texts["setup"].splitlines() if line.startswith(("from ", "import "))]
        answer = texts[f"check_{self.cell}"].partition(f"check.{self.cell}(")[2].removesuffix(")")
        return compile("\n".join([*imports, source]), f"<{self.cell}>", "exec"), answer


@cache
def _texts(assignment: str) -> dict[str, str]:
    """The cells of a source notebook by their grade_id, read once for all edits of its answers."""
    path = folders.CLONE / "notebooks" / "assignments" / "source" / assignment / f"{assignment}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return {cell["metadata"].get("nbgrader", {}).get("grade_id"): "".join(cell["source"]) for cell in cells}


class Wrong(NamedTuple):
    """A wrong answer. keeps: exactly the points that remain. sentence: what the student is told, for a named one."""

    name: str
    make: Maker
    keeps: float
    sentence: str | None = None
    see: str | None = None  # where to read on, such as "notebook 02, section 3"


@dataclass
class Solutions:
    """The reference, at least two right answers that are written differently, and the wrong ones, of one task.

    A right one may be an edit of the reference. A wrong one is a row: (name, edit or maker, points kept, sentence,
    where to read on); the last two where the check names it.
    """

    reference: Answer | Maker
    right: dict[str, Maker | str] = field(default_factory=dict)
    wrong: list = field(default_factory=list)

    def __post_init__(self) -> None:
        def made(answer: Maker | str) -> Maker:
            return self.reference.edited(answer) if isinstance(answer, str) else answer

        self.right = {name: made(right) for name, right in self.right.items()}
        self.wrong = [Wrong(name, made(answer), *rest) for name, answer, *rest in self.wrong]


def load_solutions(name: str) -> dict[str, Solutions]:
    """SOLUTIONS of classroom/graders/<name>.py."""
    return importlib.import_module(f"classroom.graders.{name}").SOLUTIONS
