"""Notebook 05 goes on without MiniLM, the network that is fetched."""

from pathlib import Path

import ipywidgets
import nbformat
import numpy as np
import pytest
import torch

from lora_edu import files
from lora_edu.figures import sliders
from lora_edu.files import DownloadError
from lora_edu.measures import relative_error, round_in_blocks

PATH = Path(__file__).parent.parent / "notebooks" / "05_blocks.ipynb"
SOURCES = [cell.source for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]


def cell(mark):
    """The one code cell that contains this piece of code."""
    (source,) = (source for source in SOURCES if mark in source)
    return source


@pytest.fixture
def absent(monkeypatch):
    """What the notebook has defined where MiniLM is neither in the cache nor to be had."""

    def model_folder(name):
        raise DownloadError("no network")

    monkeypatch.setattr(files, "model_folder", model_folder)
    names = {"torch": torch, "np": np, "relative_error": relative_error, "round_in_blocks": round_in_blocks}
    exec(cell('model_folder("minilm")'), names)
    assert names["minilm"] == {}
    return names


def test_it_says_so(absent, capsys):
    exec(cell('model_folder("minilm")'), absent)
    assert capsys.readouterr().out == "MiniLM is not on this machine and cannot be fetched now. We go on without it.\n"


def test_the_curves_are_those_of_the_others(absent, capsys):
    curves = {name: [0.09, 0.1, 0.114, 0.2] for name in ("uniform", "normal", "outliers, 1 in 1000", "GPT, 24 layers")}
    exec(cell('curves["MiniLM, 36 layers"] ='), absent | {"curves": curves})
    assert len(curves) == 4 and capsys.readouterr().out.split() == "MiniLM is not here".split()


def test_the_slider_offers_the_others(absent, monkeypatch):
    values = torch.randn(2**13, generator=torch.Generator().manual_seed(0))
    given = dict.fromkeys(["normal", "uniform", "outliers"], values) | {"gpt": {"layer": values}, "ruined": "layer"}
    shown = {}
    monkeypatch.setattr(sliders, "explore", lambda view, alt, **controls: shown.update(controls))
    exec(cell("bits_view("), absent | given | {"ipywidgets": ipywidgets})
    assert shown["distribution"].options == ("normal", "uniform", "outliers", "GPT")
