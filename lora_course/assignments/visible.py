"""The visible checks: `check = checks("a1_lora_numpy", COHORT)`, then `check.forward(forward)` in a cell of its own.

What is expected in the visible cases, and what the known mistakes give there, stands in checks.json beside the
student's notebook; that of the practice version travels with the course. Nothing else is needed, no server and no
nbgrader. While a submission is graded, checks.json names the tasks alone and the checks are silent: nothing of what is
expected is near a student's code then.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import lora_course
from lora_course.assignments.core import Assignment, load
from lora_course.assignments.looking import observe_all
from lora_course.assignments.verdict import errors, explanation, failing, is_untouched, readable
from lora_course.checking import describing, grading

INSTALL = "install the version that the assignment was made with"


class Check:
    """The check of one task. It prints "correct" or "not done yet", or raises AssertionError with the mistake."""

    def __init__(self, assignment: Assignment, number: str, stored: dict):
        self.assignment, self.number, self.stored = assignment, number, stored
        self.title = assignment.tasks[number].title

    def __call__(self, answer: Callable) -> None:
        if not self.stored:
            return None  # the graded run
        task = self.assignment.tasks[self.number]
        if not task.knows(self.stored):
            raise ValueError(
                f"exercise {self.number}, {task.name}, is another one in the installed lora-edu than in checks.json: "
                + INSTALL
            )
        got = observe_all(self.assignment, self.number, answer)
        if "TooSlow" in errors(got):  # once more, as the grader does
            got = observe_all(self.assignment, self.number, answer)
        if "KeyboardInterrupt" in errors(got):
            raise KeyboardInterrupt
        got = readable(got, self.stored["expected"])
        if is_untouched(got):
            return grading.record(self.number, "not done yet")
        if not failing(got, self.stored["expected"], task.tolerance):
            return grading.record(self.number, "correct")
        shown = [described(case, task.names.split()) for case in self.assignment.cases(self.number)]
        raise grading.wrong(self.number, explanation(got, self.stored, task.tolerance, shown))


def described(case: tuple, names: list[str]) -> str:
    """A case in a message: "x (3, 8), W (8, 6), alpha 5.0". What is called `_` is left out."""
    words = [describing.describe(argument).removeprefix("array of shape ") for argument in case]
    return ", ".join(f"{name} {word}" for name, word in zip(names, words, strict=True) if name != "_")


def checks(name: str, cohort: str = "formative") -> SimpleNamespace:
    """The visible checks, each by the name of its task: check.forward, check.backward ...

    Raises FileNotFoundError without checks.json, ValueError for the one of another cohort or version.
    """
    assignment, stored = load(name, cohort), stored_checks(name, cohort)["tasks"]
    if set(stored) != set(assignment.tasks):
        raise ValueError(
            f"checks.json has the exercises {', '.join(stored)}, the installed lora-edu "
            f"{', '.join(assignment.tasks)}: {INSTALL}"
        )
    for number, task in assignment.tasks.items():
        grading.announce(number, task.title, f"{task.minutes} min", f"{task.points:g} points")
    return SimpleNamespace(**{task.name: Check(assignment, n, stored[n]) for n, task in assignment.tasks.items()})


def stored_checks(name: str, cohort: str) -> dict:
    """checks.json from beside the notebook, else the one of the practice version, which travels with the course."""
    for path in (Path("checks.json"), practice_folder(name) / "checks.json"):
        if path.exists():
            stored = json.loads(path.read_text(encoding="utf-8"))
            if stored["assignment"] == name and stored["cohort"] == cohort:
                return stored
            if stored["assignment"] == name and path.parent == Path():
                raise ValueError(
                    f"the notebook is for the cohort {cohort!r} and checks.json beside it for {stored['cohort']!r}: "
                    "take both from the same hand-out"
                )
    raise FileNotFoundError(
        f"checks.json was not found in {os.getcwd()}: it comes with the assignment and must lie beside the notebook"
    )


def practice_folder(name: str) -> Path:
    """The student's notebook and checks.json of the public cohort: in a clone, or inside an installed wheel."""
    package = Path(lora_course.__file__).parent
    inside = package / "notebooks" / "assignments" / name
    return inside if inside.exists() else package.parent / "notebooks" / "assignments" / name
