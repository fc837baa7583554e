"""Notebook 09: the gradient is the layer's, right answers in other words, shapes that do not fit."""

from statistics import fmean

import numpy as np
import pytest
import torch
from test_exercises import said

from lora_edu import LoRALinear, nf_codebook
from lora_edu.exercises import nb09 as check
from lora_edu.exercises.answers import PYTHON
from lora_edu.qlora import NF4Linear

CODEBOOK = nf_codebook(4).numpy()


def by_one_weight(grad_y, W, a, b, alpha):
    return grad_y @ (W + alpha / len(a) * b @ a)


def by_loops(x, codes, absmax, a, b, alpha):
    size = codes.size // len(absmax)
    W = [CODEBOOK[code] * absmax[place // size] for place, code in enumerate(codes.ravel())]
    return x @ (np.reshape(W, codes.shape).T + alpha / a.shape[0] * a.T @ b.T)


def by_repeat(x, codes, absmax, a, b, alpha):
    scales = np.repeat(absmax, codes.size // len(absmax)).reshape(codes.shape)
    return np.einsum("ni,oi->no", x, CODEBOOK[codes] * scales) + alpha / b.shape[1] * np.dot(np.dot(x, a.T), b.T)


def by_lists(full, lora):
    return min(fmean(losses) for losses in lora.values()) - min(fmean(losses) for losses in full.values())


@pytest.mark.parametrize(
    ("exercise", "answer"),
    [
        (check.input_gradient, by_one_weight),
        (check.qlora_output, by_loops),
        (check.qlora_output, by_repeat),
        (check.stored_bytes, lambda d, n, v, c: n * (6 * d * d + 52 * d) + d * (8 * v + 4 * c + 8)),
        (check.lora_minus_full, by_lists),
    ],
)
def test_right_answers_of_another_style(exercise, answer, capsys):
    exercise(answer)
    assert capsys.readouterr().out.endswith(": correct\n")


def test_the_gradient_of_the_exercise_is_that_of_the_layer():
    layer = LoRALinear(NF4Linear.from_linear(torch.nn.Linear(48, 20, bias=False)), rank=3, alpha=12)
    torch.nn.init.normal_(layer.lora_B)
    x, grad_y = torch.randn(7, 48, requires_grad=True), torch.randn(7, 20)
    layer(x).backward(grad_y)
    parts = (grad_y, layer.base.dequantize(), layer.lora_A.detach(), layer.lora_B.detach())
    assert torch.allclose(x.grad, check.input_gradient.reference(*parts, 12), atol=1e-4)


def decoded(codes, absmax):
    return (CODEBOOK[codes].reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape)


@pytest.mark.parametrize(
    ("exercise", "wrong", "sentence"),
    [
        (check.input_gradient, lambda g, W, a, b, al: g @ W.T, "a factor needs a transpose or another place. Given"),
        (check.qlora_output, lambda x, c, m, a, b, al: x @ decoded(c, m), "a factor needs a transpose or another"),
        (check.qlora_output, lambda x, c, m, a, b, al: x @ (CODEBOOK[c] * m[:, None]).T, "one number for each block"),
        (check.qlora_output, lambda x, c, m, a, b, al: x @ CODEBOOK[c.reshape(-1, 64)].T, "do not fill that shape"),
        (check.qlora_output, lambda x, c, m, a, b, al: x @ CODEBOOK[c * m[0]].T, "an index is no whole number"),
    ],
)
def test_shapes_and_indices_that_do_not_fit(exercise, wrong, sentence):
    text = said(exercise, wrong)
    assert sentence in text and "gufunc" not in text and len(text.split(PYTHON)[0].split()) <= 40
