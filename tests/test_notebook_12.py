"""Notebook 12: what its stored outputs say, its optional cell without PEFT, and the memory that it needs."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch

from lora_edu import add_lora, dequantize_linears, quantize_linears, save_adapter, unload
from lora_edu.lora import lora_layers
from tests.other_models import tiny_llama

PATH = Path(__file__).parent.parent / "notebooks" / "12_real_model.ipynb"
CELLS = [cell for cell in nbformat.read(PATH, as_version=4).cells if cell.cell_type == "code"]


def cell(mark):
    """The one code cell that contains this piece of code."""
    (found,) = (cell for cell in CELLS if mark in cell.source)
    return found


def printed(mark):
    return "".join(output.text for output in cell(mark).outputs if output.output_type == "stream")


def losses(stage):
    mark = "def measure(stage)" if stage == "as loaded" else f'measure("{stage}")'
    found = re.search(rf"^{stage} +Bible ([\d.]+) .* addresses ([\d.]+)", printed(mark), re.M)
    return float(found[1]), float(found[2])


@pytest.fixture
def names():
    """What the notebook has defined before its last experiment, with a tiny model."""
    model = quantize_linears(tiny_llama(initializer_range=0.2))
    add_lora(model, rank=3, alpha=7, targets="all-linear")
    for layer in lora_layers(model).values():
        torch.nn.init.normal_(layer.lora_B, std=0.3)
    names = {"torch": torch, "model": model, "window": torch.arange(16)[None]}
    return names | {"save_adapter": save_adapter, "dequantize_linears": dequantize_linears, "unload": unload}


def test_the_stored_losses_tell_the_story_of_the_text():
    loaded, rounded, trained = (losses(stage) for stage in ("as loaded", "NF4", "QLoRA"))
    assert rounded[0] > loaded[0] > trained[0] and rounded[1] > loaded[1]
    assert trained[0] - loaded[0] < trained[1] - loaded[1]  # learned here, forgotten there


def test_the_stored_notebook_was_run_with_peft():
    assert printed("import peft").startswith("PEFT's logits against ours: relative difference ")


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_peft_is_compared(names, capsys):
    exec(cell("import peft").source, names)
    assert capsys.readouterr().out.startswith("PEFT's logits against ours")


@pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed")
def test_another_scaling_than_the_saved_one_is_noticed(names):
    next(iter(lora_layers(names["model"]).values())).scaling *= 1.5
    with pytest.raises(AssertionError):
        exec(cell("import peft").source, names)


def test_without_peft_the_cell_says_so(names, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    exec(cell("import peft").source, names)
    assert capsys.readouterr().out.startswith("PEFT is not installed here")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_the_notebook_needs_less_than_three_gigabytes():
    code = (
        "import resource, sys; from pathlib import Path; from lora_edu.setup.report import execute;"
        "execute(Path(sys.argv[1])); print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(PATH)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert 0.5e9 < int(re.search(r"peak (\d+)", run.stdout)[1]) * unit < 3e9
