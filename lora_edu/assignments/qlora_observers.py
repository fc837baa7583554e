"""How the answers of assignment 4 are observed: values, bytes that stay alive, products, what training has moved."""

import copy
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from lora_edu.assignments.observing import NotDone, call, observed
from lora_edu.assignments.qlora_pieces import FrozenLinear, StoredWeight, held_out_loss, new_task
from lora_edu.peak import PeakMemory


def short(values: Any) -> Tensor:
    """Numbers with six digits: enough to compare, and short in a file."""
    tensor = torch.as_tensor(values).detach().double()
    return torch.tensor([float(f"{v:.6g}") for v in tensor.flatten().tolist()], dtype=torch.float64).view(tensor.shape)


def _storage(seen: Any) -> str:
    """The types of the results, and what became of the inputs, in words."""
    types = [str(getattr(part, "dtype", type(part).__name__)).removeprefix("torch.") for part in seen.value]
    return " ".join(types) + ", inputs " + seen.inputs


def observe_bytes(answer: Callable, c: Any, layers: list) -> dict[str, Any]:
    result = call(answer, layers)
    return {part: (lambda i=i: result[i]) for i, part in enumerate(("codes", "constants", "rest"))}


def observe_constants(answer: Callable, c: Any, absmax: Tensor) -> dict[str, Any]:
    seen = observed(answer, absmax)
    return {
        "codes": lambda: short(seen.value[0]),
        # A scale of 0 may be kept from 0 by a tiny bound.
        "scales": lambda: [0.0 if abs(scale) < 1e-10 else scale for scale in short(seen.value[1]).tolist()],
        "offset": lambda: short(seen.value[2]),
        "storage": lambda: _storage(seen),
    }


def observe_decoded(answer: Callable, c: Any, *case: Any) -> dict[str, Any]:
    seen = observed(answer, *case)
    return {
        "constants": lambda: short(seen.value[0]),
        "weight": lambda: short(seen.value[1]),
        "storage": lambda: _storage(seen),
    }


def observe_survivors(answer: Callable, c: Any, *case: Any) -> dict[str, Any]:
    result = call(answer, *case)
    return {part: (lambda i=i: result[i]) for i, part in enumerate(("cosine", "stray", "moved"))}


# --- a layer and what it keeps -------------------------------------------------------------------------------------


def observe_layer(answer: Callable, c: Any, shape: tuple, d_out: int, rank: int, alpha: float, x_learns: bool) -> dict:
    """shape: that of x, (..., d_in)."""
    generator = torch.Generator().manual_seed(d_out)
    weight = StoredWeight(shape[-1], d_out, generator)
    x, A, B = (torch.randn(s, generator=generator) for s in (shape, (rank, shape[-1]), (d_out, rank)))
    learning = [tensor.requires_grad_() for tensor in ([x, A, B] if x_learns else [A, B])]

    decoded = []

    def decode(stored: Tensor) -> Tensor:
        decoded.append(True)
        return weight.decode(stored)

    def forward() -> Tensor:
        return answer(x, weight.stored, decode, A, B, alpha)

    if forward() is ...:
        raise NotDone
    with FlopCounterMode(display=False) as counter:
        forward()
    with PeakMemory([x, A, B, weight.stored]) as memory:
        y = forward()
        kept = memory.now - y.untyped_storage().nbytes()

    def kept_bytes() -> int | str:
        if not decoded or not y.requires_grad:  # nothing computed keeps nothing
            return "the weight was not decoded" if not decoded else "the output needs no gradient"
        return kept

    @cache
    def gradients() -> list:
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
        return [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in learning]

    n, size = x.numel() // shape[-1], shape[-1] * d_out
    needed = 2 * n * (size + rank * (shape[-1] + d_out))
    return {
        "output": lambda: short(y),
        "x's gradient": lambda: short(gradients()[0] if x_learns else torch.zeros(())),
        "A's and B's gradients": lambda: short(torch.cat([g.flatten() for g in gradients()[-2:]])),
        "products": "no more than needed" if counter.get_total_flops() <= needed else "more than needed",
        "weight": lambda: kept_bytes() if isinstance(kept_bytes(), str) else kept_bytes() < 2 * size,
        "bytes kept": kept_bytes,
    }


# --- a fine-tune ---------------------------------------------------------------------------------------------------


