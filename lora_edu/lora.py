"""LoRA: a frozen linear layer plus a trainable update of low rank.

    y = base(x) + s * B A x        with A: (rank, in_features), B: (out_features, rank), s = alpha / rank

The base can be any layer that maps (..., in_features) to (..., out_features): `nn.Linear`, the 4-bit `NF4Linear` of
`lora_edu.qlora` (then the whole is QLoRA), or the `Conv1D` of Hugging Face's GPT-2.

Source: Hu et al. 2021, "LoRA", arXiv 2106.09685, section 4.1. The reference code is microsoft/LoRA and PEFT;
`tests/test_lora.py` holds this module against PEFT.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.checks import (
    POSITIVE,
    SHARE,
    check,
    check_combination,
    check_model,
    check_replaceable,
    check_state,
    layer_names,
    whole,
)

ALL_LINEAR = "all-linear"


class LoRALinear(nn.Module):
    """A linear layer with an adapter. At the start it computes exactly what its base computes, because B is zero."""

    saved: tuple[str, ...] = ("lora_A", "lora_B")  # the tensors that are its adapter

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        """Raises ValueError for a rank outside 1 .. min(in, out), an alpha that is not positive, or a bad dropout."""
        super().__init__()
        in_features, out_features = checked_size(base, rank, alpha, dropout)
        device = next(iter(base.state_dict().values())).device
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling, self.merged = int(rank), alpha, alpha / rank, False
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, device=device))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # uniform in +-1/sqrt(in_features), as PEFT does

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y = self.base(x)
        if self.merged:
            check_not_training_merged(self)
            return y
        low = self.scaling * F.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A)  # (..., rank): s A x
        return y + F.linear(low, self.lora_B).to(y.dtype)  # base(x) + B (s A x)

    def delta_weight(self) -> Tensor:
        """The update of the weight, s * B A: (out_features, in_features). Only merging needs it in full."""
        return self.scaling * (self.lora_B @ self.lora_A)

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}, merged={self.merged}"


def layer_size(layer: Any) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer; of a Hugging Face `Conv1D`, whose weight is (in, out), too."""
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    if is_conv1d(layer):
        in_features, out_features = layer.weight.shape
        return in_features, out_features
    raise TypeError(f"LoRALinear wraps linear layers, got {type(layer).__name__}")


def is_conv1d(layer: Any) -> bool:
    """Whether this is Hugging Face's `Conv1D`, recognized by its attribute `nf` and a two-dimensional weight."""
    return hasattr(layer, "nf") and getattr(layer, "weight", None) is not None and layer.weight.ndim == 2


def is_linear(layer: nn.Module) -> bool:
    """Whether an adapter can be put on this layer."""
    return isinstance(layer, nn.Linear) or is_conv1d(layer) or is_nf4(layer)


def is_nf4(layer: nn.Module) -> bool:
    """Whether this is an `NF4Linear`, known by its mark: its class, in `lora_edu.qlora`, stands above this file."""
    return getattr(layer, "is_nf4", False)


# --- adapters of a whole model -------------------------------------------------------------------------------------


