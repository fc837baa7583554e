"""What the reference and the named mistakes give in the visible and in the hidden cases, as plain data."""

import json
from typing import Any

from classroom import folders
from classroom.solutions import Solutions, load_solutions
from lora_edu.assignments.core import Assignment, load
from lora_edu.assignments.observing import observe_all
from lora_edu.files import staging


def expectations(name: str, cohort: str, kind: str) -> dict[str, Any]:
    """kind: "visible" or "hidden" -> {"assignment", "cohort", "tasks": {number: {"expected", "mistakes"}}}."""
    assignment, solutions = load(name, cohort), load_solutions(name)
    tasks = {number: task_expectations(assignment, number, solutions[number], kind) for number in assignment.tasks}
    return {"assignment": name, "cohort": cohort, "tasks": tasks}


def task_expectations(assignment: Assignment, number: str, solutions: Solutions, kind: str) -> dict[str, Any]:
    """What is expected of one task, and what each named mistake gives instead."""
    constants = assignment.constants
    named = [wrong for wrong in solutions.wrong if wrong.sentence]
    return {
        "expected": observe_all(assignment, number, solutions.reference(constants), kind),
        "mistakes": [
            {
                "sentence": wrong.sentence,
                "see": wrong.see,
                "observed": observe_all(assignment, number, wrong.make(constants), kind),
            }
            for wrong in named
        ],
    }


def write_hidden(name: str, cohort: str) -> None:
    """Store what the hidden tests expect in the teacher's folder."""
    path = folders.hidden_file(name, cohort)
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path) as part:
        part.write_text(json.dumps(expectations(name, cohort, "hidden")), encoding="utf-8")
