"""The exercises of notebook 02: right answers of other styles, and what is particular of wrong ones."""

import numpy as np
import pytest
from test_exercises import cell

from lora_edu.exercises import nb02 as check


def merged_in_place(W, A, B, alpha):
    W += alpha / len(A) * B @ A
    return W


def merged_into_out(W, A, B, alpha):
    return np.add(W, alpha / A.shape[0] * (B @ A), out=W)


RIGHT = [
    (check.grad_A, lambda x, g, B, alpha: (B.T @ (g.T @ x)) * alpha / B.shape[1]),
    (check.grad_A, lambda x, g, B, alpha: np.einsum("bi,ik,bj->kj", g, B, x) * (alpha / B.shape[1])),
    (check.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * np.diag(B.T @ (g.T @ x) @ A.T)),
    (check.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * np.einsum("bi,ik,bj,kj->k", g, B, x, A)),
    (check.merged_weight, lambda W, A, B, alpha: np.array(W) + (alpha / B.shape[1]) * np.dot(B, A)),
    (check.first_step, lambda G, A, alpha, lr: (alpha / len(A)) * (-lr * (alpha / len(A)) * (G @ A.T)) @ A),
]


@pytest.mark.parametrize(("exercise", "attempt"), RIGHT)
def test_other_right_answers(exercise, attempt, capsys):
    exercise(attempt)
    assert "correct" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("exercise", "attempt", "sentence"),
    [
        (check.grad_A, lambda x, g, B, alpha: alpha / len(B) * (g @ B).T @ x, "different: the scaling"),
        (check.merged_weight, merged_in_place, r"`weight \+= ...` works in place"),
        (check.merged_weight, merged_into_out, r"`weight \+= ...` works in place"),
        (check.grad_A, lambda x, g, B, alpha: x.T @ (g @ B), "is the transpose.* Besides, look at the scaling"),
        (check.grad_A, lambda x, g, B, alpha: alpha / B.shape[1] * g @ B.T @ x, "the shapes of a product do not fit"),
        (check.merged_weight, lambda W, A, B, alpha: 2 * (W + B @ A), "two things were different: the scaling"),
        (check.first_step, lambda G, A, alpha, lr: lr * G @ A.T @ A, "goes up.* Besides, look at the scaling"),
    ],
)
def test_what_a_wrong_answer_is_told(exercise, attempt, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(attempt)


def test_the_size_of_another_side_is_a_matter_of_the_axis():
    wrong = cell("def f(x, g, B, alpha):\n    return alpha / B.shape[0] * (g @ B).T @ x")
    with pytest.raises(AssertionError, match=r"`B.shape\[0\]`, in line 2, makes every case right. Look at the axis."):
        check.grad_A(wrong)
