import re

import numpy as np
import pytest
import torch

from lora_edu.exercises import nb07 as check
from lora_edu.exercises.nb07_rounding import _round_constants
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


def over_weights(n, block_size, second_size, packed, copy_alive):
    blocks = -(-n // block_size)
    codes = -(-n // 2) if packed else n
    return codes + blocks + 4 * -(-n // second_size) + 4 + (4 * n if copy_alive else 0)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.resident_bytes, resident, "an odd code is dropped"),
        (check.resident_bytes, over_weights, "for each second_size weights"),
        (check.round_constants, unguarded, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a + (a - a) / (a - a).max(), "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: a * torch.nan, "equal constants are divided by 0"),
        (check.round_constants, lambda a, c, b: unguarded(a, c, b, 1e-3), "the scale is kept above a bound"),
        (check.moved_again, lambda trip, W: 0.0, "this is 0 for every round trip"),
        (check.bits_of_constants, lambda budget, b, s: 8, "this is 8 for every budget"),
        (check.bits_of_constants, total_bits, "bits beside its codes. They pay"),  # the notebook's
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


# --- fresh wrong answers, written before the sentences were -----------------------------------------------------------


def filled_up_later(absmax, code, block_size):
    """Right: zeros added after the mean is off change nothing."""
    offset = absmax.mean()
    padded = np.append(absmax - offset, np.zeros(-len(absmax) % block_size)).reshape(-1, block_size)
    scale = np.maximum(np.abs(padded).max(axis=1, keepdims=True), 1e-30)
    places = np.abs((padded / scale)[..., None] - code).argmin(axis=-1)
    return (code[places] * scale + offset).flatten()[: len(absmax)]


def second(absmax, code, block_size, offset=None, choose=None, scale_of=None, back=None):
    """A solution in the learner's style, with a step replaced."""
    mean, result = absmax.mean() if offset is None else offset(absmax), []
    for start in range(0, len(absmax), block_size):
        centered = absmax[start : start + block_size] - mean
        scale = max((scale_of or (lambda x: np.abs(x).max()))(centered), 1e-30)
        scaled = centered / scale
        levels = code[np.abs(scaled[:, None] - code).argmin(axis=1)] if choose is None else choose(scaled, code)
        result.append(levels * scale + mean if back is None else back(levels, scale, mean))
    return np.concatenate(result)


def up(number, by):
    return -(-number // by)


def packed(n, is_packed):
    return up(n, 2) if is_packed else n


def move(trip, W):
    return np.linalg.norm(trip(trip(W)) - trip(W)) / np.linalg.norm(trip(W))


FRESH = [
    # 7.1
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b - 32 / (b * s))),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b - 32)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4 - 32 / s) * b)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b + 32 / s)),
    (check.bits_of_constants, lambda budget, b, s: 2 ** int((budget - 4) * b - 32 / s)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b - 32 / s) // 8),
    (check.bits_of_constants, lambda budget, b, s: int(((budget - 4) * b - 32 / s) * s)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 4) * b - 4 / s)),
    (check.bits_of_constants, lambda budget, b, s: int((budget - 8) * b - 32 / s)),
    (check.bits_of_constants, lambda budget, b, s: budget - 4),
    # 7.2
    (check.resident_bytes, lambda n, b, s, p, c: up(n, 2) + up(n, b) + 4 * up(n, s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: (n // 2 if p else n) + n // b + 4 * (n // b // s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + n // b + 4 * up(n // b, s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + 4 * (up(n, b) // s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + 4 * up(n, s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + up(up(n, b), s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: n / 2 * (2 - p) + n / b + 4 * n / (b * s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: 4 * n if c else packed(n, p) + up(n, b) + 4 * up(up(n, b), s) + 4),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + 4 * up(up(n, b), s) + 4 + 2 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, not p) + up(n, b) + 4 * up(up(n, b), s) + 4 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + 4 * up(up(n, b), s) + 4 + 64 + 4 * n * c),
    (check.resident_bytes, lambda n, b, s, p, c: packed(n, p) + up(n, b) + 4 * up(up(n, b), s) + 4 + 4 * n * (not c)),
    (check.resident_bytes, lambda n, b, s, p, c: 4 * n + 4.127 / 8 * n),
    # 7.3
    (check.round_constants, lambda a, c, b: second(a, c, b, choose=lambda x, c: c[np.searchsorted(c, x).clip(0, 255)])),
    (check.round_constants, lambda a, c, b: second(a, c, b, choose=lambda x, c: np.round(x * 127) / 127)),
    (check.round_constants, lambda a, c, b: second(a, c, b, offset=np.median)),
    (check.round_constants, lambda a, c, b: second(a, c, b, offset=np.min)),
    (check.round_constants, lambda a, c, b: second(a, c, b, scale_of=np.max)),
    (check.round_constants, lambda a, c, b: second(a, c, b, scale_of=np.std)),
    (check.round_constants, lambda a, c, b: second(a, c, b, back=lambda level, scale, mean: level * scale - mean)),
    (check.round_constants, lambda a, c, b: second(a, c, b, back=lambda level, scale, mean: (level + mean) * scale)),
    (check.round_constants, lambda a, c, b: second(a, c, b, back=lambda level, scale, mean: level + mean)),
    (check.round_constants, lambda a, c, b: second(a, c, b, choose=lambda x, c: np.abs(x[:, None] - c).argmin(1))),
    (check.round_constants, lambda a, c, b: second(a, c, b, back=lambda level, scale, mean: level)),
    (check.round_constants, lambda a, c, b: second(a[: len(a) // b * b], c, b)),
    (check.round_constants, lambda a, c, b: c[np.abs(a[:, None] - c).argmin(axis=1)]),
    # 7.4
    (check.moved_again, lambda trip, W: np.linalg.norm(trip(trip(W)) - trip(W), 2) / np.linalg.norm(trip(W), 2)),
    (check.moved_again, lambda trip, W: np.abs(trip(trip(W)) - trip(W)).mean()),
    (check.moved_again, lambda trip, W: np.abs(trip(trip(W)) - trip(W)).sum() / np.abs(trip(W)).sum()),
    (check.moved_again, lambda trip, W: move(trip, trip(W))),
    (check.moved_again, lambda trip, W: np.linalg.norm(trip(trip(W)) - trip(W)) / np.linalg.norm(trip(trip(W)))),
    (check.moved_again, lambda trip, W: trip(trip(W)) - trip(W)),
    (check.moved_again, lambda trip, W: not np.array_equal(trip(trip(W)), trip(W))),
    (check.moved_again, lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W))) / W.size),
    (check.moved_again, lambda trip, W: np.sum((trip(W) - trip(trip(W))) ** 2) / np.sum(trip(W) ** 2)),
]  # fmt: skip


def sentence_of(exercise, attempt):
    with pytest.raises(AssertionError) as caught, np.errstate(all="ignore"):
        exercise(attempt)
    return str(caught.value)


def is_specific(text):
    """More than the smallest failing case, or the error with which a function stopped."""
    return not re.match(r"Exercise 7.\d: (for \(|your function stopped)", text)


def test_fresh_wrong_answers_are_named():
    sentences = [sentence_of(exercise, attempt) for exercise, attempt in FRESH]
    unnamed = [text for text in sentences if not is_specific(text)]
    assert len(unnamed) <= 0.1 * len(FRESH), "\n".join(unnamed)


def test_a_right_answer_that_fills_up_later(capsys):
    check.round_constants(filled_up_later)
    assert capsys.readouterr().out.endswith(": correct\n")
