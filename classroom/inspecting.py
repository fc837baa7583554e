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
    *(
        "classroom",
        "observing",
        "observation",
        "import verdict",
        "gradebook",
        "sqlite",
        "hidden/",
        "graders",
        "solutions/",
    ),
    *("sys.modules", "inspect.", "ctypes", "gc.get", "_getframe", "subprocess", "builtins", "importlib", "os._exit"),
    *("os.system", "socket", "urllib", "monkeypatch", ".dumps =", ".ipynb", "/proc", "peft", "bitsandbytes"),
)
LARGEST = 20_000_000  # bytes of a notebook


def before(folder: Path, name: str, released: nbformat.NotebookNode) -> str | None:
    """The reason why the submission in this folder cannot be graded, in words; None if nothing is in the way."""
    path = folder / f"{name}.ipynb"
    if path.is_symlink() or (path.exists() and not path.is_file()):
        return f"{path.name} is no regular file"
    if path.exists() and path.stat().st_size > LARGEST:
        return f"{path.name} has {path.stat().st_size / 1e6:.0f} MB, more than {LARGEST / 1e6:.0f}: clear its outputs"
    if not path.exists():
        return f"there is no {path.name}; handed in: {', '.join(_files(folder)) or 'nothing'} (renamed?)"
    try:
        notebook = nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)
        nbformat.validate(notebook)
    except (json.JSONDecodeError, UnicodeDecodeError, nbformat.reader.NotJSONError):
        return "broken file: not the JSON of a notebook (cut off while uploading?)"
    except Exception as error:
        return f"not a valid notebook: {str(error).splitlines()[0][:120]}"
    try:
        return _cells(notebook, released)
    except Exception as error:
        return f"its cells carry marks that nbgrader cannot read ({type(error).__name__}): ask for the original file"


def _files(folder: Path) -> list[str]:
    listing = folder / HANDED_IN
    if listing.exists():
        return listing.read_text(encoding="utf-8").split("\n")[:-1]
    return sorted(path.name for path in folder.iterdir() if path.name != "timestamp.txt")


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
    own = re.findall(r"^\s*(?:classroom\.\w+\.)?(SubmissionError|CannotGrade): (.*)$", text, re.M)
    if own:
        kind, reason = own[-1]
        return reason if kind == "SubmissionError" else f"the grader failed: {reason}"
    errors = re.findall(r"^\s*([\w.]+(?:Error|Exception|Timeout)\b.*)$", text, re.M)
    return f"nbgrader gave up: {errors[-1][:160]}" if errors else "nbgrader gave up, see its log"


def after(path: Path) -> str | None:
    """Whether a graded notebook says that the grader failed, and not the student."""
    try:
        points(path)
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        return f"the graded notebook is damaged ({type(error).__name__}): run autograde --force"
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and cell.metadata.get("nbgrader", {}).get("grade_id") == "setup":
                return f"the cell setup failed: {output.ename}: {output.evalue[:160]}"
    return None


def points(path: Path) -> dict[str, tuple[float, float]]:
    """grade_id of each test in a graded notebook -> its points, and the most that it can give."""
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and marks.get("grade") and not marks.get("solution"):
            [result] = [output for output in cell.outputs if output.output_type == "execute_result"]
            found[marks["grade_id"]] = float(result.data["text/plain"]), float(marks["points"])
    return found


def suspicious(path: Path) -> list[str]:
    """Words in the student's own cells that no answer needs: for the teacher to look at, not a verdict.

    In a file that is no notebook, everything is the student's.
    """
    try:
        if not path.is_file() or path.is_symlink() or path.stat().st_size > LARGEST:
            return []
        text = path.read_text(encoding="utf-8", errors="replace")
        own = _own_code(text)
    except OSError:
        return []
    return [word for word in SUSPICIOUS if word in own]


def _is_ours(cell: nbformat.NotebookNode) -> bool:
    marks = cell.metadata.get("nbgrader", {})
    return bool(marks.get("locked") and marks.get("grade_id"))


def _own_code(text: str) -> str:
    try:
        cells = nbformat.reads(text, as_version=4).cells
        own = [c.source for c in cells if c.cell_type == "code" and not _is_ours(c)]
        return "\n".join(own)
    except Exception:
        return text
