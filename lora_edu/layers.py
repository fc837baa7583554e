"""The linear layers of a model: their kind, which are chosen, how one is replaced, what may be done to it, its state.

Merging, 4 bits, DoRA and PiSSA work with a layer's weight, and take its output for x W^T + bias. `check_plain_linear`
asks whether that is so, here and nowhere else, and names what is in the way.
"""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lora_edu.checks import check_model

ALL_LINEAR = "all-linear"
# What torch puts around a model, or a part of it, by the names of the classes.
WRAPPERS = {"DataParallel", "DistributedDataParallel", "FullyShardedDataParallel", "OptimizedModule", "AveragedModel",
            "CheckpointWrapper"}  # fmt: skip


def layer_size(layer: Any) -> tuple[int, int]:
    """(in_features, out_features) of a linear layer, weight (out, in), or of a `Conv1D`, weight (in, out).

    Raises TypeError for a layer that is not linear.
    """
    if hasattr(layer, "in_features"):
        return layer.in_features, layer.out_features
    if is_conv1d(layer):
        in_features, out_features = layer.weight.shape
        return in_features, out_features
    raise TypeError(f"LoRALinear wraps linear layers, got {type(layer).__name__}")


def is_conv1d(layer: Any) -> bool:
    """Whether this is Hugging Face's `Conv1D`, recognized by its attribute `nf` and a two-dimensional weight."""
    return hasattr(layer, "nf") and getattr(layer, "weight", None) is not None and layer.weight.ndim == 2


def is_nf4(layer: Any) -> bool:
    """Whether this is an `NF4Linear`, known by its mark: its class, in `lora_edu.qlora`, stands above this file."""
    return getattr(layer, "is_nf4", False)


def is_linear(layer: nn.Module) -> bool:
    """Whether an adapter can be put on this layer."""
    return isinstance(layer, nn.Linear) or is_conv1d(layer) or is_nf4(layer)


class TrainableSummary(NamedTuple):
    """How much of a model is trained; prints as one line."""

    trainable: int
    total: int

    def __str__(self) -> str:
        share = self.trainable / self.total if self.total else 0.0
        return f"{self.trainable:,} of {self.total:,} parameters are trained ({share:.2%})"


def trainable_summary(model: nn.Module) -> TrainableSummary:
    """Count parameters; a 4-bit weight, bitsandbytes' too, counts as the numbers it stands for, not as its bytes.

    Raises TypeError for what is no torch module.
    """
    check_model(model)
    trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    for layer in filter(is_linear, model.modules()):
        weight = layer._parameters.get("weight")
        if is_nf4(layer) or (weight is not None and not weight.is_floating_point()):
            total += math.prod(layer_size(layer)) - (0 if weight is None else weight.numel())
    return TrainableSummary(trainable, total)


def warn_of_what_stays(model: nn.Module) -> None:
    """Say so if most numbers of a model are in no linear layer and no embedding, as those of fused experts are."""
    known = [module for module in model.modules() if is_linear(module) or isinstance(module, nn.Embedding)]
    inside = {id(parameter) for module in known for parameter in module.parameters(recurse=False)}
    rest = {name: p for name, p in model.named_parameters() if id(p) not in inside}
    total = trainable_summary(model).total
    share = sum(p.numel() for p in rest.values()) / max(total, 1)
    if share > 0.5:
        largest = max(rest, key=lambda name: rest[name].numel())
        warnings.warn(
            f"{share:.0%} of this model's numbers are in no linear layer, such as {largest} of shape "
            f"{tuple(rest[largest].shape)}, and stay in full precision",
            stacklevel=3,
        )


def plain_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by path, without what torch has wrapped around some: DDP's `module` is no part of a path."""
    found = {}
    for path, module in model.named_modules():
        names, place = [], model
        for name in path.split("."):
            if not any(kind.__name__ in WRAPPERS for kind in type(place).__mro__):
                names.append(name)
            place = place.get_submodule(name)
        found[".".join(names)] = module  # what is wrapped comes after its wrapper, and takes its place
    return found


# --- choosing and replacing ------------------------------------------------------------------------------------------


