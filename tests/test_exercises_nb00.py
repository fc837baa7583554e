"""The exercises of notebook 00: wrong answers that nobody listed are named as well."""

import numpy as np
import pytest

from lora_edu.exercises import nb00
from lora_edu.exercises.grading import WrongAnswer


def said(exercise, attempt):
    with pytest.raises(WrongAnswer) as error:
        exercise(attempt)
    return str(error.value)


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda p, t: -np.log(p.min(axis=1)), "not those of the bytes that came"),
        (lambda p, t: -np.log(1 - p[np.arange(len(t)), t]), "what is done before the logarithm"),
        (lambda p, t: np.array([-np.log(p[i, t[i]]) for i in range(len(t) - 1)]), "one bar for each byte"),
        (lambda p, t: np.log(p[:, 0]), "never negative"),
        (lambda p, t: None, "did you forget `return`"),
    ],
)
def test_surprise(attempt, sentence):
    assert sentence in said(nb00.line_surprise, attempt)


def test_bytes_of_an_adapter_in_training():
    for each, sentence in ((6, "gets less than"), (14, "twice, or in bits"), (12000, "wrong unit")):
        assert sentence in said(nb00.training_gigabytes, lambda f, a, b, each=each: (f * b / 8 + a * each) / 1e9)
