"""Grades as CSV, and feedback to hand back. A grade that is not there is an empty field and a reason, never a zero."""

import csv
import re
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nbformat

from classroom import autograding, cleaning, collecting, folders, mistakes, nbgrading, platforms, readings, sandbox
from classroom import obstacles as inspecting
from lora_course.assignments.core import load
from lora_edu.records import staging

NOTHING, NOT_GRADED = "nothing handed in", "not graded"
WEIGHT, ORAL = 17.0, 8.0  # of the 25 of an assignment: what full marks count, and the conversation


def write_grades(name: str, export: Path | None = None, of: float | None = None) -> list[Path]:
    """Write grades/<name>.csv: a line for each student that is known, whether graded or not.

    export: what Moodle or Canvas exported; grades/<name>-import.csv is that with the scores in it, scaled to `of`.
    Beside it grades/<name>-mistakes.csv. Returns what was written.

    score is empty where a written answer waits for a grade (needs_manual_grade), where nothing was handed in, and where
    the submission could not be graded; status and reason say which. Points for being late are taken off in `score`.
    """
    if not (folders.required() / "gradebook.db").exists():
        raise FileNotFoundError(f"there is no gradebook in {folders.required()}: release {name} and autograde it first")
    load(name)
    nbgrading.run("classroom.nbgrading", name)  # points off for being late, from the score as it is now
    problems, collected = inspecting.noted(name), collecting.remembered(name)
    with nbgrading.gradebook() as book:
        assignment = book.find_assignment(name)
        cells = [cell.name for notebook in assignment.notebooks for cell in notebook.grade_cells]
        graded = {s.student.id: s for s in assignment.submissions if autograding.graded(s.student.id, name).exists()}
        submitted = {path.parent.name for path in (folders.required() / "submitted").glob(f"*/{name}")}
        students = sorted({s.id for s in book.students} | set(problems) | set(collected) | submitted)
        rows = [_row(student, name, cells, graded.get(student), problems, collected) for student in students]
        maximum = assignment.max_score
    oral = oral_points(name, students)
    for row in rows:
        said = oral.get(row["student"])
        row |= {"max_score": f"{maximum:g}", "oral": "" if said is None else f"{said:g}"}
        if row.get("score") and not (oral and said is None):  # 17 are the notebook's, 8 the conversation's
            row["weighted"] = f"{WEIGHT * float(row['score']) / maximum + (said or 0):.4g}"
    path = folders.required() / "grades" / f"{name}.csv"
    columns = "student lms_number score max_score needs_manual_grade status reason late_hours".split()
    columns += ["late_penalty", "look_at", "oral", "weighted", *map(_column, cells)]
    with staging(path) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows({column: _cell(value) for column, value in row.items()} for row in rows)
    ready = [row["student"] for row in rows if row["student"] in graded and row["status"] != NOT_GRADED]
    written = [path]
    if export:
        scores = {row["lms_number"]: row.get("score", "") for row in rows}
        written += [platforms.fill(export, scores, name, path.with_name(f"{name}-import.csv"), maximum, of)]
    return [*written, mistakes.write_mistakes(name, ready)]


