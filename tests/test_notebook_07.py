"""What notebook 07 shows is what the package does, and the comparison with bitsandbytes took place."""

import ast
import importlib.util
import inspect
import textwrap
from importlib import import_module
from pathlib import Path

import nbformat
import pytest

PATH = Path(__file__).parent.parent / "notebooks" / "07_double_quantization.ipynb"
CELLS = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
TAGGED = {
    tag.removeprefix("in-package:"): cell.source
    for cell in CELLS
    for tag in cell.metadata.get("tags", [])
    if tag.startswith("in-package:")
}


def bare(source):
    """The syntax tree of a function without its docstring and annotations."""
    function = ast.parse(textwrap.dedent(source)).body[0]
    if ast.get_docstring(function) is not None:
        function.body = function.body[1:]
    function.returns = None
    for argument in function.args.args:
        argument.annotation = None
    return ast.dump(function)


def test_four_functions_are_shared_with_the_package():
    assert sorted(TAGGED) == [
        "budget_views.bits_per_weight",
        "budget_views.pareto",
        "codebooks.dynamic_codebook",
        "double_quant_experiments.rescale",
    ]


@pytest.mark.parametrize("name", TAGGED)
def test_what_the_reader_reads_is_what_they_import(name):
    module, function = name.split(".")
    imported = getattr(import_module(f"lora_edu.{module}"), function)
    assert bare(TAGGED[name]) == bare(inspect.getsource(imported))


def test_bitsandbytes_was_compared():
    if not importlib.util.find_spec("bitsandbytes"):
        pytest.skip("bitsandbytes is not installed")
    outputs = "".join(output.get("text", "") for cell in CELLS for output in cell.outputs)
    assert "all 256 values are equal to bitsandbytes', to the bit" in outputs
