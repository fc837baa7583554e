"""What the reference and the named mistakes give in the visible and in the hidden cases, as plain data."""

import math
import secrets
from typing import Any

from classroom import folders
from classroom.solutions import Maker, Solutions, load_solutions
from lora_course.assignments.core import VISIBLE, Assignment, load
from lora_course.assignments.looking import observe_all
from lora_course.assignments.verdict import errors, numbers_of, readable
from lora_course.checking.comparing import equal, plain

FORM = 2  # of what is stored for the hidden tests


def expectations(name: str, cohort: str, word: str = VISIBLE) -> dict[str, Any]:
    """word: what the cases are drawn from -> {"assignment", "cohort", "tasks": {number: its `task_expectations`}}."""
    assignment, solutions = load(name, cohort), load_solutions(name)
    tasks = {number: task_expectations(assignment, number, solutions[number], word) for number in assignment.tasks}
    return {"assignment": name, "cohort": cohort, "tasks": tasks}


def task_expectations(assignment: Assignment, number: str, solutions: Solutions, word: str = VISIBLE) -> dict[str, Any]:
    """What is expected of one task, and what each named mistake gives instead.

    Raises RuntimeError if the reference ran out of time: that is no result to expect of anybody.
    """
    task, found = assignment.tasks[number], observed(assignment, number, solutions.reference, word)
    if "TooSlow" in errors(found):
        raise RuntimeError(
            f"{assignment.name}, exercise {number}: the reference took longer than the {task.seconds:g} seconds that "
            "an answer may take, and nothing was stored: try again when the machine is less busy"
        )
    expected = [{part: case[part] for part in task.parts} for case in found]
    mistakes = [
        {"sentence": wrong.sentence, "see": wrong.see,
         "observed": readable(observed(assignment, number, wrong.make, word), expected)}
        for wrong in solutions.wrong if wrong.sentence
    ]  # fmt: skip
    return {"edition": task.edition, "expected": expected, "mistakes": mistakes}


_seen: dict[tuple, tuple] = {}


def observed(assignment: Assignment, number: str, make: Maker, word: str) -> list[dict]:
    """What is observed of one of our own answers, once: a release and a proof ask for the same one several times."""
    task = assignment.tasks[number]
    key = assignment.name, assignment.cohort, word, id(task), id(make)
    if key not in _seen:  # task and maker are kept, so that no other one gets their place in memory
        _seen[key] = task, make, observe_all(assignment, number, make(assignment.constants), word)
    return _seen[key][-1]


def work(assignment: Assignment, number: str, solutions: Solutions, word: str, visible: dict) -> list[dict[str, dict]]:
    """For each hidden case and each computed part what shows that an answer computes, see `verdict.at_work`.

    Known are the values of the reference and of wrong answers that keep points, less what everybody can read in
    checks.json, or compute from the case alone (`Task.base`), and less what could be guessed.
    """
    task, c = assignment.tasks[number], assignment.constants
    keeping = [solutions.reference, *(wrong.make for wrong in solutions.wrong if wrong.keeps)]
    shown = [case for seen in [visible["expected"], *(m["observed"] for m in visible["mistakes"])] for case in seen]
    cases, found = assignment.cases(number, word), []
    for case in cases:
        base = {part: plain(value) for part, value in (task.base(c, *case) if task.base else {}).items()}
        found.append({p: {"known": []} | ({"base": base[p]} if p in base else {}) for p in task.computed})
    for make in keeping if task.computed else []:
        for there, seen in zip(found, observed(assignment, number, make, word), strict=True):
            for part in there if make is solutions.reference else set(there) & set(task.parts):
                place = there[part]
                known = [*place["known"], place.get("base"), *(case.get(part) for case in shown)]
                value = numbers_of(seen[part])
                if is_hard_to_guess(value) and not any(equal(value, other, task.tolerance) for other in known):
                    place["known"].append(value)
    return [{part: place for part, place in there.items() if place["known"]} for there in found]


def is_hard_to_guess(value: Any) -> bool:
    if isinstance(value, str):  # names and numbers in words, such as "blocks.1.up_proj with rank 2, alpha 5.3125"
        return len(value) > 12 and any(letter.isdigit() for letter in value)
    values = value.get("values", []) if isinstance(value, dict) else []
    return all(map(math.isfinite, values)) and (len(set(values)) >= 4 or any(v != int(v) for v in values))


def read_hidden(name: str, cohort: str) -> dict[str, Any] | None:
    """What the hidden tests expect, and the word that their cases are drawn from; None where nothing was released."""
    stored = folders.kept(path := folders.hidden_file(name, cohort))
    if stored and stored.get("form") != FORM:
        raise ValueError(f"{path} is of an earlier version: release {name} for the cohort {cohort} once more")
    return stored


def write_hidden(name: str, cohort: str, visible: dict | None = None, fresh: bool = False) -> None:
    """Store what the hidden tests expect in the teacher's folder, for the word that is there, else for a new one.

    visible: the expectations of the visible cases, where they are computed already. fresh: for a new word in any case.
    """
    path, solutions, assignment = folders.hidden_file(name, cohort), load_solutions(name), load(name, cohort)
    before = None if fresh else folders.kept(path)
    word = (before or {}).get("word") or secrets.token_hex(8)
    hidden, visible = expectations(name, cohort, word), visible or expectations(name, cohort)
    for number, task in hidden["tasks"].items():
        task["work"] = work(assignment, number, solutions[number], word, visible["tasks"][number])
    folders.keep(path, hidden | {"word": word, "form": FORM})
