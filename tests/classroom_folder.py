"""A teacher's folder in a temporary place, and notebooks as students hand them in."""

import copy
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from classroom import collecting

ASSIGNMENTS = Path(__file__).parent.parent / "notebooks" / "assignments"
NAME = "a1_lora_numpy"
IN_TIME = (2026, 3, 6, 12, 0, 0)


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


def run(notebooks: list[nbformat.NotebookNode], folder: Path) -> list[nbformat.NotebookNode]:
    """Run notebooks one after the other in one fresh kernel, errors included; the outputs are in what is returned."""
    cells = [copy.deepcopy(notebook.cells) for notebook in notebooks]
    for number, part in enumerate(cells):
        for cell in part:
            cell.id = f"{number}-{cell.id}"  # both notebooks have the cells of the source
    together = nbformat.v4.new_notebook(cells=[cell for part in cells for cell in part])
    place = {"metadata": {"path": str(folder)}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LORA_EDU_SIZE", "laptop")
        patch.setenv("OMP_NUM_THREADS", "1")
        NotebookClient(together, timeout=120, allow_errors=True, resources=place, kernel_name="python3").execute()
    return [nbformat.v4.new_notebook(cells=part) for part in cells]


def points(notebook: nbformat.NotebookNode) -> dict[str, float]:
    """grade_id of each test -> the points that its last line gave; 0 for an error, as nbgrader counts."""
    found = {}
    for cell in notebook.cells:
        marks = cell.metadata.get("nbgrader", {})
        if cell.cell_type == "code" and marks.get("grade"):
            results = [float(o.data["text/plain"]) for o in cell.outputs if o.output_type == "execute_result"]
            found[grade_id(cell)] = results[0] if results else 0.0
    return found


def printed(notebook) -> str:
    """All text that a notebook shows: what it printed, and the text of its cards."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(output.get("text", "") or output.get("data", {}).get("text/plain", "") + "\n" for output in outputs)
