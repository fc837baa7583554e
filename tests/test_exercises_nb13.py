"""The exercises of notebook 13: the references against other ways to compute them; fresh wrong answers are named."""

import numpy as np
import pytest
import torch

from lora_edu.exercises import nb13 as check
from lora_edu.lora import LoRALinear


def test_the_references_agree_with_other_ways():
    one, other = check.standard_errors.cases[0]
    gaps = [a - b for a, b in zip(one, other, strict=True) if a != b]
    signs = np.random.default_rng(0).choice([-1, 1], size=(20_000, len(gaps)))  # if luck alone decided each of them
    assert check.standard_errors.reference(one, other) == pytest.approx(sum(gaps) / signs.sum(1).std(), rel=0.02)
    x, W, A, B, which, alpha = (torch.tensor(part) for part in check.many_adapters.cases[0])
    layers = []
    for a, b in zip(A, B, strict=True):
        base = torch.nn.Linear(W.shape[1], W.shape[0], bias=False, dtype=torch.float64)
        layer = LoRALinear(base, len(a), float(alpha)).double()
        base.weight.data, layer.lora_A.data, layer.lora_B.data = W, a, b
        layers.append(layer)
    by_layers = torch.stack([layers[k](row) for row, k in zip(x, which.tolist(), strict=True)])
    assert np.allclose(check.many_adapters.reference(*check.many_adapters.cases[0]), by_layers.detach().numpy())


def test_other_right_answers(capsys):
    def by_groups(x, W, A, B, which, alpha):
        y = x @ W.T
        for k in set(which.tolist()):
            y[which == k] += alpha / A.shape[1] * x[which == k] @ A[k].T @ B[k].T
        return y

    check.many_adapters(by_groups)
    check.many_adapters(lambda x, W, A, B, which, alpha: x @ W.T + alpha / A.shape[1] * np.einsum(
        "nor,nrd,nd->no", B[which], A[which], x))  # fmt: skip
    check.standard_errors(lambda a, b: (a.sum() - b.sum()) / max(1, (a != b).sum()) ** 0.5)
    assert capsys.readouterr().out.count("correct") == 3


def rows(x, which, weight_of):
    """Each row of x through a weight of its own."""
    return np.stack([weight_of(k) @ row for row, k in zip(x, which, strict=True)])


SAME = [  # of 13.1
    (lambda a, b: (a.sum() - b.sum()) / max(1, (a != b).sum()), "root is missing"),
    (lambda a, b: a.mean() - b.mean(), "difference of the two accuracies"),
    (lambda a, b: 100 * (a.mean() - b.mean()), "far too large|times"),
    (lambda a, b: (b.sum() - a.sum()) / max(1, (a != b).sum()) ** 0.5, "wrong way round"),
    (lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)) ** 0.5, "share"),
    (
        lambda a, b: np.float64(a.sum() - b.sum()) / (a != b).sum() ** 0.5 if (a != b).any() else np.nan,
        "nan|Guard|0 / 0",
    ),
    (lambda a, b: np.corrcoef(a, b)[0, 1], "An example|for \\("),
    (lambda a, b: (a != b).sum(), "far too large|differ"),
    (lambda a, b: (a.sum() - b.sum()) / np.sqrt(len(a)), "root of all verses"),
    (lambda a, b: max(0, (a.sum() - b.sum()) / max(1, (a != b).sum()) ** 0.5), "the second is better"),
    (lambda a, b: a - b, "list|several|shape"),
    (lambda b, a: (a.mean() - b.mean()) / 0.05, "far too large"),
]
SERVED = [  # of 13.2
    (lambda x, W, A, B, w, alpha: x @ W.T, "base alone"),
    (lambda x, W, A, B, w, alpha: x @ (W + alpha / A.shape[1] * B[0] @ A[0]).T, "adapter 0"),
    (lambda x, W, A, B, w, alpha: x @ W + alpha * x, "stopped|shapes"),
    (lambda x, W, A, B, w, alpha: rows(x, w, lambda k: W + alpha * B[k] @ A[k]), "not divided by the rank"),
    (lambda x, W, A, B, w, alpha: rows(x, w, lambda k: W + B[k] @ A[k]), "scaling is missing"),
    (lambda x, W, A, B, w, alpha: alpha / A.shape[1] * rows(x, w, lambda k: W + B[k] @ A[k]), "base is scaled"),
    (lambda x, W, A, B, w, alpha: rows(x, w, lambda k: W + alpha / len(A) * B[k] @ A[k]), "number of adapters"),
    (lambda x, W, A, B, w, alpha: rows(x[w], w, lambda k: W + alpha / A.shape[1] * B[k] @ A[k]), "row which"),
    (lambda x, W, A, B, w, alpha: rows(x, sorted(w), lambda k: W + alpha / A.shape[1] * B[k] @ A[k]), "is sorted"),
    (lambda x, W, A, B, w, alpha: None, "return"),
    (lambda x, W, A, B, w, alpha: rows(x, w, lambda k: W + alpha / A.shape[1] * B[k] @ A[k]).T, "transposed|turned"),
    (lambda x, W, A, B, w, alpha: rows(x, w, lambda k: W + alpha / A.shape[1] * B[k] @ A[k]).sum(0), "summed"),
    (lambda x, W, A, B, w, alpha: x @ (W + alpha / A.shape[1] * (B @ A).max(0)).T, "for \\("),
]
FRESH = [(check.standard_errors, *pair) for pair in SAME] + [(check.many_adapters, *pair) for pair in SERVED]


@pytest.mark.parametrize(("exercise", "attempt", "message"), FRESH)
def test_mistakes_are_named(exercise, attempt, message):
    with pytest.raises(AssertionError, match=message):
        exercise(attempt)


WRITTEN = {"sentence": "It is faster.", "number": "seconds", "settings": "1 token", "verdict": "true"}
WRITTEN |= {"control": "the base against itself: 1"}


@pytest.mark.parametrize(
    ("mine", "message"),
    [
        (None, "no sentence yet"),
        ({"sentence": "It is faster."}, "still to write: number"),
        (
            {"sentence": "It is faster.", "number": "seconds", "settings": "1 token", "verdict": "true"},
            "without a control",
        ),
        ({"sentence": "s", "number": "n", "settings": "t", "control": "base", "verdict": "true"}, "names no number"),
        (
            {"sentence": "s", "number": "n", "settings": "t", "control": "base against base: 1", "verdict": "true"},
            "measure",
        ),
    ],
)
def test_a_verdict_needs_a_control(mine, message, capsys):
    check.own_sentence(mine)
    assert message in capsys.readouterr().out
