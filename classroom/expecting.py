"""What the reference and the named mistakes give in the visible and in the hidden cases, as plain data."""

import json
import math
import secrets
from typing import Any

from classroom import folders
from classroom.solutions import Solutions, load_solutions
from lora_course.assignments.core import VISIBLE, Assignment, load
from lora_course.assignments.looking import observe_all
from lora_course.checking.comparing import equal
from lora_edu.records import staging


def expectations(name: str, cohort: str, word: str = VISIBLE) -> dict[str, Any]:
    """word: what the cases are drawn from -> {"assignment", "cohort", "tasks": {number: its `task_expectations`}}."""
    assignment, solutions = load(name, cohort), load_solutions(name)
    tasks = {number: task_expectations(assignment, number, solutions[number], word) for number in assignment.tasks}
    return {"assignment": name, "cohort": cohort, "tasks": tasks}


def task_expectations(assignment: Assignment, number: str, solutions: Solutions, word: str = VISIBLE) -> dict[str, Any]:
    """What is expected of one task, and what each named mistake gives instead.

    Raises RuntimeError if the reference ran out of time: that is no result to expect of anybody.
    """
    constants, task = assignment.constants, assignment.tasks[number]
    expected = observe_all(assignment, number, solutions.reference(constants), word)
    if any(isinstance(value, dict) and value.get("error") == "TooSlow" for case in expected for value in case.values()):
        raise RuntimeError(
            f"{assignment.name}, exercise {number}: the reference took longer than the {task.seconds:g} seconds that "
            "an answer may take, and nothing was stored: try again when the machine is less busy"
        )
    named = [wrong for wrong in solutions.wrong if wrong.sentence]
    return {
        "edition": task.edition,
        "expected": expected,
        "mistakes": [
            {
                "sentence": wrong.sentence,
                "see": wrong.see,
                "observed": observe_all(assignment, number, wrong.make(constants), word),
            }
            for wrong in named
        ],
    }


def work(hidden: dict, visible: dict, solutions: Solutions) -> list[dict[str, list]]:
    """For each hidden case {part: values that only an answer gives which computes}, see `verdict.at_work`.

    They are those of the reference, and numbers of mistakes that keep points, less what everybody can read in
    checks.json, and less what could be guessed.
    """
    named = [wrong for wrong in solutions.wrong if wrong.sentence]
    keeping = [m["observed"] for m, wrong in zip(hidden["mistakes"], named, strict=True) if wrong.keeps]
    shown = [case for seen in [visible["expected"], *(m["observed"] for m in visible["mistakes"])] for case in seen]
    found: list[dict[str, list]] = [{} for _ in hidden["expected"]]
    for seen in [hidden["expected"], *keeping]:
        for numbers, case in zip(found, seen, strict=True):
            for part, value in case.items():
                known = [*numbers.get(part, []), *(there[part] for there in shown)]
                if isinstance(value, str) and seen is not hidden["expected"]:
                    continue  # what an observer says of a mistake is no work
                if _is_hard_to_guess(value) and not any(equal(there, value) for there in known):
                    numbers.setdefault(part, []).append(value)
    return found


def _is_hard_to_guess(value: Any) -> bool:
    if isinstance(value, str):  # names and numbers in words, such as "blocks.1.up_proj with rank 2, alpha 5.3125"
        return len(value) > 12 and any(letter.isdigit() for letter in value)
    values = value.get("values", []) if isinstance(value, dict) else []
    return all(map(math.isfinite, values)) and (len(set(values)) >= 4 or any(v != int(v) for v in values))


def read_hidden(name: str, cohort: str) -> dict[str, Any] | None:
    """What the hidden tests expect, and the word that their cases are drawn from; None where nothing was released."""
    path = folders.hidden_file(name, cohort)
    if path.exists() and "word" not in json.loads(path.read_text(encoding="utf-8")):
        write_hidden(name, cohort)  # of a release from before cases were drawn from a word
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def write_hidden(name: str, cohort: str, visible: dict | None = None) -> None:
    """Store what the hidden tests expect in the teacher's folder, for the word that is there, else for a new one.

    visible: the expectations of the visible cases, where they are computed already.
    """
    path, solutions = folders.hidden_file(name, cohort), load_solutions(name)
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    word = before.get("word") or secrets.token_hex(8)
    hidden, visible = expectations(name, cohort, word), visible or expectations(name, cohort)
    for number, task in hidden["tasks"].items():
        task["work"] = work(task, visible["tasks"][number], solutions[number])
    path.parent.mkdir(parents=True, exist_ok=True)
    with staging(path) as part:
        part.write_text(json.dumps(hidden | {"word": word}), encoding="utf-8")
