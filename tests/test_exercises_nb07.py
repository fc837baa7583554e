import numpy as np
import pytest
import torch

from lora_edu.exercises import nb07 as check
from lora_edu.exercises.nb07 import _round_constants
from lora_edu.measures import bits_per_weight, total_bits
from lora_edu.quantization import DoubleQuant, quantize, quantize_absmax


def test_the_references_agree_with_the_package():
    weight = torch.randn(48, 100)  # 4800 weights: 75 blocks of 64
    stored = quantize(weight, "nf4", 64, DoubleQuant(block_size=16))
    assert check.resident_bytes.reference(weight.numel(), 64, 16, True, False) == stored.nbytes
    assert check.bits_of_constants.reference(stored.bits_per_weight, 64, 16) == 8
    single = quantize(weight, "nf4", 64)
    constants, offset = quantize_absmax(single.absmax, DoubleQuant(block_size=16))
    mine = _round_constants.reference(single.absmax.numpy(), constants.codebook.numpy(), 16)
    assert np.allclose(mine, constants.dequantize() + offset, rtol=1e-5)


def by_search(budget, block_size, second_size):
    """The other way round: try all widths."""
    fitting = (k for k in range(64) if bits_per_weight(4, block_size, bits_per_weight(k, second_size)) <= budget)
    return max(fitting)


def by_split(absmax, code, block_size):
    offset, code = torch.tensor(absmax).mean(), torch.tensor(code)
    blocks = []
    for block in (torch.tensor(absmax) - offset).split(block_size):
        scale = block.abs().max()
        scaled = block / scale if scale > 0 else block
        blocks.append(code[(scaled[:, None] - code).abs().argmin(1)] * scale + offset)
    return torch.cat(blocks)


def in_torch(trip, W):
    once = torch.from_numpy(trip(W))
    return (torch.from_numpy(trip(once.numpy())) - once).norm() / once.norm()


@pytest.mark.parametrize(
    ("exercise", "right"),
    [(check.bits_of_constants, by_search), (check.round_constants, by_split), (check.moved_again, in_torch)],
)
def test_right_answers_that_are_written_differently(exercise, right, capsys):
    exercise(right)
    assert capsys.readouterr().out.endswith(": correct\n")


def unguarded(absmax, code, block_size, least=0.0):
    offset, blocks = absmax.mean(), []
    for start in range(0, len(absmax), block_size):
        centered = absmax[start : start + block_size] - offset
        scale = max(np.abs(centered).max(), least)
        blocks.append(code[np.abs(centered[:, None] / scale - code).argmin(axis=1)] * scale + offset)
    return np.concatenate(blocks)


def resident(n, block_size, second_size, packed, copy_alive):
    blocks = -(-n // block_size)
    return (n // 2 if packed else n) + blocks + 4 * -(-blocks // second_size) + 4 + (4 * n if copy_alive else 0)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.resident_bytes, resident, "an odd code is dropped"),
        (check.round_constants, unguarded, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a + (a - a) / (a - a).max(), "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a * torch.nan, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: unguarded(a, c, b, 1e-3), "the scale is kept above a bound"),
        (check.moved_again, lambda trip, W: 0.0, "this is 0 for every round trip"),
        (check.bits_of_constants, lambda budget, b, s: 8, "expected 15, got 8"),
        (check.bits_of_constants, total_bits, "expected 8, got"),  # the function that stands in the notebook
    ],
)
def test_wrong_answers_that_a_case_was_made_for(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence), np.errstate(all="ignore"):
        exercise(wrong)


def test_the_round_trips_differ_as_their_names_say():
    moved = {repr(trip): check.moved_again.reference(trip, W) for trip, W in check.moved_again.cases}
    assert moved["NF4"] == 0
    assert 0 < moved["double quantization"] < 0.01
    assert moved["a codebook that ends at 0.9"] == pytest.approx(0.1, rel=0.02)
