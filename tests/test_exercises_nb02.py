"""The exercises of notebook 02: right answers of other styles, and wrong ones called by their names."""

import numpy as np
import pytest

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


WRONG = [
    # the rank from the wrong axis
    (check.grad_A, lambda x, g, B, alpha: alpha / len(B) * (g @ B).T @ x, "divides by d_out"),
    (check.grad_A, lambda x, g, B, alpha: alpha / x.shape[1] * (g @ B).T @ x, "divides by d_in"),
    (check.merged_weight, lambda W, A, B, alpha: W + alpha / A.shape[1] * B @ A, "divides by d_in"),
    (check.merged_weight, lambda W, A, B, alpha: W + alpha / B.shape[0] * B @ A, "divides by d_out"),
    (check.grad_gate, lambda x, g, A, B, alpha: alpha / A.shape[1] * ((x @ A.T) * (g @ B)).sum(0), "divides by d_in"),
    (check.first_step, lambda G, A, alpha, lr: -lr * (alpha / A.shape[1]) ** 2 * G @ A.T @ A, "divides by d_in"),
    # in place
    (check.merged_weight, merged_in_place, r"`weight \+= ...` works in place"),
    (check.merged_weight, merged_into_out, r"`weight \+= ...` works in place"),
    # two mistakes at once
    (
        check.grad_A,
        lambda x, g, B, alpha: x.T @ (g @ B),
        "is the transpose.* Also: the scaling alpha / rank is missing",
    ),
    (
        check.grad_A,
        lambda x, g, B, alpha: alpha * (g @ B).T @ x / len(x),
        "averages over the batch.* Also: this scales",
    ),
    (check.merged_weight, lambda W, A, B, alpha: alpha * B @ A, "the update alone.* Also: this scales by alpha"),
    (check.first_step, lambda G, A, alpha, lr: lr * G @ A.T @ A, "the sign is wrong.* Also: this leaves s out"),
    # one mistake
    (check.grad_A, lambda x, g, B, alpha: B.shape[1] / alpha * (g @ B).T @ x, "upside down"),
    (check.grad_A, lambda x, g, B, alpha: alpha / B.shape[1] ** 0.5 * (g @ B).T @ x, "rsLoRA"),
    (check.grad_A, lambda x, g, B, alpha: alpha / B.shape[1] * g @ B, "the gradient of A x"),
    (check.grad_A, lambda x, g, B, alpha: alpha / B.shape[1] * g @ B.T @ x, "the shapes of a product do not fit"),
    (check.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * B.T @ g.T @ x @ A.T, "every other, B.T G A.T"),
    (check.grad_gate, lambda x, g, A, B, alpha: alpha / len(A) * ((x @ A.T) * (g @ B)), "keeps the rows of the batch"),
    (
        check.grad_gate,
        lambda x, g, A, B, alpha: alpha / len(A) * (x @ A.T).sum(0) * (g @ B).sum(0),
        "sums the batch before",
    ),
    (check.merged_weight, lambda W, A, B, alpha: W + alpha / len(A) * A @ B, "the shapes of a product do not fit"),
    (check.merged_weight, lambda W, A, B, alpha: W, "the weight without the update"),
    (check.first_step, lambda G, A, alpha, lr: 0 * G, "nothing moves here"),
    (check.first_step, lambda G, A, alpha, lr: -lr * (alpha / len(A)) ** 2 * A.T @ A @ G.T, "is the transpose"),
    (check.first_step, lambda G, A, alpha, lr: -((alpha / len(A)) ** 2) * G @ A.T @ A, "the learning rate is missing"),
]


@pytest.mark.parametrize(("exercise", "attempt", "sentence"), WRONG)
def test_wrong_answers_are_named(exercise, attempt, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(attempt)


EXERCISES = [check.grad_A, check.grad_gate, check.merged_weight, check.first_step]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_every_mistake_is_refused_and_the_stub_is_not_done_yet(exercise, capsys):
    for mistake in exercise.misconceptions.values():
        with pytest.raises(AssertionError):
            exercise(mistake)
    exercise(lambda *arguments: ...)
    assert "not done yet" in capsys.readouterr().out


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_missing_return_is_said(exercise):
    with pytest.raises(AssertionError, match="did you forget `return`"):
        exercise(lambda *arguments: None)


@pytest.mark.parametrize(
    ("exercise", "attempt", "sentence"),
    [
        (check.merged_weight, lambda W, A, B, alpha: (W + alpha / len(A) * B @ A) / 2, "0.5 times W . 2 times B A"),
        (
            check.first_step,
            lambda G, A, alpha, lr: G - lr * (alpha / len(A)) ** 2 * G @ A.T @ A,
            "1 times G - 1.6 times",
        ),
        (check.grad_A, lambda x, g, B, alpha: 3 * (g @ B).T @ x, "with alpha = 8 and rank = 2 yours is 3 times B.T G"),
        (check.grad_A, lambda x, g, B, alpha: alpha / B.shape[1] * B.T @ g.T, r"and yours is \(rank, batch\)"),
        (check.grad_gate, lambda x, g, A, B, alpha: 1.0, "one number for each component, and yours is one number"),
    ],
)
def test_what_is_no_known_mistake_is_taken_apart(exercise, attempt, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(attempt)


def test_what_cannot_be_taken_apart_gets_the_smallest_failing_case():
    with pytest.raises(AssertionError, match=r"for \(array of shape \(3, 8\), .* entry \["):
        check.grad_A(lambda x, g, B, alpha: np.linalg.pinv(B) @ g.T @ x)
