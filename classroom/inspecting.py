"""What keeps a submission from being graded: found before nbgrader runs, in its log, and in what it wrote.

nbgrader passes over such a submission, and an export would count it as 0 points. Here it gets a reason instead.
"""

import json
import re
from collections import Counter
from pathlib import Path

import nbformat

from classroom.collecting import HANDED_IN

SUSPICIOUS = (
    *("classroom", "observing", "verdict", "gradebook", "hidden/", "graders", "solutions/"),
    *("sys.modules", "inspect.", "ctypes", "gc.get", "_getframe", "subprocess", "builtins", "importlib"),
)


def before(folder: Path, name: str, released: nbformat.NotebookNode) -> str | None:
    """The reason why the submission in this folder cannot be graded, in words; None if nothing is in the way."""
    path = folder / f"{name}.ipynb"
    if not path.exists():
        return f"there is no {path.name}; handed in: {', '.join(_files(folder)) or 'nothing'} (renamed?)"
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except (json.JSONDecodeError, UnicodeDecodeError, nbformat.reader.NotJSONError):
        return "broken file: not the JSON of a notebook (cut off while uploading?)"
    except Exception as error:
        return f"not a valid notebook: {str(error).splitlines()[0][:120]}"
    return _cells(notebook, released)


def _files(folder: Path) -> list[str]:
    listing = folder / HANDED_IN
    if listing.exists():
        return listing.read_text(encoding="utf-8").split("\n")[:-1]
    return sorted(path.name for path in folder.iterdir() if path.name not in ("timestamp.txt", "checks.json"))


def _cells(notebook: nbformat.NotebookNode, released: nbformat.NotebookNode) -> str | None:
    there = Counter(_ids(notebook))
    if not there:
        return "no cell carries nbgrader's metadata any more: stripped by another program, ask for the original file"
    twice = [grade_id for grade_id, times in there.items() if times > 1]
    if twice:
        return f"duplicated cell: {', '.join(twice)} is there more than once, which one counts?"
    gone = [grade_id for grade_id in _needed(released) if grade_id not in there]
    if gone:
        return f"missing cell: {', '.join(gone)} (deleted, or stripped of its metadata)"
    versions = {cell.metadata.nbgrader.get("schema_version") for cell in notebook.cells if "nbgrader" in cell.metadata}
    return None if versions <= {3} else f"nbgrader's metadata has the schema {sorted(map(str, versions))}, not 3"


def _ids(notebook: nbformat.NotebookNode) -> list[str]:
    found = [cell.metadata.get("nbgrader", {}).get("grade_id") for cell in notebook.cells]
    return [grade_id for grade_id in found if grade_id]


def _needed(released: nbformat.NotebookNode) -> list[str]:
    """Graded answers. Read-only cells are put back where they were deleted, and what is not graded may be gone."""
    tests, marks = set(_ids(released)), [cell.metadata.get("nbgrader", {}) for cell in released.cells]
    answers = [mark for mark in marks if mark.get("solution")]
    return [m["grade_id"] for m in answers if m.get("grade") or f"test_{m['grade_id']}" in tests]


def in_the_log(log: str, student: str, name: str) -> str | None:
    """What nbgrader's log says about a submission that it gave up; None if it was not reached."""
    pieces = re.split(r"Sanitizing |Autograding ", log)
    mine = [piece for piece in pieces if re.match(rf"\S*/{re.escape(student)}/{re.escape(name)}/", piece)]
    if not mine:
        return None
    text = mine[-1].partition("Creating/updating student")[0]
    if "DeadKernelError" in text or "Kernel died" in text:
        return "the kernel died: the code ended the process, or took all memory, or crashed a compiled library"
    if "became unresponsive" in text or "UnresponsiveKernelError" in text:
        return "the kernel hung and could not be interrupted"
    errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Timeout)\b.*)$", text, re.M)
    return f"nbgrader gave up: {errors[-1][:160]}" if errors else "nbgrader gave up, see its log"


def after(path: Path) -> str | None:
    """Whether a graded notebook says that the grader failed, and not the student."""
    for cell in nbformat.read(path, as_version=4).cells:
        marks = cell.metadata.get("nbgrader", {})
        outputs = cell.get("outputs", [])
        for output in outputs:
            if output.output_type == "error" and (output.ename == "CannotGrade" or marks.get("grade_id") == "setup"):
                return f"the grader failed in the cell {marks.grade_id}: {output.ename}: {output.evalue[:160]}"
        is_test = cell.cell_type == "code" and marks.get("grade") and marks.get("locked")
        if is_test and not any(output.output_type in ("error", "execute_result") for output in outputs):
            return f"the test {marks.grade_id} gave no score: nbgrader would count that as full marks"
    return None


def suspicious(path: Path) -> list[str]:
    """Words in the student's own cells that no answer needs: for the teacher to look at, not a verdict."""
    own = [
        cell.source
        for cell in nbformat.read(path, as_version=4).cells
        if cell.cell_type == "code" and not cell.metadata.get("nbgrader", {}).get("locked")
    ]
    return [word for word in SUSPICIOUS if any(word in source for source in own)]
