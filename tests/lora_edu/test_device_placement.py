"""No tensor stays behind on the CPU when a model is elsewhere: shown without a GPU, on torch's "meta" device.

A meta tensor has a shape, a type and a device, and no numbers. Not every operation between one and a CPU tensor fails,
as it would on a GPU, so `OneDevice` looks at all of them. What needs numbers (is it finite?) and autocast do not exist
on that device and are replaced.
"""

import contextlib
import re

import pytest
import torch
from conftest import NOTEBOOKS, code_cells
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lora_course.nb06.lab import format_loss
from lora_course.nb07.lab import double_quant_loss
from lora_course.nb09.lab import fine_tuned_loss
from lora_edu import GPT, GPTConfig, add_lora, quantization, quantize, quantize_linears, training
from lora_edu.models import base

COPIES = {torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default}  # these may go from one device to another


class OneDevice(TorchDispatchMode):
    """Fails for every other operation whose tensors are on two devices; a single number may be on the CPU."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor) and leaf.ndim]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) <= 1 or func in COPIES, f"{func} has tensors on {' and '.join(sorted(devices))}"
        return func(*args, **(kwargs or {}))


@pytest.fixture
def meta(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    with OneDevice():
        yield torch.device("meta")


@pytest.mark.parametrize("shape", [(5000, 100), (33, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("codebook", ["nf4", "nf3", "int8"])
@pytest.mark.parametrize("way", ["definition", "kernel"])
def test_quantize_and_dequantize(way, codebook, dtype, shape, meta, monkeypatch):
    if way == "definition":
        monkeypatch.setattr(quantization, "kernel", lambda definition: definition)
    quantized = quantize(torch.empty(shape, dtype=dtype, device=meta), codebook, double_quant=True)
    parts = [quantized.codes, quantized.offset, quantized.absmax.codes, quantized.absmax.absmax]
    parts += [quantized.dequantize(), quantized.block_scales()]
    assert all(part.is_meta for part in parts) and parts[-2].shape == shape


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_step_of_qlora(checkpointing, meta):
    config = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=64)
    model = add_lora(quantize_linears(GPT(config, checkpointing).to(meta)), 4, 8, "all-linear").train()
    tokens = torch.zeros(2, 32, dtype=torch.long, device=meta)
    loss = model(tokens, tokens)[1]
    loss.backward()
    codebooks = {layer.codebook for layer in model.modules() if hasattr(layer, "codebook")}  # known, and kept, anywhere
    assert loss.is_meta and len(codebooks) == 2
    assert all(tensor.is_meta for tensor in {*model.parameters(), *model.buffers()} - codebooks)
    assert all(parameter.grad.is_meta for parameter in model.parameters() if parameter.requires_grad)


# --- what stays on the processor, GPU or not -----------------------------------------------------------------------


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