def add_lora(
    model: nn.Module,
    rank: int,
    alpha: float,
    targets: str | Iterable[str] = ("q_proj", "v_proj"),
    dropout: float = 0.0,
    skip: str | Iterable[str] = ("lm_head",),
) -> nn.Module:
    """Freeze a model and put an adapter on each targeted linear layer, in place. Returns the model.

    targets: names matched against the last part of a layer's path, or "all-linear" for every one that is not in `skip`.
    Raises ValueError if the model has adapters already, if a target matches nothing, or for a bad rank or alpha;
    the model is unchanged then.
    """
    if lora_layers(model):
        raise ValueError("this model has adapters already: take them out with unload(model) before adding new ones")
    chosen = select_layers(model, targets, skip, is_linear)
    for layer in chosen.values():
        checked_size(layer, rank, alpha, dropout)
    model.requires_grad_(False)
    for path, layer in chosen.items():
        replace_layer(model, path, LoRALinear(layer, rank, alpha, dropout))
    return model


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with an adapter, by path."""
    check_model(model)
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


def select_layers(
    model: nn.Module,
    targets: str | Iterable[str],
    skip: str | Iterable[str],
    is_candidate: Callable[[nn.Module], bool],
) -> dict[str, nn.Module]:
    """The candidates whose path ends in one of the target names, by path; "all-linear" takes all but `skip`."""
    candidates = {path: module for path, module in model.named_modules() if path and is_candidate(module)}
    names = {path.rpartition(".")[-1] for path in candidates}
    skip = layer_names("skip", skip)
    whole_model = isinstance(targets, str) and targets == ALL_LINEAR
    wanted = names - skip if whole_model else layer_names("targets", targets)
    if unknown := skip - names - {"lm_head"} if whole_model else wanted - names:  # no model needs to have a head
        raise ValueError(
            f"no linear layer is named {', '.join(sorted(unknown))}; there are: {', '.join(sorted(names))}"
        )
    if not wanted:
        raise ValueError(f"no layer is left to choose; linear layers here: {', '.join(sorted(names)) or 'none'}")
    chosen = {path: module for path, module in candidates.items() if path.rpartition(".")[-1] in wanted}
    check_replaceable(model, chosen)
    return chosen


def replace_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at this path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer.train(model.training))


def merge(model: nn.Module) -> nn.Module:
    """Add each update to its base weight, W <- W + s B A, so that the adapter costs no time. Returns the model.

    A second call changes nothing. Raises ValueError for a 4-bit base, for a weight that another layer uses too, for an
    update that is not finite, and if there are no adapters; the weights are unchanged then.
    """
    layers = _layers_to_merge(model)
    for path, layer in layers.items():
        _check_mergeable(model, path, layer)
    for layer in layers.values():
        _shift_weight(layer, +1)
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Subtract the updates again: W is back up to rounding, not to the bit. A second call changes nothing."""
    for layer in _layers_to_merge(model).values():
        _shift_weight(layer, -1)
    return model


def unload(model: nn.Module) -> nn.Module:
    """Take the adapters out and put the base layers back. What was merged stays in the weights. Returns the model.

    All parameters stay frozen: call `model.requires_grad_(True)` to train them.
    """
    for path, layer in _layers_to_merge(model).items():
        replace_layer(model, path, layer.base)
    return model


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all adapter tensors, by path: `...q_proj.lora_A` (rank, in), `...q_proj.lora_B` (out, rank)."""
    layers = _layers_to_merge(model)
    if any(layer.merged for layer in layers.values()):
        raise ValueError("the adapters are merged into the weights: call unmerge(model) before saving them")
    return {
        f"{path}.{name}": getattr(layer, name).detach().cpu().clone()
        for path, layer in layers.items()
        for name in layer.saved
    }


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Copy adapter tensors into a model that has adapters of the same shapes. Returns the model.

    Raises ValueError, before anything is changed, for missing or unexpected names, other shapes or values that are
    not finite.
    """
    layers = _layers_to_merge(model)
    if any(layer.merged for layer in layers.values()):
        raise ValueError("the adapters are merged into the weights: call unmerge(model) before loading others")
    slots = {f"{path}.{name}": getattr(layer, name) for path, layer in layers.items() for name in layer.saved}
    check_state(slots, state)
    for name, slot in slots.items():
        slot.copy_(state[name])
    return model


