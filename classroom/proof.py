"""The graders proven: right answers lose nothing, wrong ones lose exactly what is stated.

python -m classroom prove a1_lora_numpy
"""

import json
from collections.abc import Iterator
from typing import Any

from classroom.expecting import task_expectations, work
from classroom.solutions import Solutions, load_solutions
from lora_course.assignments.core import Assignment, load
from lora_course.assignments.looking import observe_all
from lora_course.assignments.verdict import explanation, is_untouched, judge

COHORTS = ("formative", "2026a")
LARGEST = 200_000  # characters of a task's expectations


def prove(name: str, cohort: str) -> list[str]:
    """Everything that is wrong with an assignment's graders; an empty list if they are right."""
    assignment, solutions = load(name, cohort), load_solutions(name)
    if set(assignment.tasks) != set(solutions):
        return [f"{name}: tasks {sorted(assignment.tasks)}, solutions {sorted(solutions)}"]
    return [
        f"{number} ({cohort}): {line}"
        for number in solutions
        for line in prove_task(assignment, number, solutions[number])
    ]


def prove_task(assignment: Assignment, number: str, solutions: Solutions) -> list[str]:
    """The complaints about one task."""
    task = assignment.tasks[number]
    stored = {word: task_expectations(assignment, number, solutions, word) for word in ("visible", "hidden")}
    graded = stored | {"hidden": stored["hidden"] | {"work": work(stored["hidden"], stored["visible"], solutions)}}
    return [
        *_form(task, solutions, stored),
        *_right(assignment, number, solutions, graded),
        *_wrong(assignment, number, solutions, graded),
        *_known_by_all(assignment, number, solutions, graded),
    ]


def _form(task: Any, solutions: Solutions, stored: dict) -> Iterator[str]:
    if len(solutions.right) < 2:
        yield f"{len(solutions.right)} right answers beside the reference, two are needed"
    names = [wrong.name for wrong in solutions.wrong]
    if len(names) != len(set(names)):
        yield "two wrong answers have the same name"
    for kind, content in stored.items():
        if len(json.dumps(content)) > LARGEST:
            yield f"the {kind} expectations are {len(json.dumps(content))} characters long: smaller cases, please"
        for case in content["expected"]:
            for part, value in case.items():
                if isinstance(value, dict) and ("error" in value or "unknown" in value):
                    yield f"{kind}: the reference gives {value} for {part}"


def _right(assignment: Assignment, number: str, solutions: Solutions, stored: dict) -> Iterator[str]:
    task = assignment.tasks[number]
    for name, make in {"reference": solutions.reference, **solutions.right}.items():
        for kind in stored:
            verdict = _verdict(assignment, number, make, stored, kind)
            if verdict["points"] != task.points:
                yield f"right answer {name!r} ({kind}): {verdict['message']}"
    blank = _verdict(assignment, number, lambda constants: lambda *arguments, **options: ..., stored, "hidden")
    if blank["points"]:
        yield f"a blank answer has {blank['points']:g} points"


def _wrong(assignment: Assignment, number: str, solutions: Solutions, stored: dict) -> Iterator[str]:
    task = assignment.tasks[number]
    for wrong in solutions.wrong:
        verdict = _verdict(assignment, number, wrong.make, stored, "hidden")
        if verdict["points"] != wrong.keeps:
            yield f"wrong answer {wrong.name!r} keeps {wrong.keeps:g} as stated, but: {verdict['message']}"
        if wrong.keeps >= task.points:
            yield f"wrong answer {wrong.name!r} loses nothing"
        if wrong.sentence:
            said = what_the_check_says(assignment, number, wrong.make, stored["visible"])
            if not said.startswith(wrong.sentence):
                yield f"wrong answer {wrong.name!r} is told: {said}"


def _known_by_all(assignment: Assignment, number: str, solutions: Solutions, stored: dict) -> Iterator[str]:
    """What everybody can read in checks.json, handed over as if one had observed it: it earns no point."""
    reference, words = solutions.reference(assignment.constants), ["hidden"]
    if not any(stored["hidden"]["work"]):
        words = [f"hidden {i}" for i in range(9)]  # one draw may differ by luck
    for word in words:
        expected = observe_all(assignment, number, reference, word)
        task, known = assignment.tasks[number], stored["visible"]["expected"]
        shown = judge(task, known, stored["hidden"] | {"expected": expected})
        if shown["points"]:
            yield f"what is expected in the visible cases has points in the hidden ones: {shown['message']}"


def what_the_check_says(assignment: Assignment, number: str, make: Any, stored: dict) -> str:
    """The message of the visible check."""
    tolerance = assignment.tasks[number].tolerance
    got = observe_all(assignment, number, make(assignment.constants), "visible")
    if is_untouched(got):
        return "not done yet"
    return explanation(got, stored, tolerance) or "correct"


def _verdict(assignment: Assignment, number: str, make: Any, stored: dict, kind: str) -> dict:
    got = observe_all(assignment, number, make(assignment.constants), kind)
    return judge(assignment.tasks[number], json.loads(json.dumps(got)), stored[kind])


def report(name: str) -> bool:
    """Print the proof of an assignment; True if it holds."""
    complaints = [line for cohort in COHORTS for line in prove(name, cohort)]
    for line in complaints:
        print(line)
    solutions = load_solutions(name)
    right = sum(1 + len(task.right) for task in solutions.values())
    wrong = sum(len(task.wrong) for task in solutions.values())
    print(f"{name}: {right} right and {wrong} wrong answers, two cohorts: {len(complaints) or 'no'} complaints")
    return not complaints
