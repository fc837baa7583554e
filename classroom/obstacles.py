"""What keeps a submission from being graded: found before nbgrader runs, while it runs, and in what it wrote.

nbgrader passes over such a submission, and an export would count it as 0 points. Here it gets a reason instead, in our
words: nothing of the student's file is in it but the names of files, of letters, digits, dots and dashes.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import nbformat

from classroom import folders, judge
from classroom.folders import HANDED_IN
from classroom.sandbox import SubmissionError
from lora_course.assignments.verdict import BESIDE, SLOW

SUSPICIOUS = (
    *"classroom observing observation gradebook sqlite hidden/ graders solutions/ sys.modules inspect. ctypes".split(),
    *"gc.get _getframe subprocess builtins importlib os._exit os.system socket urllib monkeypatch .ipynb".split(),
    *("/proc", "peft", "bitsandbytes", "import verdict", ".dumps =", "setattr__", ".observe", "observe_", ".emit"),
    *("__globals__", "f_globals", "f_back", ".assignment"),
    *("lora_course.assignments", "lora_edu.assignments", "lora_course.checking", "lora_edu.memory", "TASKS"),
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
    except UnicodeDecodeError:
        return (
            "broken file: its text is not UTF-8. `collect` reads UTF-16 and Latin-1 as well, else ask for the original"
        )
    except Exception as error:
        return f"broken file: not a valid notebook (cut off while uploading?): {type(error).__name__}"
    try:
        return cells_in_the_way(notebook, released)
    except Exception as error:
        return f"its cells carry marks that nbgrader cannot read ({type(error).__name__}): ask for the original file"


def _files(folder: Path) -> list[str]:
    listing = folder / HANDED_IN
    if listing.exists():
        return listing.read_text(encoding="utf-8").split("\n")[:-1]
    return sorted(path.name for path in folder.iterdir() if path.name != "timestamp.txt")


def cells_in_the_way(notebook: nbformat.NotebookNode, released: nbformat.NotebookNode) -> str | None:
    """Which cells nbgrader would not find, or find twice."""
    there = Counter(_ids(notebook))
    if not there:
        return "no cell carries nbgrader's metadata any more: stripped by another program, ask for the original file"
    twice = [grade_id for grade_id in dict.fromkeys(_ids(released)) if there[grade_id] > 1]
    if len(there) < there.total():
        return f"duplicated cell: {', '.join(twice) or 'one of their own'} is there more than once, which one counts?"
    gone = [grade_id for grade_id in _needed(released) if grade_id not in there]
    if gone:
        return f"missing cell: {', '.join(gone)} (deleted, or stripped of its metadata)"
    versions = {cell.metadata.nbgrader.get("schema_version") for cell in notebook.cells if "nbgrader" in cell.metadata}
    return None if versions <= {3} else "nbgrader's metadata has another schema than 3"


def _ids(notebook: nbformat.NotebookNode) -> list[str]:
    return [grade_id for cell in notebook.cells if (grade_id := judge.mark(cell, "grade_id"))]


def _needed(released: nbformat.NotebookNode) -> list[str]:
    """Graded answers. Read-only cells are put back where they were deleted, and what is not graded may be gone."""
    tests, answers = set(_ids(released)), [cell for cell in released.cells if judge.mark(cell, "solution")]
    names = {judge.mark(cell, "grade_id"): judge.mark(cell, "grade") for cell in answers}
    return [name for name, graded in names.items() if graded or f"test_{name}" in tests]


@contextlib.contextmanager
def noting(student: str, name: str) -> Iterator[None]:
    """While a submission is graded: keep why it cannot be, for `noted`. nbgrader itself passes on to the next."""
    note(student, name, None)
    try:
        yield
    except (SubmissionError, judge.CannotGrade) as error:
        note(student, name, f"{'' if isinstance(error, SubmissionError) else 'the grader failed: '}{error}")
        raise


def note(student: str, name: str, reason: str | None) -> None:
    """Keep why a submission cannot be graded; with None, that nothing is in the way."""
    path = notes(name) / f"{student}.txt"
    if reason is None:
        return path.unlink(missing_ok=True)
    folders.keep(path, reason)


def noted(name: str) -> dict[str, str]:
    """student -> why the submission could not be graded, as `note` kept it."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(notes(name).glob("*.txt"))}


def notes(name: str) -> Path:
    """The folder with a file for each submission that could not be graded."""
    return folders.required() / "reports" / f"{name}-not-graded"


def after(path: Path) -> str | None:
    """Whether a graded notebook says that the grader failed, and not the student."""
    try:
        points(path)
        cells = nbformat.read(path, as_version=4).cells
    except Exception as error:
        return f"the graded notebook is damaged ({type(error).__name__}): run autograde --force"
    for cell in cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error" and judge.mark(cell, "grade_id") == "setup":
                return "the cell setup failed: look into the graded notebook"
    return None


def points(path: Path) -> dict[str, tuple[float, float]]:
    """grade_id of each test in a graded notebook -> its points, and the most that it can give."""
    found = {}
    for cell in nbformat.read(path, as_version=4).cells:
        if judge.is_test(cell):
            [result] = [output for output in cell.outputs if output.output_type == "execute_result"]
            found[judge.mark(cell, "grade_id")] = float(result.data["text/plain"]), float(judge.mark(cell, "points"))
    return found


def suspicious(path: Path) -> list[str]:
    """Words in the student's own cells that no answer needs: for the teacher to look at, not a verdict.

    In a file that is no notebook, everything is the student's.
    """
    if not path.is_file() or path.stat().st_size > LARGEST:
        return []
    text = path.read_text(encoding="utf-8", errors="replace")
    with contextlib.suppress(Exception):
        cells = [cell for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "code"]
        ours = [cell for cell in cells if judge.mark(cell, "locked") and judge.mark(cell, "grade_id")]
        text = "\n".join(cell.source for cell in cells if cell not in ours)
    return [word for word in SUSPICIOUS if word in text]


def remarks(path: Path) -> list[str]:
    """The exercises of a graded notebook in which promises are kept, and nothing that was asked for is computed; and
    those whose answer took too long."""
    try:
        found = judge.lost(nbformat.read(path, as_version=4))
    except Exception:
        return []  # `after` and `disagreements` say that it is damaged
    said = [f"{row[0]}:no-result" if row[3] == BESIDE else f"{row[0]}:slow" if SLOW in row[3] else "" for row in found]
    return list(dict.fromkeys(filter(None, said)))


def was_slow(path: Path) -> bool:
    return any(remark.endswith(":slow") for remark in remarks(path))
