import numpy as np
import pytest
import torch

from lora_edu.exercises import nb05 as check
from lora_edu.exercises.nb05_codes import _round_between
from lora_edu.measures import bits_per_weight, block_codes, round_in_blocks


def test_each_exercise_names_at_least_eight_mistakes():
    for exercise in (check.smallest_block, check.code_error, _round_between, check.block_constants):
        assert len(exercise.misconceptions) >= 8


def test_untouched_stubs(capsys):
    for exercise in (check.smallest_block, check.code_error, check.round_between, check.block_constants):
        exercise(lambda *arguments: ...)
    assert capsys.readouterr().out == "".join(f"Exercise 5.{k}: not done yet\n" for k in (1, 2, 3, 4))


def rounded_in_numpy(block, bits):
    block = np.asarray(block, dtype=np.float64)
    marks = np.linspace(block.min(), block.max(), 2**bits)
    return marks[np.abs(block[:, None] - marks).argmin(axis=1)]


def padded_constants(values, block_size):
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % block_size))
    return padded.view(-1, block_size).abs().amax(dim=1)


def test_other_right_answers(capsys):
    sizes = [2**k for k in range(20)]
    check.smallest_block(
        lambda bits, budget, scale: next(size for size in sizes if bits_per_weight(bits, size, scale) <= budget)
    )
    check.smallest_block(lambda bits, budget, scale: 2 ** np.ceil(np.log2(scale / (budget - bits)) - 1e-9))
    check.code_error(
        lambda v, c, absmax, bits: (
            np.linalg.norm(v.numpy() - c.numpy() / (2 ** (bits - 1) - 1) * absmax) / np.linalg.norm(v.numpy())
        )
    )
    check.code_error(
        lambda v, c, absmax, bits: ((v - c * (absmax / (2 ** (bits - 1) - 1))) ** 2).sum().sqrt() / (v**2).sum().sqrt()
    )
    check.round_between(rounded_in_numpy)
    check.block_constants(padded_constants)
    check.block_constants(
        lambda values, size: [
            np.abs(b).max() for b in np.split(values.numpy().ravel(), range(size, values.numel(), size))
        ]
    )
    assert capsys.readouterr().out.count("correct") == 7


def between(block, bits, least=0.0):
    low = block.min()
    step = ((block.max() - low) / (2**bits - 1)).clamp(min=least)
    return ((block - low) / step).round() * step + low


def test_a_division_by_zero_is_named():
    with pytest.raises(AssertionError, match=r"5\.3: a block of equal values comes back as NaN"):
        check.round_between(between)
    with pytest.raises(AssertionError, match=r"5\.3: a block of equal values comes back as NaN"):
        check.round_between(lambda block, bits: between(block.clone(), bits).numpy())


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.round_between, lambda b, bits: between(b, bits, least=1e-3), "a step is kept above a bound"),
        (check.round_between, lambda b, bits: between(b, bits, least=1e-6), "a step is kept above a bound, or"),
        (check.round_between, lambda b, bits: round_in_blocks(b, bits, len(b)), "this is the ruler of section 2"),
        (
            check.code_error,
            lambda v, c, absmax, bits: ((v - round_in_blocks(v, bits, v.numel())).norm() / v.norm()).item(),
            "this rounds the values again",
        ),
        (
            check.code_error,
            lambda v, c, absmax, bits: (
                (v / absmax * (2 ** (bits - 1) - 1) - c.float()).norm() / c.float().norm()
            ).item(),
            "this divides by the norm of the rounded tensor",
        ),
        (check.smallest_block, bits_per_weight, "a block has 1, 2, 4, 8, ... weights"),
        (
            check.block_constants,
            lambda v, size: (
                torch.nn.functional.pad(v.flatten(), (0, size - v.numel() % size)).view(-1, size).abs().amax(1)
            ),
            "where the blocks fit, this adds a whole block of zeros",
        ),
    ],
)
def test_wrong_answers_that_a_case_was_made_for(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.round_between, lambda b, bits: b.no_such_name, "your function stopped with AttributeError"),
        (check.round_between, lambda b, bits: b[:-1], "as many as there were"),
        (
            check.block_constants,
            lambda v, size: v.view(-1, size).abs().amax(1),
            "your function stopped with RuntimeError",
        ),
        (check.code_error, lambda v, c, absmax, bits: 0.0, "expected 0."),
    ],
)
def test_other_wrong_answers(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)


def test_the_cases_are_those_that_tell_mistakes_apart():
    assert all(values.numel() % size for values, size in check.block_constants.cases if values.shape != (4, 6))
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
    blocks = [block for block, _ in _round_between.cases]
    assert any(block.min() > 0 for block in blocks) and any(block.max() < 0 for block in blocks)
    assert sum((block == block[0]).all().item() for block in blocks) == 1
    assert any(block.abs().max() < 1e-5 for block in blocks)


def filled_up(values, size):
    return torch.nn.functional.pad(values.flatten(), (0, -values.numel() % size)).view(-1, size)


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (lambda v, size: filled_up(v, size).amax(dim=1), r"take `abs\(\)` before `amax`"),
        (lambda v, size: filled_up(v, size).amax(dim=1).abs(), r"take `abs\(\)` before `amax`"),
        (lambda v, size: torch.stack([b.amax() for b in v.flatten().split(size)]), "the largest value of each block"),
        (lambda v, size: [abs(max(b.tolist())) for b in v.flatten().split(size)], "and then its absolute value"),
        (
            lambda v, size: filled_up(v, size).abs().mean(dim=1),
            "no magnitude of a value",
        ),  # the filling counts as weights
        (lambda v, size: torch.stack([b.abs().mean() for b in v.flatten().split(size)]), "the mean magnitude"),
        (lambda v, size: filled_up(v, size).norm(dim=1), "the norm of each block"),
        (lambda v, size: [max(b.tolist(), key=abs) for b in v.flatten().split(size)], "keeps the sign"),
    ],
)
def test_what_is_taken_for_an_absmax_is_named(wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check.block_constants(wrong)


def test_a_constant_of_another_origin_is_seen():
    """Filling up with 1, and dividing by the largest code that occurs, are right for many a tensor."""

    def filled_with_ones(values, block_size):
        flat = values.flatten()
        padded = torch.nn.functional.pad(flat, (0, -len(flat) % block_size), value=1.0)
        return padded.view(-1, block_size).abs().amax(dim=1)

    with pytest.raises(AssertionError, match=r"value=1.0\)`, in line \d+, makes every case right"):
        check.block_constants(filled_with_ones)
    with pytest.raises(AssertionError, match="largest code"):
        check.code_error(lambda v, c, absmax, bits: ((v - c * (absmax / c.abs().max())).norm() / v.norm()).item())
