"""Notebook 07: bitsandbytes and torchao were asked, and the notebook goes on without them and without MiniLM."""

import importlib.util
import logging
from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch

from lora_edu import load_base, quantize
from lora_edu.codebooks import dynamic_codebook
from lora_edu.experiments import nb07 as experiments
from lora_edu.files import DownloadError
from lora_edu.quantization import DoubleQuant, block_absmax

PATH = Path(__file__).parent.parent / "notebooks" / "07_double_quantization.ipynb"
CELLS = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
BITSANDBYTES, TORCHAO = "all 256 values are equal to bitsandbytes', to the bit", "torchao: second-level codes of type"


def cell(mark):
    """The one code cell that contains this piece of code."""
    (found,) = (cell for cell in CELLS if mark in cell.source)
    return found


def needs(library):
    return pytest.mark.skipif(importlib.util.find_spec(library) is None, reason=f"{library} is not installed")


@pytest.fixture
def names():
    """What the notebook has defined before its optional cells."""
    weights = experiments.normal_weights(2**20)
    names = {"torch": torch, "importlib": importlib, "logging": logging, "quantize": quantize}
    names |= {"DoubleQuant": DoubleQuant, "weights": weights, "absmax": block_absmax(weights, 64)}
    return names | {"code": dynamic_codebook()}


@pytest.mark.parametrize(("mark", "line"), [("create_dynamic_map", BITSANDBYTES), ("to_nf4", TORCHAO)])
def test_the_stored_notebook_was_run_with_both(mark, line):
    text = "".join(output.text for output in cell(mark).outputs if output.output_type == "stream")
    assert text.startswith(line)


@needs("bitsandbytes")
def test_the_dynamic_code_is_compared(names, capsys):
    exec(cell("create_dynamic_map").source, names)
    assert capsys.readouterr().out.startswith(BITSANDBYTES)


@needs("bitsandbytes")
def test_one_value_that_differs_is_noticed(names):
    names["code"][200] += 1e-6
    with pytest.raises(AssertionError):
        exec(cell("create_dynamic_map").source, names)


@needs("torchao")
def test_torchao_is_measured(names, capsys):
    exec(cell("to_nf4").source, names)
    assert capsys.readouterr().out.startswith(TORCHAO + " torch.int8")
    assert names["off"]["torchao"] < 0.8 * names["off"]["dynamic"]


@needs("torchao")
def test_other_constants_than_torchao_s_are_noticed(names):
    names["absmax"] = names["absmax"] + 0.01
    with pytest.raises(AssertionError):
        exec(cell("to_nf4").source, names)


@pytest.mark.parametrize(("mark", "library"), [("create_dynamic_map", "bitsandbytes"), ("to_nf4", "torchao")])
def test_without_the_library_the_cell_says_so(mark, library, names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell(mark).source, names)
    assert capsys.readouterr().out.startswith(f"{library} is not installed here")


def test_the_notebook_goes_on_without_minilm(names, capsys, monkeypatch):
    def absent(name):
        raise DownloadError(f"{name} cannot be fetched\n(more lines)")

    monkeypatch.setattr(experiments, "model_folder", absent)
    names |= {"model": load_base("laptop"), "np": np}
    exec(cell("minilm_layers()").source, names)
    out = capsys.readouterr().out
    assert out == "MiniLM is left out: minilm cannot be fetched\n{'GPT': '24 layers'}\n"
    names["models"]["GPT"] = dict(list(names["models"]["GPT"].items())[:3])  # three layers are enough here
    exec("from lora_edu.experiments.nb07 import error_by_source", names)
    exec(cell("for path, (W, X) in layers.items()").source, names)
    assert "MiniLM" not in capsys.readouterr().out and len(names["rows"]) == 3
