"""The checks of notebook 11: right answers of other styles pass, what is said of a shape."""

import math

import numpy as np
import pytest
from torch import nn

from lora_edu.exercises import nb11 as check
from lora_edu.variants import DoRALinear, VeRALinear

# --- right ones ------------------------------------------------------------------------------------------------------


def vera_by_diagonals(W, A, B, d, b):
    d_out, d_in = W.shape
    return W + np.diag(b) @ B[:d_out] @ np.diag(d) @ A[:, :d_in]


def vera_by_einsum(W, A, B, d, b):
    return W + np.einsum("i,ik,k,kj->ij", b, B[: len(W)], d, A[:, : W.shape[1]])


def dora_by_rows(W, A, B, m, alpha):
    V = W + alpha * B @ A / B.shape[1]
    return np.stack([length * row / np.linalg.norm(row) for length, row in zip(m, V, strict=True)])


def suspects_in_lists(one, other, questions):
    steps, errors = [], []
    for row in (one, other):
        power = 0.5 if row["method"] == "rsLoRA" else 1
        steps.append(row["alpha"] / row["rank"] ** power * row["rate"])
        errors.append(row["accuracy"] * (1 - row["accuracy"]) / questions)
    return [steps[1] / steps[0], (other["accuracy"] - one["accuracy"]) / math.hypot(*map(math.sqrt, errors))]


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        (check.vera_weight, vera_by_diagonals),
        (check.vera_weight, vera_by_einsum),
        (check.dora_weight, dora_by_rows),
        (check.suspects, suspects_in_lists),
        (check.plain_lora, lambda A, B, A0, B0: (np.vstack([-A, A0]), np.hstack([-B, -B0]))),
        (check.plain_lora, lambda A, B, A0, B0: [np.r_[A0, A], np.c_[-B0, B]]),
    ],
)
def test_right_answers_of_another_style(exercise, answer, capsys):
    exercise(answer)
    assert capsys.readouterr().out.endswith(": correct\n")


def test_the_references_are_the_package_s_layers():
    base = nn.Linear(6, 4, bias=False)
    dora = DoRALinear(base, 2, 3)
    nn.init.normal_(dora.lora_B), nn.init.uniform_(dora.magnitude, 1, 2)
    W, A, B, m = (t.detach().numpy() for t in (base.weight, dora.lora_A, dora.lora_B, dora.magnitude))
    made = check.dora_weight.reference(W, A, B, m, 3)
    assert np.allclose(made, W + dora.delta_weight().detach().numpy(), atol=1e-5)
    vera = VeRALinear(base, 2)
    nn.init.normal_(vera.vera_b)
    A, B, d, b = (t.detach().numpy() for t in (vera.lora_A, vera.lora_B, vera.vera_d, vera.vera_b))
    assert np.allclose(check.vera_weight.reference(W, A, B, d, b), W + vera.delta_weight().detach().numpy(), atol=1e-5)


# --- wrong ones ------------------------------------------------------------------------------------------------------


def with_parts(form):
    """A wrong answer of 11.1 from (W, the part of A, the part of B, d, b)."""
    return lambda W, A, B, d, b: form(W, A[:, : W.shape[1]], B[: len(W)], d, b)


WRONG = [
    (check.vera_weight, lambda W, A, B, d, b: W + b[:, None] * B @ (d[:, None] * A), "take the first 5 columns of A"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: W + (b * B) @ (d * A)), "the shapes of two arrays do not fit"),
    (check.suspects, lambda one, other, n: other["rate"] / one["rate"], "return two numbers"),
    (check.suspects, lambda one, other, n: (other["learning_rate"], 0), "KeyError"),
    (
        check.dora_weight,
        lambda W, A, B, m, al: m[:, None] * W**3 / np.linalg.norm(W**3, axis=1)[:, None],
        "every row has the right length",
    ),
    (check.plain_lora, lambda A, B, A0, B0: (A - A0, B - B0), "the rank has stayed r"),
    (check.plain_lora, lambda A, B, A0, B0: (np.hstack([A, A0]), np.vstack([B, -B0])), "joins along the wrong side"),
    (check.plain_lora, lambda A, B, A0, B0: (np.hstack([B, -B0]), np.vstack([A, A0])), "changed places"),
    (check.plain_lora, lambda A, B, A0, B0: B @ A - B0 @ A0, "return two"),
    (check.plain_lora, lambda A, B, A0, B0: (np.vstack([A, A0, A0]), np.hstack([B, -B0, B0])), "should be"),
]


@pytest.mark.parametrize(("exercise", "wrong", "sentence"), WRONG, ids=range(len(WRONG)))
def test_what_a_wrong_answer_is_told(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)