def select_layers(
    model: nn.Module,
    targets: str | Iterable[str],
    skip: str | Iterable[str],
    is_candidate: Callable[[nn.Module], bool],
) -> dict[str, nn.Module]:
    """The candidates by path: those whose path is a target, or ends in one; "all-linear" takes all but `skip`."""
    candidates = {path: module for path, module in model.named_modules() if path and is_candidate(module)}
    names = {path.rpartition(".")[-1] for path in candidates}
    skip = layer_names("skip", skip)
    whole_model = isinstance(targets, str) and targets == ALL_LINEAR
    wanted = names - skip if whole_model else layer_names("targets", targets)
    if (
        unknown := skip - names - {"lm_head"} if whole_model else wanted - names - candidates.keys()
    ):  # a head is no must
        raise ValueError(f"no linear layer is named {', '.join(sorted(unknown))}; there are {', '.join(sorted(names))}")
    if not wanted:
        raise ValueError(f"no layer is left to choose; linear layers here: {', '.join(sorted(names)) or 'none'}")
    if not whole_model and skip - {"lm_head"}:
        raise ValueError(f"skip says what {ALL_LINEAR!r} leaves out: with targets by name, name fewer of them")
    chosen = {path: module for path, module in candidates.items() if wanted & {path, path.rpartition(".")[-1]}}
    check_replaceable(model, chosen)
    for path, module in model.named_modules():
        if any(kind.__name__ == "BaseTunerLayer" for kind in type(module).__mro__):
            raise ValueError(
                f"PEFT has put an adapter on {path}, whose parts would be taken for the model's: call its "
                "merge_and_unload() or unload() first"
            )
    return chosen


def replace_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at this path, in the same mode."""
    parent, _, name = path.rpartition(".")
    layer.train(model.get_submodule(path).training)  # in the mode of the one before
    setattr(model.get_submodule(parent), name, layer)


def put_layer(model: nn.Module, path: str, layer: nn.Module) -> None:
    """Put a layer in the place of the one at this path, in the mode that it has."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, layer)


def replace_layers(model: nn.Module, layers: Iterable[tuple[str, nn.Module]]) -> nn.Module:
    """Put each layer in its place. Returns the model; if that is the one layer itself, what takes its place."""
    for path, layer in layers:
        if not path:
            return layer.train(model.training)
        replace_layer(model, path, layer)
    if all(hook.hook is not check_all_saved for hook in model._load_state_dict_pre_hooks.values()):
        model.register_load_state_dict_pre_hook(check_all_saved)
    return model


def layer_names(argument: str, value: Any) -> set[str]:
    """A name, or several, as a set. Raises TypeError for anything else."""
    names: set = {value} if isinstance(value, str) else set(value) if isinstance(value, Iterable) else {None}
    if not all(isinstance(name, str) for name in names):
        raise TypeError(f"{argument} must be the name of a layer, or several names, got {value!r}")
    return names


def check_replaceable(model: nn.Module, chosen: dict[str, nn.Module]) -> None:
    """Raise ValueError for a layer that another one cannot take the place of, without a wrong number."""
    config = getattr(model, "config", None)
    if 0 < (getattr(config, "rescale_every", 0) or 0) < getattr(config, "num_hidden_layers", 0):  # RWKV of transformers
        raise ValueError("this model halves weights in place for inference: load it with config.rescale_every = 0")
    paths: dict[nn.Module, list[str]] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        paths.setdefault(module, []).append(path)
    for path, layer in chosen.items():
        if len(paths[layer]) > 1:
            raise ValueError(f"one layer stands at {' and '.join(paths[layer])}: give each its own, or leave it out")
        parent = model.get_submodule(path.rpartition(".")[0])
        if isinstance(parent, nn.MultiheadAttention | nn.TransformerEncoderLayer):
            raise ValueError(
                f"{path} cannot be replaced: torch's {type(parent).__name__} reads its weight without calling it. "
                "Leave it out, or use a model whose layers are called"
            )


# --- what may be done to a layer -------------------------------------------------------------------------------------


