"""Exercises 8.3, a layer that keeps nothing, and 8.4, adapters that never moved."""

import numpy as np
import torch
import torch.nn.functional as F

from lora_edu.exercises.grading import Exercise
from lora_edu.memory.peak import PeakMemory
from lora_edu.quantization import quantize

# --- 8.3: a layer that keeps nothing ---------------------------------------------------------------------------------

OUTPUT, GRADIENT, ALIVE = "the output", "the gradient of x", "bytes alive between forward and backward, y aside"


def _observe_linear(solution, d_out, d_in):
    """y, the gradient of x, and the bytes that stay alive between forward and backward, y aside."""
    generator = torch.Generator().manual_seed(d_in)
    weight, leaf = torch.randn(d_out, d_in, generator=generator), torch.randn(3, d_in, generator=generator)
    quantized, leaf = quantize(weight, "nf4", 64), leaf.requires_grad_()
    with PeakMemory([leaf, quantized.codes, quantized.absmax, quantized.codebook]) as memory:
        quantized.dequantize()  # a look-up table, which the package makes once and keeps, is no fault of the solution
        before = memory.now
        x = leaf * 1  # nobody but the solution holds on to it: if x is kept, it is seen
        y = solution(x, quantized)
        if y is ... or y is None:
            return y
        del x
        alive = memory.now - before - y.untyped_storage().nbytes()
    if y.requires_grad:
        (y**2).sum().backward()
    grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return {OUTPUT: y.detach().numpy(), GRADIENT: grad.numpy(), ALIVE: alive}


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.quantized = quantized
        return F.linear(x, quantized.dequantize())

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ ctx.quantized.dequantize(), None


class _KeepsInput(_Linear):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.save_for_backward(x)
        return _Linear.forward(ctx, x, quantized)


class _HalfWeight(_Linear):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.weight = quantized.dequantize().half()
        return F.linear(x, quantized.dequantize())

    @staticmethod
    def backward(ctx, grad_y):
        return grad_y @ ctx.weight.float(), None


class _CopyOfCodes(_Linear):
    @staticmethod
    def forward(ctx, x, quantized):
        ctx.copy = quantized.codes.clone()
        return _Linear.forward(ctx, x, quantized)


def _changed_gradient(change):
    """The layer with another backward pass."""

    class Changed(_Linear):
        @staticmethod
        def backward(ctx, grad_y):
            return change(grad_y, ctx.quantized), None

    return Changed.apply


@torch.no_grad()
def _without_gradient(x, quantized):
    return F.linear(x, quantized.dequantize())


def _in_half(x, quantized):
    return F.linear(x.half(), quantized.dequantize().half()).float()


