"""What a kernel of `lora-edu lab` says where a name is missing. Real kernels, as Jupyter starts them."""

import os

import nbformat
import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lora_course.setup.jupyter import describe_kernel
from lora_course.setup.not_run import SENTENCE, bound_in

CELLS = ["from os import path as check", "fails = 1 / 0", "print(check)", "print(fails)", "print(later)", "later = 1"]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a cell of the notebook in a fresh kernel, told of the notebook as Jupyter does, and gives what is said."""
    cells = [new_markdown_cell("a page"), *(new_code_cell(source) for source in CELLS)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "page.ipynb")
    describe_kernel(tmp_path)
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    env = os.environ | {"JPY_SESSION_NAME": str(tmp_path / "page.ipynb")}
    manager, client = start_new_kernel(kernel_name="python3", env=env)

    def say(source):
        said = []
        client.execute_interactive(
            source, timeout=60, store_history=True, output_hook=lambda message: said.append(message["content"])
        )
        return [line for content in said for line in content.get("traceback", [])]

    yield say
    client.stop_channels()
    manager.shutdown_kernel(now=True)


def test_a_name_that_a_cell_above_makes_which_has_not_run(run):
    assert run(CELLS[2]) == [SENTENCE]
    assert run(CELLS[0]) == run(CELLS[2]) == []


def test_anything_else_has_its_traceback(run):
    run(CELLS[1])  # it ran, and failed before it made the name
    assert "'fails' is not defined" in run(CELLS[3])[-1]
    assert "'later' is not defined" in run(CELLS[4])[-1]  # made below
    assert "'nowhere' is not defined" in run("print(nowhere)")[-1]
    assert "'check' is not defined" in run("print(check)  # a cell of no notebook")[-1]


def test_the_names_that_a_cell_makes():
    assert bound_in("import a.b as c, d\nfor e, f in g: pass\ndef h(i): j = 1\nwith k as l: m = n") == set("cdefhlm")
    assert bound_in("not python") == set()