def check_plain_linear(path: str, layer: Any, what: str) -> None:
    """THE ONE QUESTION: is this layer x W^T + bias (and s B A x, for ours), and nothing more? ValueError says why not.

    what: what cannot be done then, the first half of the sentence.
    """
    forward = next(kind for kind in type(layer).__mro__ if "forward" in vars(kind))
    ours = is_nf4(layer) or hasattr(layer, "lora_A")
    if not (ours or forward is nn.Linear or forward.__name__ == "Conv1D") or "forward" in vars(layer):
        reason = f"has a forward of its own (it is a {type(layer).__name__})"
    elif parametrize.is_parametrized(layer):  # asked before its weight is: that would compute it
        reason = "computes its weight from others (torch's parametrize: weight_norm, spectral_norm, orthogonal)"
    elif has_hooks(layer):
        reason = "has hooks (of pruning, of an old weight_norm, or your own)"
    elif not ours and not (_has_memory(w := layer.weight) and w.is_floating_point() and w.itemsize > 1):
        reason = f"keeps its weight as {layer.weight.dtype} in a {type(layer.weight).__name__}"
    else:
        return
    raise ValueError(
        f"{path or 'this layer'} {what}: it {reason}, so its output is more than x W^T + bias. "
        "Take that off first (remove(), remove_parametrizations), or leave this layer out"
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether something else happens when this module is called, forward or backward."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, kind) for kind in kinds)


def _has_memory(tensor: Any) -> bool:
    """Whether this is a common tensor, and not a sparse one, or one that another library keeps its own way."""
    return type(tensor) in (Tensor, nn.Parameter) and tensor.layout == torch.strided


def check_writable(model: nn.Module, layers: dict[str, Any], what: str) -> None:
    """Raise ValueError unless all weights can be written into: of plain layers, in memory that no other tensor uses."""
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    places = {name: memory(tensor) for name, tensor in named if _has_memory(tensor)}
    for path, layer in layers.items():
        if is_nf4(layer):
            raise ValueError(
                f"{path} keeps its weight in 4 bits: adding the update and rounding again would lose most of it. "
                "Call dequantize_linears(model) first, then merge(model); or merge_into_nf4(model), which rounds by lot"
            )
        check_plain_linear(path, layer, what)
        if hasattr(layer, "lora_A"):  # its weight is a sum, made anew each time
            raise ValueError(f"{path} {what}: its base has an adapter of its own, so that no weight holds the sum")
        check_written_here(path, layer.weight)
        here = memory(layer.weight)
        users = [name for name, there in places.items() if max(here.start, there.start) < min(here.stop, there.stop)]
        if len(users) > 1 or layer.weight.untyped_storage().nbytes() < layer.weight.nbytes:  # the latter: expanded
            others = ", ".join(name for name in users if not name.startswith(f"{path}.")) or "another layer"
            raise ValueError(
                f"{path} shares its weight with {others} (tied weights): what is done to one changes the other. Leave "
                f"it as it is, or give {path} a weight of its own, a copy, before you add adapters"
            )


def check_written_here(path: str, tensor: Tensor) -> None:
    """Raise ValueError for a tensor that torch lets nobody change here; it would say so when it has changed it."""
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(
            f"{path or 'this layer'} was made inside torch.inference_mode(), and its numbers can be changed only "
            "there: make the model outside, or call this inside, too"
        )


def memory(tensor: Tensor) -> range:
    """The bytes between a tensor's first number and its last; on the meta device, which has none, of its storage."""
    storage = tensor.untyped_storage()
    if not storage.data_ptr():
        return range(storage._cdata, storage._cdata + 1)
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    length = (1 + sum((size - 1) * stride for size, stride in sides)) * tensor.itemsize if tensor.numel() else 0
    return range(tensor.data_ptr(), tensor.data_ptr() + length)


def weight_product(B: Tensor, A: Tensor) -> Tensor:
    """B A in the type of its factors: `torch.autocast` would round what becomes a weight to 16 bits, and is off."""
    if B.is_meta:  # no numbers, and a device that autocast does not know
        return B @ A
    with torch.autocast(B.device.type, enabled=False):
        return B @ A


# --- its state and its mode ------------------------------------------------------------------------------------------


class SettingsInState(nn.Module):
    """A module whose tensors mean something else under other `settings()`, which a state dict has no tensor for.

    They go into the state dict's metadata, where torch keeps versions. Files of tensors alone have none. Each module
    asks before it takes its tensors, and the model that holds it asks for all of them before one is taken.
    """

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        getattr(destination, "_metadata", {}).get(prefix[:-1], {}).update(self.settings())

    def check_saved(self, state_dict: dict, prefix: str, local_metadata: dict) -> None:
        """Raise ValueError if the tensors of a state dict mean something else than they would here."""
        here = self.settings()
        if (there := {name: local_metadata.get(name, here[name]) for name in here}) != here:
            raise ValueError(f"{prefix[:-1] or 'this layer'} was saved with {there}, and has {here} here")

    def _load_from_state_dict(self, state_dict: dict, prefix: str, local_metadata: dict, *others: Any) -> None:
        self.check_saved(state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *others)


def check_all_saved(model: nn.Module, state_dict: dict, prefix: str, *_others: Any) -> None:
    """Before anything of a state dict is loaded: ask each part whose tensors depend on its settings."""
    metadata = getattr(state_dict, "_metadata", {})
    for path, module in model.named_modules():
        if isinstance(module, SettingsInState):
            name = f"{prefix}{path}".rstrip(".")
            module.check_saved(state_dict, f"{name}." if name else "", metadata.get(name, {}))


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode; afterwards, an error and the stop button included, each part is in its own again."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training
