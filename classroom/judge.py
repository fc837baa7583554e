"""Points for what was observed of an answer: in the teacher's process, where no student's code ever ran.

A hidden test of a source notebook is the line `points("a1_lora_numpy", "1.1", answer, COHORT)`. A teacher who opens
that notebook runs it as it stands. For a submission, `for_the_box` replaces the line by the text of `inside`, which
observes the answer and hands the observation over; `scored` compares it here with what is expected. Into the box goes
the word that the hidden cases are drawn from, and nothing that is expected, of the visible cases either (`silent`).
"""

import copy
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat

from classroom import cleaning, folders
from classroom.expecting import read_hidden, task_expectations
from classroom.sandbox import SubmissionError
from classroom.solutions import load_solutions
from lora_course.assignments import verdict
from lora_course.assignments.core import Assignment, Task, load
from lora_course.assignments.looking import MIME, concluded, observe_all
from lora_course.assignments.visible import INSTALL, described

ANSWER = r"\w+|\(\w+, \w+\)"  # a function, a class, or two functions
TEST = re.compile(
    rf'^points\("(?P<name>\w+)", "(?P<number>[\d.]+)", (?P<answer>{ANSWER}), "(?P<cohort>[\w.-]+)"\)$', re.M
)
INSIDE = Path(__file__).with_name("inside.py").read_text(encoding="utf-8")
LOST = "lora_edu_lost"  # where a score keeps what was lost: for the page of feedback, and for the table of grades


class CannotGrade(RuntimeError):
    """The grader itself failed. Not the student's fault: the submission is reported, and gets no points and no zero."""


def points(name: str, number: str, answer: Callable, cohort: str) -> float:
    """Print the feedback and return the points of this task."""
    assignment = load(name, cohort)
    word, stored = _hidden(assignment, number)
    found = verdict.judge(assignment.tasks[number], observe_all(assignment, number, answer, word), stored)
    print(f"Exercise {number}: {found['message']}")
    return float(found["points"])


def _hidden(assignment: Assignment, number: str) -> tuple[str, dict]:
    """The word that the hidden cases of a task are drawn from, and what is expected in them."""
    stored = read_hidden(assignment.name, assignment.cohort)
    if stored:
        if not assignment.tasks[number].knows(stored["tasks"][number]):
            raise CannotGrade(f"exercise {number} was another one when it was released: " + INSTALL)
        return stored["word"], stored["tasks"][number]
    solutions = load_solutions(assignment.name)[number]  # a source notebook, opened in a clone
    return "hidden", task_expectations(assignment, number, solutions, "hidden")


# --- a submission -----------------------------------------------------------------------------------------------------


