"""Student versions, their checks, and the teacher's solutions and hidden expectations, for a cohort."""

import re
import shutil
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import nbformat

from classroom import folders, nbgrading
from classroom.collecting import remembered, zone_file
from classroom.expecting import expectations, write_hidden
from classroom.plugins import set_cohort
from lora_course.assignments.core import load

PUBLIC = "formative"  # the cohort whose solutions everybody may see
FORBIDDEN = ("BEGIN SOLUTION", "BEGIN HIDDEN", "classroom.judge", "points(")


def solution(name: str, cohort: str) -> Path:
    return folders.required() / "solutions" / cohort / name / f"{name}.ipynb"


def release(name: str, cohort: str, due: str | None = None, force: bool = False) -> Path:
    """Write release/, solutions/ and hidden/ of an assignment; returns the folder to hand out.

    due: such as "2026-03-06 18:00 Europe/Berlin", for late submissions, in local time where no zone is said; the times
    in Moodle's archive are then taken to be of that zone. Raises ValueError for a cohort that cannot be a folder's
    name, an unknown name, or a due time that is none, and RuntimeError where submissions of another cohort are there
    already (force: replace all the same, with a new secret word).
    """
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", cohort):
        raise ValueError(f"a cohort is letters, digits, dots, dashes and underscores, such as 2026a, got {cohort!r}")
    load(name)
    when = _moment(due) if due else None
    _refuse_another_cohort(name, cohort, force)
    nbgrading.run("nbgrader", "generate_assignment", name, "--force", COHORT=cohort)
    folder = folders.required() / "release" / name
    visible = expectations(name, cohort)
    folders.keep(folder / "checks.json", visible)
    write_hidden(name, cohort, visible, fresh=force)
    _write_solution(name, cohort)
    problems = leaks(folder)
    if problems:
        shutil.rmtree(folder)
        raise RuntimeError(f"the release of {name} was taken back, it would give away: {'; '.join(problems)}")
    if cohort == PUBLIC:
        shutil.copytree(folder, folders.required() / name, dirs_exist_ok=True)  # to practice with, in git and the wheel
    if when:
        with nbgrading.gradebook() as book:
            book.update_or_create_assignment(name, duedate=when.replace(tzinfo=None))
        folders.keep(zone_file(name), "".join(re.findall(r"[A-Z][\w/+-]+$", due)))
    return folder


def leaks(folder: Path) -> list[str]:
    """What a folder to hand out must not contain: solutions, hidden tests, files that nobody knows."""
    name = folder.name
    found = [f"the file {path.name}" for path in folder.rglob("*") if path.name not in (f"{name}.ipynb", "checks.json")]
    for cell in nbformat.read(folder / f"{name}.ipynb", as_version=4).cells:
        found += [f"{word!r} in a cell" for word in FORBIDDEN if word in cell.source]
        if cell.get("outputs"):
            found.append("the output of a cell")
    return found


def _write_solution(name: str, cohort: str) -> None:
    notebook = nbformat.read(folders.required() / "source" / name / f"{name}.ipynb", as_version=4)
    for cell in notebook.cells:
        cell.source = set_cohort(cell.source, cohort)
    folders.keep(solution(name, cohort), nbformat.writes(notebook) + "\n")
    shutil.copy(folders.required() / "release" / name / "checks.json", solution(name, cohort).parent)


def released_cohort(name: str) -> str | None:
    """The cohort of the release that is there, or None."""
    return (folders.kept(folders.required() / "release" / name / "checks.json") or {}).get("cohort")


def extend(name: str, student: str, until: str) -> None:
    """Another due time for one student, by the name in the table of grades: points come off for what is later.

    Raises FileNotFoundError or ValueError, before anything is changed, where there is nothing to extend.
    """
    when = _moment(until).replace(tzinfo=None)
    if released_cohort(name) is None:
        raise FileNotFoundError(f"{name} was not released in {folders.required()}")
    with nbgrading.gradebook() as book:
        known, due = {s.id for s in book.students} | set(remembered(name)), book.find_assignment(name).duedate
        if student not in known:
            raise ValueError(f"there is no student {student!r}: take the name that the table of grades has")
        if due is None or when <= due:
            said = f"{due:%Y-%m-%d %H:%M} UTC" if due else "missing: say it with `release --due`"
            raise ValueError(f"an extension ends after the due time, which is {said}")
        book.update_or_create_student(student)
        book.update_or_create_submission(name, student)
        book.grant_extension(name, student, minutes=(when - due).total_seconds() / 60)


def _refuse_another_cohort(name: str, cohort: str, force: bool) -> None:
    before, submitted = released_cohort(name), (folders.required() / "submitted").glob(f"*/{name}")
    if before not in (None, cohort) and any(submitted) and not force:
        raise RuntimeError(
            f"submissions of cohort {before!r} are there, and would be graded as if they were of {cohort!r}: "
            "keep one copy of the folder for each cohort, or say --force"
        )


def _moment(due: str) -> datetime:
    time, zone = due, None
    try:
        if match := re.fullmatch(r"(.*\d) ([A-Z][\w/+-]+)", due):
            time, zone = match[1], ZoneInfo(match[2])
        when = datetime.fromisoformat(time)
        return (when.replace(tzinfo=zone) if zone else when).astimezone(UTC)  # a time without a zone is local
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise ValueError(
            f'a due time is written like "2026-03-06 18:00" or "2026-03-06 18:00 Europe/Berlin", got {due!r}'
        ) from None
