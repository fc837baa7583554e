"""What the exercises count as right is what the package, transformers and gguf compute."""

import math

import numpy as np
import pytest
import torch
from conftest import library
from torch import nn

from lora_course.nb03 import check as nb03
from lora_course.nb07 import check as nb07
from lora_course.nb08 import check as nb08
from lora_course.nb09 import check as nb09
from lora_course.nb11 import check as nb11
from lora_course.nb12 import check as nb12
from lora_edu import GPT, GPTConfig, LoRALinear, NF4Linear, add_lora, quantize_linears
from lora_edu.gpt import Block
from lora_edu.memory.activations import measured_activations
from lora_edu.memory.calculator import ACTIVATIONS, LOGITS, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES, measured_bytes
from lora_edu.quantization import DoubleQuant, quantize, quantize_absmax
from lora_edu.variants import DoRALinear, VeRALinear
from tests.other_models import tiny_llama

SEVEN = ARCHITECTURES["LLaMA 7B"]


@pytest.mark.parametrize("config", [GPTConfig(), GPTConfig(n_layers=3, d_model=24, context=8)])
def test_the_weights_of_blocks(config):
    expected = nb03.block_weights.reference(config.n_layers, config.d_model, 4 * config.d_model)
    named = GPT(config).named_parameters()
    assert expected == sum(tensor.numel() for name, tensor in named if name.endswith("_proj.weight"))


def test_double_quantization():
    weight = torch.randn(48, 100)  # 4800 weights: 75 blocks of 64
    stored = quantize(weight, "nf4", 64, DoubleQuant(block_size=16))
    assert nb07.resident_bytes.reference(weight.numel(), 64, 16, True, False) == stored.nbytes
    assert nb07.bits_of_constants.reference(stored.bits_per_weight, 64, 16) == 8
    single = quantize(weight, "nf4", 64)
    constants, offset = quantize_absmax(single.absmax, DoubleQuant(block_size=16))
    mine = nb07.round_constants.reference(single.absmax.numpy(), constants.codebook.numpy(), 16)
    assert np.allclose(mine, constants.dequantize() + offset, rtol=1e-5)
    moved = {repr(trip): nb07.moved_again.reference(trip, W) for trip, W in nb07.moved_again.cases}
    assert moved["NF4"] == 0 and 0 < moved["double quantization"] < 0.01
    assert moved["a codebook that ends at 0.9"] == pytest.approx(0.1, rel=0.02)


def test_the_bytes_of_training():
    needed = training_bytes(SEVEN, bits=4, rank=8)
    linear, trained = SEVEN.parameters()["block linears"], SEVEN.adapter_numbers(8, tuple(SEVEN.linears))
    mine = nb08.qlora_bytes.reference(linear, trained, False) + 2 * (SEVEN.n_parameters - linear)
    assert mine == pytest.approx(sum(needed.values()) - needed[ACTIVATIONS] - needed[LOGITS])


@pytest.mark.parametrize("targets", [(), ("up_proj",), ("down_proj",), ("up_proj", "down_proj")])
def test_what_the_mlp_keeps(targets):
    block = Block(GPTConfig(d_model=48)).requires_grad_(False)
    if targets:
        add_lora(block, 3, 5, targets)
    x = torch.randn(2, 7, 48, requires_grad=True)
    kept = measured_activations(block, lambda: block.mlp(block.mlp_norm(x)))
    numbers = sum(tensor.untyped_storage().nbytes() for tensor in kept) / 4 / 14
    assert numbers == nb08.mlp_activations.reference(48, 3, "up_proj" in targets, "down_proj" in targets)


def test_the_gradient_of_a_qlora_layer():
    layer = LoRALinear(NF4Linear.from_linear(nn.Linear(48, 20, bias=False)), rank=3, alpha=12)
    nn.init.normal_(layer.lora_B)
    x, grad_y = torch.randn(7, 48, requires_grad=True), torch.randn(7, 20)
    layer(x).backward(grad_y)
    parts = (grad_y, layer.base.dequantize(), layer.lora_A.detach(), layer.lora_B.detach())
    assert torch.allclose(x.grad, nb09.input_gradient.reference(*parts, 12), atol=1e-4)


def test_the_weights_of_dora_and_vera():
    base = nn.Linear(6, 4, bias=False)
    dora = DoRALinear(base, 2, 3)
    nn.init.normal_(dora.lora_B), nn.init.uniform_(dora.magnitude, 1, 2)
    W, A, B, m = (t.detach().numpy() for t in (base.weight, dora.lora_A, dora.lora_B, dora.magnitude))
    made = nb11.dora_weight.reference(W, A, B, m, 3)
    assert np.allclose(made, W + dora.delta_weight().detach().numpy(), atol=1e-5)
    vera = VeRALinear(base, 2)
    nn.init.normal_(vera.vera_b)
    A, B, d, b = (t.detach().numpy() for t in (vera.lora_A, vera.lora_B, vera.vera_d, vera.vera_b))
    assert np.allclose(nb11.vera_weight.reference(W, A, B, d, b), W + vera.delta_weight().detach().numpy(), atol=1e-5)


def test_q4_1_is_the_one_of_gguf():
    weights = np.random.default_rng(3).normal(size=(2, 96)).astype(np.float32)
    ours = nb12.q4_1.reference(weights.reshape(-1))
    gguf = library("gguf")
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
    theirs = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1).reshape(-1)
    step = (weights.reshape(-1, 32).max(1) - weights.reshape(-1, 32).min(1)) / 15
    assert np.abs(ours - theirs).max() < 1.05 * step.max()  # a tie may fall to the other side
    assert np.mean(np.abs(ours - theirs) < 3e-3) > 0.98  # they keep the minimum and the step in 16 bits


@pytest.mark.parametrize("tied", [True, False])
def test_the_bytes_of_a_real_model(tied):
    model = quantize_linears(tiny_llama(tie_word_embeddings=tied, hidden_size=256, intermediate_size=512))
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    linears = sum(m.in_features * m.out_features for m in model.modules() if hasattr(m, "is_nf4"))
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    expected = nb12.stored_bytes.reference(linears, model.get_input_embeddings().weight.numel(), norms, tied)
    # beside it stand each layer's mean, and the rotary frequencies
    assert sum(measured_bytes(model).values()) == pytest.approx(expected, rel=1e-3)


def test_the_loss_of_transformers_and_its_bits():
    model, tokens = tiny_llama(), torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result = model(tokens, labels=tokens)
    mine = nb12.shifted_loss.reference(result.logits.double().numpy(), tokens.numpy())
    assert mine == pytest.approx(result.loss.item(), rel=1e-5)
    one_loss = nb12.bits_per_byte.reference(np.full(4, 2.0), np.full(4, 256), 4096)
    assert one_loss == pytest.approx(2 / math.log(2) / 4)
