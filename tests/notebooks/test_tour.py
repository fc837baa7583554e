"""The tour in two hours: each stretch is marked, leads to the next one, needs nothing outside, and runs by itself.

A stretch is a notebook from its first cell to the end of its last section of the tour. Its sections carry the word
"Tour" at the side; where they end stands "Tour: next", and in the last one "Tour: the end".
"""

import os
import re

import nbformat
import pytest
from conftest import NOTEBOOKS, markdown
from nbclient import NotebookClient

MARK = '<div align="right"><b>Tour</b></div>'
STRETCHES = {"04_lora_torch": 4, "06_nf4": 3, "09_qlora_gpt": 5}  # notebook -> its sections 1 to n belong to the tour
TOUR = {"00", "04", "06", "09"}  # the notebooks of the tour


@pytest.fixture(params=STRETCHES)
def stretch(request):
    """The sections of one notebook that belong to the tour, as a notebook of its own."""
    notebook = nbformat.read(NOTEBOOKS / f"{request.param}.ipynb", as_version=4)
    beyond = f"## {STRETCHES[request.param] + 1}. "
    end = next(i for i, cell in enumerate(notebook.cells) if cell.source.startswith(beyond))
    notebook.cells = notebook.cells[:end]
    return request.param, notebook


def test_every_section_is_marked(stretch):
    name, notebook = stretch
    marked = "\n".join(cell.source for cell in notebook.cells if cell.source.startswith(MARK))
    assert re.findall(r"^## (\d)\.", marked, re.M) == [str(n + 1) for n in range(STRETCHES[name])]


def test_the_stretch_ends_where_the_next_one_is_named(stretch):
    last = [cell for cell in stretch[1].cells if cell.cell_type == "markdown"][-1].source
    end = r"\*\*Tour: the end\.\*\*" if stretch[0].startswith("09") else r"\*\*Tour: next,\*\* \[\d\d"
    assert re.search(end, last)


def test_the_text_leads_to_no_notebook_outside_the_tour(stretch):
    named = set(re.findall(r"notebooks? (\d\d)|\((\d\d)(?:[ ,)]|_)", markdown(stretch[1].cells)))
    assert {number for pair in named for number in pair if number} <= TOUR


@pytest.mark.slow
def test_it_runs_from_a_fresh_kernel(stretch):
    """Everything that a later section would have defined or imported is missing here."""
    environment = os.environ | {"LORA_EDU_DEVICE": "cpu", "LORA_EDU_SIZE": "laptop"}
    NotebookClient(stretch[1], timeout=300, kernel_name="python3").execute(env=environment)
