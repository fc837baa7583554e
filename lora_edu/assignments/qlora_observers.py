"""How the answers of assignment 4 are observed: values and types, bytes that stay alive, products."""

import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lora_edu.assignments.observing import call, done, observed
from lora_edu.assignments.qlora_pieces import StoredWeight
from lora_edu.assignments.results import in_order
from lora_edu.memory.peak import PeakMemory


def short(values: Any) -> Tensor:
    """Numbers with six digits: enough to compare, and short in a file."""
    tensor = torch.as_tensor(values).detach().double()
    return torch.tensor([float(f"{v:.6g}") for v in tensor.flatten().tolist()], dtype=torch.float64).view(tensor.shape)


def _storage(seen: Any) -> str:
    """The types of the results, and what became of the inputs, in words."""
    types = [str(getattr(part, "dtype", type(part).__name__)).removeprefix("torch.") for part in seen.value]
    return " ".join(types) + ", inputs " + seen.inputs


def observe_constants(answer: Callable, c: Any, absmax: Tensor) -> dict[str, Any]:
    seen = observed(answer, absmax)
    names = ("codes", "scales", "offset")
    found = dict(zip(names, in_order(seen.value, *names), strict=True))

    def look(value: Any) -> Tensor:
        value = short(value)
        return value * (value.abs() > 1e-10)  # a scale of 0 may be kept from 0 by a tiny bound

    return {name: (lambda v=value: look(v)) for name, value in found.items()} | {"storage": lambda: _storage(seen)}


def observe_survivors(answer: Callable, c: Any, *case: Any) -> dict[str, Any]:
    names = ("cosine", "stray", "moved")
    return dict(zip(names, in_order(call(answer, *case), *names), strict=True))


# --- a layer and what it keeps -------------------------------------------------------------------------------------


LAYER_PARTS = ("output", "x's gradient", "A's and B's gradients", "products", "bytes of W kept", "bytes kept")


@dataclass(frozen=True)
class LayerCase:
    """The sizes of a layer, and of what it is given."""

    shape: tuple[int, ...]  # of x: (..., d_in)
    d_out: int
    rank: int
    alpha: float
    x_learns: bool = True

    def __repr__(self) -> str:
        learns = "" if self.x_learns else " without a gradient"
        return f"x {self.shape}{learns}, d_out {self.d_out}, rank {self.rank}, alpha {self.alpha:g}"


def _kept_outside_torch(answer: Callable, case: LayerCase) -> str:
    """Whether a forward pass leaves a byte for each weight in Python's or NumPy's memory, or more; "" if not.

    With a layer so large that classes and functions, some kilobytes each, are small beside its weight.
    """
    d_in, d_out, rank = 512, 512, case.rank
    generator = torch.Generator().manual_seed(1)
    weight = StoredWeight(d_in, d_out, generator)
    x, A, B = (torch.randn(s, generator=generator).requires_grad_() for s in ((3, d_in), (rank, d_in), (d_out, rank)))
    tracemalloc.start()
    try:
        y = answer(x, weight.stored, weight.decode, A, B, case.alpha)
        kept = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    del y
    return "the decoded weight is kept outside of torch, as an array, list or bytes" if kept >= d_in * d_out else ""


def observe_layer(answer: Callable, c: Any, case: LayerCase) -> dict:
    shape, d_out, rank = case.shape, case.d_out, case.rank
    generator, decoded = torch.Generator().manual_seed(d_out), []
    weight = StoredWeight(shape[-1], d_out, generator)
    x, A, B = (torch.randn(s, generator=generator) for s in (shape, (rank, shape[-1]), (d_out, rank)))
    learning = [tensor.requires_grad_() for tensor in ([x, A, B] if case.x_learns else [A, B])]

    def decode(stored: Tensor) -> Tensor:
        decoded.append(True)
        return weight.decode(stored)

    def forward() -> Tensor:
        return answer(x, weight.stored, decode, A, B, case.alpha)

    if done(forward()) is None:
        return dict.fromkeys(LAYER_PARTS)
    with FlopCounterMode(display=False) as counter:
        forward()
    with PeakMemory([x, A, B, weight.stored]) as memory:
        y = forward()
        kept = memory.now - y.untyped_storage().nbytes()

    size = shape[-1] * d_out

    def kept_bytes(least: int = 0) -> int | str:
        """What is alive, if it is as much as `least`, else 0. What computes nothing keeps nothing: that is no merit."""
        if not decoded or not y.requires_grad:
            return "the weight was not decoded" if not decoded else "the output needs no gradient"
        if least and (outside := _kept_outside_torch(answer, case)):
            return outside
        return kept if kept >= least else 0

    @cache
    def gradients() -> list:
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
        return [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in learning]

    used = counter.get_total_flops()
    needed = 2 * (x.numel() // shape[-1]) * (size + rank * (shape[-1] + d_out))
    looks = (
        lambda: short(y),
        lambda: short(gradients()[0] if case.x_learns else torch.zeros(())),
        lambda: short(torch.cat([g.flatten() for g in gradients()[-2:]])),
        "as many as needed" if used <= needed else f"{used / needed:.2f} times as many as needed",
        lambda: kept_bytes(2 * size),  # a decoded weight has 4 bytes a number, or 2 in 16 bits
        kept_bytes,
    )
    return dict(zip(LAYER_PARTS, looks, strict=True))
