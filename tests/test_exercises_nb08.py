import pytest
import torch
import torch.nn.functional as F

from lora_edu.exercises import nb08 as check
from lora_edu.gpt import Block, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.memory.activations import measured_activations
from lora_edu.memory.calculator import ACTIVATIONS, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES


def test_the_references_agree_with_the_package():
    seven = ARCHITECTURES["LLaMA 7B"]
    needed = training_bytes(seven, bits=4, rank=8)
    linear, trained = seven.parameters()["block linears"], seven.adapter_numbers(8, tuple(seven.linears))
    others = 2 * (seven.n_parameters - linear)
    mine = check.qlora_bytes.reference(linear, trained, False)
    assert mine + others == pytest.approx(sum(needed.values()) - needed[ACTIVATIONS])


@pytest.mark.parametrize("targets", [(), ("up_proj",), ("down_proj",), ("up_proj", "down_proj")])
def test_the_mlp_keeps_what_the_exercise_says(targets):
    block = Block(GPTConfig(d_model=48)).requires_grad_(False)
    if targets:
        add_lora(block, 3, 5, targets)
    x = torch.randn(2, 7, 48, requires_grad=True)
    kept = measured_activations(block, lambda: block.mlp(block.mlp_norm(x)))
    numbers = sum(tensor.untyped_storage().nbytes() for tensor in kept) / 4 / 14
    assert numbers == check.mlp_activations.reference(48, 3, "up_proj" in targets, "down_proj" in targets)


def test_a_function_that_hides_the_weight_from_autograd_is_found_too():
    """Saved-tensor hooks do not see what a Function puts on its ctx; counting what is alive does."""

    class Hidden(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, quantized):
            ctx.weight = quantized.dequantize()
            return F.linear(x, ctx.weight)

        @staticmethod
        def backward(ctx, grad_y):
            return grad_y @ ctx.weight, None

    with pytest.raises(AssertionError, match="the full weight is kept for backward: 1,048,576 bytes"):
        check.quantized_linear(Hidden.apply)


def test_the_right_answer_leaves_nothing_alive():
    assert check._observe_linear(check.quantized_linear.reference, 1024, 256)[-1] == 0
    assert check._observe_linear(check._KeepsInput.apply, 1024, 256)[-1] == 3 * 256 * 4


class KeepsInputOnTheContext(check._Linear):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.input = x
        return check._Linear.forward(ctx, x, quantized)


@pytest.mark.parametrize(
    "attempt, message",
    [
        (KeepsInputOnTheContext.apply, "this keeps x"),
        (torch.no_grad()(lambda x, q: x @ q.dequantize().T), "x gets no gradient"),
        (lambda x, q: (x.detach() @ q.dequantize().T).requires_grad_(), "x gets no gradient"),
        (lambda x, q: x @ q.dequantize().T, "the full weight is kept"),
    ],
)
def test_other_ways_to_write_the_same_mistakes(attempt, message):
    with pytest.raises(AssertionError, match=message):
        check.quantized_linear(attempt)


WRONG = {
    "scattered zeros": lambda value: (value == 0).sum() > 1,
    "nearly all zero": lambda value: (value == 0).sum() >= value.size - 1,
    "the last number": lambda value: value[-1, -1] == 0,
    "the first row": lambda value: not value[0].any(),
    "the first column": lambda value: not value[:, 0].any(),
    "constant": lambda value: value.std() == 0,
    "the smallest": lambda value: value.min() == 0,
    "the product": lambda value: value.prod() == 0,
    "never": lambda value: False,
    "always": lambda value: True,
}


@pytest.mark.parametrize("is_dead", WRONG.values(), ids=WRONG)
def test_hasty_looks_at_B_do_not_pass(is_dead):
    with pytest.raises(AssertionError, match="Exercise 8.4"):
        check.never_moved(
            lambda state: sum(bool(is_dead(value)) for name, value in state.items() if name.endswith("lora_B"))
        )
