"""Notebook 04: the cell that asks PEFT runs where PEFT is, and says so where it is not."""

import copy
import importlib.util
from pathlib import Path

import nbformat
import pytest
import torch
from torch import nn

from lora_edu.lora import add_lora, lora_layers

PATH = Path(__file__).parent.parent / "notebooks" / "04_lora_torch.ipynb"


@pytest.fixture
def cell():
    cells = nbformat.read(PATH, as_version=4).cells
    return next(cell for cell in cells if "optional-peft" in cell.metadata.get("tags", []))


@pytest.fixture
def names(tiny_gpt):
    """What the notebook has defined before that cell, on a tiny model."""
    model = add_lora(copy.deepcopy(tiny_gpt), rank=3, alpha=7, targets="all-linear")
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.3)
    tokens = torch.randint(0, 256, (1, 20))
    return {"torch": torch, "model": model, "tokens": tokens, "load_base": lambda *_, **__: copy.deepcopy(tiny_gpt)}


def test_the_stored_notebook_was_run_with_peft(cell):
    text = "".join(output.text for output in cell.outputs if output.output_type == "stream")
    assert text.startswith("PEFT gives the same logits")


def test_the_cell_runs_with_peft(cell, names, capsys):
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("PEFT gives the same logits")


def test_the_cell_fails_if_the_logits_differ(cell, names):
    names["load_base"] = lambda *_, **__: type(names["model"])(names["model"].config).eval()
    with pytest.raises(AssertionError):
        exec(cell.source, names)


def test_the_cell_says_so_without_peft(cell, names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell.source, names)
    assert capsys.readouterr().out.startswith("PEFT is not installed here")
