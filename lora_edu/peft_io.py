"""Adapters in PEFT's own file format, so that what is trained here is loaded there, and the other way round.

A folder holds `adapter_config.json` (rank, alpha, target names) and `adapter_model.safetensors` with two tensors per
layer: `base_model.model.<path>.lora_A.weight` (rank, in) and `....lora_B.weight` (out, rank), float32; DoRA's has a
third, `....lora_magnitude_vector` (out,).

Files are safetensors and JSON only. PEFT's older `adapter_model.bin` is a pickle, which can run any code when it is
opened: it is refused.
"""

import hashlib
import json
import math
import os
import re
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.adapters import check_own_forward
from lora_edu.checks import STRENGTH, check, whole
from lora_edu.files import take_lock
from lora_edu.layers import is_conv1d, layer_size, plain_modules, replace_layers
from lora_edu.lora import LoRALinear, adapter_state, layers_to_adapt, load_adapter_state, unload
from lora_edu.records import staging
from lora_edu.tensor_files import read_tensors, seal
from lora_edu.variants import DoRALinear, RsLoRALinear

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, SUFFIX = "base_model.model.", ".weight"
MAGNITUDE = "lora_magnitude_vector"  # what PEFT calls DoRA's magnitude
# Settings of PEFT that change what an adapter computes and that our layers cannot represent.
UNSUPPORTED = ("rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "lora_bias",
               "trainable_token_indices", "target_parameters", "use_qalora", "alora_invocation_tokens", "use_bdlora",
               "arrow_config", "kasa_config", "monteclora_config")  # fmt: skip
# Initializations of PEFT that change the base weights too: A and B alone do not say what the model computes.
CHANGES_THE_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


def save_adapter(model: nn.Module, folder: str | Path) -> Path:
    """Write the adapters of a model to a folder, in PEFT's format. Returns the folder.

    The strength that is heard is saved: alpha is written so that alpha / rank is the layers' scaling, for rsLoRA, too.
    PEFT's flag for it, `use_rslora`, is never written: llama.cpp and SGLang do not read it.
    Raises ValueError if there are no adapters, if they are merged or differ in rank, strength or kind, or for a variant
    that is no LoRA beside unchanged weights; PermissionError if the folder cannot be written to.
    """
    folder = Path(folder)
    state = {_peft_name(name): tensor for name, tensor in adapter_state(model).items()}
    modules = plain_modules(model)
    layers = {path: layer for path, layer in modules.items() if isinstance(layer, LoRALinear)}
    first = next(iter(layers.values()))
    if (settings := getattr(first, "peft_settings", {})) is None:
        raise ValueError(f"{type(first).__name__} cannot be saved as it is: {first.why_not_saved}")
    for name, layer in layers.items():
        check_own_forward(name, layer, "cannot be saved")
    if len({(layer.rank, layer.scaling, type(layer), layer.dropout.p) for layer in layers.values()}) > 1:
        raise ValueError("the adapters differ in rank, alpha, dropout or kind, and the file holds one of each")
    config = {
        "peft_type": "LORA",
        **_about_the_base(modules[""]),
        "r": first.rank,
        "lora_alpha": _heard_alpha(first),
        "lora_dropout": first.dropout.p,
        "target_modules": _targets(modules, layers),
        "fan_in_fan_out": is_conv1d(first.base),
        "bias": "none",
    } | settings
    _warn_of_what_is_left_out(modules[""], layers.values())
    note = {"trained_as": f"rsLoRA, alpha {first.alpha:g}"} if type(first) is RsLoRALinear else {}  # for inspect
    text = json.dumps(config, indent=2) + "\n"
    with take_lock(_lock_of(folder), wait=-1):  # of two processes that save here, one waits: no file of each
        with staging(folder / WEIGHTS) as path:
            # The seal is over both files: after a stop between the two, new weights do not pass for the old config's.
            save_file(state, path, metadata={"format": "pt", "sha256": seal(state, config)} | note)
            _sort_metadata(path)
        with staging(folder / CONFIG) as path:
            path.write_text(text, encoding="utf-8")
    return folder


