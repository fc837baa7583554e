import numpy as np
import pytest
import torch

from lora_edu.exercises import nb05 as check
from lora_edu.exercises.nb05 import _round_block
from lora_edu.format_views import block_codes, round_in_blocks

EXERCISES = [check.bits_per_weight, check.code_error, _round_block, check.block_constants]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_every_misconception_is_caught_by_its_own_name(exercise):
    assert len(exercise.misconceptions) >= 8
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            exercise(mistake)
        assert str(caught.value) == f"Exercise {exercise.number}: {sentence}"


def test_untouched_stubs(capsys):
    for exercise in (check.bits_per_weight, check.code_error, check.round_block, check.block_constants):
        exercise(lambda *arguments: ...)
    assert capsys.readouterr().out == "".join(f"Exercise 5.{k}: not done yet\n" for k in (1, 2, 3, 4))


def rounded_in_numpy(block, bits):
    block = np.asarray(block)
    absmax = np.abs(block).max()
    if absmax == 0:
        return block
    largest = 2 ** (bits - 1) - 1
    return np.rint(block * largest / absmax) / largest * absmax


def padded_constants(values, block_size):
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % block_size))
    return padded.view(-1, block_size).abs().amax(dim=1)


def test_other_right_answers(capsys):
    check.bits_per_weight(lambda bits, size, scale: float(bits * size + scale) / size)
    check.code_error(
        lambda v, c, absmax, bits: (
            np.linalg.norm(v.numpy() - c.numpy() / (2 ** (bits - 1) - 1) * absmax) / np.linalg.norm(v.numpy())
        )
    )
    check.code_error(
        lambda v, c, absmax, bits: ((v - c * (absmax / (2 ** (bits - 1) - 1))) ** 2).sum().sqrt() / (v**2).sum().sqrt()
    )
    check.round_block(rounded_in_numpy)
    check.round_block(lambda block, bits: round_in_blocks(block, bits, len(block)))
    check.block_constants(padded_constants)
    check.block_constants(
        lambda values, size: [
            np.abs(b).max() for b in np.split(values.numpy().ravel(), range(size, values.numel(), size))
        ]
    )
    assert capsys.readouterr().out.count("correct") == 7


def test_a_division_by_zero_is_named():
    def unguarded(block, bits):
        absmax = block.abs().max()
        return (block / absmax * 7).round() * absmax / 7

    with pytest.raises(AssertionError, match=r"5\.3: a block of zeros comes back as NaN"):
        check.round_block(unguarded)
    with pytest.raises(AssertionError, match=r"5\.3: a block of zeros comes back as NaN"):
        check.round_block(lambda block, bits: np.asarray(block) / np.abs(np.asarray(block)).max())


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.round_block, lambda b, bits: b.no_such_name, "your function stopped with AttributeError"),
        (check.round_block, lambda b, bits: b[:-1], r"should have shape \(7,\), got \(6,\)"),
        (
            check.block_constants,
            lambda v, size: v.view(-1, size).abs().amax(1),
            "your function stopped with RuntimeError",
        ),
        (check.bits_per_weight, lambda bits, size, scale: bits, "this is the code alone"),
        (check.code_error, lambda v, c, absmax, bits: 0.0, "expected 0."),
    ],
)
def test_other_wrong_answers(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)


def test_the_cases_are_those_that_tell_mistakes_apart():
    assert all(values.numel() % size for values, size in check.block_constants.cases if values.shape != (4, 6))
    assert any(scale == 16 for _, _, scale in check.bits_per_weight.cases)
    for values, codes, absmax, bits in check.code_error.cases:
        assert values.shape[0] != values.shape[1]
        expected, step = block_codes(values, bits, values.numel())
        assert torch.equal(codes.flatten().float(), expected.flatten()) and absmax == pytest.approx(
            step.item() * (2 ** (bits - 1) - 1)
        )
    assert sum(block.eq(0).all().item() for block, _ in _round_block.cases) == 1
    assert sum(block.max() < -block.min() for block, _ in _round_block.cases) >= 2
