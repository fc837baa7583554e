"""What PEFT would not read in the folder of an adapter: files that are something else, names of tensors, settings.

Nothing is unpickled. What cannot be read raises ValueError: what lies there instead, a colon, what to do.
"""

import difflib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from lora_edu.peft_io import CHANGES_THE_BASE, CONFIG, PREFIX, WEIGHTS

Said = Iterator[tuple[str, str]]  # a level, and "what is seen: what to do"
LEVELS = ("broken", "not opened", "has not learned", "odd", "another method", "note")  # the worst is the verdict
BROKEN, CLOSED, DEAD, ODD, OTHER, NOTE = LEVELS
DEFAULTS = {"r": 8, "lora_alpha": 8}  # what PEFT takes where a config has none
OFF: tuple[Any, ...] = (None, False, "none", "", [], {})  # a setting that is not used
PICKLE = "is a pickle, which can run any code, and was not opened: save as safetensors"
SAVE = "save it again with save_pretrained"
BEGINS = {  # the first bytes of what is not the file that its name says: what it is, and what to do
    rb"$": "is empty, was the disk full?: download it, or save it again",
    rb"version ": "is a pointer of Git LFS and not the file: git lfs pull",
    rb"<": "is a web page, the download failed: download the file itself",
    rb"GGUF": "is for llama.cpp (GGUF), PEFT cannot read it: find the folder that it was made from",
    rb"PK\x03\x04.*data\.pkl|\x80[\x02-\x05][^\0].{5}[^{]": PICKLE,
    rb"PK\x03\x04": "is a zip archive: unpack it, and name the folder that it holds",
}
INSTEAD = {  # what may lie in a folder in place of the file {0}: what that means, {1} being its name
    "*/{0}": "the adapter lies one folder deeper, {1}: name that folder",
    "adapter_model*-of-*": f"{{1}} is a shard of the tensors: get all shards, and join them as {WEIGHTS}",
    "adapters.safetensors": "{1} is of MLX, whose names and shapes PEFT does not read: convert it",
    "adapter_[0-9]*.*": "{1} is of torchtune, whose names PEFT does not read: save it there in PEFT's format",
    "*global_step*": "{1} is a checkpoint of DeepSpeed, in pieces: run its zero_to_fp32.py, then save_pretrained",
    "*fsdp*": "{1} is a checkpoint of FSDP, in pieces: gather it, then save_pretrained",
    "[mp]*odel*.[bs]*": "{1} is a whole model or its state, and no adapter: load it without PEFT",
}
NAMES = {  # names that PEFT passes by when it loads: why they are so
    r"lora_(unet|te\d?)_|lora_(down|up)\b|\.lora\.(down|up)\.": "kohya or diffusers wrote it, not PEFT",
    r"\.lora_[ab](\.|$)": "MLX or torchtune wrote it, not PEFT",
    r"\.modules_to_save\.[^.]+\.(weight|bias)$": "it is named as in the state of a model, not of an adapter",
    r"(^|\.)_orig_mod\.|^module\.|_fsdp_wrapped_module": "it was saved inside of torch.compile, DDP or FSDP",
    rf"^({re.escape(PREFIX)}){{2}}": "PEFT had wrapped the model twice",
    rf"^(?!{re.escape(PREFIX)}|base_model\.vera).*\.(lora|ia3|vera|hada|lokr)_": f"it does not begin with {PREFIX}",
    r"\.lora_(embedding_)?[AB]\.(?!default\.)[^.]+\.weight$": "it holds an adapter's name, and loads under that only",
}

CHOICES = {  # what PEFT takes
    "task_type": "CAUSAL_LM|SEQ_2_SEQ_LM|FEATURE_EXTRACTION|SEQ_CLS|TOKEN_CLS|QUESTION_ANS",
    "init_lora_weights": rf"true|false|gaussian|orthogonal|eva|mica|{'|'.join(CHANGES_THE_BASE)}|pissa_niter_\d+",
    "bias": "none|all|lora_only", "r": r"[1-9]\d*", "use_rslora": "true|false", "use_dora": "true|false",
}  # fmt: skip
SETTINGS = """alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias corda_config
    ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights kasa_config
    layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout lora_ga_config
    megatron_config megatron_core modules_to_save monteclora_config peft_type peft_version qalora_group_size r
    rank_pattern revision runtime_config target_modules target_parameters task_type trainable_token_indices use_bdlora
    use_dora use_qalora use_rslora velora_config""".split()


