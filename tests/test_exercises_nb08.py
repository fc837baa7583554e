"""Notebook 08: the references agree with the package, and mistakes in other words."""

import pytest
import torch
import torch.nn.functional as F
from test_exercises import said

from lora_edu.exercises import nb08 as check
from lora_edu.gpt import Block, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.memory.activations import measured_activations
from lora_edu.memory.calculator import ACTIVATIONS, LOGITS, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES


def test_the_references_agree_with_the_package():
    seven = ARCHITECTURES["LLaMA 7B"]
    needed = training_bytes(seven, bits=4, rank=8)
    linear, trained = seven.parameters()["block linears"], seven.adapter_numbers(8, tuple(seven.linears))
    others = 2 * (seven.n_parameters - linear)
    mine = check.qlora_bytes.reference(linear, trained, False)
    assert mine + others == pytest.approx(sum(needed.values()) - needed[ACTIVATIONS] - needed[LOGITS])


@pytest.mark.parametrize("targets", [(), ("up_proj",), ("down_proj",), ("up_proj", "down_proj")])
def test_the_mlp_keeps_what_the_exercise_says(targets):
    block = Block(GPTConfig(d_model=48)).requires_grad_(False)
    if targets:
        add_lora(block, 3, 5, targets)
    x = torch.randn(2, 7, 48, requires_grad=True)
    kept = measured_activations(block, lambda: block.mlp(block.mlp_norm(x)))
    numbers = sum(tensor.untyped_storage().nbytes() for tensor in kept) / 4 / 14
    assert numbers == check.mlp_activations.reference(48, 3, "up_proj" in targets, "down_proj" in targets)


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


def test_a_layer_that_keeps_nothing_passes(capsys):
    check.quantized_linear(Right.apply)
    assert capsys.readouterr().out == "Exercise 8.3: correct\n"


@pytest.mark.parametrize(
    ("attempt", "sentence"),
    [
        (Hidden.apply, "keeps the whole W for your backward"),
        (lambda x, q: F.linear(x, q.dequantize().requires_grad_()), "keeps the whole W for your backward"),
        (KeepsInput.apply, "Your layer keeps x."),
        (torch.no_grad()(lambda x, q: x @ q.dequantize().T), "cuts x off"),
        (lambda x, q: (x.detach() @ q.dequantize().T).requires_grad_(), "cuts x off"),
        (lambda x, q: F.linear(x.half(), q.dequantize().half()).float(), "in its first digits, as 16 bits have them"),
        (other_gradient(lambda g, W: g @ W / len(g)), "the gradient of x: 0.333 times dL/dy W"),
        (other_gradient(lambda g, W: g @ W.abs()), "the gradient of x: not dL/dy W"),
        (lambda x, q: Right.apply(x, q).T, "the output should have the shape (3, 256), and has (256, 3)"),
    ],
)
def test_a_layer_hears_what_it_keeps_and_what_is_wrong(attempt, sentence):
    assert sentence in said(check.quantized_linear, attempt)


HASTY = {
    "scattered zeros": lambda B: (B == 0).sum() > 1,
    "nearly all zero": lambda B: (B == 0).sum() >= B.size - 1,
    "the last number": lambda B: B[-1, -1] == 0,
    "the first row": lambda B: not B[0].any(),
    "the first column": lambda B: not B[:, 0].any(),
    "constant": lambda B: B.std() == 0,
    "the smallest": lambda B: B.min() == 0,
    "the product": lambda B: B.prod() == 0,
    "never": lambda B: False,
    "always": lambda B: True,
}


@pytest.mark.parametrize("is_dead", HASTY.values(), ids=HASTY)
def test_hasty_looks_at_B_do_not_pass(is_dead):
    said(check.never_moved, lambda state: sum(bool(is_dead(B)) for name, B in state.items() if "lora_B" in name))


def test_a_list_and_two_mistakes_at_once_are_named():
    names = lambda state: [name for name, B in state.items() if "lora_B" in name and not B.any()]  # noqa: E731
    assert "this is a list. How many are there?" in said(check.never_moved, names)
    twice = said(check.qlora_bytes, lambda P, n, copy: P * 4 / 8 + 12 * n + (4 * P if copy else 0))
    assert "three floats for each trained number" in twice and "look at the bits of a base weight" in twice
