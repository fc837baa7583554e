import nbformat
import pytest
from conftest import PAGES
from nbformat.v4 import new_code_cell, new_notebook, new_output

from lora_course.setup.report import execute, tidy


def test_an_error_in_a_notebook_is_not_hidden(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("assert 1 == 2")]), tmp_path / "a.ipynb")
    with pytest.raises(Exception, match="AssertionError"):
        execute(tmp_path / "a.ipynb")


def test_tidy_leaves_out_times_and_progress_bars():
    cell = new_code_cell("x")
    cell.metadata["execution"] = {"iopub.execute_input": "2020"}
    bar = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"}
    cell.outputs = [new_output("display_data", bar), new_output("stream", name="stdout", text="kept\n")]
    notebook = tidy(new_notebook(cells=[cell], metadata={"machine": "mine"}))
    assert [output.get("text") for output in cell.outputs] == ["kept\n"]
    assert "execution" not in cell.metadata and "machine" not in notebook.metadata


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_stored_notebooks_are_such(path):
    """Up to the version of Python, which is that of whoever stored the outputs."""
    stored, now = (notebook.metadata for notebook in (nbformat.read(path, as_version=4), tidy(new_notebook())))
    assert stored.kernelspec == now.kernelspec
    assert stored.language_info | {"version": ""} == now.language_info | {"version": ""}
