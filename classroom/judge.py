"""The hidden test of a task, called in a graded cell: `points("a1_lora_numpy", "1.1", answer, COHORT)`.

The answer is observed here, in the student's kernel. The comparison happens in a fresh process that knows the standard
library only, so that a student who replaced `np.allclose` has replaced nothing that counts.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from classroom import folders
from lora_edu.assignments.core import Assignment, load
from lora_edu.assignments.observing import observe_all

_ROOT = str(Path(__file__).parent.parent.parent)
_PROGRAM = f"import sys; sys.path.insert(0, {_ROOT!r}); from lora_edu.assignments.verdict import main; main()"


class CannotGrade(RuntimeError):
    """The grader itself failed. Not the student's fault: the submission is reported, and gets no points and no zero."""


def points(name: str, number: str, answer: Callable, cohort: str) -> float:
    """Print the feedback and return the points of this task, a float: nbgrader takes it as the score of the cell."""
    try:
        assignment = load(name, cohort)
        stored = _stored(assignment, number)
    except Exception as error:
        raise CannotGrade(f"{type(error).__name__}: {error}") from error
    got = observe_all(assignment, number, answer, "hidden")
    verdict = _in_a_fresh_process(request(assignment, number, got, stored))
    print(f"Exercise {number}: {verdict['message']}")
    return float(verdict["points"])


def request(assignment: Assignment, number: str, got: list, stored: dict) -> dict[str, Any]:
    """What `lora_edu.assignments.verdict.judge` needs to know."""
    task = assignment.tasks[number]
    return {"got": got, "stored": stored, "parts": task.parts, "tolerance": task.tolerance}


def _stored(assignment: Assignment, number: str) -> dict:
    path = folders.hidden_file(assignment.name, assignment.cohort)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["tasks"][number]
    from classroom.expecting import task_expectations  # a source notebook, opened in a clone
    from classroom.solutions import load_solutions

    return task_expectations(assignment, number, load_solutions(assignment.name)[number], "hidden")


def _in_a_fresh_process(content: dict) -> dict:
    run = subprocess.run(
        [sys.executable, "-I", "-c", _PROGRAM], input=json.dumps(content), capture_output=True, text=True
    )
    if run.returncode:
        raise CannotGrade(run.stderr.strip().splitlines()[-1])
    return json.loads(run.stdout)
