"""The benchmark measures what it says: peak memory, ratios within a round, the same model for every competitor."""

import copy
import importlib.util
from pathlib import Path

import pytest
import torch

from lora_edu import GPT, GPTConfig, quantize, quantize_linears

pytest.importorskip("bitsandbytes")
pytest.importorskip("peft")
pytest.importorskip("torchao")


@pytest.fixture(scope="module")
def bench():
    path = Path(__file__).parent.parent / "benchmarks" / "quantization.py"
    spec = importlib.util.spec_from_file_location("benchmark_of_quantization", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_peak_memory_counts_what_is_alive_at_one_moment(bench):
    def two_after_each_other():
        torch.empty(2_500_000)
        torch.empty(2_500_000)

    def two_at_once():
        return torch.empty(2_500_000), torch.empty(2_500_000)

    assert bench.peak_bytes(two_after_each_other, "cpu") == pytest.approx(10e6, rel=0.01)
    assert bench.peak_bytes(two_at_once, "cpu") == pytest.approx(20e6, rel=0.01)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extra_memory_is_bounded_by_a_chunk(bench, dtype):
    x = torch.randn(2048, 4096, dtype=dtype)  # 32 MB in float32
    quantized, out = quantize(x, double_quant=True), torch.empty_like(x)
    assert bench.peak_bytes(lambda: quantize(x, double_quant=True), "cpu") - quantized.nbytes < 6e6
    assert bench.peak_bytes(lambda: quantized.dequantize(out), "cpu") < 6e6


def test_ratios_are_taken_within_a_round(bench):
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}  # the second round was slow for both
    assert bench.median_ratio(times, "a", "b") == 0.5
    assert "met" in bench.speed_row(4096, "quantize", {"quantize": [0.2], "bitsandbytes": [1.0]})
    assert "missed" in bench.speed_row(4096, "quantize", {"quantize": [0.4], "bitsandbytes": [1.0]})


def test_the_competitors_have_the_same_model(bench):
    base = GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=64)).requires_grad_(False)
    tokens = torch.randint(0, 256, (2, 16))
    theirs = bench.bitsandbytes_linears(copy.deepcopy(base)).to("cpu")
    ours = quantize_linears(copy.deepcopy(base))
    assert torch.allclose(ours(tokens)[0], theirs(tokens)[0], atol=1e-2)
    assert not torch.allclose(ours(tokens)[0], base(tokens)[0], atol=1e-2)  # both are quantized
