"""Notebook 13: the references against other ways to compute them, and what was said falsely once."""

import numpy as np
import pytest
import torch
from test_exercises import said

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


@pytest.mark.parametrize(
    ("asked", "wrong", "sentence"),
    [
        (check.standard_errors, lambda a, b: 0, "returns 0 in every case that is tried"),
        (check.standard_errors, lambda a, b: np.float64(a.sum() - b.sum()) / (a != b).sum() ** 0.5, "guard"),
        (check.standard_errors, lambda a, b: (a.mean() - b.mean()) / (a.var() / len(a) + b.var() / len(b)) ** 0.5,
         "takes the two tests for independent"),
        (check.standard_errors, lambda a, b: 100 * (a.mean() - b.mean()), "far too large for so few pairs"),
        (check.many_adapters, lambda x, W, A, B, w, alpha: x @ W + alpha * x, "a factor needs a transpose"),
        (check.many_adapters, lambda x, W, A, B, w, alpha: x @ (W + alpha / A.shape[1] * (B @ A).sum(0)).T,
         "the sum of all adapters"),
    ],
)  # fmt: skip
def test_what_misled_once_and_beliefs_in_other_words(asked, wrong, sentence):
    assert sentence in said(asked, wrong)


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
