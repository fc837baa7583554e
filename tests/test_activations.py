import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.memory.activations import (
    block_activations,
    measured_activation_bytes,
    measured_activations,
    predicted_activation_bytes,
)
from lora_edu.memory.shapes import Architecture
from lora_edu.qlora import quantize_linears

CONFIG = GPTConfig(context=40, n_layers=3, n_heads=2, d_model=48)
QV = ("q_proj", "v_proj")
WAYS = {
    "full": {},
    "LoRA on q and v": {"rank": 4, "targets": QV},
    "LoRA on all linears": {"rank": 4},
    "QLoRA": {"rank": 4, "nf4": True},
}


def build(config=CONFIG, rank=None, targets="all-linear", nf4=False):
    model = GPT(config)
    if nf4:
        quantize_linears(model)
    return add_lora(model, rank, 3, targets) if rank else model


def batch(size, seq_len):
    return torch.randint(0, 256, (size, seq_len)), torch.randint(0, 256, (size, seq_len))


def without_nf4(way):
    return {name: value for name, value in way.items() if name != "nf4"}


def test_the_fact_that_activations_hardly_shrink():
    config = GPTConfig()
    full = predicted_activation_bytes(config, 16, 256)
    assert predicted_activation_bytes(config, 16, 256, rank=8) / full == pytest.approx(0.981, abs=5e-4)
    assert predicted_activation_bytes(config, 16, 256, rank=8, targets=QV) / full == pytest.approx(0.676, abs=5e-4)
    assert predicted_activation_bytes(config, 16, 256, rank=8, checkpointing=True) < full / 10


def test_a_kept_weight_would_be_seen():
    """The control: a layer that lets autograd keep the dequantized weight is counted with it."""
    layer = quantize_linears(torch.nn.Sequential(torch.nn.Linear(64, 32, bias=False)))
    x = torch.randn(5, 64, requires_grad=True)
    own = measured_activations(layer, lambda: layer(x))
    naive = measured_activations(layer, lambda: torch.nn.functional.linear(x, layer[0].dequantize()))
    assert own == [] and [tensor.nbytes for tensor in naive] == [4 * 64 * 32]


class GatedBlock(torch.nn.Module):
    """A block as LLaMA has it, without its turned queries and keys, which keep nothing of their own."""

    def __init__(self, shape):
        super().__init__()
        d, self.n_heads = shape.d_model, shape.n_heads
        self.norms = torch.nn.ParameterList(torch.ones(d) for _ in range(2))
        for name, (inner, outer) in shape.linears.items():
            setattr(self, name, torch.nn.Linear(inner, outer, bias=False))

    def forward(self, x):
        F = torch.nn.functional
        n = RMSNorm.apply(x, self.norms[0])
        q, k, v = (
            p(n).unflatten(-1, (self.n_heads, -1)).transpose(1, 2) for p in (self.q_proj, self.k_proj, self.v_proj)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(-2)
        x = x + self.o_proj(mixed)
        n = RMSNorm.apply(x, self.norms[1])
        return x + self.down_proj(F.silu(self.gate_proj(n)) * self.up_proj(n))


class RMSNorm(torch.autograd.Function):
    """A fused norm: keeps x and 1 / deviation. (Its backward is not needed here.)"""

    @staticmethod
    def forward(ctx, x, weight):
        scale = x.pow(2).mean(-1, keepdim=True).rsqrt()
        ctx.save_for_backward(x, scale, weight)
        return x * scale * weight


GATED = Architecture(n_layers=1, d_model=48, n_heads=2, d_ff=80, vocab_size=99, context=64, gated=True)
GATED_SUBSETS = [names for n in range(8) for names in itertools.combinations(GATED.linears, n)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GATED_SUBSETS), st.booleans())
def test_a_gated_block_keeps_what_its_table_says(targets, first):
    block = GatedBlock(GATED)
    if targets:
        add_lora(block, 3, 5, targets)
    x = torch.randn(2, 9, 48, requires_grad=not first)
    kept = measured_activations(block, lambda: block(x))
    numbers = sum(tensor.untyped_storage().nbytes() for tensor in kept) / 4 / 18
    predicted = block_activations(GATED, *((3, targets) if targets else (None,)), first=first and bool(targets))
    assert numbers == sum(predicted.values())


def test_unknown_targets():
    with pytest.raises(ValueError, match="no linear layer of a block is named lm_head; there are: q_proj"):
        predicted_activation_bytes(CONFIG, 1, 8, rank=2, targets=("q_proj", "lm_head"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_within_two_percent_on_a_gpu(way):
    model = build(GPTConfig(), **way).cuda()
    measured = measured_activation_bytes(model, *(part.cuda() for part in batch(4, 256)))
    assert measured == pytest.approx(predicted_activation_bytes(GPTConfig(), 4, 256, **without_nf4(way)), rel=0.02)
