"""Notebook 05: right answers in other words, the cases that tell mistakes apart, and what was said falsely once."""

import numpy as np
import pytest
import torch
from test_exercises import said

from lora_edu.exercises import nb05 as check
from lora_edu.rounding import bits_per_weight, block_codes, round_in_blocks


def rounded_in_numpy(block, bits):
    block = np.asarray(block, dtype=np.float64)
    marks = np.linspace(block.min(), block.max(), 2**bits)
    return marks[np.abs(block[:, None] - marks).argmin(axis=1)]


def test_other_right_answers(capsys):
    sizes = [2**k for k in range(20)]
    check.smallest_block(
        lambda bits, budget, scale: next(size for size in sizes if bits_per_weight(bits, size, scale) <= budget)
    )
    check.smallest_block(lambda bits, budget, scale: max(1, 2 ** np.ceil(np.log2(scale / (budget - bits)) - 1e-9)))
    check.code_error(
        lambda v, c, absmax, bits: (
            np.linalg.norm(v.numpy() - c.numpy() / (2 ** (bits - 1) - 1) * absmax) / np.linalg.norm(v.numpy())
        )
    )
    check.code_error(
        lambda v, c, absmax, bits: ((v - c * (absmax / (2 ** (bits - 1) - 1))) ** 2).sum().sqrt() / (v**2).sum().sqrt()
    )
    check.round_between(rounded_in_numpy)
    assert capsys.readouterr().out.count("correct") == 5


def test_a_block_size_below_one_is_no_block_size():
    wrong = lambda bits, budget, scale: 2.0 ** np.ceil(np.log2(scale / (budget - bits)) - 1e-9)  # noqa: E731
    assert wrong(4, 70, 32) == 0.5 and "1, 2, 4, 8, ... weights. This is another" in said(check.smallest_block, wrong)


def between(block, bits, least=0.0):
    low = block.min()
    step = ((block.max() - low) / (2**bits - 1)).clamp(min=least)
    return ((block - low) / step).round() * step + low


@pytest.mark.parametrize(
    ("asked", "wrong", "sentence"),
    [
        (check.round_between, between, "a block of equal values comes back as NaN"),
        (
            check.round_between,
            lambda b, bits: between(b, bits).numpy(),
            "of equal values comes back as NaN",
        ),
        (check.round_between, lambda b, bits: between(b, bits, least=1e-3), "a step is kept above a bound"),
        (check.round_between, lambda b, bits: between(b, bits, least=1e-6), "a step is kept above a bound"),
        (check.round_between, lambda b, bits: round_in_blocks(b, bits, len(b)), "the symmetric ruler of section 2"),
        (check.round_between, lambda b, bits: b[:-1], "as many as there were"),
        (
            check.code_error,
            lambda v, c, absmax, bits: ((v - round_in_blocks(v, bits, v.numel())).norm() / v.norm()).item(),
            "rounds the values again",
        ),
        (
            check.code_error,
            lambda v, c, absmax, bits: ((v - c * (absmax / c.abs().max())).norm() / v.norm()).item(),
            "the largest code that occurs",
        ),
        (check.smallest_block, bits_per_weight, "a block has 1, 2, 4, 8, ... weights"),
        (check.round_between, lambda b, bits: b.view(-1, 13).flatten(), "a shorter part is left over"),
        (
            check.round_between,
            lambda b, bits: torch.stack([part for row in b for part in row.split(1)]),
            "a loop over a tensor of one dimension hands over single numbers",
        ),
        (check.round_between, lambda b, bits: b.no_such_name, "your function stopped with AttributeError"),
    ],
)
def test_what_a_wrong_answer_is_told(asked, wrong, sentence):
    text = said(asked, wrong)
    assert sentence in text and "transpose" not in text


def test_the_cases_are_those_that_tell_mistakes_apart():
    assert any(scale == 16 for _, _, scale in check.smallest_block.cases)
    fits = [
        bits_per_weight(bits, check.smallest_block.reference(bits, budget, scale), scale) == budget
        for bits, budget, scale in check.smallest_block.cases
    ]
    assert any(fits) and not all(fits)  # some budgets are met exactly, some are not
    nearest = []
    for values, codes, absmax, bits in check.code_error.cases:
        assert values.shape[0] != values.shape[1]
        expected, step = block_codes(values, bits, values.numel())
        assert absmax == pytest.approx(step.item() * (2 ** (bits - 1) - 1))
        nearest.append(torch.equal(codes.flatten().float(), expected.flatten()))
    assert any(nearest) and not all(nearest)
    blocks = [block for block, _ in check.round_between.cases]
    assert any(block.min() > 0 for block in blocks) and any(block.max() < 0 for block in blocks)
    assert sum((block == block[0]).all().item() for block in blocks) == 1
    assert any(block.abs().max() < 1e-5 for block in blocks)
