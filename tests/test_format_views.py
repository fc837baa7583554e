import numpy as np
import pytest
import torch

from lora_edu import quantize
from lora_edu.measures import relative_error
from lora_edu.rounding import bits_per_weight, block_codes, round_in_blocks


def normal(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n)).float()


@pytest.mark.parametrize("bits", range(2, 9))
def test_codes_of_one_block_by_hand(bits):
    largest = 2 ** (bits - 1) - 1
    codes, step = block_codes(torch.tensor([0.0, -2.0, 1.0 / largest, 2.0]), bits, 64)
    assert codes.tolist() == [[0, -largest, round(0.5), largest]] and step.item() == pytest.approx(2 / largest)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("block_size", [1, 7, 64, 4096, 2**30])
@pytest.mark.parametrize("shape", [(3, 5), (130,), (70, 61)])
def test_rounding_equals_quantize_with_the_integer_codebook(bits, block_size, shape):
    values = normal(int(np.prod(shape)), seed=bits).view(shape)
    rounded = round_in_blocks(values, bits, block_size)
    assert rounded.shape == values.shape
    expected = quantize(values, f"int{bits}", block_size=min(block_size, values.numel())).dequantize()
    assert torch.allclose(rounded, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(round_in_blocks(rounded, bits, block_size), rounded, rtol=1e-6)


def test_nobody_is_farther_than_half_a_step_and_a_short_block_has_its_own():
    values = normal(100)
    values[96:] /= 1000
    rounded = round_in_blocks(values, 4, 32)
    for first in range(0, 100, 32):
        block, change = values[first : first + 32], (values - rounded)[first : first + 32]
        assert change.abs().max() <= block.abs().max() / 7 / 2 * 1.0001
    assert block_codes(values, 4, 32)[0].shape == (4, 32) and rounded[96:].abs().max() > 0


def test_blocks_of_zeros_stay_zero():
    assert round_in_blocks(torch.zeros(3, 11), 4, 8).tolist() == torch.zeros(3, 11).tolist()


def test_bits_per_weight_counts_the_constants():
    assert bits_per_weight(4, 64) == 4.5 and bits_per_weight(4, 64, scale_bits=16) == 4.25
    assert bits_per_weight(4, 64) == quantize(normal(64), "int4", block_size=64).bits_per_weight
    assert bits_per_weight(3, 4096) == 3 + 1 / 128


@pytest.mark.parametrize(("block_size", "percent"), [(64, 10.77), (256, 12.64), (4096, 15.72)])
def test_int4_on_normal_numbers_has_the_known_errors(block_size, percent):
    values = normal(2**20, seed=4)
    assert 100 * relative_error(values, round_in_blocks(values, 4, block_size)) == pytest.approx(percent, rel=0.01)
