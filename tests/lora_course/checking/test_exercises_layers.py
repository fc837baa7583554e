"""The exercises that observe a layer or its weights, 4.2, 8.3, 8.4: a promise that is broken is called by its name.

A layer is the right one with an edit of its source, "old -> new".
"""

import pytest
from test_exercises import said

from lora_course.checking.answers import Answer
from lora_course.checking.comparing import first_difference
from lora_course.nb04 import check as nb04
from lora_course.nb08 import check as nb08

BRANCH = "F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)"
OUTPUT = "self.base(x) + self.scaling * branch"


def observed(edit):
    """The first thing that is said of a layer, without where it is in its code."""
    answer = Answer(nb04.lora_layer, nb04.lora_layer.source.edited(edit).solution())
    return answer.look[1] if answer.look[0] == "observed" else first_difference(answer.got[answer.first], answer.right)


@pytest.mark.parametrize(
    ("edit", "promise"),
    [
        (f"{OUTPUT} -> ({OUTPUT}).detach()", "the output carries gradients"),
        ("dropout(x) -> dropout(x.detach())", "B A counts in the gradient of x"),
        ("self.lora_A), -> self.lora_A.detach()),", "counts in the gradient of A"),
        ("self.lora_B) -> self.lora_B.data)", "counts in the gradient of B"),
        ("self.dropout(x) -> x", "dropped while training: expected 0.2, got 0"),
        ("F.linear(self.dropout(x), self.lora_A) -> self.dropout(F.linear(x, self.lora_A))", "dropout acts on x, bef"),
        ("self.dropout(x) -> F.dropout(x, dropout)", "in evaluation mode nothing"),
        (f"{OUTPUT} -> self.dropout({OUTPUT})", "dropout leaves the path of the base alone"),
        ("self.dropout(x) -> x * (torch.rand(x.shape) >= dropout) if self.training else x", "1 (expected: 0 or 1.25)"),
        ("self.dropout(x) -> x * (torch.rand(x.shape[-1]) >= dropout) / (1 - dropout) if self.training else x",
         "entry of each x is dropped or kept by"),
        ("self.base(x) -> x @ base.weight.T", "the bias counts once in the output"),
        ("self.base(x) -> self.scaling * self.base(x)", "W x counts once in the output"),
        ("self.scaling * branch -> (self.scaling * branch).relu()", "is made of W x, the bias and B A x"),
        (f"return {OUTPUT} -> pass", "returns no tensor: did you forget `return` there?"),
        ("alpha / rank -> -alpha / rank", "how often B A x counts in the output: expected 2.5, got -2.5"),
        ("out_features, rank)) -> out_features, rank), False)", "gradient: expected 'lora_A"),
        ("torch.zeros -> torch.ones", "at the start the output is that of the base"),
        ("(rank, base.in_features) -> (base.in_features, rank)", "should have the shape (2, 8), and has (8, 2)"),
        (f"{BRANCH} -> (self.lora_B @ (self.lora_A @ self.dropout(x).T)).T", "an x of shape (batch, seq, d_in)"),
        ("return LoRA() -> return LoRA", "the result should be an `nn.Module`"),
        ("return LoRA() -> return base", "an optimizer to find. Here there is none."),
    ],
)  # fmt: skip
def test_a_layer_that_does_not_work_hears_which_promise_it_breaks(edit, promise):
    assert promise in observed(edit)


# Of 8.3. Saved-tensor hooks do not see what a Function puts on its ctx; counting what is alive does.
@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ("ctx.quantized = quantized -> ctx.quantized, ctx.W = quantized, quantized.dequantize()", "keeps the whole W"),
        ("ctx.quantized = quantized -> ctx.quantized = quantized; ctx.save_for_backward(x)", "Your layer keeps x."),
        ("WithoutCopy.apply(x, quantized) -> (x.detach() @ quantized.dequantize().T).requires_grad_()", "cuts x off"),
        ("WithoutCopy.apply(x, quantized) -> (x.half() @ quantized.dequantize().half().T).float()",
         "in its first digits, as 16 bits have them"),
        ("return grad_y @ -> return grad_y / len(grad_y) @", "the gradient of x: 0.333 times dL/dy W"),
        ("dequantize(), None -> dequantize().abs(), None", "the gradient of x: not dL/dy W"),
        ("return x @ quantized.dequantize().T -> return quantized.dequantize() @ x.T", "(3, 256), and has (256, 3)"),
    ],
)  # fmt: skip
def test_a_layer_hears_what_it_keeps_and_what_is_wrong(edit, sentence):
    assert sentence in said(nb08.quantized_linear, nb08.quantized_linear.source.edited(edit).solution())


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