def _warn_of_what_is_left_out(model: nn.Module, layers: Iterable[LoRALinear]) -> None:
    """Say so if something is trained beside the adapters, such as a head: the file has no place for it."""
    saved = {id(getattr(layer, name)) for layer in layers for name in layer.saved}
    others = [name for name, p in model.named_parameters() if p.requires_grad and id(p) not in saved]
    if others:
        more = f" (and {len(others) - 1} more)" if others[1:] else ""
        warnings.warn(
            f"the file holds the adapters alone: {others[0]}{more} is trained, too (requires_grad), and is not in it. "
            "Save it beside the file, or freeze it",
            stacklevel=3,
        )


def _lock_of(folder: Path) -> Path:
    """A lock file for a folder, outside of it: what is saved there is what PEFT writes, and nothing else."""
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"lora-edu-{name}.lock"


def _about_the_base(model: nn.Module) -> dict[str, str]:
    """The name of a transformers model and its task: programs that load an adapter without its base ask for them."""
    name = getattr(getattr(model, "config", None), "_name_or_path", "")
    kinds = {"ForCausalLM": "CAUSAL_LM", "LMHeadModel": "CAUSAL_LM", "ForSequenceClassification": "SEQ_CLS"}
    tasks = [task for ending, task in kinds.items() if type(model).__name__.endswith(ending)]
    return ({"base_model_name_or_path": name} if name else {}) | ({"task_type": tasks[0]} if tasks else {})


def _targets(modules: dict[str, nn.Module], layers: dict[str, LoRALinear]) -> list[str] | str:
    """What PEFT is to look for: the last parts of the layers' paths, or whole paths if another module has such a name.

    If even a whole path is the end of another module's, as "1" is of "0.1", a pattern that fits the paths alone.
    """
    inside = {part for layer in layers.values() for part in layer.modules()}
    others = [path for path, module in modules.items() if module not in inside]
    for targets in ({path.rpartition(".")[-1] for path in layers}, set(layers)):
        if not any(_is_named(path, targets) for path in others):
            return sorted(targets)
    return "|".join(map(re.escape, sorted(layers)))


def _heard_alpha(layer: LoRALinear) -> int | float:
    """The alpha that gives a layer's scaling, which may have been set since the start (the dial of notebook 00)."""
    alpha = layer.alpha if layer.alpha / layer.rank == layer.scaling else layer.scaling * layer.rank
    check(STRENGTH, **{"the alpha of an adapter's file, which is scaling times rank,": alpha})
    return int(alpha) if alpha == int(alpha) else float(alpha)


def _peft_name(name: str) -> str:
    """Our name of a tensor as PEFT writes it."""
    return f"{PREFIX}{name}{SUFFIX}".replace(f".magnitude{SUFFIX}", f".{MAGNITUDE}")


def _sort_metadata(path: Path) -> None:
    """safetensors writes the metadata in an order that changes from run to run: the same adapter is the same file."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    sorted_header = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    path.write_bytes(content[:8] + sorted_header.ljust(end - 8) + content[end:])


def load_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """Add the adapters in a folder to a model that has none, in place. Returns the model, everything else frozen.

    folder: one that `save_adapter` or PEFT's `save_pretrained` wrote.
    A rank above min(in, out), which `add_lora` refuses, is loaded with a warning: PEFT makes such adapters.
    Raises ValueError for a damaged file, one that was made for another model, or a setting that this course's layers
    cannot represent; the model is unchanged then.
    """
    folder = Path(folder)
    config = _read_config(folder)
    state = _read_state(folder, config)
    rank, alpha = config["r"], config["lora_alpha"]
    if config.get("use_rslora"):
        alpha = alpha * math.sqrt(rank)  # so that alpha / rank is their alpha / sqrt(rank)
    if wrong := [name for name, A in state.items() if name.endswith("lora_A") and A.shape[:1] != (rank,)]:
        raise ValueError(f"{folder}: the config says r = {rank}, and {wrong[0]} is {tuple(state[wrong[0]].shape)}")
    paths = {name.rpartition(".")[0] for name in state}  # ...attention.q_proj.lora_A -> ...attention.q_proj
    named = config.get("target_modules")
    if isinstance(named, list) and (unheard := {path for path in paths if not _is_named(path, named)}):
        raise ValueError(
            f"{folder}: the file holds {sorted(unheard)[0]}, which its config does not name: PEFT leaves it out"
        )
    if missing := paths - {path for path, _ in model.named_modules()}:
        raise ValueError(f"{folder}: the adapter was made for another model: there is no layer {sorted(missing)[0]}")
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    kind, dropout = DoRALinear if config.get("use_dora") else LoRALinear, config.get("lora_dropout", 0.0)
    chosen = layers_to_adapt(model, kind, 1, alpha, paths, dropout)
    model.requires_grad_(False)
    exactly = {path: layer for path, layer in chosen.items() if path in paths}  # not what has the name "a" below
    replace_layers(model, [(path, _adapted(kind, layer, rank, alpha, dropout)) for path, layer in exactly.items()])
    try:
        return load_adapter_state(model, state)
    except Exception:
        unload(model)
        for parameter in trainable:
            parameter.requires_grad_(True)
        raise


def _adapted(kind: type[LoRALinear], layer: nn.Module, rank: int, alpha: float, dropout: float) -> LoRALinear:
    """A layer with room for an adapter of this rank, above min(in, out), too."""
    in_features, out_features = layer_size(layer)
    useful = min(rank, in_features, out_features)
    made = kind(layer, useful, alpha, dropout)
    if useful < rank:
        what = f"rank {rank} is above {useful}, the smaller side of a {out_features}x{in_features} layer"
        warnings.warn(f"{what}: B A has no more directions, and rank {useful} would do", stacklevel=3)
        made.rank, made.scaling = rank, alpha / rank
        made.lora_A = nn.Parameter(made.lora_A.new_empty(rank, in_features))
        made.lora_B = nn.Parameter(made.lora_B.new_empty(out_features, rank))
    return made


def _is_named(path: str, targets: Iterable[str]) -> bool:
    """Whether PEFT's list of targets means the layer at this path: a whole path, or the end of one."""
    return any(path == target or path.endswith(f".{target}") for target in targets)


