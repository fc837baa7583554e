"""A teacher's folder in a temporary place, and notebooks as students hand them in."""

import contextlib
import csv
import io
import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import nbformat
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import capture_output
from traitlets.config import Config

from classroom import collecting
from lora_course.checking import grading

ASSIGNMENTS = Path(__file__).parents[2] / "notebooks" / "assignments"
NAME = "a1_lora_numpy"
IN_TIME = (2026, 3, 6, 12, 0, 0)
NO_HISTORY = Config({"HistoryManager": {"enabled": False}})


def make(folder: Path) -> Path:
    """A copy of notebooks/assignments, without what a teacher may have generated there."""
    shutil.copytree(ASSIGNMENTS / "source", folder / "source", ignore=shutil.ignore_patterns(".ipynb_*"))
    shutil.copy(ASSIGNMENTS / "nbgrader_config.py", folder)
    return folder


def archive(path: Path, files: dict[str, str], when: dict[str, tuple] | None = None) -> Path:
    """A zip archive of such files, name -> text. when: the time of those that were not handed in in time."""
    with zipfile.ZipFile(path, "w") as content:
        for name, text in files.items():
            content.writestr(zipfile.ZipInfo(name, (when or {}).get(name, IN_TIME)), text)
    return path


def collect(folder: Path, *archives: dict[str, str], name: str = NAME) -> list[str]:
    """Collects archives of such files, one after the other; what was left out of them."""
    left_out = []
    for files in archives:
        left_out += collecting.collect(name, [archive(folder / "archive.zip", files)])[1]
    return left_out


def table(paths: list[Path]) -> dict[str, dict]:
    """The rows of a table of grades, by student."""
    path = paths[0]
    return {row["student"]: row for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8")))}


def grade_id(cell) -> str:
    return cell.metadata.get("nbgrader", {}).get("grade_id", "")


def handed_in(released: Path, solution: Path, **answers: str | None) -> nbformat.NotebookNode:
    """The released notebook with the solution's answers, some of them replaced; None leaves the stub as it is."""
    notebook = nbformat.read(released, as_version=4)
    right = {grade_id(cell): cell.source for cell in nbformat.read(solution, as_version=4).cells}
    for cell in notebook.cells:
        name = grade_id(cell)
        if cell.metadata.get("nbgrader", {}).get("solution") and not cell.metadata.nbgrader["grade"]:
            new = answers[name] if name in answers else right[name]
            cell.source = cell.source if new is None else new
        elif name in answers and answers[name] is not None:
            cell.source = answers[name]
    return notebook


def stripped(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Without all that nbgrader knows its cells by, as some editors save it."""
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


def with_a_cell_twice(notebook: nbformat.NotebookNode, name: str) -> nbformat.NotebookNode:
    index = [grade_id(cell) for cell in notebook.cells].index(name)
    notebook.cells.insert(index, nbformat.from_dict({**notebook.cells[index], "id": "twice"}))
    return notebook


def forked(work: Callable[[], list], folder: Path) -> list:
    """What some work gives in a forked process that stands in this folder."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        with contextlib.suppress(BaseException), open(write, "w", encoding="utf-8") as answer:
            dump = json.dump  # the work may replace it
            os.chdir(folder)
            dump(work(), answer)
        os._exit(0)
    os.close(write)
    with open(read, encoding="utf-8") as answer:
        found = json.load(answer)
    os.waitpid(child, 0)
    return found


def run(cells: list[str]) -> list[dict]:
    """Runs cells in a shell of their own. Of each: the text it shows, its result, its error."""
    grading._announced.clear()  # what tests before this one made known
    shell, found = InteractiveShell.instance(config=NO_HISTORY), []
    for source in cells:
        with capture_output() as shown:
            done = shell.run_cell(source)
        text = shown.stdout + "".join(output.data.get("text/plain", "") + "\n" for output in shown.outputs)
        found.append({"text": text, "result": repr(done.result), "error": not done.success, "stderr": shown.stderr})
    return found
