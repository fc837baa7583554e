"""The checks of notebook 09: right answers of other styles pass, wrong ones that nobody listed get a sentence."""

from statistics import fmean, median

import numpy as np
import pytest
import torch

from lora_edu import LoRALinear, nf_codebook
from lora_edu.exercises import nb09 as check
from lora_edu.qlora import NF4Linear

CODEBOOK = nf_codebook(4).numpy()


def decoded(codes, absmax):
    return (CODEBOOK[codes].reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape)


# --- right ones ------------------------------------------------------------------------------------------------------


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


# --- wrong ones ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["input_gradient", "qlora_output", "stored_bytes", "lora_minus_full"])
def test_every_listed_mistake_is_named(name):
    exercise = getattr(check, name)
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            exercise(mistake)
        said = str(caught.value).split(": ", 1)[1]
        assert said in exercise.misconceptions
        assert said == sentence or "Also:" in sentence  # two mistakes may come to the same as one


WRONG = [
    (check.input_gradient, lambda g, W, a, b, al: g @ W.T, "the shapes of a product do not fit"),
    (check.input_gradient, lambda g, W, a, b, al: g @ (W + al * b @ a), "this scales by alpha"),
    (check.input_gradient, lambda g, W, a, b, al: (g @ W + al / len(a) * g @ b @ a).sum(0), r"yours is \(d_in\)"),
    (check.input_gradient, lambda g, W, a, b, al: 2 * g @ W + al / len(a) * g @ b @ a, "yours is 2 times grad_y W'"),
    (check.input_gradient, lambda g, W, a, b, al: g @ W + al / len(b) * g @ b @ a, "this divides by d_out"),
    (check.input_gradient, lambda g, W, a, b, al: g @ W + al / len(a) * g @ b, "the shapes of two arrays"),
    (check.qlora_output, lambda x, c, m, a, b, al: x @ (CODEBOOK[c] * m[:, None]).T, "one number for each block"),
    (
        check.qlora_output,
        lambda x, c, m, a, b, al: x @ (CODEBOOK[c].reshape(-1, 64) * m[:, None]).reshape(c.shape).T,
        "The block size is not given",
    ),
    (check.qlora_output, lambda x, c, m, a, b, al: x @ decoded(c, m), "the shapes of a product do not fit"),
    (check.qlora_output, lambda x, c, m, a, b, al: x @ decoded(c, m).T + al / len(a) * x @ a @ b, "the shapes"),
    (check.qlora_output, lambda x, c, m, a, b, al: x @ CODEBOOK[c * m[0]].T, "an index must be a whole number"),
    (
        check.qlora_output,
        lambda x, c, m, a, b, al: x @ decoded(c, m**2).T + al / len(a) * x @ a.T @ b.T,
        r"the weight is wrong.*codebook\[13\] times absmax\[0\]",
    ),
    (
        check.qlora_output,
        lambda x, c, m, a, b, al: x @ (c * 1.0).T + al / len(a) * x @ a.T @ b.T,
        "the weight is wrong",
    ),
    (check.qlora_output, lambda x, c, m, a, b, al: x @ decoded(c, m).T * (x @ a.T @ b.T), "this is no linear layer"),
    (
        check.stored_bytes,
        lambda d, n, v, c: 8 * (n * 6 * d * d + 4 * d * (2 * v + c + 4 * n + 2 + 9 * n)),
        "divide by 8",
    ),
    (check.stored_bytes, lambda d, n, v, c: n * 6 * d * d + 4 * d * (v + c + 4 * n + 2 + 9 * n), "the head is missing"),
    (
        check.stored_bytes,
        lambda d, n, v, c: n * 6 * d * d + 4 * d * (2 * v + c + 4 * n + 2 + 5 * n),
        "the number before d_model \\* n_layers is too small; all else",
    ),
    (check.stored_bytes, lambda d, n, v, c: n * 6 * d * d, "this counts the block weights alone"),
    (check.lora_minus_full, lambda f, lo: min(map(min, lo.values())) - min(map(min, f.values())), "the luckiest run"),
    (
        check.lora_minus_full,
        lambda f, lo: fmean(map(min, zip(*lo.values(), strict=True))) - fmean(map(min, zip(*f.values(), strict=True))),
        "this lets each seed choose a rate of its own",
    ),
    (
        check.lora_minus_full,
        lambda f, lo: min(map(median, lo.values())) - min(map(median, f.values())),
        "this takes the median",
    ),
    (
        check.lora_minus_full,
        lambda f, lo: min(fmean(lo[rate]) - fmean(f[rate]) for rate in set(f) & set(lo)),
        "the rate that is best for LoRA|compares LoRA at",
    ),
    (check.lora_minus_full, lambda f, lo: (1.0, 2.0), "one number is asked for"),
]


@pytest.mark.parametrize(("exercise", "wrong", "sentence"), WRONG, ids=range(len(WRONG)))
def test_wrong_answers_that_are_not_listed(exercise, wrong, sentence):
    with pytest.raises(AssertionError, match=sentence):
        exercise(wrong)