def on_one_thread(function: Callable) -> Callable:
    """For products so small that threads would only wait for each other, above all where kernels share a machine."""

    def alone(*arguments: Any) -> Any:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return function(*arguments)
        finally:
            torch.set_num_threads(before)

    return alone


@on_one_thread
def observe_fine_tune(answer: Callable, c: Any, task_seed: int, rank: int, alpha: float) -> dict[str, Any]:
    task = new_task(task_seed)

    @cache
    def tuned(steps: int, seed: int, again: int = 0) -> nn.Module:
        torch.manual_seed(100 + again)  # what was drawn before must not matter
        model = answer(copy.deepcopy(task.model), task.tokens, task.answers, rank, alpha, steps, seed)
        if model is ...:
            raise NotDone
        return model.eval()

    tuned(0, 1)
    parts = {
        "start": lambda: _start(task, tuned(0, 1)),
        "frozen": lambda: _frozen(task.model, tuned(c.steps, 1)),
        "trained": lambda: _trained(tuned(c.steps, 1)),
        "scaling": lambda: _scaling(task, copy.deepcopy(tuned(0, 1))),
        "goal": lambda: _share(task, tuned(c.steps, 1)) <= c.goal,  # a bool: reached or not
        "seed": lambda: _seeded(tuned(2, 1), tuned(2, 1, again=1), tuned(2, 2)),
    }
    return {part: on_one_thread(look) for part, look in parts.items()}


def _share(task: Any, model: nn.Module) -> float:
    """The held-out loss as a share of the base's."""
    return held_out_loss(model, task) / held_out_loss(task.model, task)


def _start(task: Any, model: nn.Module) -> str:
    with torch.no_grad():
        jump = (model(task.tokens) - task.model(task.tokens)).abs().max()
    return "the outputs of the base" if jump <= 1e-5 else "other outputs than the base"


def _frozen(base: nn.Module, model: nn.Module) -> str:
    if sum(isinstance(module, FrozenLinear) for module in model.modules()) != 2:
        return "the 4-bit layers are gone"
    there = [value for name, value in model.state_dict().items() if "lora_" not in name]
    if not all(any(torch.equal(value, other) for other in there) for value in base.state_dict().values()):
        return "the base has changed"
    learning = [name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name]
    return "parts of the base still ask for a gradient" if learning else "frozen"


def _adapters(model: nn.Module, name: str) -> list[Tensor]:
    return [value for path, value in model.named_parameters() if path.endswith(name)]


def _trained(model: nn.Module) -> list[int]:
    """How many numbers are trained, and in how many adapters B has left zero."""
    numbers = sum(value.numel() for value in model.parameters() if value.requires_grad)
    return [numbers, sum(bool(value.any()) for value in _adapters(model, "lora_B"))]


@torch.no_grad()
def _scaling(task: Any, model: nn.Module) -> float | str:
    """The factor of x A^T B^T in the first layer with an adapter, for A and B that are put there."""
    base, A, B = task.model, _adapters(model, "lora_A")[0], _adapters(model, "lora_B")[0]
    for other in _adapters(model, "lora_B"):
        other.zero_()
    A.copy_(torch.randn(A.shape, generator=torch.Generator().manual_seed(4)) / A.shape[1])
    B.copy_(0.1 * torch.randn(B.shape, generator=torch.Generator().manual_seed(3)))
    x, seen = base.embedding(task.tokens).flatten(1), []
    layer, following = base.up, [module for module in model.modules() if isinstance(module, FrozenLinear)][-1]
    if A.shape[1] != layer.in_features:  # no adapter there: the second layer, seen from the head
        x, layer = torch.tanh(base.up(x)), base.down
        following = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    following.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    model(task.tokens)
    branch = (x @ A.T) @ B.T
    change = torch.atanh(seen[0].double()) - torch.atanh(torch.tanh(layer(x)).double())
    factor = (change * branch).sum() / (branch * branch).sum()
    if (change - factor * branch).norm() > 1e-2 * change.norm():
        return "no multiple of x A^T B^T"
    return factor.item()


def _seeded(first: nn.Module, again: nn.Module, other: nn.Module) -> str:
    def same(one: nn.Module, two: nn.Module) -> bool:
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        return all(torch.allclose(a, b, rtol=1e-4, atol=1e-7) for a, b in pairs)

    if not same(first, again):
        return "another result with the same seed"
    return "the same result whatever the seed" if same(first, other) else "the seed decides"
