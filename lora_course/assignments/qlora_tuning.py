"""How the fine-tune of assignment 4 is observed: the start, what has moved, the scaling, the goal, the seed."""

import contextlib
import copy
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.assignments.looking import Complaint, done
from lora_course.assignments.qlora_pieces import FrozenLinear, Task4, TinyModel, held_out_loss, new_task
from lora_course.checking.comparing import is_numbers


@contextlib.contextmanager
def on_one_thread() -> Iterator[None]:
    """For products so small that threads would only wait for each other, above all where kernels share a machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@on_one_thread()
def observe_fine_tune(answer: Callable, c: Any, task_seed: int, rank: int, alpha: float, wider: tuple) -> dict:
    """wider: other ranks, at which trained numbers are counted."""
    task = new_task(task_seed)

    @cache
    def tuned(steps: int, seed: int, again: int = 0, rank: int = rank) -> nn.Module:
        torch.default_generator.manual_seed(100 + again)  # what was drawn before must not matter
        model = done(answer(copy.deepcopy(task.model), task.tokens, task.answers, rank, alpha, steps, seed))
        return model and model.eval()

    if tuned(0, 1) is None:
        return dict.fromkeys(("start", "frozen", "trained", "scaling", "goal", "seed"))
    parts = {
        "start": lambda: _start(task, tuned(0, 1)),
        "frozen": lambda: _frozen(task.model, tuned(c.steps, 1)),
        "trained": lambda: _trained(task.model, tuned(c.steps, 1), {r: tuned(0, 1, rank=r) for r in wider}, rank),
        "scaling": lambda: _scaling(task, copy.deepcopy(tuned(0, 1)), rank),
        "goal": lambda: _numbers(task.model, tuned(c.steps, 1), rank),
        "seed": lambda: _seeded(tuned(2, 1), tuned(2, 1, again=1), tuned(2, 2)),
    }
    return {part: on_one_thread()(look) for part, look in parts.items()}


def _numbers(base: TinyModel, model: nn.Module, rank: int) -> Tensor:
    """All that training may have changed, in the order in which `reached` puts it back: the parameters of the base, and
    A and B of both layers, zeros for a layer without an adapter."""
    own = {value.shape: value for name, value in model.named_parameters() if "lora_" not in name}
    trained = [own.get(value.shape, value).flatten() for value in base.parameters()]
    for layer in (base.up, base.down):
        for ends, shape in zip(_adapters(model), _shapes(layer, rank), strict=True):
            trained += [next((v for v in ends if v.shape == shape), torch.zeros(shape)).flatten()]
    return torch.cat(trained).detach()


def _shapes(layer: FrozenLinear, rank: int) -> tuple[tuple, tuple]:
    return (rank, layer.in_features), (layer.out_features, rank)


@torch.no_grad()
def reached(c: Any, case: tuple, seen: dict) -> dict[str, Any]:
    """Whether the numbers that were handed over reach the goal: put into the model here, with the scaling that was
    measured, and tried on the pairs that are held out."""
    (task_seed, rank, alpha, _), goal, scaling = case, seen["goal"], seen["scaling"]
    if not is_numbers(goal):
        return {"goal": goal}
    task, rest = new_task(task_seed), torch.tensor(goal["values"])
    before, right = held_out_loss(task.model, task), _branch(task, rank)[:2].flatten()
    factor = alpha / rank**c.power
    if is_numbers(scaling) and len(scaling["values"]) == len(right):
        factor = (torch.tensor(scaling["values"]) @ right / (right @ right)).item()
    layers = (task.model.up, task.model.down)
    factors = [torch.zeros(shape) for layer in layers for shape in _shapes(layer, rank)]
    places = [*task.model.parameters(), *factors]
    if len(rest) != sum(place.numel() for place in places):
        return {"goal": "no trained model was handed over"}
    for place, values in zip(places, rest.split([place.numel() for place in places]), strict=True):
        place.copy_(values.view(place.shape))
    for layer, A, B in zip(layers, factors[::2], factors[1::2], strict=True):
        layer.register_forward_hook(lambda _, x, y, A=A, B=B: y + factor * (x[0] @ A.T) @ B.T)
    return {"goal": _goal(c.goal, round(held_out_loss(task.model, task) / before, 2))}


def _goal(goal: float, share: float) -> float | str:
    """The goal, or what was reached instead in words."""
    if share <= goal:
        return goal
    why = ": training made it worse. Is the learning rate too large, or are gradients never set to zero?"
    return f"{share:.2f} of the base's loss is left, and {goal:g} is the goal" + (why if share > 1.2 else "")


def _start(task: Any, model: nn.Module) -> str:
    with torch.no_grad():
        jump = (model(task.tokens) - task.model(task.tokens)).abs().max()
    return "the outputs of the base" if jump <= 1e-5 else "other outputs than the base"


def _frozen(base: nn.Module, model: nn.Module) -> str:
    _layers(model), _adapters(model)
    there = [value.tolist() for name, value in model.state_dict().items() if "lora_" not in name]
    if not all(value.tolist() in there for value in base.state_dict().values()):  # to the bit
        return "the base has changed"
    learning = [name for name, value in model.named_parameters() if value.requires_grad and "lora_" not in name]
    return "parts of the base still ask for a gradient" if learning else "frozen"


def _layers(model: nn.Module) -> list[nn.Module]:
    """The two 4-bit layers. Raises Complaint if they are gone."""
    layers = [module for module in model.modules() if isinstance(module, FrozenLinear)]
    if len(layers) != 2:
        raise Complaint("the 4-bit layers are gone")
    return layers


def _adapters(model: nn.Module) -> list[list[Tensor]]:
    """All lora_A, and all lora_B. Raises Complaint where there are none."""
    adapters = [[v for path, v in model.named_parameters() if path.endswith(end)] for end in ("lora_A", "lora_B")]
    if not all(adapters):
        raise Complaint("no parameter has a name that ends in lora_A, or none in lora_B")
    return adapters


def _trained(base: nn.Module, model: nn.Module, wider: dict[int, nn.Module], rank: int) -> list[int] | str:
    """How many numbers are trained, at this rank and at wider ones, and in how many adapters B has left zero.

    Words if not as asked.
    """
    A, B = _adapters(model)
    sides = sum(m.in_features + m.out_features for m in base.modules() if isinstance(m, FrozenLinear))
    models = {rank: model} | wider
    found = [sum(v.numel() for v in m.parameters() if v.requires_grad) for m in models.values()]
    expected = [r * sides for r in models]
    moved = sum(bool(value.any()) for value in B)
    if found == expected and moved == 2:
        return [*found, moved]
    wanted = ", ".join(f"{n} at rank {r}" for r, n in zip(models, expected, strict=True))
    silent = not moved and not any(bool(value.any()) for value in A)
    words = "A is zero as well" if silent else f"B has left zero in {moved} of 2 layers"
    return f"{', '.join(map(str, found))} numbers are trained (expected: {wanted}), and {words}"


def _drawn(shape: tuple, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _branch(task: Task4, rank: int) -> Tensor:
    """x A^T B^T in the first layer, for drawn factors of this rank."""
    x, layer = task.model.embedding(task.tokens).flatten(1).detach(), task.model.up
    return (x @ _drawn((rank, layer.in_features), 4).T) @ _drawn((layer.out_features, rank), 3).T


@torch.no_grad()
def _scaling(task: Task4, model: nn.Module, rank: int) -> Tensor | str:
    """x A^T B^T of the first inputs, times the factor that it has in the first layer with an adapter."""
    base, frozen, ((A, *_), (B, *others)) = task.model, _layers(model), _adapters(model)
    for other in others:
        other.zero_()
    A.copy_(_drawn(A.shape, 4) / A.shape[1])
    B.copy_(0.1 * _drawn(B.shape, 3))
    x, seen = base.embedding(task.tokens).flatten(1), []
    layer, following = base.up, frozen[-1]
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
    return factor * _branch(task, rank)[:2]


def _seeded(first: nn.Module, again: nn.Module, other: nn.Module) -> str:
    def same(one: nn.Module, two: nn.Module) -> bool:
        pairs = zip(one.parameters(), two.parameters(), strict=True)
        return all((a - b).abs().max() <= 1e-5 for a, b in pairs)

    if not same(first, again):
        return "another result with the same seed"
    return "the same result whatever the seed" if same(first, other) else "the seed decides"
