"""Notebook 06: the references are the package's, right answers in other words, and what was said falsely once."""

from statistics import NormalDist

import numpy as np
import pytest
import torch
from test_exercises import said

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises import nb06 as check
from lora_edu.quantization import pack, quantize


def test_the_references_agree_with_the_package():
    codes = torch.randint(0, 16, (9,), generator=torch.Generator().manual_seed(0))
    packed = pack(codes, nf_codebook(4))
    assert np.array_equal(check.packed_codes.reference(codes.numpy()), packed.numpy())
    assert np.allclose(check.normal_float.reference(929 / 960, 8), nf_codebook(4), atol=1e-6)


def by_torch(offset, half):
    def side(count):
        return torch.special.ndtri(torch.linspace(offset, 0.5, count + 1, dtype=torch.float64)[:-1])

    levels = torch.cat([-side(half - 1), torch.zeros(1), side(half).flip(0)])
    return levels / levels[-1]


def by_loop(codes):
    padded = [*codes.tolist(), 7] if len(codes) % 2 else codes.tolist()
    return [(first << 4) | second for first, second in zip(padded[::2], padded[1::2], strict=True)]


def by_blocks(X, W, codes, absmax):
    table, changed = nf_codebook(4).tolist(), W.copy()
    for index, code in enumerate(codes.flatten()):
        changed.flat[index] = table[code] * absmax[index // codes.shape[1]]
    return (((X @ (W - changed).T) ** 2).sum() / ((X @ W.T) ** 2).sum()) ** 0.5


@pytest.mark.parametrize(
    ("asked", "solution"),
    [
        (check.normal_float, by_torch),
        (check.packed_codes, by_loop),
        (check.packed_codes, lambda codes: np.uint8(by_loop(codes))),
        (check.rounded_output_error, by_blocks),
    ],
)
def test_other_right_answers(asked, solution, capsys):
    asked(solution)
    assert capsys.readouterr().out.endswith(": correct\n")


def eq_4_with_infinite_ends(offset, half):
    q = [-np.inf, *(NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)), np.inf]
    return np.convolve(q, [0.5, 0.5], mode="valid")


def of_new_codes(X, W, codes, absmax):
    """Quantizes W itself, and never looks at the codes."""
    changed = quantize(torch.from_numpy(W), "nf4", codes.shape[1]).dequantize().numpy()
    return np.linalg.norm(X @ (W - changed).T) / np.linalg.norm(X @ W.T)


def in_int8(codes):
    pairs = np.append(codes, [7] * (len(codes) % 2)).astype(np.int8).reshape(-1, 2)
    return pairs[:, 0] << 4 | pairs[:, 1]


@pytest.mark.parametrize(
    ("asked", "wrong", "sentence"),
    [
        (check.normal_float, eq_4_with_infinite_ends, "is infinite, as in Eq. 4 taken literally"),
        (check.normal_float, lambda offset, half: [NormalDist().inv_cdf(0.0)], "of a probability of 0 or 1, where"),
        (check.packed_codes, in_int8, "as in 8 bits with a sign (int8)"),
        (check.packed_codes, lambda codes: codes[::2] * 16 + codes[1::2] if not len(codes) % 2 else by_loop(codes),
         "into int8, which ends at 127"),  # right where the codes come in 64 bits
        (check.packed_codes, lambda codes: torch.tensor(codes).view(-1, 2), "these numbers do not fill that shape"),
        (check.rounded_output_error, of_new_codes, "quantizes W again"),
    ],
)  # fmt: skip
def test_what_a_case_was_made_for_and_what_misled_once(asked, wrong, sentence):
    assert sentence in said(asked, wrong)
