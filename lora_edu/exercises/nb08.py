"""The checks of notebook 08, memory."""

import numpy as np
import torch
import torch.nn.functional as F

from lora_edu.exercises.grading import Exercise, beside
from lora_edu.memory.peak import PeakMemory
from lora_edu.quantization import quantize

__all__ = ["beside", "mlp_activations", "never_moved", "qlora_bytes", "quantized_linear"]

BITS = 4 + 8 / 64 + 32 / (64 * 256)


def _bytes(P, n, copy_alive, bits=BITS, trained=16.0, copy=4.0):
    return P * bits / 8 + trained * n + (copy * P if copy_alive else 0)


qlora_bytes = Exercise(
    "8.1",
    _bytes,
    [(10**6, 20_000, False), (3 * 10**6, 50_000, True), (7 * 10**5, 10**5, False)],
    {
        "this claims 4-bit memory while the float32 copy is alive. It takes 4 bytes a weight, on top.": (
            lambda P, n, copy: _bytes(P, n, False)
        ),
        "the constants are missing: 4.127 bits a weight, not 4.": lambda P, n, copy: _bytes(P, n, copy, bits=4),
        "the adapters are in 4 bits here. What is trained stays in float32: a small step would be lost in rounding.": (
            lambda P, n, copy: _bytes(P, n, copy, trained=12 + BITS / 8)
        ),
        "12 bytes for each trained number: there are four floats, itself, its gradient and AdamW's two means.": (
            lambda P, n, copy: _bytes(P, n, copy, trained=12)
        ),
        "the optimizer's state is missing: two float32 numbers for each trained one.": (
            lambda P, n, copy: _bytes(P, n, copy, trained=8)
        ),
        "these are the weights alone. Training needs gradients and AdamW's two means as well.": (
            lambda P, n, copy: _bytes(P, n, copy, trained=4)
        ),
        "this trains the frozen weights: gradients and optimizer state belong to the n adapter numbers only.": (
            lambda P, n, copy: _bytes(P, n, copy, trained=4) + 12 * (P + n)
        ),
        "this counts bits. A byte has 8 of them.": lambda P, n, copy: 8 * _bytes(P, n, copy),
        "the copy replaces the codes here. Both are alive: add them.": (
            lambda P, n, copy: 4 * P + 16 * n if copy else _bytes(P, n, copy)
        ),
    },
)


def _mlp(d, rank, on_up, on_down, norm=True, gelu=True, low=True, inputs=True, always=False):
    """Numbers a token, with one mistake at a time."""
    kept = (d + 2) * norm + 4 * d * gelu
    for width, adapter in ((d, on_up), (4 * d, on_down)):
        kept += width * inputs * (adapter or always) + rank * low * adapter
    return kept


mlp_activations = Exercise(
    "8.2",
    _mlp,
    [(48, 4, False, False), (48, 4, True, False), (64, 3, False, True), (32, 5, True, True)],
    {
        "this lets frozen layers keep their input. x is needed for the gradient of W, and a frozen W has none.": (
            lambda d, r, up, down: _mlp(d, r, up, down, always=True)
        ),
        "GELU's input is missing. It has no weights, but its slope depends on where it was evaluated.": (
            lambda d, r, up, down: _mlp(d, r, up, down, gelu=False)
        ),
        "what the norm keeps is missing: its input, and two statistics. Frozen or not, a gradient passes through it.": (
            lambda d, r, up, down: _mlp(d, r, up, down, norm=False)
        ),
        "the norm's two statistics are missing.": lambda d, r, up, down: _mlp(d, r, up, down) - 2,
        "s A x is missing: rank numbers for each adapter. B's gradient needs them.": (
            lambda d, r, up, down: _mlp(d, r, up, down, low=False)
        ),
        "an adapter's own input is missing. A's gradient needs x.": (
            lambda d, r, up, down: _mlp(d, r, up, down, inputs=False)
        ),
        "down_proj's input has d numbers here. It is the GELU's output: 4 d.": (
            lambda d, r, up, down: _mlp(d, r, up, down) - 3 * d * down
        ),
        "the norm's output is counted without an adapter on up_proj. It is up_proj's input; frozen layers keep none.": (
            lambda d, r, up, down: _mlp(d, r, up, down) + d * (not up)
        ),
        "the norm's output is counted beside up_proj's input. They are one tensor.": (
            lambda d, r, up, down: _mlp(d, r, up, down) + d * up
        ),
        "the norm's output is counted as something of its own. It is up_proj's input: kept with that, or not at all.": (
            lambda d, r, up, down: _mlp(d, r, up, down) + d
        ),
        "the GELU's output is counted where down_proj has no adapter. The GELU itself needs its input only.": (
            lambda d, r, up, down: _mlp(d, r, up, down) + 4 * d * (not down)
        ),
        "these are bytes, four for each number. How many numbers are there?": (
            lambda d, r, up, down: 4 * _mlp(d, r, up, down)
        ),
        "nothing is counted where there is no adapter. The norm and the GELU keep their inputs all the same.": (
            lambda d, r, up, down: _mlp(d, r, up, down) if up or down else 0
        ),
    },
)


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
            return ...
        del x
        alive = memory.now - before - y.untyped_storage().nbytes()
    if y.requires_grad:
        (y**2).sum().backward()
    grad = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
    return np.concatenate([y.detach().flatten().numpy(), grad.flatten().numpy(), [float(alive)]])


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


@torch.no_grad()
def _without_gradient(x, quantized):
    return F.linear(x, quantized.dequantize())


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
    },
    observe=_observe_linear,
)


def _moved(rng) -> list[np.ndarray]:
    """Eight B (4, 2) that have left zero, each in a way that a hasty look would miss."""
    rows, signs, tiny, one = rng.normal(size=(4, 4, 2))
    rows[0] = 0  # a row of zeros
    signs[:, 1] = -signs[:, 0]  # adds up to zero
    one.flat[:] = 0
    one[2, 1] = -0.3  # zeros all over, but for one number
    negative = -np.abs(rng.normal(size=(4, 2))) * [1, 0]  # the largest number is zero
    positive = -negative[:, ::-1].copy()  # the smallest is
    return [rows, signs, 1e-9 * tiny, one, np.full((4, 2), 0.7), negative, positive, rng.normal(size=(4, 2))]


DEAD = {"all trained": (), "the last never trained": (7,), "one never trained": (2,), "two never trained": (1, 3),
        "two others never trained": (1, 4), "reentrant checkpointing": tuple(range(8))}  # fmt: skip


def _state(kind: str) -> dict[str, np.ndarray]:
    """Adapters (name -> array) after training: of some, B has never left zero."""
    rng = np.random.default_rng(len(kind))
    state = {}
    for layer, value in enumerate(_moved(rng)):
        state[f"blocks.{layer}.q_proj.lora_A"] = rng.normal(size=(2, 6)) * (1e-9 if layer == 2 else 1)
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
    },
    observe=lambda solution, kind: solution(_state(kind)),
)
