"""Points for what was observed of an answer: in the teacher's process, where no student's code ever ran.

A hidden test of a source notebook is the line `points("a1_lora_numpy", "1.1", answer, COHORT)`. A teacher who opens
that notebook runs it as it stands. For a submission, `for_the_box` replaces the line by one that observes the answer
and hands the observation over; `scored` compares it here with what is expected.
"""

import copy
import json
import math
import re
from collections.abc import Callable
from typing import Any

import nbformat

from classroom import cleaning, folders
from classroom.sandbox import SubmissionError
from lora_edu.assignments import verdict
from lora_edu.assignments.core import Assignment, load
from lora_edu.assignments.observing import MIME, observe_all

ANSWER = r"\w+|\(\w+, \w+\)"  # a function, a class, or two functions
TEST = re.compile(
    rf'^points\("(?P<name>\w+)", "(?P<number>[\d.]+)", (?P<answer>{ANSWER}), "(?P<cohort>[\w.-]+)"\)$', re.M
)


class CannotGrade(RuntimeError):
    """The grader itself failed. Not the student's fault: the submission is reported, and gets no points and no zero."""


def points(name: str, number: str, answer: Callable, cohort: str) -> float:
    """Print the feedback and return the points of this task."""
    assignment = load(name, cohort)
    found = verdict.judge(request(assignment, number, observe_all(assignment, number, answer, "hidden")))
    print(f"Exercise {number}: {found['message']}")
    return float(found["points"])


def request(assignment: Assignment, number: str, got: list, stored: dict | None = None) -> dict[str, Any]:
    """What `lora_edu.assignments.verdict.judge` needs to know."""
    task = assignment.tasks[number]
    stored = _stored(assignment, number) if stored is None else stored
    return {"got": got, "stored": stored, "parts": task.parts, "tolerance": task.tolerance}


def _stored(assignment: Assignment, number: str) -> dict:
    path = folders.hidden_file(assignment.name, assignment.cohort)
    if path.exists():
        return json.loads(path.read_text(encoding="utf-8"))["tasks"][number]
    from classroom.expecting import task_expectations  # a source notebook, opened in a clone
    from classroom.solutions import load_solutions

    return task_expectations(assignment, number, load_solutions(assignment.name)[number], "hidden")


# --- a submission -----------------------------------------------------------------------------------------------------


def for_the_box(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with tests that only observe. Each first runs the set-up cell again: `c = 3` in a scratch cell, say,
    costs no exercise but its own."""
    boxed = copy.deepcopy(notebook)
    setup = next((cell.source for cell in boxed.cells if _mark(cell, "grade_id") == "setup"), "")
    for cell in boxed.cells:
        if is_test(cell):
            call = _call(cell)
            arguments = f"{call['name']!r}, {call['number']!r}, {call['answer']}, {call['cohort']!r}"
            cell.source = f"{setup}\nfrom lora_edu.assignments.observing import emit\nemit({arguments})"
    return boxed


def scored(cell: nbformat.NotebookNode, outputs: list) -> list:
    """The outputs of a graded test: a sentence for the student and the points, from what the box handed over.

    Raises SubmissionError if it is not one observation: a test that was passed by, or an answer that sends its own.
    """
    call = _call(cell)
    try:
        assignment = load(call["name"], call["cohort"])
        asked = request(assignment, call["number"], [])
    except Exception as error:
        raise CannotGrade(f"{type(error).__name__}: {error}") from error
    sent = [output.data[MIME] for output in outputs if MIME in output.get("data", {})]
    errors = [output for output in outputs if output.output_type == "error"]
    if not sent and errors:
        text = f"the test stopped with {errors[-1].ename}: {errors[-1].evalue}"
        found = {"points": 0.0, "message": cleaning.text(text)[:300]}
    elif len(sent) != 1:
        raise SubmissionError(f"the test of exercise {call['number']} handed over {len(sent)} observations, not one")
    else:
        asked["got"] = _checked(sent[0], assignment, call["number"])
        found = verdict.judge(asked)
    text = f"Exercise {call['number']}: {cleaning.text(found['message'])}\n"
    score = nbformat.v4.new_output("execute_result", {"text/plain": repr(float(found["points"]))}, execution_count=1)
    return [nbformat.v4.new_output("stream", name="stdout", text=text), score]


def is_test(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(_mark(cell, "grade")) and not _mark(cell, "solution")


def _mark(cell: nbformat.NotebookNode, name: str) -> Any:
    return cell.metadata.get("nbgrader", {}).get(name)


def _call(cell: nbformat.NotebookNode) -> re.Match:
    call = TEST.search(cell.source)
    if call is None:
        raise CannotGrade(f"the graded cell {_mark(cell, 'grade_id')} has no line points(...) with a cohort")
    return call


def _checked(sent: Any, assignment: Assignment, number: str) -> list[dict]:
    """What the box handed over, in the form that an observation has; a part that has another is an error."""
    try:
        got = json.loads(sent)
    except (TypeError, ValueError, RecursionError):
        raise SubmissionError(f"what the test of exercise {number} handed over is no observation") from None
    cases = got if isinstance(got, list) and all(isinstance(case, dict) for case in got) else []
    return [{part: _part(case.get(part)) for part in assignment.tasks[number].parts} for case in cases]


def _part(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict) and set(value) == {"shape", "values"}:
        shape, values = value["shape"], value["values"]
        if _all(shape, int) and _all(values, float) and math.prod(shape) == len(values):
            return value
    if isinstance(value, dict) and isinstance(value.get("error"), str) and set(value) <= {"error", "text"}:
        return {key: str(word) for key, word in value.items()}
    if isinstance(value, dict) and isinstance(value.get("unknown"), str):
        return {"unknown": value["unknown"]}
    return {"unknown": "something else"}


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