def oral_points(name: str, students: list[str]) -> dict[str, float]:
    """student -> points of the conversation, out of oral/<name>.csv (columns student and points).

    Where there is no such file, it is written, with all names and no points. Raises ValueError for a student that is
    not in the table, or points that are not 0 to 8.
    """
    path = folders.required() / "oral" / f"{name}.csv"
    if not path.exists():
        folders.keep(path, "\n".join(["student,points", *(f"{student}," for student in students), ""]))
    with open(path, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    found = {}
    for line, row in enumerate(rows, start=2):
        student, said = (row.get("student") or "").strip(), (row.get("points") or "").strip().replace(",", ".")
        if student not in students:
            raise ValueError(f"{path}, line {line}: there is no student {student!r}; columns are student and points")
        if said and not (re.fullmatch(r"\d+(\.\d+)?", said) and float(said) <= ORAL):
            raise ValueError(f"{path}, line {line}: points of a conversation are 0 to {ORAL:g}, got {said!r}")
        found |= {student: float(said)} if said else {}
    return found


def _cell(value: str) -> str:
    """Text that a spreadsheet does not take for a formula, whoever chose it; our numbers are none below zero."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def _row(student: str, name: str, cells: list[str], submission: Any, problems: dict, collected: dict) -> dict:
    row = {"student": student, "lms_number": collected.get(student, {}).get("number", "")}
    if collected.get(student, {}).get("late"):
        row["late_hours"] = "marked late"
    row["look_at"] = " ".join(inspecting.suspicious(collecting.folder_of(student, name) / f"{name}.ipynb"))
    if student in problems:
        return row | {"status": NOT_GRADED, "reason": problems[student]}
    if submission is None:
        there = collecting.folder_of(student, name).is_dir()
        return row | {"status": NOT_GRADED, "reason": "run autograde"} if there else row | {"status": NOTHING}
    grades = _grades(submission)
    graded = autograding.graded(student, name)
    row["look_at"] = " ".join([*inspecting.suspicious(graded), *inspecting.remarks(graded)])
    if wrong := disagreements(graded, grades):
        return row | {"status": NOT_GRADED, "reason": f"{wrong}: run autograde --force, and look who wrote there"}
    row |= {_column(cell): "" if grades[cell].needs_manual_grade else f"{grades[cell].score:g}" for cell in cells}
    row["late_penalty"] = f"{submission.late_submission_penalty:g}" if submission.late_submission_penalty else ""
    if submission.total_seconds_late:
        row["late_hours"] = f"{submission.total_seconds_late / 3600:.1f}"
    waiting = {cell for cell, grade in grades.items() if grade.needs_manual_grade}
    notes = [_unboxed(graded), collected.get(student, {}).get("note", ""), *readings.why_waiting(graded, waiting)]
    row["reason"] = "; ".join(filter(None, notes))
    if waiting:
        written = any(not cell.startswith("test_") for cell in waiting)
        status = "waits for a written answer's grade" if written else "waits for points given by hand"
        return row | {"needs_manual_grade": "yes", "status": status}
    score = submission.score - (submission.late_submission_penalty or 0)
    return row | {"needs_manual_grade": "no", "status": "graded", "score": f"{score:g}"}


def disagreements(path: Path, grades: dict[str, Any]) -> str:
    """Where the gradebook says something else than the graded notebook, or more than there is to get; "" if nowhere."""
    try:
        there = inspecting.points(path)
    except Exception as error:
        return f"the graded notebook is damaged ({type(error).__name__})"
    found = []
    for cell, grade in grades.items():
        most = float(grade.max_score)
        if cell in there and (grade.auto_score, most) != there[cell]:
            found.append(f"{_column(cell)}: {grade.auto_score} in the gradebook, {there[cell][0]:g} in the notebook")
        elif not 0 <= grade.score <= most:
            found.append(f"{_column(cell)}: {grade.score:g} of {most:g} points")
    missing = sorted(set(there) - set(grades))
    return "; ".join([*found, *(f"{_column(cell)} is not in the gradebook" for cell in missing)])


def write_feedback(name: str, code_only: bool = False) -> tuple[Path, list[str]]:
    """An HTML page for each graded submission in feedback/, and all of them as one archive, as Moodle takes it back.

    Returns the archive, and the students whose written answer has no grade yet. They get no page, which would count it
    as 0; with code_only they get one that says so on top.
    """
    load(name)
    nbgrading.run("classroom.nbgrading", name)  # points off for being late, from the score as it is now
    nbgrading.program("nbgrader", "generate_feedback", name, "--force")  # one that fails keeps nobody else
    with nbgrading.gradebook() as book:
        submissions = book.assignment_submissions(name)
        waiting = sorted(s.student.id for s in submissions if s.needs_manual_grade)
        code = {s.student.id: _code_points(s) for s in submissions if code_only}
        wrong = {s.student.id for s in submissions if disagreements(autograding.graded(s.student.id, name), _grades(s))}
    root, collected, problems = folders.required(), collecting.remembered(name), inspecting.noted(name)
    waiting = [s for s in waiting if s not in problems and autograding.graded(s, name).exists()]
    path = root / "feedback" / f"{name}.zip"
    with staging(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        for page in sorted((root / "feedback").glob(f"*/{name}/{name}.html")):
            student = page.parent.parent.name
            if student in problems or student in wrong or (student in waiting and not code.get(student)):
                shutil.rmtree(page.parent)  # of an earlier submission, or not complete
                continue
            text, note = page.read_text(encoding="utf-8"), _unboxed(autograding.graded(student, name))
            if student in waiting:
                text = _without_the_written(text, code[student])
            page.write_text(cleaning.page(text, note), encoding="utf-8")
            archive.write(page, _member(student, name, collected))
    return path, waiting


def _code_points(submission: Any) -> str:
    """The points of the code, such as "22 / 24"; "" where some of them wait for the teacher."""
    grades = [grade for cell, grade in _grades(submission).items() if cell.startswith("test_")]
    if any(grade.needs_manual_grade for grade in grades):
        return ""
    return f"{sum(grade.score for grade in grades):g} / {sum(grade.max_score for grade in grades):g}"


def _without_the_written(page: str, code: str) -> str:
    """nbgrader's page of a student whose written answer nobody has read: no points for it, and the code's on top."""
    score = r"\(Score: [\d.]+ / [\d.]+\)"
    page = re.sub(rf"{score}(?=</h4>)", f"(code: {code}, written answer: not read yet)", page)
    return re.sub(rf"(Written response</a>) {score}", r"\1 (not read yet)", page)


def _member(student: str, name: str, collected: dict) -> str:
    """Where the page lies in the archive: beside what was handed in, unless that name would lead somewhere else."""
    member = collected.get(student, {}).get("member", "")
    parts = member.replace("\\", "/").split("/")
    safe = member and not {"", ".", ".."} & set(parts) and ":" not in parts[0]
    return (member if safe else f"{student}/{name}.ipynb").removesuffix(".ipynb") + ".html"


def _grades(submission: Any) -> dict[str, Any]:
    return {grade.name: grade for notebook in submission.notebooks for grade in notebook.grades}


def _unboxed(path: Path) -> str:
    """What a page and a row say of a submission that ran without a box."""
    return sandbox.OPEN if nbformat.read(path, as_version=4).metadata.get("box") == sandbox.UNBOXED else ""


def _column(cell: str) -> str:
    return cell.removeprefix("test_")
