"""The exercises that observe a layer or its weights, 4.2, 8.3, 8.4: a promise that is broken is called by its name."""

import pytest
import torch
import torch.nn.functional as F
from test_exercises import said
from torch import nn

from lora_edu.exercises import nb04, nb08
from lora_edu.exercises.answers import Answer
from lora_edu.exercises.comparing import first_difference

# --- 4.2: a LoRA layer -----------------------------------------------------------------------------------------------


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


def bent(forward):
    return type("Bent", (Layer,), {"forward": forward})


def plus_base(branch):
    return bent(lambda self, x: self.base(x) + branch(self, x))


def with_mask(mask):
    """Dropout by hand."""
    return plus_base(lambda s, x: s.s * (x * mask(x, s.drop.p) if s.training else x) @ s.lora_A.T @ s.lora_B.T)


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


# These pass, as tests/test_exercises_right.py asks.
RIGHT = [
    Layer,
    plus_base(lambda self, x: F.linear(self.drop(x), self.s * self.lora_B @ self.lora_A)),
    plus_base(lambda s, x: s.s * F.dropout(x, s.drop.p, s.training) @ s.lora_A.mT @ s.lora_B.mT),
    with_mask(lambda x, p: (torch.rand(x.shape) >= p) / (1 - p)),
]


def observed(layer):
    """The first thing that is said of a layer, without where it is in its code."""
    answer = Answer(nb04.lora_layer, layer)
    return answer.look[1] if answer.look[0] == "observed" else first_difference(answer.got[answer.first], answer.right)


@pytest.mark.parametrize(
    ("layer", "promise"),
    [
        (bent(torch.no_grad()(Layer.forward)), "the output carries gradients"),
        (bent(base_under_no_grad), "W counts once in the gradient of x"),
        (bent(lambda self, x: self.base(x) + self.branch(x.detach())), "B A counts in the gradient of x"),
        (plus_base(lambda s, x: s.s * s.drop(x) @ s.lora_A.detach().T @ s.lora_B.T), "counts in the gradient of A"),
        (plus_base(lambda s, x: s.s * s.drop(x) @ s.lora_A.T @ s.lora_B.data.T), "counts in the gradient of B"),
        (plus_base(lambda s, x: s.s * x @ s.lora_A.T @ s.lora_B.T), "dropped while training: expected 0.2, got 0"),
        (plus_base(lambda s, x: s.s * s.drop(x @ s.lora_A.T) @ s.lora_B.T), "dropout acts on x, before A"),
        (plus_base(lambda s, x: s.s * F.dropout(x, s.drop.p) @ s.lora_A.T @ s.lora_B.T), "in evaluation mode nothing"),
        (bent(lambda self, x: self.drop(Layer.forward(self, x))), "dropout leaves the path of the base alone"),
        (with_mask(lambda x, p: torch.rand(x.shape) >= p), "0 or 1 (expected: 0 or 1.25)"),
        (with_mask(lambda x, p: (torch.rand(x.shape[-1]) >= p) / (1 - p)), "entry of each x is dropped or kept by"),
        (bent(lambda self, x: x @ self.base.weight.T + self.branch(x)), "the bias counts once in the output"),
        (bent(lambda self, x: self.s * self.base(x) + self.branch(x)), "W x counts once in the output"),
        (bent(lambda self, x: self.base(x) + self.branch(x).relu()), "is made of W x, the bias and B A x"),
        (bent(lambda self, x: None), "returns no tensor: did you forget `return` there?"),
        (changed(s=lambda layer: -layer.s), "how often B A x counts in the output: expected 2.5, got -2.5"),
        (changed(base=lambda layer: layer.base.requires_grad_(True)), "base.bias, base.weight, lora_A, lora_B"),
        (changed(lora_B=lambda layer: nn.Parameter(layer.lora_B, requires_grad=False)), "gradient: expected 'lora_A"),
        (changed(lora_A=lambda layer: nn.Parameter(0 * layer.lora_A)), "A or B starts with numbers drawn at random"),
        (changed(lora_B=lambda layer: nn.Parameter(layer.lora_B + 1)), "at the start the output is that of the base"),
        (changed(lora_A=lambda layer: nn.Parameter(layer.lora_A.T)), "should have the shape (2, 8), and has (8, 2)"),
        (plus_base(lambda s, x: s.s * (s.lora_B @ (s.lora_A @ s.drop(x).T)).T), "an x of shape (batch, seq, d_in)"),
        (lambda *arguments: Layer, "the result should be an `nn.Module`"),
        (lambda base, *rest: base, "an optimizer to find. Here there is none."),
    ],
)
def test_a_layer_that_does_not_work_hears_which_promise_it_breaks(layer, promise):
    assert promise in observed(layer)


# --- 8.3: a layer that keeps nothing ---------------------------------------------------------------------------------


class Right(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.quantized = quantized
        return F.linear(x, quantized.dequantize())

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ ctx.quantized.dequantize(), None


class Hidden(Right):
    """Saved-tensor hooks do not see what a Function puts on its ctx; counting what is alive does."""

    @staticmethod
    def forward(ctx, x, quantized):
        ctx.weight = quantized.dequantize()
        return Right.forward(ctx, x, quantized)


class KeepsInput(Right):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.save_for_backward(x)
        return Right.forward(ctx, x, quantized)


def other_gradient(made):
    """The layer with another backward pass."""

    class Other(Right):
        @staticmethod
        def backward(ctx, grad_y):
            return made(grad_y, ctx.quantized.dequantize()), None

    return Other.apply


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (Hidden.apply, "keeps the whole W for your backward"),
        (KeepsInput.apply, "Your layer keeps x."),
        (lambda x, q: (x.detach() @ q.dequantize().T).requires_grad_(), "cuts x off"),
        (lambda x, q: F.linear(x.half(), q.dequantize().half()).float(), "in its first digits, as 16 bits have them"),
        (other_gradient(lambda g, W: g @ W / len(g)), "the gradient of x: 0.333 times dL/dy W"),
        (other_gradient(lambda g, W: g @ W.abs()), "the gradient of x: not dL/dy W"),
        (lambda x, q: Right.apply(x, q).T, "the output should have the shape (3, 256), and has (256, 3)"),
    ],
)
def test_a_layer_hears_what_it_keeps_and_what_is_wrong(attempt, sentence):
    assert sentence in said(nb08.quantized_linear, attempt)


# --- 8.4: what was never trained -------------------------------------------------------------------------------------

HASTY = {
    "scattered zeros": lambda B: (B == 0).sum() > 1,
    "nearly all zero": lambda B: (B == 0).sum() >= B.size - 1,
    "the last number": lambda B: B[-1, -1] == 0,
    "the first row": lambda B: not B[0].any(),
    "the first column": lambda B: not B[:, 0].any(),
    "constant": lambda B: B.std() == 0,
    "the smallest": lambda B: B.min() == 0,
    "never": lambda B: False,
    "always": lambda B: True,
}


@pytest.mark.parametrize("is_dead", HASTY.values(), ids=HASTY)
def test_hasty_looks_at_B_do_not_pass(is_dead):
    said(nb08.never_moved, lambda state: sum(bool(is_dead(B)) for name, B in state.items() if "lora_B" in name))
