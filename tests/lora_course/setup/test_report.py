import nbformat
import pytest
from conftest import PAGES
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lora_course.setup import hosted
from lora_course.setup.report import execute, formulas_to_mathml, tidy, to_html


def test_a_report_needs_no_network(tmp_path):
    picture = (
        "import matplotlib; matplotlib.use('agg'); import matplotlib.pyplot as plt\n"
        "from lora_course.drawing.plots import show\nfigure, axes = plt.subplots()\nshow(figure, 'an empty frame')"
    )
    notebook = new_notebook(cells=[new_markdown_cell("rank $r$ and $$W = BA$$"), new_code_cell(picture)])
    notebook = hosted.add(notebook)  # which is not run, so that a reader's first cell is number 1
    nbformat.write(notebook, tmp_path / "a.ipynb")
    executed = execute(tmp_path / "a.ipynb")
    assert executed.cells[1].execution_count == 1
    assert executed.cells[1].outputs[0].metadata["image/png"]["alt"] == "an empty frame"
    page = to_html(executed)
    assert "<math" in page and 'alt="an empty frame"' in page and "data:image/png;base64," in page
    assert not [line for line in page.splitlines() if "<script" in line and "src=" in line]
    assert "https://cdn" not in page


def test_formulas():
    text = formulas_to_mathml(r"a price of \$5, `code $x$`, $\alpha / r$ and" + "\n$$\nx^2\n$$")
    assert text.count("<math") == 2 and "`code $x$`" in text and r"\$5" in text
    assert formulas_to_mathml("one $a +\nb$ over a line end").count("<math") == 1
    assert "<mtext>o_proj</mtext>" in formulas_to_mathml(r"$\text{o\_proj}(x)$")
    assert formulas_to_mathml("a $5 bill\n\nand another $5 bill").count("<math") == 0


def test_an_error_in_a_notebook_is_not_hidden(tmp_path):
    nbformat.write(new_notebook(cells=[new_code_cell("assert 1 == 2")]), tmp_path / "a.ipynb")
    with pytest.raises(Exception, match="AssertionError"):
        execute(tmp_path / "a.ipynb")


def test_tidy_leaves_out_times_and_progress_bars():
    cell = new_code_cell("x")
    cell.metadata["execution"] = {"iopub.execute_input": "2020"}
    progress = nbformat.v4.new_output(
        "display_data", {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "0%"}
    )
    cell.outputs = [progress, nbformat.v4.new_output("stream", name="stdout", text="kept\n")]
    notebook = tidy(new_notebook(cells=[cell], metadata={"machine": "mine"}))
    assert [output.get("text") for output in cell.outputs] == ["kept\n"]
    assert "execution" not in cell.metadata and "machine" not in notebook.metadata


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_the_stored_notebooks_are_such(path):
    """Up to the version of Python, which is that of whoever stored the outputs."""
    stored, now = (notebook.metadata for notebook in (nbformat.read(path, as_version=4), tidy(new_notebook())))
    assert stored.kernelspec == now.kernelspec
    assert stored.language_info | {"version": ""} == now.language_info | {"version": ""}
