"""Rounding in blocks, as notebook 05 does it: equal to `quantize` with the integer codebook; what constants cost."""

import numpy as np
import pytest
import torch

from lora_edu import quantize
from lora_edu.rounding import bits_per_weight, block_codes, round_in_blocks


def normal(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n)).float()


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("block_size", [1, 7, 64, 4096, 2**30])
@pytest.mark.parametrize("shape", [(3, 5), (130,), (70, 61)])
def test_rounding_equals_quantize_with_the_integer_codebook(bits, block_size, shape):
    values = normal(int(np.prod(shape)), seed=bits)
    values[:8] = 0  # whole blocks of nothing, where blocks are small
    values = values.view(shape)
    rounded = round_in_blocks(values, bits, block_size)
    assert rounded.shape == values.shape
    expected = quantize(values, f"int{bits}", block_size=min(block_size, values.numel())).dequantize()
    assert torch.allclose(rounded, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(round_in_blocks(rounded, bits, block_size), rounded, rtol=1e-6)
    codes, step = block_codes(values, bits, block_size)
    assert torch.equal((codes * step).flatten()[: values.numel()].view(shape), rounded)


def test_bits_per_weight_counts_the_constants():
    assert bits_per_weight(4, 64) == 4.5 and bits_per_weight(4, 64, scale_bits=16) == 4.25
    assert bits_per_weight(4, 64) == quantize(normal(64), "int4", block_size=64).bits_per_weight
    assert bits_per_weight(3, 4096) == 3 + 1 / 128