class TrainableSummary(NamedTuple):
    """How much of a model is trained; prints as one line."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = self.trainable / self.total
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2%})"


def trainable_summary(model: nn.Module) -> TrainableSummary:
    """Count parameters; a 4-bit weight counts as the numbers it stands for, not as its bytes."""
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    packed = sum(math.prod(layer_size(module)) for module in model.modules() if is_nf4(module))
    return TrainableSummary(trainable, packed + sum(p.numel() for p in model.parameters()))


@torch.no_grad()
def _shift_weight(layer: LoRALinear, sign: int) -> None:
    if layer.merged == (sign > 0):
        return
    delta = layer.delta_weight()
    weight: Any = layer.base.weight
    weight.add_((delta.T if is_conv1d(layer.base) else delta).to(weight.dtype), alpha=sign)
    layer.merged = sign > 0
    if layer.merged:
        # An entry of no bytes in the state of a merged layer: a model whose adapters are not merged has no place for
        # it, so load_state_dict refuses, where it would otherwise add the update to weights that hold it already.
        layer.register_buffer("merged_into_base", torch.empty(0))
    else:
        del layer.merged_into_base


def _layers_to_merge(model: nn.Module) -> dict[str, LoRALinear]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("this model has no adapters: add them with add_lora(model, rank=8, alpha=16)")
    return layers


# --- checks --------------------------------------------------------------------------------------------------------


def checked_size(base: nn.Module, rank: int, alpha: float, dropout: float) -> tuple[int, int]:
    in_features, out_features = layer_size(base)
    smaller = min(in_features, out_features)
    if not whole(1).holds(rank) or rank > smaller:
        raise ValueError(
            f"rank must be between 1 and {smaller} "
            f"(the smaller side of a {out_features}x{in_features} layer), got {rank!r}"
        )
    check(POSITIVE, alpha=alpha)
    check(SHARE, dropout=dropout)
    return in_features, out_features


def check_not_training_merged(layer: LoRALinear) -> None:
    if layer.training and torch.is_grad_enabled():
        raise RuntimeError("a merged adapter cannot be trained, its branch is switched off: call unmerge(model) first")


def _check_mergeable(model: nn.Module, path: str, layer: LoRALinear) -> None:
    weight = getattr(layer.base, "weight", None)
    if weight is None:
        raise ValueError(
            f"{path} keeps its weight in 4 bits: adding the update and rounding again would lose most of it. "
            "Call dequantize_linears(model) first, then merge(model)"
        )
    users = [name for name, other in model.named_parameters(remove_duplicate=False) if other is weight]
    if len(users) > 1:
        others = ", ".join(name for name in users if not name.startswith(f"{path}.")) or "another layer"
        raise ValueError(
            f"{path} shares its weight with {others} (tied weights): merging would change both. Leave this adapter "
            f"unmerged, or give {path} a weight of its own before you add adapters"
        )
    if not (layer.merged or layer.delta_weight().isfinite().all()):
        raise ValueError(f"the update of {path} has values that are not finite: merging it would destroy the weights")


# --- combination -----------------------------------------------------------------------------------------------------
# Several adapters in one: a weighted sum of updates, without touching the base.
#
#     w1 * s B1 A1 + w2 * s B2 A2 = s [w1 B1, w2 B2] [A1; A2]
#
# Side by side, the factors give the sum exactly, and the ranks add up. Averaging A with A and B with B does not: the
# product of two sums has cross terms, B1 A2 and B2 A1, that no training ever saw.


def combine(states: Sequence[dict[str, Tensor]], weights: Sequence[float]) -> dict[str, Tensor]:
    """One adapter whose update is the weighted sum of several: its rank is the sum of their ranks.

    states: what `adapter_state` returns, of models with the same layers and the same scaling s = alpha / rank.
    Load the result into a model with adapters of that rank and an alpha that keeps s:
    `add_lora(model, rank=r1 + r2, alpha=s * (r1 + r2))`. An adapter with another scaling needs its weight times
    (its scaling / s). Raises ValueError for states of different models and for weights that do not fit.
    """
    check_combination(states, weights)
    combined = {}
    for name in states[0]:
        parts = [state[name] for state in states]
        if name.endswith("lora_A"):
            combined[name] = torch.cat(parts, dim=0)  # (r1 + r2, in_features)
        else:
            scaled = [weight * part for weight, part in zip(weights, parts, strict=True)]
            combined[name] = torch.cat(scaled, dim=1)  # (out_features, r1 + r2)
    return combined
