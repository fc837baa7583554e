"""A teacher's folder in a temporary place, and notebooks as students hand them in."""

import copy
import os
import shutil
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ASSIGNMENTS = Path(__file__).parent.parent / "notebooks" / "assignments"


def make(folder: Path) -> Path:
    """A copy of notebooks/assignments, without what a teacher may have generated there."""
    shutil.copytree(ASSIGNMENTS / "source", folder / "source", ignore=shutil.ignore_patterns(".ipynb_*"))
    shutil.copy(ASSIGNMENTS / "nbgrader_config.py", folder)
    return folder


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
    before = dict(os.environ)
    os.environ |= {"LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop", "OMP_NUM_THREADS": "1"}
    try:
        NotebookClient(
            nbformat.v4.new_notebook(cells=[cell for part in cells for cell in part]),
            timeout=120,
            allow_errors=True,
            resources={"metadata": {"path": str(folder)}},
            kernel_name="python3",
        ).execute()
    finally:
        os.environ.clear()
        os.environ |= before
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
