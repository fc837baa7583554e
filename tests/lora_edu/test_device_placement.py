"""What stays on the processor, GPU or not. That nothing else does, test_fake_cuda shows."""

import re

import pytest
import torch
from conftest import NOTEBOOKS, code_cells

from lora_course.nb06.lab import format_loss
from lora_course.nb07.lab import double_quant_loss
from lora_course.nb09.lab import fine_tuned_loss
from lora_edu import training
from lora_edu.models import base

LOSSES = {
    "formats": lambda: format_loss("nf4", windows=1),
    "double quantization": lambda: double_quant_loss(8, windows=1),
    "quality": lambda: fine_tuned_loss("qlora", "20 kB", 1e-3, steps=1, windows=1, progress=False),
}


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_stored_losses_are_computed_on_the_cpu(loss, monkeypatch):
    """On a GPU they would be in bfloat16, which moves a loss by more than what is compared."""
    asked = []
    for module in (base, training):
        monkeypatch.setattr(module, "pick_device", lambda device=None: asked.append(device) or torch.device("cpu"))
    loss()
    assert asked and set(asked) == {"cpu"}


@pytest.mark.parametrize("number", ["03", "04", "05", "06", "07"])
def test_notebooks_that_mix_a_models_weights_with_other_tensors_name_the_device(number):
    """Else `load_base` takes a GPU where there is one, and its weights meet NumPy and tensors on the CPU."""
    source = "\n".join(cell.source for cell in code_cells(next(NOTEBOOKS.glob(f"{number}_*.ipynb")).stem))
    calls = re.findall(r"(?:partial\(load_base,|load_base\()[^)]*\)", source)
    assert calls or "load_base" not in source
    assert all('device="cpu"' in call for call in calls)
