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


def test_layers_are_quantized_one_at_a_time(bench):
    lines = bench.one_at_a_time("cpu", size=(512, 512), layers=4)
    assert lines[-1].endswith("met.") and "0.5 MB that stay" in lines[-1]
    assert bench.bandwidth_share(moved=4, copied=8, time_ratio=1.0) == 0.5
    assert bench.bandwidth_share(moved=8, copied=8, time_ratio=4.0) == 0.25


def test_ratios_are_taken_within_a_round(bench):
    times = {"a": [1.0, 20.0, 3.0], "b": [2.0, 40.0, 3.0]}  # the second round was slow for both
    assert bench.median_ratio(times, "a", "b") == 0.5
    row = bench.speed_row(4096, "quantize", {"quantize": [0.1, 0.3], "bitsandbytes": [1.0, 1.0]})
    assert row == "| 4096 x 4096 | quantize | 200.00 ms | 1000.00 ms | 0.200 | 0.10 to 0.30 |"


def test_a_layer_beside_bitsandbytes(bench):
    rows = bench.layers("cpu", 1, sizes=(64,), n_tokens=3)
    assert len(rows) == 4 and [row.count("|") for row in rows] == [7] * 4
    layer, x, grad_y = torch.nn.Linear(8, 4), torch.randn(3, 8), torch.randn(3, 4)
    run = bench.forward_and_backward(layer, x, grad_y)
    run()
    run()
    assert torch.allclose(layer.bias.grad, 2 * grad_y.sum(dim=0))  # forward and backward, both times


def test_the_competitors_have_the_same_model(bench):
    base = GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=64)).requires_grad_(False)
    tokens = torch.randint(0, 256, (2, 16))
    theirs = bench.bitsandbytes_linears(copy.deepcopy(base)).to("cpu")
    ours = quantize_linears(copy.deepcopy(base))
    assert torch.allclose(ours(tokens)[0], theirs(tokens)[0], atol=1e-2)
    assert not torch.allclose(ours(tokens)[0], base(tokens)[0], atol=1e-2)  # both are quantized
