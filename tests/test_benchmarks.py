"""The benchmark measures what it says: peak memory, ratios within a round, the same model for every competitor."""

import copy

import pytest
import torch
from conftest import load_benchmark

from lora_edu import GPT, GPTConfig, quantize, quantize_linears

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")
pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def bench():
    return load_benchmark("quantization")


def test_peak_memory_counts_what_is_alive_at_one_moment(bench):
    def two_after_each_other():
        torch.empty(2_500_000)
        torch.empty(2_500_000)

    def two_at_once():
        return torch.empty(2_500_000), torch.empty(2_500_000)

    assert bench.peak_bytes(two_after_each_other, "cpu") == pytest.approx(10e6, rel=0.01)
    assert bench.peak_bytes(two_at_once, "cpu") == pytest.approx(20e6, rel=0.01)


@pytest.mark.parametrize("rows", [1024, 8192])  # 16 MB and 128 MB in float32
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_is_a_chunk_and_the_constants_in_float32(bench, dtype, rows):
    x = torch.randn(rows, 4096, dtype=dtype)
    quantized, out = quantize(x, double_quant=True), torch.empty_like(x)
    constants = 4 * x.numel() / 64
    assert bench.peak_bytes(lambda: quantized.dequantize(out), "cpu") < 1.6e6 + 1.05 * constants
    # Quantizing holds the constants twice for a moment: as they are, and with their mean taken off.
    assert bench.peak_bytes(lambda: quantize(x, double_quant=True), "cpu") - quantized.nbytes < 2.1e6 + 2.2 * constants


def test_the_competitors_have_the_same_model(bench):
    base = GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=64)).requires_grad_(False)
    tokens = torch.randint(0, 256, (2, 16))
    theirs = bench.bitsandbytes_linears(copy.deepcopy(base)).to("cpu")
    ours = quantize_linears(copy.deepcopy(base))
    assert torch.allclose(ours(tokens)[0], theirs(tokens)[0], atol=1e-2)
    assert not torch.allclose(ours(tokens)[0], base(tokens)[0], atol=1e-2)  # both are quantized
