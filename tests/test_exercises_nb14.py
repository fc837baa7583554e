"""Notebook 14: the references count as the calculator does, and other right answers pass."""

import pytest

from lora_edu.exercises import nb14 as check
from lora_edu.exercises.comparing import plain
from lora_edu.exercises.symptoms import symptom
from lora_edu.memory.calculator import GIB, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES


def test_the_references_agree_with_the_package():
    """So many tokens fill a card to nine tenths, and one more would be too many."""
    needed = training_bytes(ARCHITECTURES["LLaMA 7B"], bits=4, rank=64)
    resident = sum(needed.values()) - needed["activations"] - needed["logits"]
    tokens = check.most_tokens.reference(24, resident, 2.5e6)
    assert resident + 2.5e6 * tokens <= 0.9 * 24 * GIB < resident + 2.5e6 * (tokens + 1)


@pytest.mark.parametrize(("rank", "share"), [(8, 0), (64, 1)])
def test_at_rank_8_nothing_of_7b_is_paged_and_at_rank_64_everything(rank, share):
    seven = ARCHITECTURES["LLaMA 7B"]
    shapes = list(seven.linears.values())
    state = 8 * seven.adapter_numbers(rank, tuple(seven.linears)) / seven.n_layers
    assert check.paged_bytes.reference(shapes, rank) == share * state


def test_65b_at_rank_8_pages_its_three_widest_matrices():
    linears = ARCHITECTURES["LLaMA 65B"].linears
    sides = [side for pair in linears.values() for side in pair]
    assert sum(8 * side >= 100_000 for side in sides) == 3 and len(sides) == 14


def test_other_right_answers(capsys):
    check.most_tokens(lambda card, base, each: max(0, int((card * 2**30 * 9 / 10 - base) / each)))
    check.paged_bytes(
        lambda shapes, r: sum(8 * r * a * (r * a > 99_999) + 8 * r * b * (r * b > 99_999) for a, b in shapes)
    )
    assert capsys.readouterr().out.count("correct") == 2


@pytest.mark.parametrize(
    ("exercise", "attempt", "message"),
    [
        (
            check.most_tokens,
            lambda c, r, t: (0.9 * c * 1e9 - r) // t,
            "10\\*\\*9 bytes.* Besides, look at what is answ",
        ),
        (check.most_tokens, lambda c, r, t: max(0, (0.9 * c - r) // t), "Are card and `resident` both in bytes"),
        (check.paged_bytes, lambda s, r: sum(4 * r * a for a, b in s if r * a >= 1e5), "two things were different"),
        (check.paged_bytes, lambda s, r: [8 * r * a for a, b in s if r * a >= 1e5], "this is a list"),
    ],
)
def test_mistakes_are_named(exercise, attempt, message):
    with pytest.raises(AssertionError, match=message):
        exercise(attempt)


def test_a_count_that_is_nearly_right_is_not_called_transposed():
    assert symptom([plain(39_976_974)], [plain(39_976_960)]).startswith("the first digits are right")
