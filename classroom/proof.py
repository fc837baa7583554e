"""The graders proven: right answers lose nothing, wrong ones lose exactly what is stated.

python -m classroom prove a1_lora_numpy
"""

import contextlib
import copy
import json
import sys
from collections.abc import Callable, Iterator
from typing import Any

from classroom.expecting import task_expectations, work
from classroom.solutions import Solutions, load_solutions
from lora_edu.assignments.core import Assignment, load
from lora_edu.assignments.observing import observe_all
from lora_edu.assignments.verdict import explanation, is_untouched, judge

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
        *_cheats(assignment, number, solutions, graded),
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


def _cheats(assignment: Assignment, number: str, solutions: Solutions, stored: dict) -> Iterator[str]:
    """Every cheat there is, on this task; and what everybody knows, as if one had observed it. None earns a point."""
    reference, words = solutions.reference(assignment.constants), ["hidden"]
    if not any(stored["hidden"]["work"]):
        words = [f"hidden {i}" for i in range(9)]  # one draw may differ by luck
    for word in words:
        expected = observe_all(assignment, number, reference, word)
        task, known = assignment.tasks[number], stored["visible"]["expected"]
        shown = judge(task, known, stored["hidden"] | {"expected": expected})
        if shown["points"]:
            yield f"what is expected in the visible cases has points in the hidden ones: {shown['message']}"
    for name, cheat in cheats(reference).items():
        verdict = _verdict(assignment, number, lambda _, cheat=cheat: cheat, stored, "hidden")
        if verdict["points"]:
            yield f"a cheat that {name} has points: {verdict['message']}"


def cheats(answer: Any) -> dict[str, Any]:
    """Answers that know nothing of the subject and try to look right, by what they do; of two functions, both do it."""
    found = {"prints the result and returns nothing": printing, "replaces what compares": replacing, "leaves": leaving}
    if isinstance(answer, tuple):  # what one of them writes is there, whatever it returns
        return {name: tuple(map(change, answer)) for name, change in found.items() if change is not printing}
    return {name: change(answer) for name, change in found.items()}


def printing(answer: Callable) -> Callable:
    """Prints the right result instead of returning it; what it does to its arguments, it does to copies."""
    return lambda *arguments, **options: print(answer(*copy.deepcopy(arguments), **options))


def replacing(answer: Callable) -> Callable:
    """Returns nothing right, and makes NumPy's and torch's comparisons say yes."""

    def attempt(*arguments, **options):
        for module in filter(None, map(sys.modules.get, ("numpy", "torch"))):
            for name in ("allclose", "isclose", "array_equal", "equal"):
                if hasattr(module, name):
                    setattr(module, name, lambda *_, **__: True)
        return arguments[0]

    return attempt


def leaving(answer: Callable) -> Callable:
    """Leaves the program."""
    return lambda *arguments, **options: sys.exit()


def what_the_check_says(assignment: Assignment, number: str, make: Any, stored: dict) -> str:
    """The message of the visible check."""
    tolerance = assignment.tasks[number].tolerance
    with _nothing_replaced():
        got = observe_all(assignment, number, make(assignment.constants), "visible")
    if is_untouched(got):
        return "not done yet"
    return explanation(got, stored, tolerance) or "correct"


def _verdict(assignment: Assignment, number: str, make: Any, stored: dict, kind: str) -> dict:
    with _nothing_replaced():
        got = observe_all(assignment, number, make(assignment.constants), kind)
    return judge(assignment.tasks[number], json.loads(json.dumps(got)), stored[kind])


@contextlib.contextmanager
def _nothing_replaced() -> Iterator[None]:
    """Put back what a cheating answer replaced in NumPy or torch."""
    kept = [(module, copy.copy(vars(module))) for name in ("numpy", "torch") if (module := sys.modules.get(name))]
    try:
        yield
    finally:
        for module, names in kept:
            vars(module).update(names)


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
