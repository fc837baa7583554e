"""Notebook 07: the references are the package's, right answers in other words, what a case was made for."""

import numpy as np
import pytest
import torch
from test_exercises import said

from lora_edu.exercises import nb07 as check
from lora_edu.quantization import DoubleQuant, quantize, quantize_absmax
from lora_edu.rounding import bits_per_weight, total_bits


def test_the_references_agree_with_the_package():
    weight = torch.randn(48, 100)  # 4800 weights: 75 blocks of 64
    stored = quantize(weight, "nf4", 64, DoubleQuant(block_size=16))
    assert check.resident_bytes.reference(weight.numel(), 64, 16, True, False) == stored.nbytes
    assert check.bits_of_constants.reference(stored.bits_per_weight, 64, 16) == 8
    single = quantize(weight, "nf4", 64)
    constants, offset = quantize_absmax(single.absmax, DoubleQuant(block_size=16))
    mine = check.round_constants.reference(single.absmax.numpy(), constants.codebook.numpy(), 16)
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


def filled_up_later(absmax, code, block_size):
    """Right: zeros added after the mean is off change nothing."""
    offset = absmax.mean()
    padded = np.append(absmax - offset, np.zeros(-len(absmax) % block_size)).reshape(-1, block_size)
    scale = np.maximum(np.abs(padded).max(axis=1, keepdims=True), 1e-30)
    places = np.abs((padded / scale)[..., None] - code).argmin(axis=-1)
    return (code[places] * scale + offset).flatten()[: len(absmax)]


@pytest.mark.parametrize(
    ("exercise", "right"),
    [
        (check.bits_of_constants, by_search),
        (check.round_constants, by_split),
        (check.moved_again, in_torch),
        (check.round_constants, filled_up_later),
    ],
)
def test_right_answers_that_are_written_differently(exercise, right, capsys):
    exercise(right)
    assert capsys.readouterr().out.endswith(": correct\n")


def up(number, by):
    return -(-number // by)


def unguarded(absmax, code, block_size, least=0.0):
    offset, blocks = absmax.mean(), []
    for start in range(0, len(absmax), block_size):
        centered = absmax[start : start + block_size] - offset
        scale = max(np.abs(centered).max(), least)
        blocks.append(code[np.abs(centered[:, None] / scale - code).argmin(axis=1)] * scale + offset)
    return np.concatenate(blocks)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (
            check.resident_bytes,
            lambda n, b, s, p, c: (n // 2 if p else n) + up(n, b) + 4 * up(up(n, b), s) + 4 + (4 * n if c else 0),
            "one step were different: the bytes of codes",
        ),
        (
            check.resident_bytes,
            lambda n, b, s, p, c: (-(-n // 2) if p else n) + -(-n // b) + 4 * -(-n // s) + 4 + (4 * n if c else 0),
            "The second level serves blocks: 4096 blocks of 64",
        ),
        (check.round_constants, unguarded, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a + (a - a) / (a - a).max(), "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a * torch.nan, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: unguarded(a, c, b, 1e-3), "keeps the scale above a bound"),
        (check.moved_again, lambda trip, W: 0.0, "0 for every round trip"),
        (check.bits_of_constants, lambda budget, b, s: 0, "returns 0 in every case that is tried"),
        (check.bits_of_constants, lambda budget, b, s: 8, "returns 8 in every case that is tried"),
        (check.bits_of_constants, lambda budget, b, s: round((budget - 4) * b + 32 / s), "Something else differs, too"),
        (check.bits_of_constants, total_bits, "this is not a whole number"),  # the notebook's
    ],
)
def test_what_a_wrong_answer_is_told(exercise, wrong, sentence):
    assert sentence in said(exercise, wrong)


def test_the_round_trips_differ_as_their_names_say():
    moved = {repr(trip): check.moved_again.reference(trip, W) for trip, W in check.moved_again.cases}
    assert moved["NF4"] == 0
    assert 0 < moved["double quantization"] < 0.01
    assert moved["a codebook that ends at 0.9"] == pytest.approx(0.1, rel=0.02)
