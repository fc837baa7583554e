import pytest
import torch
import torch.nn.functional as F

from lora_edu.exercises import nb08 as check
from lora_edu.exercises import nb08_layers
from lora_edu.exercises.mistakes import combinations
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
    observe, alive = nb08_layers._observe_linear, nb08_layers.ALIVE
    assert observe(check.quantized_linear.reference, 1024, 256)[alive] == 0
    assert observe(nb08_layers._KeepsInput.apply, 1024, 256)[alive] == 3 * 256 * 4


class KeepsInputOnTheContext(nb08_layers._Linear):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.input = x
        return nb08_layers._Linear.forward(ctx, x, quantized)


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


# --- mistakes that come in pairs -------------------------------------------------------------------------------------


def test_two_mistakes_at_once_are_both_named():
    with pytest.raises(AssertionError) as error:
        check.qlora_bytes(lambda P, n, copy: P * 4 / 8 + 12 * n + (4 * P if copy else 0))
    assert "the constants are missing" in str(error.value) and "And 12 bytes for each" in str(error.value)
    with pytest.raises(AssertionError) as error:
        check.mlp_activations(lambda d, r, up, down: d + 4 * d + (d if up else 0) + (4 * d if down else 0))
    assert "two statistics are missing" in str(error.value) and "s A x of each linear is missing" in str(error.value)


def test_what_gives_the_right_answer_is_no_mistake():
    def formula(x, add=0, times=1):
        return times * x + add

    parts = {"add": (0, {1: "one more.", 0.0: "no mistake."}), "times": (1, {2: "twice.", 3: "three times."})}
    found = combinations(formula, [(5,), (7,)], parts, {"three times three.": lambda x: 3 * x})
    assert list(found)[:3] == ["three times three.", "one more.", "twice."] and "three times." not in found
    assert found["one more. And twice."](5) == 11


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda state: len([b for name, b in state.items() if name.endswith("lora_B")]), "the number of adapters"),
        (lambda state: [name for name, b in state.items() if "lora_B" in name and not b.any()], "this is a list"),
        (
            lambda state: sum(not b.any(axis=1).all() for name, b in state.items() if "lora_B" in name),
            "a row of zeros",
        ),
    ],
)
def test_other_counts_are_named(attempt, message):
    with pytest.raises(AssertionError, match=message):
        check.never_moved(attempt)


def test_a_wrong_gradient_is_called_by_its_name():
    class Odd(nb08_layers._Linear):
        @staticmethod
        def backward(ctx, grad_y):
            return grad_y @ ctx.quantized.dequantize().abs(), None

    with pytest.raises(AssertionError, match="the gradient of x: entry"):
        check.quantized_linear(Odd.apply)


def test_the_function_of_the_page_teaches_what_the_exercise_needs():
    """`Times` of section 5, and the layer written after its pattern with the gradient of section 2."""

    class Layer(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, quantized):
            ctx.quantized = quantized
            return F.linear(x, quantized.dequantize())

        @staticmethod
        def backward(ctx, grad_y):
            return grad_y @ ctx.quantized.dequantize(), None

    check.quantized_linear(Layer.apply)
