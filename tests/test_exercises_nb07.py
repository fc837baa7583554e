import numpy as np
import pytest
import torch

from lora_edu.exercises import nb07 as check
from lora_edu.quantization import DoubleQuant, quantize, quantize_absmax

EXERCISES = [check.total_bits, check.resident_bytes, check.round_constants, check.layer_error]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_every_misconception_is_caught_by_its_own_name(exercise):
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            exercise(mistake)
        assert str(caught.value) == f"Exercise {exercise.number}: {sentence}"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_untouched_and_right(exercise, capsys):
    exercise(lambda *arguments: ...)
    exercise(exercise.reference)
    assert capsys.readouterr().out == f"Exercise {exercise.number}: not done yet\nExercise {exercise.number}: correct\n"


def test_the_references_agree_with_the_package():
    weight = torch.randn(48, 100)  # 4800 weights: 75 blocks of 64
    stored = quantize(weight, "nf4", 64, DoubleQuant(block_size=16))
    assert check.resident_bytes.reference(weight.numel(), 64, 16, True, False) == stored.nbytes
    assert check.total_bits.reference(64, 16) == pytest.approx(stored.bits_per_weight)
    single = quantize(weight, "nf4", 64)
    constants, offset = quantize_absmax(single.absmax, DoubleQuant(block_size=16))
    mine = check.round_constants.reference(single.absmax.numpy(), constants.codebook.numpy(), 16)
    assert np.allclose(mine, constants.dequantize() + offset, rtol=1e-5)
    error = check.layer_error.reference(
        weight.numpy(), single.codes.numpy(), single.absmax.numpy(), single.codebook.numpy()
    )
    assert error == pytest.approx(((weight - single.dequantize()).norm() / weight.norm()).item(), rel=1e-5)


def test_a_torch_answer_counts(capsys):
    def with_torch(W, packed, absmax, codebook):
        codes = torch.stack([torch.from_numpy(packed) >> 4, torch.from_numpy(packed) & 15], 1).flatten().long()
        blocks = torch.from_numpy(codebook)[codes].view(len(absmax), -1) * torch.from_numpy(absmax)[:, None]
        return (torch.from_numpy(W) - blocks.view(W.shape)).norm() / torch.from_numpy(W).norm()

    check.layer_error(with_torch)
    assert capsys.readouterr().out == "Exercise 7.4: correct\n"
