"""Notebook 07: bitsandbytes and torchao were asked, the page goes on without them, and what it says about errors."""

import importlib.util
import logging
from pathlib import Path

import nbformat
import pytest
import torch

from lora_edu import quantize
from lora_edu.codebooks import dynamic_codebook
from lora_edu.experiments import nb07 as experiments
from lora_edu.figures import plots
from lora_edu.measures import relative_error
from lora_edu.quantization import block_absmax

PATH = Path(__file__).parent.parent / "notebooks" / "07_double_quantization.ipynb"
CELLS = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]
BITSANDBYTES = "all 256 values are equal to bitsandbytes', in every bit"


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
    names = {"torch": torch, "importlib": importlib, "logging": logging, "quantize": quantize, "weights": weights}
    names |= {"dynamic_codebook": dynamic_codebook, "rounded_constants": experiments.rounded_constants}
    return names | {"absmax": block_absmax(weights, 64), "relative_error": relative_error, "plots": plots}


@pytest.mark.parametrize(("mark", "line"), [("create_dynamic_map", BITSANDBYTES), ("to_nf4", "torchao   0.1")])
def test_the_stored_notebook_was_run_with_both(mark, line):
    outputs = cell(mark).outputs
    text = "".join(output.text if output.output_type == "stream" else output.data["text/plain"] for output in outputs)
    assert line in text


@needs("bitsandbytes")
def test_the_dynamic_code_is_compared(names, capsys):
    exec(cell("create_dynamic_map").source, names)
    assert capsys.readouterr().out.startswith(BITSANDBYTES)


@needs("bitsandbytes")
def test_one_value_that_differs_is_noticed(names):
    changed = dynamic_codebook()
    changed[200] += 1e-6
    names["dynamic_codebook"] = lambda: changed
    with pytest.raises(AssertionError):
        exec(cell("create_dynamic_map").source, names)


@needs("torchao")
def test_torchao_is_measured(names):
    exec(cell("to_nf4").source, names)
    assert names["off"]["torchao"] < names["off"]["dynamic"]


@needs("torchao")
def test_other_constants_than_torchao_s_are_noticed(names):
    names["absmax"] = names["absmax"] + 0.01
    with pytest.raises(AssertionError):
        exec(cell("to_nf4").source, names)


@pytest.mark.parametrize("mark", ["create_dynamic_map", "to_nf4"])
def test_without_the_library_the_page_goes_on(mark, names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell(mark).source, names)
    out = capsys.readouterr().out
    assert out.startswith("bitsandbytes is not installed here") or "torchao" not in out


@pytest.fixture(scope="module")
def interactions():
    """The two cells of section 4: how errors add, with each of the two reasons switched off."""
    weights = experiments.normal_weights(2**20)
    names = {"torch": torch, "weights": weights, "absmax": block_absmax(weights, 64)}
    names |= {"stored": quantize(weights[:64], "nf4", 64), "relative_error": relative_error}
    exec("from lora_edu.measures import rescale", names)
    exec(cell("too_far = ").source, names)
    exec(cell("share[rounding, how]").source, names)
    return names


def test_codes_toward_zero_are_no_farther_out_than_their_weights(interactions):
    levels, scaled = interactions["levels"], interactions["scaled"]
    toward, near = interactions["codes"]["toward zero"], interactions["codes"]["nearest"]
    assert (levels[toward].abs() <= scaled.abs()).all() and (toward - near).abs().max() == 1
    assert (levels[toward] * scaled >= 0).all()


def test_the_squares_fail_only_where_both_reasons_are_off(interactions):
    *one_off, both_off = interactions["share"].values()
    assert list(interactions["share"])[-1] == ("toward zero", "all 10% too small")
    assert both_off > 0.3 and max(map(abs, one_off)) < 0.08


def test_the_mistakes_stand_on_the_page():
    """They were once hidden in names that a function took."""
    source = cell("ways = {").source
    for line in ("rounded_constants(a) - a.mean()", 'rounded_constants(a, "e4m3", mean=False)', "a.half().float()"):
        assert line in source


def test_what_a_function_does_is_shown_before_it_is_used():
    sources = [cell.source for cell in CELLS]
    built = next(i for i, source in enumerate(sources) if "def error_by_source" in source)
    assert min(i for i, source in enumerate(sources) if "error_by_source(" in source) == built
