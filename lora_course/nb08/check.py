"""The checks of notebook 08, memory: counting, a layer that keeps nothing, and adapters that never moved."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_edu.memory.peak import PeakMemory
from lora_edu.quantization import quantize

__all__ = ["beside", "mlp_activations", "never_moved", "qlora_bytes", "quantized_linear"]

# --- 8.1: bytes of weights, gradients and optimizer state ------------------------------------------------------------


@exercise(
    "8.1",
    [(10**6, 20_000, False), (3 * 10**6, 50_000, True), (7 * 10**5, 10**5, False)],
    taught={
        "8 / 64 + 32 / (64 * 256) -> 32 / 64": "Your answer keeps a float32 for each block, 4.5 bits a weight. Double "
        "quantization leaves {bits:.3f}.",
        "(64 * 256) -> 256": "Your answer lets 256 weights share a constant of the second level. It serves 256 blocks, "
        "and so 64 * 256 weights.",
        "1 + 1 + 2 -> 1 + 1 + 1": "Your answer has three floats for each trained number. AdamW keeps two means: four "
        "in all, {trained:,} bytes.",
        "1 + 1 + 2 -> 1 + 1 + 2 + 0.5": "Your answer has a copy of the adapters in 16 bits. They are in float32 "
        "already: {trained:,} bytes are all.",
        "4 * n * floats -> 4 * n * floats + 12 * P": "Your answer trains the frozen weights, too. Gradients and "
        "AdamW's means belong to the {n:,} adapter numbers alone.",
        "base + trained + copy -> trained + (copy if copy_alive else base)": "The copy replaces the codes in your "
        "answer. Both are alive: the base takes {base:,.0f} bytes beside it.",
        "if copy_alive else 0 -> if False else 0": "Your answer leaves the float32 copy out. While "
        "somebody holds it, it takes 4 bytes a weight beside the codes.",
    },
    noticed={"this is less than the base takes: P * 4.127 bits.": lambda got, P, n, copy: got < 0.99 * P * 4.127 / 8},
)
def qlora_bytes(P, n, copy_alive):
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # the bits of a base weight
    base = P * bits / 8  # the bytes of the base
    floats = 1 + 1 + 2  # the floats of each trained number
    trained = 4 * n * floats  # the bytes of what is trained
    copy = 4 * P if copy_alive else 0  # the bytes of the float32 copy
    return base + trained + copy  # the sum


# --- 8.2: what an MLP keeps ------------------------------------------------------------------------------------------


@exercise(
    "8.2",
    [(48, 4, False, False), (48, 4, True, False), (64, 3, False, True), (32, 5, True, True)],
    taught={
        "d + rank if adapter_on_up else 0 -> d + rank * adapter_on_up & 4 * d + rank if adapter_on_down else 0 -> "
        "4 * d + rank * adapter_on_down": "A linear without an adapter keeps its input in your "
        "answer. That is for the gradient of W, and a frozen W has none.",
        "up = d + rank -> up = d & down = 4 * d + rank -> down = 4 * d": "Your answer keeps an adapter's input alone. "
        "B's gradient needs s A x as well: {rank} numbers.",
        "up = d + rank -> up = 4 * d + rank & down = 4 * d + rank -> down = d + rank": "Your answer takes a linear's "
        "output for its input. up_proj takes {d} numbers, down_proj 4 times as many.",
        "up = d + rank -> up = d + rank + 5 * d * rank & down = 4 * d + rank -> down = 4 * d + rank + 5 * d * rank": (
            "Your answer counts A and B. They are parameters: alive anyway, and no activations."
        ),
        "gelu = 4 * d -> gelu = 0": "The GELU keeps nothing in your answer. It has no weights, but its slope depends "
        "on its input: {gelu} numbers.",
        "gelu = 4 * d -> gelu = 8 * d": "The GELU keeps its output too in your answer. That is down_proj's input: kept "
        "with that, or not at all.",
        "norm = d + 2 -> norm = 0": "The norm keeps nothing in your answer. It is frozen, but a gradient passes "
        "through: its input and two statistics, {norm} numbers.",
    },
    noticed={
        "this is less than the norm and the GELU keep without any adapter.": lambda got, d, *case: got < 5 * d + 2,
        "this is more than full training keeps, adapters included: is something counted twice, or are weights?": (
            lambda got, d, rank, *case: got > 10 * d + 2 + 2 * rank
        ),
    },
)
def mlp_activations(d, rank, adapter_on_up, adapter_on_down):
    norm = d + 2  # what the norm keeps
    gelu = 4 * d  # what the GELU keeps
    up = d + rank if adapter_on_up else 0  # what up_proj keeps
    down = 4 * d + rank if adapter_on_down else 0  # what down_proj keeps
    return norm + gelu + up + down  # the sum


# --- 8.3: a layer that keeps nothing ---------------------------------------------------------------------------------

NONE = "none that reaches x"


def observe_linear(solution, n, d_out, d_in) -> Any:
    """What the layer promises: its output, what it keeps alive for backward, and the gradient of x."""
    generator = torch.Generator().manual_seed(d_in)
    weight, leaf = torch.randn(d_out, d_in, generator=generator), torch.randn(n, d_in, generator=generator)
    quantized, leaf = quantize(weight, "nf4", 64), leaf.requires_grad_()
    with PeakMemory([leaf, quantized.codes, quantized.absmax, quantized.codebook]) as memory:
        W = quantized.dequantize()  # (d_out, d_in); the package makes a look-up table with it, and keeps that
        before = memory.now
        x = leaf * 1  # nobody but the solution holds on to it: if x is kept, it is seen
        y = solution(x, quantized)
        if not isinstance(y, Tensor):
            return y if y is ... or y is None else "a tensor is asked for, the output."
        del x
        alive = memory.now - before - y.untyped_storage().nbytes()
    if y.shape != (n, d_out):
        return f"the output should have the shape {(n, d_out)}, and has {tuple(y.shape)}."
    count = d_out * d_in  # of the numbers in W
    sizes = {"W in float32": 4 * count, "W in 16 bits": 2 * count, "a copy of its codes": count / 2}
    sizes |= {"x": 4 * n * d_in, "a copy of y": 4 * n * d_out}
    g = torch.randn(y.shape, generator=generator)  # dL/dy
    dx = torch.autograd.grad(y, leaf, g, allow_unused=True)[0] if y.requires_grad else None
    return {
        "the output": _beside(y.detach(), leaf.detach() @ W.T, "x W^T"),
        "what stays alive between forward and backward, beside y": _named(alive, sizes),
        "the gradient of x": NONE if dx is None else _beside(dx, g @ W, "dL/dy W"),
    }


def _beside(got: Tensor, right: Tensor, name: str) -> str:
    """What was got in terms of what is right, which has a name."""
    if got.shape != right.shape:
        return f"of shape {tuple(got.shape)}, not {tuple(right.shape)}"
    times = ((got * right).sum() / right.square().sum()).item()
    if (got - times * right).abs().max() < 1e-4 * right.abs().max():
        return name if abs(times - 1) < 1e-4 else f"{times:.3g} times {name}"
    near = (got - right).abs().max() < 0.02 * right.abs().max()
    return f"{name} in its first digits, as 16 bits have them" if near else f"not {name}"


def _named(alive: int, sizes: dict[str, int]) -> str:
    """Bytes, and the largest thing that has as many."""
    for name, size in sorted(sizes.items(), key=lambda item: -item[1]):
        if alive >= size:
            return f"{size:,.0f} bytes or more, as many as {name} has"
    return f"{alive:,} bytes" if alive > 0 else "nothing"


@exercise(
    "8.3",
    [(3, 256, 64), (5, 128, 320)],
    taught={
        "WithoutCopy.apply(x, quantized) -> x @ quantized.dequantize().T": "Autograd keeps the whole W for your "
        "backward. Write a Function that decodes it again there: section 5.",
        "ctx.quantized = quantized -> ctx.quantized, ctx.x = quantized, x": "Your layer keeps x. That is for the "
        "gradient of W, which is frozen; the gradient of x needs W alone.",
        "ctx.quantized = quantized -> ctx.W = quantized.dequantize().half() & ctx.quantized.dequantize(), None -> "
        "ctx.W.float(), None": "Your layer keeps W in 16 bits. Its codes are there anyway, in `quantized`: decode them "
        "again.",
        "ctx.quantized = quantized -> ctx.quantized, ctx.codes = quantized, quantized.codes.clone()": "Your layer "
        "keeps a copy of the codes. Keep `quantized` itself: it is there anyway.",
        "WithoutCopy.apply(x, quantized) -> WithoutCopy.apply(x.detach(), quantized)": "Your layer cuts x off. W is "
        "frozen, yet what lies before this layer still learns through it.",
    },
    observe=observe_linear,
)
def quantized_linear(x, quantized):
    class WithoutCopy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, quantized):
            ctx.quantized = quantized  # what is kept for backward
            return x @ quantized.dequantize().T  # the output

        @staticmethod
        def backward(ctx, grad_y):
            return grad_y @ ctx.quantized.dequantize(), None  # the gradient of x

    return WithoutCopy.apply(x, quantized)


# --- 8.4: adapters that never moved ----------------------------------------------------------------------------------


def _moved(rng) -> list[np.ndarray]:
    """Eight B (4, 2) that have left zero, each in a way that a hasty look would miss."""
    rows, signs, tiny, one = rng.normal(size=(4, 4, 2))
    rows[2], rows[3, 1] = 0, 0  # a row of zeros, and the last number
    signs[:, 1] = -signs[:, 0]  # adds up to zero
    one.flat[:] = 0
    one[2, 1] = -0.3  # zeros all over, but for one number
    negative = -np.abs(rng.normal(size=(4, 2))) * [1, 0]  # the largest number is zero
    positive = -negative[:, ::-1].copy()  # the smallest is
    first = rng.normal(size=(4, 2)) * [[0], [1], [1], [1]]  # the first row is
    return [rows, signs, 1e-9 * tiny, one, np.full((4, 2), 0.7), negative, positive, first]


class State(dict):
    """Adapters after training, name -> array: of some, B has never left zero."""

    def __init__(self, never):
        self.never, rng = never, np.random.default_rng(0)
        for layer, value in enumerate(_moved(rng)):
            size = 0 if (layer, never) == (6, (1, 3)) else 1e-9 if layer == 2 else 1
            self[f"blocks.{layer}.q_proj.lora_A"] = rng.normal(size=(2, 6)) * size
            self[f"blocks.{layer}.q_proj.lora_B"] = np.zeros((4, 2)) if layer in never else value

    def __deepcopy__(self, memo):
        return State(self.never)

    def __repr__(self):
        some = f"number {' and '.join(map(str, self.never))} never trained"
        return "8 adapters, " + {0: "all of them trained", 8: "none ever trained"}.get(len(self.never), some)


LOOK, COUNT = "[not state[name].any() for name in names]", "return sum(never)"


@exercise(
    "8.4",
    [(State(never),) for never in ((), (1, 3), tuple(range(8)), *((layer,) for layer in range(8)))],
    taught={
        '"lora_B" -> "lora_A"': "Your answer looks at lora_A, which is random from the start. Where no gradient "
        "arrives, it is B that stays at zero.",
        ".any() for -> .all() for": "Your answer counts a B in which one number is zero. It has not moved if all of "
        "them are.",
        f"{LOOK} -> [abs(state[name].sum()) < 1e-12 for name in names]": "Your answer adds B's numbers up. Positive "
        "and negative ones can cancel: ask whether any is not zero.",
        f"{LOOK} -> [np.allclose(state[name], 0, atol=1e-6) for name in names]": "Your answer takes a tiny B for zero. "
        "It has moved all the same: only exact zeros have not.",
        f"{LOOK} -> [np.ptp(state[name]) == 0 for name in names]": "Your answer asks whether B's numbers are all "
        "equal. They may be equal and not zero.",
        f"{LOOK} -> [state[name].max() == 0 for name in names]": "Your answer asks for the largest number of B. The "
        "others may be negative: look at magnitudes.",
        f"{COUNT} -> return int(any(never))": "Your answer says whether there is one. How many are there?",
    },
    noticed={
        "this is a share. How many are there?": lambda got, state: 0 < got < 1,
        "there are no more than 8 adapters here: this counts something else.": lambda got, state: got > 8,
        "this counts too many: some of those B have numbers that are not zero.": (
            lambda got, state: got > len(state.never)
        ),
        "this counts too few: a B of zeros only has never been trained.": lambda got, state: got < len(state.never),
    },
)
def never_moved(state):
    names = [name for name in state if name.endswith("lora_B")]  # which arrays are looked at
    never = [not state[name].any() for name in names]  # when one counts as never trained
    return sum(never)  # how many there are
