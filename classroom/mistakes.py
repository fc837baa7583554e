"""Which mistakes a class makes, for the hour in which they are discussed: no student's name is in it."""

import csv
from pathlib import Path

import nbformat

from classroom import autograding, folders, judge
from classroom.expecting import read_hidden
from classroom.releasing import released_cohort
from lora_course.assignments.verdict import BESIDE
from lora_edu.records import staging

COLUMNS = ("exercise", "mistake", "students")
UNNAMED, NOT_DONE = "another one, for which the grader has no name", "not done"


def write_mistakes(name: str, students: list[str]) -> Path:
    """Write grades/<name>-mistakes.csv: how many of these students made a mistake, those that many made first."""
    counted: dict[tuple[str, str], int] = {}
    for student in students:
        for made in mistakes(name, autograding.graded(student, name)):
            counted[made] = counted.get(made, 0) + 1
    rows = [(number, mistake, count) for (number, mistake), count in counted.items()]
    path = folders.required() / "grades" / f"{name}-mistakes.csv"
    with staging(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *sorted(rows, key=lambda row: (row[0], -row[2], row[1]))])
    return path


def mistakes(name: str, graded: Path) -> set[tuple[str, str]]:
    """(exercise, mistake) of a graded submission: the name that the grader gave, in the words that the student read."""
    tasks = read_hidden(name, released_cohort(name))["tasks"]
    found = set()
    for number, _, _, why, _ in judge.lost(nbformat.read(graded, as_version=4)):
        names = [known["sentence"] for known in tasks[number]["mistakes"] if known["sentence"] in why]
        if why != BESIDE:  # what is lost for another part's sake is no mistake
            found.add((number, names[0] if names else NOT_DONE if why.startswith(NOT_DONE) else UNNAMED))
    return found
