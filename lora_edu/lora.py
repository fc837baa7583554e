"""LoRA: a frozen linear layer plus a trainable update of low rank.

    y = base(x) + s * B A x        with A: (rank, in_features), B: (out_features, rank), s = alpha / rank

The base can be any layer that maps (..., in_features) to (..., out_features): `nn.Linear`, the 4-bit `NF4Linear` of
`lora_edu.qlora` (then the whole is QLoRA), or the `Conv1D` of Hugging Face's GPT-2.

Source: Hu et al. 2021, "LoRA", arXiv 2106.09685, section 4.1. The reference code is microsoft/LoRA and PEFT;
`tests/lora_edu/test_lora.py` holds this module against PEFT.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from weakref import WeakSet

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_edu.adapters import check_combination, check_not_training_merged, check_own_forward, check_size, check_state
from lora_edu.checks import check_model
from lora_edu.layers import (
    SettingsInState,
    check_plain_linear,
    check_writable,
    check_written_here,
    is_conv1d,
    is_linear,
    plain_modules,
    put_layer,
    replace_layers,
    select_layers,
    weight_product,
)


class LoRALinear(SettingsInState):
    """A linear layer with an adapter. At the start it computes exactly what its base computes, because B is zero.

    base: the layer that is adapted, and frozen: an `nn.Linear`, an `NF4Linear` or a `Conv1D` of Hugging Face.
    rank, alpha, dropout: as for `add_lora`.
    """

    saved: tuple[str, ...] = ("lora_A", "lora_B")  # the tensors that are its adapter
    needs_plain = False  # whether it works with its base's weight, and not with what the base computes

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float = 0.0):
        """Raises ValueError for a rank outside 1 .. min(in, out), an alpha that is not positive, or a bad dropout."""
        super().__init__()
        in_features, out_features = check_size(base, rank, alpha, dropout, self.needs_plain)
        device = next(iter(base.state_dict().values())).device
        self.base = base.requires_grad_(False)
        self.rank, self.alpha, self.scaling, self.merged = int(rank), alpha, alpha / rank, False
        self.added_scaling = math.nan  # once merged, what s was
        self.dropout = nn.Dropout(dropout)
        self.lora_A = nn.Parameter(torch.empty(rank, in_features, device=device, dtype=torch.float32))
        self.lora_B = nn.Parameter(torch.zeros(out_features, rank, device=device, dtype=torch.float32))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # uniform in +-1/sqrt(in_features), as PEFT does

    def forward(self, x: Tensor) -> Tensor:
        """x: (..., in_features) -> (..., out_features)"""
        y = self.base(x)
        if self.merged:
            check_not_training_merged(self)
            return y
        low = self.scaling * F.linear(self.dropout(x).to(self.lora_A.dtype), self.lora_A)  # (..., rank): s A x
        return y + F.linear(low, self.lora_B).to(y.dtype)  # base(x) + B (s A x)

    @property
    def in_features(self) -> int:
        return self.lora_A.shape[1]

    @property
    def out_features(self) -> int:
        return self.lora_B.shape[0]

    def factors(self) -> tuple[float, Tensor, Tensor]:
        """s, B and A, whose product is the update."""
        return self.scaling, self.lora_B, self.lora_A

    def delta_weight(self) -> Tensor:
        """The update of the weight, s * B A: (out_features, in_features). Once merged, the one that was added."""
        s, B, A = (self.added_scaling, self.added_B, self.added_A) if self.merged else self.factors()
        return s * weight_product(B, A)

    def _changed(self, W: Tensor) -> Tensor:
        """W + s B A, (out_features, in_features): what merging makes of W."""
        return W + self.delta_weight().to(W)

    def _restored(self, W: Tensor) -> Tensor:
        """W without the update that was merged into it."""
        return W - self.delta_weight().to(W)

    def _kept(self) -> dict[str, Tensor]:
        """What the way back needs, whatever becomes of the adapter: buffers of a merged layer, and part of its state.

        A model whose adapters are not merged has no place for them, so load_state_dict refuses, where it would
        otherwise add the update to weights that hold it already.
        """
        _, B, A = self.factors()
        return {"added_B": B.detach().clone(), "added_A": A.detach().clone()}

    @property
    def weight(self) -> Tensor:
        """W + s B A, for models that read a layer's weight: made anew each time, so that writing into it is lost."""
        W: Any = self.base.weight
        packed = not W.is_floating_point()  # another library's
        return W if self.merged or packed else _turned(self, self._changed)

    @property
    def bias(self) -> Tensor | None:
        return self.base.bias

    def settings(self) -> dict[str, Any]:
        """What its tensors mean in a state dict depends on these."""
        return {"scaling": float(self.added_scaling if self.merged else self.scaling), "merged_into_base": self.merged}

    def check_saved(self, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        super().check_saved(state_dict, prefix, local_metadata)
        found = {name for name in state_dict if name.startswith(prefix)}
        if self.merged and found and not any(name.startswith(f"{prefix}base.") for name in found):
            raise ValueError(
                f"{prefix[:-1] or 'this layer'} is merged, and A and B come alone: call unmerge(model) first"
            )

    def extra_repr(self) -> str:
        return f"rank={self.rank}, alpha={self.alpha}, merged={self.merged}"


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

    rank: how many directions an update B A has at most; each layer trains rank * (in_features + out_features) numbers.
    alpha: the strength of the update, which is multiplied by s = alpha / rank.
    targets: the last parts of layers' paths, or whole paths; or "all-linear" for every one that is not in `skip`.
    dropout: the share of the adapter's inputs that is set to zero at each step of training, drawn anew.
    skip: the names that "all-linear" leaves out.
    Raises ValueError if the model has adapters already, if a target matches nothing, or for a bad rank or alpha;
    the model is unchanged then.
    """
    chosen = layers_to_adapt(model, LoRALinear, rank, alpha, targets, dropout, skip)
    model.requires_grad_(False)
    return replace_layers(model, ((path, LoRALinear(layer, rank, alpha, dropout)) for path, layer in chosen.items()))


def layers_to_adapt(model, kind, rank, alpha, targets, dropout=0.0, skip=("lm_head",)) -> dict[str, nn.Module]:
    """The layers that are to get an adapter of this kind, by path. All is checked here, and nothing changed."""
    check_no_adapters(model, "take them out with unload(model) before adding new ones")
    chosen = select_layers(model, targets, skip, is_linear)
    for path, layer in chosen.items():
        check_size(layer, rank, alpha, dropout, kind.needs_plain, path)
    return chosen


def lora_layers(model: nn.Module) -> dict[str, LoRALinear]:
    """The layers with an adapter, by path."""
    check_model(model)
    return {path: module for path, module in model.named_modules() if isinstance(module, LoRALinear)}


def check_no_adapters(model: nn.Module, advice: str) -> None:
    """Raise ValueError if a model has adapters. Those that are off come back, and would undo what is done meanwhile."""
    if lora_layers(model):
        raise ValueError(f"this model has adapters already: {advice}")
    if any(module in _switched_off for module in model.modules()):
        raise ValueError("the adapters of this model are only switched off here: leave the block of adapters_off first")


@torch.no_grad()
def merge(model: nn.Module) -> nn.Module:
    """Add each update to its base weight, W <- W + s B A, so that the adapter costs no time. Returns the model.

    A second call changes nothing. Raises ValueError for a 4-bit base, for a layer that is more than its weight and
    bias, for a weight that another layer uses too, for an update that makes weights that are not finite, and if there
    are no adapters; the weights are unchanged then.
    """
    layers = {path: layer for path, layer in _layers_to_merge(model).items() if not layer.merged}
    _check_mergeable(model, layers)
    for layer in layers.values():
        kept, layer.added_scaling = layer._kept(), layer.factors()[0]
        layer.base.weight.copy_(_turned(layer, layer._changed))
        layer.merged = True
        for name, tensor in kept.items():
            layer.register_buffer(name, tensor)
    torch.clear_autocast_cache()  # inside autocast, torch would go on with its 16-bit copies of the old numbers
    return model


@torch.no_grad()
def unmerge(model: nn.Module) -> nn.Module:
    """Subtract the updates again: W is back up to rounding, not to the bit. A second call changes nothing.

    What was added is subtracted, though the adapter may have been changed since. Raises ValueError if there are no
    adapters, or if the way back is lost, as where a magnitude of DoRA is 0; the weights are unchanged then.
    """
    layers = {path: layer for path, layer in _layers_to_merge(model).items() if layer.merged}
    for path, layer in layers.items():
        check_written_here(path, layer.base.weight)
        if not _turned(layer, layer._restored).isfinite().all():
            raise ValueError(f"{path} cannot be unmerged: a row was scaled by 0, or overflowed. Load the base again")
    for layer in layers.values():
        layer.base.weight.copy_(_turned(layer, layer._restored))
        layer.merged = False
        for name in [name for name in layer._buffers if name.startswith("added_")]:
            delattr(layer, name)
    torch.clear_autocast_cache()
    return model


def unload(model: nn.Module) -> nn.Module:
    """Take the adapters out and put the base layers back. What was merged stays in the weights.

    Returns the model, or the base of a single `LoRALinear`. All stays frozen: `model.requires_grad_(True)` trains it.
    Raises ValueError if there are no adapters, or for one on a layer that is more than its weight and bias.
    """
    layers = _layers_to_merge(model)
    for path, layer in layers.items():
        check_plain_linear(path, layer, "cannot be taken out")
    return replace_layers(model, ((path, layer.base) for path, layer in layers.items()))


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Copies of all adapter tensors, by path: `...q_proj.lora_A` (rank, in), `...q_proj.lora_B` (out, rank).

    Raises ValueError if there are no adapters, or if they are merged.
    """
    contiguous = torch.contiguous_format  # a factor of an SVD is not, and safetensors wants it
    return {name: slot.detach().cpu().clone(memory_format=contiguous) for name, slot in _slots(model).items()}


@torch.no_grad()
def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> nn.Module:
    """Copy tensors, as `adapter_state` gives them, into a model that has adapters of these shapes. Returns the model.

    Raises ValueError, before anything is changed, for missing or unexpected names, other shapes, values not finite.
    """
    slots = _slots(model)
    check_state(slots, state)
    for name, slot in slots.items():
        slot.copy_(state[name])
    torch.clear_autocast_cache()
    return model


def _slots(model: nn.Module) -> dict[str, Tensor]:
    """The adapters' own tensors, by the path in the plain model, whatever is wrapped around it."""
    if any(layer.merged for layer in _layers_to_merge(model).values()):
        raise ValueError("the adapters are merged into the weights: call unmerge(model) before saving or loading them")
    layers = {path: layer for path, layer in plain_modules(model).items() if isinstance(layer, LoRALinear)}
    named = {f"{path}.{name}": getattr(layer, name) for path, layer in layers.items() for name in layer.saved}
    return {name.removeprefix("."): tensor for name, tensor in named.items()}


def _turned(layer: LoRALinear, change: Callable[[Tensor], Tensor]) -> Tensor:
    """The base's weight, changed: `change` sees it as (out_features, in_features), and a Conv1D holds the transpose."""
    W: Any = layer.base.weight
    return change(W.T).T if is_conv1d(layer.base) else change(W)


def _layers_to_merge(model: nn.Module) -> dict[str, LoRALinear]:
    layers = lora_layers(model)
    if not layers:
        raise ValueError("this model has no adapters: add them with add_lora(model, rank=8, alpha=16)")
    return layers


def _check_mergeable(model: nn.Module, layers: dict[str, LoRALinear]) -> None:
    check_writable(model, {path: layer.base for path, layer in layers.items()}, "cannot be merged")
    for path, layer in layers.items():
        check_own_forward(path, layer, "cannot be merged")
        if not _turned(layer, layer._changed).isfinite().all():
            raise ValueError(
                f"the update of {path} gives weights of {layer.base.weight.dtype} that are not finite: merging it "
                "would destroy the weights"
            )


_switched_off: WeakSet[nn.Module] = WeakSet()  # bases that stand in their adapter's place at this moment


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """For a `with` block the model is its base again: the reference model of DPO, or the other half of a comparison.

    Each part is in its own mode, train or eval, again afterwards; one that is set inside is the adapters', too.
    Raises ValueError if there are no adapters, or if one is merged.
    """
    _slots(model)  # asks both
    layers = lora_layers(model)
    modes = {path: layer.base.training for path, layer in layers.items()}
    for path, layer in layers.items():
        put_layer(model, path, layer.base)
        _switched_off.add(layer.base)
    try:
        yield
    finally:
        for path, layer in layers.items():
            _switched_off.discard(layer.base)
            layer.base = model.get_submodule(path)  # another one, after dequantize_linears
            if layer.base.training != modes[path]:  # train() or eval() was called inside
                layer.train(layer.base.training)
            put_layer(model, path, layer)


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
    weights: how much of each update is in the sum; 1 is all of it.
    Load the result into a model with adapters of that rank and an alpha that keeps s:
    `add_lora(model, rank=r1 + r2, alpha=s * (r1 + r2))`. An adapter with another scaling needs its weight times
    (its scaling / s).
    Raises ValueError for states of different models and for weights that do not fit.
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
