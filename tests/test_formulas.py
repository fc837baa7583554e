"""The formula behind an answer: found from its values, and shown without the right one."""

import pytest

from lora_edu.exercises.formulas import polynomial
from lora_edu.exercises.grading import Exercise, WrongAnswer

COUNT = Exercise(
    "1.1",
    lambda d, rank, both: 6 * d + rank + 2 + 4 * d * both,
    [(5, 3, False), (7, 4, True)],
    {},
    formula=polynomial(["d", "rank"], 2, flags=1),
)


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (
            lambda d, rank, both: 6 * d + d * rank + 2 + 4 * d * both,
            "where `both` is False, yours is d * rank + 6 d + 2. There, d * rank does not belong; rank is missing; all",
        ),
        (lambda d, rank, both: 6 * d + rank + 2 + 3 * d * both, "where `both` is True, yours is 9 d + rank + 2. There"),
        (lambda d, rank, both: 5 * d + rank + 2 + 4 * d * both, "the number before d is too small; all else is right"),
        (lambda d, rank, both: -6 * d + rank + 3 + 4 * d * both, "before d has the wrong sign; the number that stands"),
    ],
)
def test_a_formula_is_taken_apart(attempt, sentence):
    with pytest.raises(WrongAnswer) as error:
        COUNT(attempt)
    assert sentence in str(error.value) and "10 d" not in str(error.value)


@pytest.mark.parametrize("attempt", [lambda d, rank, both: 2**d, lambda d, rank, both: [d] * 6, lambda *case: case[0]])
def test_nothing_is_said_of_what_is_no_such_formula(attempt):
    with pytest.raises(WrongAnswer) as error:
        COUNT(attempt)
    assert "yours is" not in str(error.value)
