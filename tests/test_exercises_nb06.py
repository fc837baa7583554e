"""The exercises of notebook 06: what a wrong answer is called."""

import numpy as np
import pytest
import torch

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises import nb06 as check
from lora_edu.quantization import pack


def test_packing_is_that_of_the_package():
    codes = torch.randint(0, 16, (9,), generator=torch.Generator().manual_seed(0))
    packed = pack(codes, nf_codebook(4))
    assert np.array_equal(check.packed_codes.reference(codes.numpy()), packed.numpy())


def pairs(codes):
    return np.append(codes, [7] * (len(codes) % 2)).astype(np.int8).reshape(-1, 2)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (
            check.packed_codes,
            lambda codes: pairs(codes)[:, 0] << 4 | pairs(codes)[:, 1],
            "the type of the codes",
        ),
        (check.packed_codes, lambda codes: pairs(codes)[:, 1], "the first code of each pair is missing"),
        (check.normal_float, lambda offset, half: np.linspace(-1, 1, 2 * half), "0 is no level here"),
        (check.rounded_output_error, lambda X, W, c, m: (X @ W.T).T, "one number is asked for"),
    ],
)
def test_a_wrong_answer_is_named(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)