def for_the_box(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The notebook with tests that only observe. Each first runs the set-up cell again: `c = 3` in a scratch cell, say,
    costs no exercise but its own. The table of `progress()` is left out: it would say that nothing is checked yet."""
    boxed = copy.deepcopy(notebook)
    setup = next((cell.source for cell in boxed.cells if mark(cell, "grade_id") == "setup"), "")
    pieces = re.findall(r"^from (lora_course\.assignments\.\w+) import", setup, re.M)
    for cell in boxed.cells:
        if is_test(cell):
            call = _call(cell)
            word = (read_hidden(call["name"], call["cohort"]) or {}).get("word")
            if word is None:
                raise CannotGrade(f"{call['name']} was not released here for the cohort {call['cohort']!r}")
            asked = call.groupdict() | {"word": word, "course": str(folders.CLONE), "pieces": pieces}
            observing = f"{INSIDE}\nhand_over(here, **{asked!r})"
            cell.source = f"{setup}\nexec({observing!r}, {{'here': globals()}})"
        elif cell.source.strip() == "progress()":
            cell.source = ""
    return boxed


def silent(checks: str) -> str:
    """checks.json for the box, from the one that was handed out: the tasks by number, and nothing that is expected."""
    stored = json.loads(checks)
    return json.dumps(stored | {"tasks": {number: {} for number in stored["tasks"]}})


def scored(cell: nbformat.NotebookNode, outputs: list, failed: Any = None) -> list:
    """The outputs of a graded test: a sentence for the student and the points, from what the box handed over.

    failed: the error that stopped the cell of the answer, if there is one.

    Raises SubmissionError if it is not one observation: a test that was passed by, or an answer that sends its own.
    """
    call = _call(cell)
    try:
        assignment = load(call["name"], call["cohort"])
        task, (word, stored) = assignment.tasks[call["number"]], _hidden(assignment, call["number"])
        shown = [described(case, task.names.split()) for case in assignment.cases(call["number"], word)]
    except Exception as error:
        raise CannotGrade(f"{type(error).__name__}: {error}") from error
    sent = [output.data[MIME] for output in outputs if MIME in output.get("data", {})]
    errors = [output for output in outputs if output.output_type == "error"]
    if not sent and errors:
        text = f"the test stopped with {errors[-1].ename}: {errors[-1].evalue}"
        text = f"the cell of the answer stopped with {failed.ename}: {failed.evalue}" if failed else text
        found = {"points": 0.0, "message": cleaning.text(text)[:300], "lost": []}
    elif len(sent) != 1:
        raise SubmissionError(f"the test of exercise {call['number']} handed over {len(sent)} observations, not one")
    else:
        got = concluded(assignment, call["number"], _checked(sent[0], task), word)
        found = verdict.judge(task, got, stored, shown)
    text, best = cleaning.text(found["message"]), task.points
    lost = [[part, worth, cleaning.text(why), see] for part, worth, why, see in found["lost"]]
    lost = lost or ([["everything", best, text, ""]] if found["points"] < best else [])
    points = {"text/plain": repr(float(found["points"]))}
    score = nbformat.v4.new_output("execute_result", points, execution_count=1, metadata={LOST: lost})
    return [nbformat.v4.new_output("stream", name="stdout", text=f"Exercise {call['number']}: {text}\n"), score]


def lost(notebook: nbformat.NotebookNode) -> list[list]:
    """What a graded submission lost: exercise, part, points, reason and where to read."""
    tests = [cell for cell in notebook.cells if is_test(cell)]
    found = [(_call(cell)["number"], output) for cell in tests for output in cell.outputs]
    return [[number, *row] for number, output in found for row in output.get("metadata", {}).get(LOST, [])]


def is_test(cell: nbformat.NotebookNode) -> bool:
    return cell.cell_type == "code" and bool(mark(cell, "grade")) and not mark(cell, "solution")


def mark(cell: nbformat.NotebookNode, name: str) -> Any:
    """What nbgrader notes about a cell, such as its `grade_id`; None for a cell that it does not know."""
    return cell.metadata.get("nbgrader", {}).get(name)


def _call(cell: nbformat.NotebookNode) -> re.Match:
    call = TEST.search(cell.source)
    if call is None:
        raise CannotGrade(f"the graded cell {mark(cell, 'grade_id')} has no line points(...) with a cohort")
    return call


def _checked(sent: Any, task: Task) -> list[dict]:
    """What the box handed over, in the form that an observation has; a part that has another is an error."""
    try:
        got = json.loads(sent)
    except (TypeError, ValueError, RecursionError):
        raise SubmissionError(f"what the test of exercise {task.number} handed over is no observation") from None
    cases = got if isinstance(got, list) and all(isinstance(case, dict) for case in got) else []
    return [{part: _part(case.get(part)) for part in task.parts} for case in cases]


def _part(value: Any) -> Any:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, dict) and {"shape", "values"} <= set(value) <= {"shape", "values", "said"}:
        shape, values = value["shape"], value["values"]
        said = isinstance(value.get("said", ""), str)
        if said and _all(shape, int) and _all(values, float) and math.prod(shape) == len(values):
            return value
    if isinstance(value, dict) and isinstance(value.get("error"), str) and set(value) <= {"error", "text"}:
        return {key: str(word) for key, word in value.items()}
    if isinstance(value, dict) and isinstance(value.get("unknown"), str):
        return {"unknown": value["unknown"]}
    return {"unknown": "something else"}


def _all(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(type(value) is kind for value in values)
