"""No tensor stays behind on the CPU when a model is elsewhere: shown without a GPU, on torch's "meta" device.

A meta tensor has a shape, a type and a device, and no numbers. An operation between it and a CPU tensor fails, as one
between a GPU and the CPU would. What needs numbers (is it finite?) and autocast do not exist there and are replaced.
"""

import contextlib

import pytest
import torch

from lora_edu import fused, quantization
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.qlora import quantize_linears
from lora_edu.quantization import quantize


@pytest.fixture
def meta(monkeypatch):
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device_type: False)
    monkeypatch.setattr(torch, "autocast", lambda *arguments, **options: contextlib.nullcontext())
    monkeypatch.setattr(quantization, "check_finite", lambda *arguments: None)
    monkeypatch.setattr(torch.Tensor, "isfinite", lambda tensor: torch.tensor(True))

    def nearest_code(scaled, codebook):  # the branch that a GPU takes
        return torch.bucketize(scaled, (codebook[:-1] + codebook[1:]) / 2).to(torch.uint8)

    monkeypatch.setattr(quantization, "nearest_code", nearest_code)
    return torch.device("meta")


@pytest.mark.parametrize("shape", [(300, 70), (5000, 100), (33, 65)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("codebook", ["nf4", "nf3", "int8"])
def test_quantize_and_dequantize(codebook, dtype, shape, meta):
    quantized = quantize(torch.empty(shape, dtype=dtype, device=meta), codebook, double_quant=True)
    parts = [quantized.codes, quantized.offset, quantized.codebook]
    parts += [quantized.absmax.codes, quantized.absmax.absmax, quantized.absmax.codebook]
    parts += [quantized.dequantize(), fused.dequantize(quantized), quantized.block_scales()]
    assert all(part.is_meta for part in parts) and parts[-3].shape == shape


@pytest.mark.parametrize("checkpointing", ["none", "non-reentrant"])
def test_a_step_of_qlora(checkpointing, meta):
    config = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=64)
    model = add_lora(quantize_linears(GPT(config, checkpointing).to(meta)), 4, 8, "all-linear").train()
    tokens = torch.zeros(2, 32, dtype=torch.long, device=meta)
    loss = model(tokens, tokens)[1]
    loss.backward()
    assert loss.is_meta and all(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
    assert all(parameter.grad.is_meta for parameter in model.parameters() if parameter.requires_grad)


def test_what_stays_behind_is_found(meta):
    """The control: one buffer left on the CPU."""
    model = quantize_linears(GPT(GPTConfig(context=8, n_layers=1, n_heads=1, d_model=16)).to(meta))
    layer = model.blocks[0].mlp.up_proj
    layer._buffers["absmax_offset"] = torch.ones(16)  # one for each block: torch would let a single number pass
    with pytest.raises(RuntimeError, match="device"):
        model(torch.zeros(1, 8, dtype=torch.long, device=meta))