def _what_is_kept(result, d_out, d_in) -> str:
    """Of a layer that is no known mistake: what stays alive, or what is wrong with y or with x's gradient."""
    if not isinstance(result, dict):
        return ""
    right = _observe_linear(_Linear.apply, d_out, d_in)
    alive, weight = int(result[ALIVE]), 4 * d_out * d_in
    if alive > 0:
        sizes = {"the weight in float32": weight, "the weight in 16 bits": weight // 2, "its codes": weight // 8,
                 "the weight in 8 bits": weight // 4, "x": 4 * 3 * d_in, "a copy of y": 4 * 3 * d_out}  # fmt: skip
        what = next((f", as many as {name} has" for name, size in sizes.items() if alive == size), "")
        return (
            f"{alive:,} bytes stay alive between forward and backward{what}. None are needed: `quantized` is there "
            "anyway, and backward decodes it again."
        )
    for part in (OUTPUT, GRADIENT):
        mine, there = np.asarray(result[part]), np.asarray(right[part])
        if mine.shape != there.shape:
            return f"{part} has the shape {mine.shape}. It should have {there.shape}."
        factor = float((mine * there).sum() / (there * there).sum())
        off = np.abs(mine - there).max() / np.abs(there).max()
        if off > 1e-5 and np.abs(mine - factor * there).max() < 1e-4 * np.abs(there).max():
            return f"{part} is {factor:.4g} times what it should be."
        if 1e-5 < off < 0.02:
            return f"{part} has the right first digits: something is rounded on the way, to 16 bits, say."
    return ""


quantized_linear = Exercise(
    "8.3",
    _Linear.apply,
    [(1024, 256), (128, 320)],
    {
        "the full weight is kept for backward: 1,048,576 bytes for 1024 x 256 in float32, where 0 are needed. "
        "Write an autograd Function that dequantizes again in backward.": lambda x, q: F.linear(x, q.dequantize()),
        "this keeps x. W is frozen, and dL/dx = dL/dy W needs W only.": _KeepsInput.apply,
        "x gets no gradient, as under torch.no_grad() or after x.detach(). The weight is frozen, yet what lies before "
        "this layer still learns through it.": _without_gradient,
        "the full weight is kept in 16 bits. Keep its codes, which are there anyway.": _HalfWeight.apply,
        "a copy of the codes is kept. Keep `quantized` itself: it is there anyway.": _CopyOfCodes.apply,
        "the full weight is kept and x with it, as for a weight that is trained. Write an autograd Function.": (
            lambda x, q: F.linear(x, q.dequantize().requires_grad_())
        ),
        "backward hands out ones. By the chain rule it is dL/dy W.": _changed_gradient(
            lambda g, q: g.new_ones(len(g), q.shape[1])
        ),
        "backward leaves dL/dy out: these are the column sums of W.": _changed_gradient(
            lambda g, q: q.dequantize().sum(dim=0).expand(len(g), -1)
        ),
        "the gradient is divided by the number of rows. dL/dx belongs to each row by itself.": _changed_gradient(
            lambda g, q: g @ q.dequantize() / len(g)
        ),
        "the product is in 16 bits, and keeps the weight in 16 bits too.": _in_half,
    },
    observe=_observe_linear,
    explain=_what_is_kept,
)


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


# Which B has never left zero. Each is once the only dead one, so that the counts tell which others are taken for it.
DEAD = {"all trained": (), "two never trained": (1, 3), "reentrant checkpointing": tuple(range(8))}
DEAD |= {f"number {layer} never trained": (layer,) for layer in range(8)}


def _state(kind: str) -> dict[str, np.ndarray]:
    """Adapters (name -> array) after training: of some, B has never left zero."""
    rng = np.random.default_rng(0)
    state = {}
    for layer, value in enumerate(_moved(rng)):
        size = 0 if (layer, kind) == (6, "two never trained") else 1e-9 if layer == 2 else 1
        state[f"blocks.{layer}.q_proj.lora_A"] = rng.normal(size=(2, 6)) * size
        state[f"blocks.{layer}.q_proj.lora_B"] = np.zeros((4, 2)) if layer in DEAD[kind] else value
    return state


def _count(state, name="lora_B", is_dead=lambda value: not np.any(value)):
    return sum(bool(is_dead(value)) for key, value in state.items() if key.endswith(name))


never_moved = Exercise(
    "8.4",
    _count,
    [(kind,) for kind in DEAD],
    {
        "this looks at lora_A, which is random from the start. With reentrant checkpointing and a frozen embedding no "
        "gradient arrives, and it is B that stays zero.": lambda state: _count(state, "lora_A"),
        "this counts a B in which one number is zero. It has not moved if all of them are.": (
            lambda state: _count(state, is_dead=lambda value: np.any(value == 0))
        ),
        "this adds B's numbers up. Positive and negative ones can cancel: ask whether any is not zero.": (
            lambda state: _count(state, is_dead=lambda value: abs(value.sum()) < 1e-12)
        ),
        "a tiny B has moved all the same. Only an exact zero has not.": (
            lambda state: _count(state, is_dead=lambda value: np.allclose(value, 0, atol=1e-6))
        ),
        "this looks at one number of B. The others may have moved.": (
            lambda state: _count(state, is_dead=lambda value: value.flat[0] == 0)
        ),
        "this asks whether most of B is zero. One number that is not is enough.": (
            lambda state: _count(state, is_dead=lambda value: np.median(value) == 0)
        ),
        "this asks whether B's numbers are all equal. They may be equal and not zero.": (
            lambda state: _count(state, is_dead=lambda value: np.ptp(value) == 0)
        ),
        "this asks for the largest number of B. The others may be negative: look at magnitudes.": (
            lambda state: _count(state, is_dead=lambda value: value.max() == 0)
        ),
        "this says whether there is one. How many are there?": lambda state: int(_count(state) > 0),
        "these are the adapters that have moved. Count the others.": lambda state: 8 - _count(state),
        "this is the number of arrays. How many of the B have never left zero?": lambda state: len(state),
        "this is the number of adapters. How many of them have never left zero?": lambda state: len(state) // 2,
        "these are the zeros in all B. An adapter has not moved if all numbers of its B are zero.": (
            lambda state: sum(int((value == 0).sum()) for name, value in state.items() if name.endswith("lora_B"))
        ),
        "these are the rows of zeros. An adapter has not moved if all rows of its B are.": (
            lambda state: sum(
                int((~value.any(axis=1)).sum()) for name, value in state.items() if name.endswith("lora_B")
            )
        ),
        "these are numbers of dead B. Count the B, not what is in them.": (
            lambda state: sum(
                value.size for name, value in state.items() if name.endswith("lora_B") and not value.any()
            )
        ),
        "this counts a B with a row of zeros. It has not moved if all rows are.": (
            lambda state: _count(state, is_dead=lambda value: (~value.any(axis=1)).any())
        ),
        "this looks at the first row of B. The others may have moved.": (
            lambda state: _count(state, is_dead=lambda value: not value[0].any())
        ),
        "this looks at the last number of B. The others may have moved.": (
            lambda state: _count(state, is_dead=lambda value: value.flat[-1] == 0)
        ),
        "this asks for the smallest number of B. The others may be positive: look at magnitudes.": (
            lambda state: _count(state, is_dead=lambda value: value.min() == 0)
        ),
        "this takes the mean of B. Positive and negative numbers can cancel, and tiny ones have moved as well.": (
            lambda state: _count(state, is_dead=lambda value: abs(value.mean()) < 1e-8)
        ),
        "this counts every array that is near zero, the A among them. Look at lora_B only, and for exact zeros.": (
            lambda state: sum(bool(np.allclose(value, 0)) for value in state.values())
        ),
        "this counts an adapter whose A or B is zero. A is random from the start, and only B tells.": (
            lambda state: sum(
                not (state[name].any() and state[name[:-1] + "B"].any()) for name in state if name[-1] == "A"
            )
        ),
        "this finds nothing in any case. Names *end* in lora_B, and a dead one is full of zeros.": lambda state: 0,
        "this says whether all have stayed. How many are there?": lambda state: int(_count(state) == 8),
    },
    symptoms={
        "this is a list. How many are there?": lambda got, kind: got.ndim > 0,
        "this is a share. How many are there?": lambda got, kind: bool(0 < got < 1),
        "there are no more than 8 adapters here: this counts something else.": lambda got, kind: bool(got > 8),
    },
    broadly={
        "this counts too many: some of those B have numbers that are not zero.": (
            lambda got, kind: bool(got > len(DEAD[kind]))
        ),
        "this counts too few: a B of zeros only has never been trained.": lambda got, kind: bool(got < len(DEAD[kind])),
    },
    observe=lambda solution, kind: solution(_state(kind)),
)
