import pytest
import torch
import torch.nn.functional as F

from lora_edu.activations import measured_activations
from lora_edu.architectures import ARCHITECTURES
from lora_edu.calculator import ACTIVATIONS, training_bytes
from lora_edu.exercises import nb08 as check
from lora_edu.gpt import Block, GPTConfig
from lora_edu.lora import add_lora

EXERCISES = [check.qlora_bytes, check.mlp_activations, check.quantized_linear, check.never_moved]


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_every_misconception_is_caught_by_its_own_name(exercise):
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as caught:
            exercise(mistake)
        assert str(caught.value) == f"Exercise {exercise.number}: {sentence}"


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda e: e.number)
def test_untouched_and_right(exercise, capsys):
    exercise(lambda *arguments: ...)
    exercise(exercise.reference)
    assert capsys.readouterr().out == f"Exercise {exercise.number}: not done yet\nExercise {exercise.number}: correct\n"


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