def _read_config(folder: Path) -> dict:
    path = _existing(folder, CONFIG)
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): save the adapter again") from error
    if not isinstance(config, dict):
        raise ValueError(f"{path} holds a {type(config).__name__} and no settings: save the adapter again")
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path} describes a {config.get('peft_type')} adapter; only LORA can be loaded")
    if used := [name for name in UNSUPPORTED if config.get(name)]:
        raise ValueError(f"{path} uses {', '.join(used)}, which this course's layers cannot represent")
    if config.get("bias", "none") != "none":
        raise ValueError(f"{path}: bias is {config['bias']!r}, and here biases stay frozen: only 'none' can be loaded")
    for name, rule in {"r": whole(1), "lora_alpha": STRENGTH}.items():
        if not rule.holds(config.get(name)):
            raise ValueError(f"{path}: {name} must be {rule.wanted}, got {config.get(name)!r}: save the adapter again")
    for name in ("use_rslora", "use_dora"):
        if config.get(name) not in (None, True, False):
            raise ValueError(f"{path}: {name} must be true or false, got {config[name]!r}")
    if str(config.get("init_lora_weights")).lower().startswith(CHANGES_THE_BASE):
        raise ValueError(
            f"{path}: this adapter was initialized with {config['init_lora_weights']}, which changes the base, too. "
            "Save it with PEFT's option path_initial_model_for_weight_conversion"
        )
    return config


def _read_state(folder: Path, config: dict) -> dict[str, Tensor]:
    path = _existing(folder, WEIGHTS)
    tensors, metadata = read_tensors(path, "save the adapter again")
    if metadata.get("sha256") not in (None, seal(tensors, config)):  # PEFT's have none
        raise ValueError(f"{path} is damaged, or does not belong to the {CONFIG} beside it: save the adapter again")
    foreign = [name for name in tensors if not (name.startswith(PREFIX) and name.endswith((SUFFIX, MAGNITUDE)))]
    if foreign or not tensors:
        raise ValueError(f"{path} does not hold a LoRA adapter in PEFT's format: {(foreign or ['no tensors'])[0]}")
    ours = {name: name.removeprefix(PREFIX).removesuffix(SUFFIX).replace(MAGNITUDE, "magnitude") for name in tensors}
    return {ours[name]: tensor for name, tensor in tensors.items()}


def _existing(folder: Path, name: str) -> Path:
    path = folder / name
    if not path.exists():
        pickle = " (adapter_model.bin is a pickle and is not opened)" if (folder / "adapter_model.bin").exists() else ""
        raise FileNotFoundError(f"there is no {name} in {folder}: is this the folder of an adapter?{pickle}")
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: save the adapter again")
    return path
