"""What an adapter must be, asked before a weight is changed: its size, its state, its tensors, several for one sum."""

from typing import Any

import torch
from torch import Tensor, nn

from lora_edu.checks import SHARE, STRENGTH, check, is_real, whole
from lora_edu.layers import check_plain_linear, check_written_here, layer_size, memory
from lora_edu.tensor_files import misfit


def check_size(base: Any, rank: int, alpha: float, dropout: float, plain: bool, path: str = "") -> tuple[int, int]:
    """(in_features, out_features) of a layer that an adapter fits.

    plain: the adapter works with the base's weight, which must then be all that makes its output.
    Raises TypeError for a layer that is not linear, ValueError for a rank outside 1 .. min(in, out), an alpha or a
    dropout that cannot be, or a layer that is more than its weight and bias.
    """
    in_features, out_features = layer_size(base)
    smaller = min(in_features, out_features)
    if not whole(1).holds(rank) or rank > smaller:
        raise ValueError(
            f"rank must be between 1 and {smaller} "
            f"(the smaller side of a {out_features}x{in_features} layer), got {rank!r}"
        )
    check(STRENGTH, alpha=alpha)
    check(SHARE, dropout=dropout)
    # A layer with a forward of its own may know what to do with whole numbers (bitsandbytes' does), nn.Linear does not.
    weight = base._parameters.get("weight") if type(base) is nn.Linear else None
    if plain or (weight is not None and not weight.is_floating_point()):
        check_plain_linear(path, base, "cannot take this adapter")
    return in_features, out_features


def check_own_forward(path: str, layer: nn.Module, what: str) -> None:
    """Raise ValueError for an adapter with a forward of its own: its tensors do not say what it computes."""
    kind = next(kind for kind in type(layer).__mro__ if "forward" in vars(kind))
    if "forward" in vars(layer) or not kind.__module__.startswith("lora_edu."):
        raise ValueError(
            f"{path or 'this layer'} {what}: it has a forward of its own (it is a {type(layer).__name__}), so A and B "
            "alone do not say what it computes. Keep adapter_state(model), and the code beside it"
        )


def check_not_training_merged(layer: Any) -> None:
    """Raise RuntimeError for a merged adapter that is to be trained, or whose scaling has changed since."""
    if layer.training and torch.is_grad_enabled():
        raise RuntimeError("a merged adapter cannot be trained, its branch is switched off: call unmerge(model) first")
    if layer.scaling != layer.added_scaling:
        raise RuntimeError("the scaling of a merged adapter was changed, and is not heard: call unmerge(model) first")


def check_state(slots: dict[str, Tensor], state: Any) -> None:
    """Raise ValueError unless an adapter's tensors fit into the slots of a model, TypeError for what is no adapter."""
    check_adapter("the adapter", state)
    if problem := misfit(state, slots, any_float=True):
        raise ValueError(f"the adapter was made for another model: {problem}")
    first_of: dict[range, str] = {}  # a piece of memory, and the first name of it
    for name, slot in slots.items():
        check_written_here(name, slot)
        if not state[name].to(slot.dtype).isfinite().all():
            raise ValueError(f"{name} has values that are too large for {slot.dtype}, the type of this model's adapter")
        first = first_of.setdefault(memory(slot), name)
        if not torch.equal(state[first].to(slot), state[name].to(slot)):
            raise ValueError(f"{first} and {name} are one tensor in this model, and two different ones in the adapter")


def check_adapter(what: str, state: Any) -> None:
    """Raise TypeError or ValueError for what is no adapter: names and tensors of finite floating-point numbers."""
    if not isinstance(state, dict):
        raise TypeError(f"{what} must be a dictionary of tensors, as of adapter_state, got {type(state).__name__}")
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{what} must hold tensors, got {type(tensor).__name__} for {name}")
        if not tensor.is_floating_point():
            raise ValueError(f"{name} holds {tensor.dtype} and not floating-point numbers: this adapter is damaged")
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite: this adapter is damaged")


def check_combination(states: Any, weights: Any) -> None:
    """Raise ValueError unless the adapters sit on the same layers of equal models, and each has one weight."""
    for name, value in {"states": states, "weights": weights}.items():
        if not isinstance(value, list | tuple):
            raise ValueError(f"each adapter needs one weight: {name} must be a list, got {type(value).__name__}")
    if not states or len(states) != len(weights):
        raise ValueError(f"each adapter needs one weight, got {len(states)} adapters and {len(weights)} weights")
    if not all(is_real(w.item() if isinstance(w, Tensor) and w.ndim == 0 else w) for w in weights):
        raise ValueError(f"weights must be finite numbers, got {weights}")
    for number, state in enumerate(states, 1):
        check_adapter(f"adapter {number}", state)
        if not state or (others := [name for name in state if not name.endswith(("lora_A", "lora_B"))]):
            what = f"is a variant's, with {others[0]}" if state else "has no tensors"
            raise ValueError(f"adapter {number} {what}: only LoRA's A and B can be put side by side")
        if different := sorted(state.keys() ^ states[0].keys()):
            raise ValueError(f"adapters 1 and {number} sit on different layers: only one of them has {different[0]}")
        for name, tensor in state.items():
            side = 1 if name.endswith("lora_A") else 0  # the side that is not the rank
            there, here = states[0][name].shape[side], tensor.shape[side]
            if there != here:
                raise ValueError(f"adapters 1 and {number} are of different models: {name} is {there} and {here} wide")
            partner = name[:-1] + ("B" if side else "A")
            if partner not in state or tensor.shape[1 - side] != state[partner].shape[side]:
                raise ValueError(f"adapter {number} is damaged: {name} and {partner} do not have one rank")
