"""The graders proven: right answers lose nothing, wrong ones lose exactly what is stated.

python -m classroom prove a1_lora_numpy
"""

import itertools
import json
from collections.abc import Iterator
from typing import Any

import numpy as np

from classroom.expecting import observed, task_expectations, work
from classroom.solutions import Solutions, load_solutions
from lora_course.assignments.core import Assignment, load
from lora_course.assignments.looking import concluded
from lora_course.assignments.verdict import explanation, is_untouched, judge, readable
from lora_course.checking.comparing import is_numbers, plain

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
    known = {"work": work(assignment, number, solutions, "hidden", stored["visible"])}
    graded = stored | {"hidden": stored["hidden"] | known}
    return [
        *_form(task, solutions, stored),
        *_right(assignment, number, solutions, graded),
        *_wrong(assignment, number, solutions, graded),
        *_without_an_answer(assignment, number, graded),
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


def _without_an_answer(assignment: Assignment, number: str, stored: dict) -> Iterator[str]:
    """Observers that replaced ours, and have no answer: none earns a point.

    The strongest that there can be: of all that needs no computing it hands over what is right, and for the computed
    parts what everybody has (`_guesses`).
    """
    task, expected = assignment.tasks[number], stored["hidden"]["expected"]
    numbers = {part for part in task.parts if not all(isinstance(there[part], str) for there in expected)}
    computed = set(task.computed) & set(task.parts) or numbers
    shown, rng = stored["visible"]["expected"], np.random.default_rng(0)
    guesses = [
        {part: _guesses(assignment, number, case, part, there, shown, rng) for part in computed}
        for case, there in zip(assignment.cases(number, "hidden"), expected, strict=True)
    ]
    for k in range(max(len(values) for case in guesses for values in case.values())):
        chosen = [{part: values[k % len(values)] for part, values in case.items()} for case in guesses]
        got = [there | mine for there, mine in zip(expected, chosen, strict=True)]
        found = judge(task, concluded(assignment, number, json.loads(json.dumps(got)), "hidden"), stored["hidden"])
        if found["points"]:
            yield f"without an answer, guess {k}: {found['message']}"


def _guesses(assignment: Assignment, number: str, case: tuple, part: str, there: dict, shown: list, rng: Any) -> list:
    """What somebody without an answer may say: the base alone, what is right in the visible cases or another part, the
    inputs, products of two and powers of them, constants, random numbers."""
    task, c = assignment.tasks[number], assignment.constants
    base = task.base(c, *case) if task.base else {}
    known = [plain(value) for name, value in base.items() if name == part] + [seen[part] for seen in shown]
    if isinstance(there[part], str):
        return [*known, "nothing", True, plain(1), *(seen for name, seen in there.items() if name != part)]
    size, shape = len(there[part]["values"]), there[part]["shape"]
    inputs = [np.asarray(v, dtype=float) for v in case if isinstance(v, int | float) or hasattr(v, "dtype")]
    sides = [side for matrix in inputs if matrix.ndim == 2 for side in (matrix, matrix.T)]
    pairs = itertools.permutations([float(value) for value in inputs if value.ndim == 0 and value > 0], 2)
    exponents = [1, -1, *(value for value in c.values() if isinstance(value, float))]
    others = [value for name, value in there.items() if name not in (part, *task.computed)]
    found = [np.asarray(value["values"]) for value in [*known, *others] if is_numbers(value)]
    found += [*inputs, *(one @ other for one, other in itertools.product(sides, sides) if len(one.T) == len(other))]
    found += [np.array(one / other**power) for one, other in pairs for power in exponents]
    found += [np.zeros(1), np.ones(1), np.arange(size), np.linspace(-1, 1, size), *rng.normal(size=(3, size))]
    return [*known, *(plain(np.resize(v, size).reshape(shape)) for v in found if v.size)]


def what_the_check_says(assignment: Assignment, number: str, make: Any, stored: dict) -> str:
    """The message of the visible check."""
    got = readable(observed(assignment, number, make, "visible"), stored["expected"])
    said = explanation(got, stored, assignment.tasks[number].tolerance) or "correct"
    return "not done yet" if is_untouched(got) else said


def _verdict(assignment: Assignment, number: str, make: Any, stored: dict, kind: str) -> dict:
    got = observed(assignment, number, make, kind)
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
