"""The checks of notebook 11: right answers of other styles pass, wrong ones that nobody listed get a sentence."""

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


@pytest.mark.parametrize("name", ["vera_weight", "suspects", "dora_weight", "plain_lora"])
def test_every_listed_mistake_is_named(name):
    exercise = getattr(check, name)
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            exercise(mistake)
        said = str(caught.value).split(": ", 1)[1]
        assert said == sentence or "Also:" in sentence  # two mistakes may come to the same as one


def sliced(W, A, B):
    return A[:, : W.shape[1]], B[: len(W)]


def with_parts(form):
    """A wrong answer of 11.1 from (W, the part of A, the part of B, d, b)."""
    return lambda W, A, B, d, b: form(W, *sliced(W, A, B), d, b)


def table(form):
    """A wrong answer of 11.2 from the two s, the two rates, the two accuracies and the questions."""

    def answer(one, other, n):
        s = [r["alpha"] / (r["rank"] ** 0.5 if r["method"] == "rsLoRA" else r["rank"]) for r in (one, other)]
        return form(s, [r["rate"] for r in (one, other)], [r["accuracy"] for r in (one, other)], n)

    return answer


def gap(p, n):
    return (p[1] - p[0]) / math.sqrt(sum(x * (1 - x) / n for x in p))


WRONG = [
    (check.vera_weight, lambda W, A, B, d, b: W + b[:, None] * B @ (d[:, None] * A), "take the first 5 columns of A"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: W + (b * B) @ (d * A)), "the shapes do not fit"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: W + B @ A * b[:, None]), "d is missing"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: W + B * d @ A), "b is missing"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: (b[:, None] * B) @ (d[:, None] * A)), "W is missing"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: W + 3 * (b[:, None] * B) @ (d[:, None] * A)), "plus 3 times"),
    (
        check.vera_weight,
        with_parts(lambda W, A, B, d, b: W + (b[:, None] * B) @ (np.exp(d)[:, None] * A)),
        "something else than diag",
    ),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: A.T @ B.T), "yours is"),
    (check.vera_weight, with_parts(lambda W, A, B, d, b: (W + (b[:, None] * B) @ (d[:, None] * A))[0]), "yours is"),
    (check.suspects, table(lambda s, lr, p, n: (gap(p, n), s[1] * lr[1] / (s[0] * lr[0]))), "have changed places"),
    (check.suspects, table(lambda s, lr, p, n: s[1] * lr[1] / (s[0] * lr[0])), "return two numbers"),
    (check.suspects, table(lambda s, lr, p, n: (s[1] * lr[1] / (s[0] * lr[0]), p[1] / p[0])), "is right. For LoRA"),
    (check.suspects, table(lambda s, lr, p, n: (s[1] / s[0], gap(p, n))), "ratio of the scalings"),
    (check.suspects, table(lambda s, lr, p, n: (lr[1] / lr[0], p[1] - p[0])), "rates alone.*Also: this is the gap"),
    (check.suspects, table(lambda s, lr, p, n: (s[1] * lr[1] / (s[0] * lr[0]), gap(p, n) ** 2)), "is right. For LoRA"),
    (check.suspects, table(lambda s, lr, p, n: (s[1] + lr[1], gap(p, n))), "their s are 1.5 and 12"),
    (check.suspects, lambda one, other, n: (other["learning_rate"], 0), "KeyError"),
    (check.dora_weight, lambda W, A, B, m, al: m * (W + al / len(A) * B @ A), "stopped with ValueError"),
    (
        check.dora_weight,
        lambda W, A, B, m, al: m[:, None] * (W + B @ A) / np.linalg.norm(W + B @ A, axis=1)[:, None],
        "the scaling alpha / rank is missing",
    ),
    (
        check.dora_weight,
        lambda W, A, B, m, al: (W + al / len(A) * B @ A) * m[:, None] / np.linalg.norm(W, axis=1)[:, None] * 1.1,
        "every row has the right direction",
    ),
    (
        check.dora_weight,
        lambda W, A, B, m, al: m[:, None] * W**3 / np.linalg.norm(W**3, axis=1)[:, None],
        "every row has the right length",
    ),
    (check.dora_weight, lambda W, A, B, m, al: m, r"yours is \(7,\)"),
    (check.dora_weight, lambda W, A, B, m, al: W.T, r"yours is \(5, 7\)"),
    (check.plain_lora, lambda A, B, A0, B0: (A - A0, B - B0), "the rank has stayed r"),
    (check.plain_lora, lambda A, B, A0, B0: (np.hstack([A, A0]), np.vstack([B, -B0])), "joins along the wrong side"),
    (check.plain_lora, lambda A, B, A0, B0: (np.hstack([B, -B0]), np.vstack([A, A0])), "changed places"),
    (check.plain_lora, lambda A, B, A0, B0: B @ A - B0 @ A0, "return two"),
    (check.plain_lora, lambda A, B, A0, B0: (np.vstack([A, A0, A0]), np.hstack([B, -B0, B0])), "should be"),
]


@pytest.mark.parametrize(("exercise", "wrong", "sentence"), WRONG, ids=range(len(WRONG)))
def test_wrong_answers_that_are_not_listed(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)
