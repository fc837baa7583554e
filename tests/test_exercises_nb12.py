"""The exercises of notebook 12: the references are what the libraries compute."""

import math

import numpy as np
import pytest
import torch

from lora_edu.exercises import nb12 as check
from lora_edu.experiments.nb12 import round_q4_1
from lora_edu.memory.shapes import measured_bytes
from lora_edu.qlora import quantize_linears
from tests.other_models import tiny_llama


def test_the_page_rounds_as_the_exercise_asks():
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    expected = torch.from_numpy(check.q4_1.reference(weight.flatten().numpy())).view_as(weight)
    assert torch.allclose(round_q4_1(weight), expected, rtol=0, atol=1e-12)
    assert torch.equal(round_q4_1(torch.ones(2, 32)), torch.ones(2, 32))  # a block without a step


@pytest.mark.parametrize("tied", [True, False])
def test_the_bytes_are_those_of_a_real_model(tied):
    model = quantize_linears(tiny_llama(tie_word_embeddings=tied, hidden_size=256, intermediate_size=512))
    linears = sum(m.in_features * m.out_features for m in model.modules() if hasattr(m, "is_nf4"))
    norms = sum(p.numel() for name, p in model.named_parameters() if "norm" in name)
    measured = sum(measured_bytes(model).values())
    expected = check.stored_bytes.reference(linears, model.get_input_embeddings().weight.numel(), norms, tied)
    assert measured == pytest.approx(expected, rel=1e-3)  # each layer's mean, and the rotary frequencies


def test_the_loss_is_the_one_that_transformers_computes():
    model, tokens = tiny_llama(), torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        result = model(tokens, labels=tokens)
    mine = check.shifted_loss.reference(result.logits.double().numpy(), tokens.numpy())
    assert mine == pytest.approx(result.loss.item(), rel=1e-5)


def test_one_loss_for_all_tokens_is_the_usual_conversion():
    losses, counts = np.full(4, 2.0), np.full(4, 256)
    assert check.bits_per_byte.reference(losses, counts, 4096) == pytest.approx(2 / math.log(2) / 4)


def test_q4_1_is_the_one_of_the_gguf_package():
    gguf = pytest.importorskip("gguf")
    weights = np.random.default_rng(3).normal(size=(2, 96)).astype(np.float32)
    packed = gguf.quants.quantize(weights, gguf.GGMLQuantizationType.Q4_1)
    theirs = gguf.quants.dequantize(packed, gguf.GGMLQuantizationType.Q4_1).reshape(-1)
    ours = check.q4_1.reference(weights.reshape(-1))
    step = (weights.reshape(-1, 32).max(1) - weights.reshape(-1, 32).min(1)) / 15
    assert np.abs(ours - theirs).max() < 1.05 * step.max()  # a tie may fall to the other side
    assert np.mean(np.abs(ours - theirs) < 3e-3) > 0.98  # they keep the minimum and the step in 16 bits
