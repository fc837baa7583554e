"""The checks of notebook 04 accept all right ways, and name the promises that a layer breaks."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lora_edu.exercises import nb04
from lora_edu.exercises.answers import Answer
from lora_edu.exercises.comparing import first_difference


class Layer(nn.Module):
    """A right layer; each test bends one thing."""

    def __init__(self, base, rank, alpha, dropout):
        super().__init__()
        self.base, self.s, self.drop = base.requires_grad_(False), alpha / rank, nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.randn(rank, base.in_features))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))

    def forward(self, x):
        return self.base(x) + self.branch(x)

    def branch(self, x):
        return self.s * F.linear(F.linear(self.drop(x), self.lora_A), self.lora_B)


def bent(**methods):
    return type("Bent", (Layer,), methods)


def plus_base(branch):
    return bent(forward=lambda self, x: self.base(x) + branch(self, x))


def under_no_grad(self, x):
    with torch.no_grad():
        return Layer.forward(self, x)


def base_under_no_grad(self, x):
    with torch.no_grad():
        y = self.base(x)
    return y + self.branch(x)


def changed(**attributes):
    """A layer that is changed after it was made; an attribute is a function of the layer."""

    def make(*arguments):
        layer = Layer(*arguments)
        for name, value in attributes.items():
            setattr(layer, name, value(layer))
        return layer

    return make


def with_mask(mask):
    """Dropout by hand."""
    return plus_base(
        lambda s, x: s.s * (x * mask(x, s.drop.p) if s.training else x) @ s.lora_A.T @ s.lora_B.T,
    )


RIGHT_LAYERS = [
    Layer,
    plus_base(lambda self, x: self.s * (self.drop(x) @ self.lora_A.T) @ self.lora_B.T),
    plus_base(lambda self, x: F.linear(self.drop(x), self.s * self.lora_B @ self.lora_A)),
    plus_base(
        lambda self, x: self.s * F.dropout(x, self.drop.p, self.training) @ self.lora_A.mT @ self.lora_B.mT,
    ),
    bent(forward=lambda self, x: F.linear(x, self.base.weight, self.base.bias) + self.branch(x)),
    with_mask(lambda x, p: (torch.rand(x.shape) >= p) / (1 - p)),
]


@pytest.mark.parametrize("layer", RIGHT_LAYERS)
def test_a_right_layer_passes_however_it_is_written(layer, capsys):
    nb04.lora_layer(layer)
    assert capsys.readouterr().out == "Exercise 4.2: correct\n"


def observed(layer):
    """The first thing that is said of a layer, without where it is in its code."""
    answer = Answer(nb04.lora_layer, layer)
    return answer.look[1] if answer.look[0] == "observed" else first_difference(answer.got[answer.first], answer.right)


@pytest.mark.parametrize(
    ("layer", "promise"),
    [
        (bent(forward=under_no_grad), "the output carries gradients"),
        (bent(forward=base_under_no_grad), "W counts once in the gradient of x"),
        (bent(forward=lambda self, x: self.base(x) + self.branch(x.detach())), "B A counts in the gradient of x"),
        (plus_base(lambda s, x: s.s * s.drop(x) @ s.lora_A.detach().T @ s.lora_B.T), "counts in the gradient of A"),
        (plus_base(lambda s, x: s.s * s.drop(x) @ s.lora_A.T @ s.lora_B.data.T), "counts in the gradient of B"),
        (plus_base(lambda s, x: s.s * x @ s.lora_A.T @ s.lora_B.T), "dropped while training: expected 0.2, got 0"),
        (plus_base(lambda s, x: s.s * s.drop(x @ s.lora_A.T) @ s.lora_B.T), "dropout acts on x, before A"),
        (plus_base(lambda s, x: s.s * x @ s.drop(s.lora_A).T @ s.lora_B.T), "dropout acts on x, before A"),
        (plus_base(lambda s, x: s.s * s.drop(x @ s.lora_A.T @ s.lora_B.T)), "dropout acts on x, before A"),
        (plus_base(lambda s, x: s.s * F.dropout(x, s.drop.p) @ s.lora_A.T @ s.lora_B.T), "in evaluation mode nothing"),
        (bent(forward=lambda self, x: self.drop(Layer.forward(self, x))), "dropout leaves the path of the base alone"),
        (bent(forward=lambda self, x: Layer.forward(self, self.drop(x))), "dropout leaves the path of the base alone"),
        (changed(drop=lambda layer: nn.Dropout(0.1)), "the share of x that is dropped while training: expected 0.2"),
        (with_mask(lambda x, p: torch.rand(x.shape) >= p), "0 or 1 (expected: 0 or 1.25)"),
        (with_mask(lambda x, p: (torch.rand(x.shape[-1]) >= p) / (1 - p)), "entry of each x is dropped or kept by"),
        (with_mask(lambda x, p: (torch.rand(len(x), 1) >= p) / (1 - p)), "entry of each x is dropped or kept by"),
        (bent(forward=lambda self, x: x @ self.base.weight.T + self.branch(x)), "the bias counts once in the output"),
        (bent(forward=lambda self, x: self.s * self.base(x) + self.branch(x)), "W x counts once in the output"),
        (bent(forward=lambda self, x: self.base(x) + self.branch(x).relu()), "is made of W x, the bias and B A x"),
        (bent(forward=lambda self, x: None), "returns no tensor: did you forget `return` there?"),
        (changed(s=lambda layer: -layer.s), "how often B A x counts in the output: expected 2.5, got -2.5"),
        (changed(base=lambda layer: layer.base.requires_grad_(True)), "base.bias, base.weight, lora_A, lora_B"),
        (changed(lora_B=lambda layer: nn.Parameter(layer.lora_B, requires_grad=False)), "gradient: expected 'lora_A"),
        (changed(gate=lambda layer: nn.Parameter(torch.ones(1))), "what asks for a gradient: gate, lora_A, lora_B"),
        (changed(lora_A=lambda layer: nn.Parameter(0 * layer.lora_A)), "A or B starts with numbers drawn at random"),
        (changed(lora_B=lambda layer: nn.Parameter(layer.lora_B + 1)), "at the start the output is that of the base"),
        (changed(lora_A=lambda layer: nn.Parameter(layer.lora_A.T)), "should have the shape (2, 8), and has (8, 2)"),
        (
            plus_base(lambda s, x: s.s * (s.lora_B @ (s.lora_A @ s.drop(x).T)).T),
            "an x of shape (batch, seq, d_in) gives",
        ),
        (lambda *arguments: Layer, "the result should be an `nn.Module`"),
        (lambda base, *rest: base, "an optimizer to find. Here there is none."),
    ],
)
def test_a_layer_that_does_not_work_hears_which_promise_it_breaks(layer, promise):
    assert promise in observed(layer)


# --- 4.1 -------------------------------------------------------------------------------------------------------------


def new_rows(A, extra):
    return np.random.default_rng(3).normal(size=(extra, A.shape[1]))


def new_columns(B, extra):
    return np.zeros((len(B), extra))


def grown(A, B, extra, times_A=1.0, times_B=1.0, rows=None, columns=None):
    rows = new_rows(A, extra) if rows is None else rows
    columns = new_columns(B, extra) if columns is None else columns
    return np.vstack([times_A * A, rows]), np.hstack([times_B * B, columns])


def factor(A, extra):
    return (len(A) + extra) / len(A)


@pytest.mark.parametrize(
    "solution",
    [
        lambda A, B, extra: grown(A, B, extra, times_B=factor(A, extra)),
        lambda A, B, extra: grown(A, B, extra, times_A=factor(A, extra)),
        lambda A, B, extra: (
            np.vstack([new_rows(A, extra), A]),
            np.hstack([new_columns(B, extra), factor(A, extra) * B]),
        ),
        lambda A, B, extra: list(grown(A, B, extra, *[factor(A, extra) ** 0.5] * 2)),
        lambda A, B, extra: grown(
            A, B, extra, 1, factor(A, extra), np.zeros((extra, A.shape[1])), new_rows(B.T, extra).T
        ),
    ],
)
def test_an_adapter_can_be_grown_in_several_ways(solution, capsys):
    nb04.grow(solution)
    assert capsys.readouterr().out == "Exercise 4.1: correct\n"


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (lambda A, B, extra: grown(A, B, extra, times_B=1 / factor(A, extra)), "in the new one: expected 2.5, got 0.4"),
        (lambda A, B, extra: grown(A, factor(A, extra) * B, extra)[::-1], "the new A should have the shape (5, 9)"),
        (
            lambda A, B, extra: (np.vstack([new_rows(A, extra), A]), grown(A, B, extra)[1]),
            "row k of A still belongs to",
        ),
        (lambda A, B, extra: B @ A, "return both factors"),
    ],
)
def test_a_wrongly_grown_adapter_hears_why(attempt, sentence):
    with pytest.raises(AssertionError, match="Exercise 4.1") as error:
        nb04.grow(attempt)
    assert sentence in str(error.value)


# --- 4.3 and 4.4 -----------------------------------------------------------------------------------------------------


def in_loops(A1, B1, A2, B2, weights, alpha):
    """One outer product for each rank, in float32."""
    update = np.zeros((len(B1), A1.shape[1]), dtype=np.float32)
    for weight, A, B in zip(weights, (A1, A2), (B1, B2), strict=True):
        for a, b in zip(A, B.T, strict=True):
            update += np.float32(weight * alpha / len(A)) * np.outer(b, a)
    return update


def by_steps(T, d_in, d_out, r):
    """Each product by itself."""
    forward = T * d_in * d_out + T * d_in * r + T * r * d_out
    grad_inputs = T * d_out * d_in + T * r * d_in + T * d_out * r
    grad_factors = r * T * d_in + d_out * T * r
    return forward + grad_inputs + grad_factors


@pytest.mark.parametrize(
    ("exercise", "solution"),
    [
        (nb04.weighted_update, in_loops),
        (nb04.weighted_update, lambda a, b, c, d, w, s: (w[0] * b @ a + w[1] * d @ c) * s / len(a)),
        (
            nb04.weighted_update,
            lambda a, b, c, d, w, s: np.hstack([w[0] * b, w[1] * d]) @ np.vstack([a, c]) * s / len(c),
        ),
        (nb04.training_operations, by_steps),
    ],
)
def test_right_solutions_pass(exercise, solution, capsys):
    exercise(solution)
    assert capsys.readouterr().out == f"Exercise {exercise.number}: correct\n"
