"""The cell below the title of every notebook: on Colab and Kaggle it installs the course, elsewhere it does nothing.

`make notebooks` puts it into notebooks that lack it or have an old one. JupyterLab folds the cell, the book leaves it
out, and its number is not counted: the first cell that a reader sees is number 1.
"""

import nbformat
from nbformat.v4 import new_code_cell

ID = "hosted"
METADATA = {"cellView": "form", "jupyter": {"source_hidden": True}, "tags": ["remove-cell"]}

# Both platforms bring torch and all that our figures need, in versions that fit each other: only the course is added.
SOURCE = """\
# @title Installs the course, on Colab and Kaggle only
import glob, importlib.util, os, subprocess, sys
on_a_platform = {"COLAB_RELEASE_TAG", "KAGGLE_KERNEL_RUN_TYPE"} & set(os.environ)
if on_a_platform and importlib.util.find_spec("lora_edu") is None:
    places = ["lora_edu-*.whl", "/kaggle/input/**/lora_edu-*.whl"]
    wheels = [path for place in places for path in glob.glob(place, recursive=True)]
    wheel = "lora_edu-0.1.0-py3-none-any.whl"
    assert wheels, f"Upload {wheel} of the release, and run this cell again."
    pip = [sys.executable, "-m", "pip", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", wheels[-1]], check=True)
    subprocess.run([*pip, "gguf>=0.10,<1"], check=True)  # for notebook 12"""


def is_hosted(cell: nbformat.NotebookNode) -> bool:
    return cell.get("id") == ID


def add(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Put the cell below the title, as it is now. Returns the notebook."""
    cells = [cell for cell in notebook.cells if not is_hosted(cell)]
    title = 1 if cells and cells[0].cell_type == "markdown" else 0
    cells.insert(title, new_code_cell(SOURCE, id=ID, metadata=nbformat.from_dict(METADATA)))
    notebook.cells = cells
    return notebook