def read(path: Path, load: bool = False) -> dict:
    """The settings or the tensors in a file. Raises ValueError with what the file is instead, and what to do."""
    if not path.is_file():
        raise ValueError(in_place_of(path))
    try:
        if path.name == CONFIG:
            return {} | json.loads(path.read_text(encoding="utf-8"))
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) if load else file.get_slice(name) for name in file.keys()}
    except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
        with path.open("rb") as file:
            start = file.read(256).lstrip()
        damaged = f"is damaged or cut short ({error}): download it, or save it again"
        what = next((what for begin, what in BEGINS.items() if re.match(begin, start, re.DOTALL)), damaged)
        raise ValueError(f"{path.name} {what}") from error


def noted(path: Path) -> str | None:
    """What `save_adapter` has noted of the training, which the config does not say."""
    with safe_open(path, "pt") as file:
        return (file.metadata() or {}).get("trained_as")


def in_place_of(path: Path) -> str:
    """What lies in a folder where a file that PEFT reads should be, and what to do."""
    if path.is_symlink():
        return f"{path.name} is a link to {path.readlink()}, as in the Hub's cache, which is not here: download it"
    for pattern, what in INSTEAD.items():
        if found := sorted(path.parent.glob(pattern.format(path.name))):
            return what.format(path.name, ", ".join(str(one.relative_to(path.parent)) for one in found))
    for other in (one for kind in ("adapter_model.*", "*.safetensors", "*.gguf") for one in path.parent.glob(kind)):
        why = next(filter(None, map(unread, read(other))), None)  # raises what it is
        if why or other.name != WEIGHTS:
            return f"{other.name} is safetensors, {why or 'under a name that PEFT does not read'}: {SAVE}"
    return f"there is no {path}: name the folder that holds it, or save the adapter with save_pretrained"


def read_base(base: Path) -> dict:
    """The tensors of the base, not loaded, by their names before GPTQ, AWQ or compressed tensors packed them."""
    files = [base] if base.is_file() else sorted(base.glob("*.safetensors"))
    found = {name: tensor for path in files for name, tensor in read(path).items()}
    if not found or any("lora_A" in name for name in found):
        what = "is an adapter itself" if found else "holds no safetensors" if base.exists() else "is not here"
        raise ValueError(f"{base} {what}: name the folder, or the file, with the weights of the base")
    for index in base.glob("*.safetensors.index.json"):
        if lost := set(re.findall(r'"([^"]+\.safetensors)"', index.read_text("utf-8"))) - {path.name for path in files}:
            raise ValueError(f"{base} lacks {', '.join(sorted(lost))}: download the base again")
    return {re.sub(r"\.(qweight|weight_packed)$", ".weight", name): tensor for name, tensor in found.items()}


def unread(name: str) -> str | None:
    """Why PEFT would pass a tensor by, as its name tells; None if it would not."""
    return next((why for pattern, why in NAMES.items() if re.search(pattern, name)), None)


def beside(folder: Path, config: dict) -> Said:
    """What lies beside an adapter and misleads, and a base that nobody else would find."""
    if (folder / "config.json").exists() and any(folder.glob("model*.safetensors")):
        yield ODD, "a whole model lies beside it: loaders may add the adapter to one that has it, keep them apart"
    if (folder / "adapter_model.bin").exists():
        yield NOTE, f"adapter_model.bin lies beside {WEIGHTS}: PEFT reads the latter, and so does this report"
    base = str(config.get("base_model_name_or_path") or "")
    if re.match(r"[/\\.~]|([^/\\]+[/\\]){2}.", base) and not Path(base).expanduser().exists():
        yield NOTE, f"the config names the base {base}, a path that is not here: write its public name"


def largest_token(folder: Path) -> int:
    """The largest id of the tokenizer that lies in a folder, -1 if none does."""
    found: list[int] = []
    for name, before in {"tokenizer.json": '"id": *', "added_tokens.json": '": *'}.items():
        text = (folder / name).read_text("utf-8", "ignore") if (folder / name).is_file() else ""
        found += map(int, re.findall(rf"{before}(\d+)", text))
    return max(found, default=-1)


def refused(config: dict) -> Said:
    """Settings that PEFT refuses, and those that it passes by."""
    for name, pattern in CHOICES.items():
        if not re.fullmatch(f"{pattern}|none", str(config.get(name)), re.IGNORECASE):
            yield BROKEN, f"{name} is {config[name]!r}, expected {pattern}: write what PEFT expects"
    for name in ("r", "lora_alpha"):
        if not isinstance(config[name], int | float):
            yield BROKEN, f"{name} is {config[name]!r}, expected a number: write what PEFT expects"
    for key in sorted(key for key in config if key not in SETTINGS and config[key] not in OFF):
        meant = difflib.get_close_matches(key, SETTINGS, 1, 0.9)
        which = f"{key}, is {meant[0]!r} meant?" if meant else f"{key}, did a newer PEFT write it?"
        yield ODD if meant else NOTE, f"PEFT 0.21 passes by the setting {which}: correct it, or upgrade"
