"""What lies in the folder of an adapter in PEFT's format, read once: the config, the tensors and how they are called.

Nothing is unpickled and no model is built. What cannot be read raises `Unreadable`, with what lies there instead.
"""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_edu.models.adapter_settings import DEFAULTS, OFF
from lora_edu.peft_io import CHANGES_THE_BASE, CONFIG, PREFIX, WEIGHTS
from lora_edu.tensor_files import is_pickle

BROKEN, DEAD, ODD, NOTE = "broken", "has not learned", "odd", "note"
CLOSED, OTHER = "not opened", "another method"  # of this doctor, not of the adapter
LEVELS = BROKEN, CLOSED, DEAD, ODD, OTHER, NOTE  # the order in which a verdict looks

LORA = re.compile(  # base_model.model.<path>.lora_A.weight; in memory the adapter's name stands before .weight
    r"(?P<path>.+?)\.lora_(?P<embedding>embedding_)?(?P<part>[AB]|magnitude_vector)"
    r"(?P<adapter>\.(?!weight$|bias$)[^.]+)?(\.weight)?$"
)
FOREIGN = {  # names that PEFT passes by when it loads: why they are so
    r"lora_(unet|te\d?)_|lora_(down|up)\b|\.lora\.(down|up)\.": "kohya or diffusers wrote these names, not PEFT",
    r"^(unet|text_encoder|transformer\.\w*transformer_blocks)": "diffusers wrote it, its load_lora_weights reads it",
    r"\.modules_to_save\.[^.]+\.(weight|bias)$": "it is named as in the state of a model, not of an adapter",
    r"(^|\.)_orig_mod\.": "the model was saved inside of torch.compile",
    r"^module\.|_fsdp_wrapped_module": "the model was saved inside of DistributedDataParallel or FSDP",
    r"\.lora_E\b": "they are AdaLoRA's, and the config says LoRA",
    rf"^(?:{re.escape(PREFIX)}){{2}}": "PEFT had wrapped the model twice",
    rf"^(?!{re.escape(PREFIX)}|base_model\.vera).*\.(lora|ia3|vera|hada|lokr)_": f"it does not begin with {PREFIX}",
    r"\.lora_(embedding_)?[AB]\.(?!default\.)[^.]+\.weight$": "it holds the adapter's name",
    r"\.lora_[AB]$": "it does not end in .weight",
}
BROUGHT = {  # by a setting: how the tensors are called that it adds to A and B
    "use_dora": r"\.lora_magnitude_vector",
    "lora_bias": r"\.lora_B\.bias$",
    "trainable_token_indices": r"\.(token_adapter\.)?trainable_tokens_delta",
    "bias": r"(?<!lora_B)\.bias$",
}
EMBEDDING = re.compile(r"\.(embed_tokens|lm_head|wte|shared|word_embeddings|embed_in|embed_out)\.")  # saved unasked
NUMBERED = re.compile(r"(?P<stack>.*?)\.(?P<number>\d+)\.(?P<kind>.+)")  # model.layers . 3 . self_attn.q_proj


def by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def counted(names: Iterable[str]) -> str:
    counts = {name: some.count(name) for some in [list(names)] for name in some}
    return ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items())


def when(condition: object, seen: str) -> list[str]:
    return [seen] if condition else []


def whose_names(names: list[str], kind: str | None = "LORA") -> list[str]:
    """Of each kind of name that PEFT passes by: the first, and why it is so. kind: the method, AdaLoRA's differ."""
    known = {pattern: why for pattern, why in FOREIGN.items() if kind != "ADALORA" or r"\.lora_" not in pattern}
    found = {why: [name for name in names if re.search(pattern, name)] for pattern, why in known.items()}
    return [f"PEFT would not load {some[0]}, one of {len(some)}: {why}" for why, some in found.items() if some]


def unquantized(name: str) -> str:
    """How the base calls a weight before GPTQ, AWQ or compressed tensors pack it."""
    return re.sub(r"\.(qweight|weight_packed)$", ".weight", name)


def plain(name: str) -> str:
    """The base's name of a tensor that an adapter brings whole, or of which it brings rows."""
    name = re.sub(r"\.(token_adapter\.)?trainable_tokens_delta", ".weight", name.removeprefix(PREFIX))
    return re.sub(r"\.(base_layer|modules_to_save|original_module)\b", "", name)


def of_experts(name: str) -> str:
    """The path in a model of a weight that holds all experts, while the base's files may hold each expert's apart."""
    path = re.sub(r"experts\.\d+\.(w[13]|gate_proj|up_proj)$", "experts.gate_up_proj", name.removesuffix(".weight"))
    return re.sub(r"experts\.\d+\.(w2|down_proj)$", "experts.down_proj", path).replace("block_sparse_moe", "mlp")


@dataclass(frozen=True)
class Finding:
    """One thing that the doctor saw, and what to do about it. level: one of LEVELS."""

    level: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.seen}: {self.advice}"


class Unreadable(Exception):
    """There is no adapter to judge. said: what lies there instead, a colon, what to do."""

    def __init__(self, said: str):
        super().__init__(said)
        level = CLOSED if "was not opened" in said and not said.startswith(WEIGHTS) else BROKEN
        self.finding = Finding(level, *said.rsplit(": ", 1))


class Place(NamedTuple):
    """Where a tensor of the base lies, and what the header of that file says of it."""

    name: str
    file: Path
    shape: list[int]
    dtype: str

    @property
    def in_codes(self) -> bool:
        return self.dtype not in ("F64", "F32", "F16", "BF16")


class Adapter:
    """All that the rules ask about: first the config alone, then what `read_tensors` finds."""

    def __init__(self, folder: Path):
        """Raises Unreadable."""
        self.folder = folder
        self.config, self.encoding = read_config(folder)
        self.base: Path | None = None
        self.known: dict[str, Place] = {}  # the base's tensors by their names before quantization
        self.model: dict = {}  # the base's config.json
        self.layers: list = []  # measured

    @property
    def start(self) -> str | None:
        """The initialization, if it is one that changes the base, too."""
        start = str(self.config.get("init_lora_weights")).lower()
        return start if start.startswith(CHANGES_THE_BASE) else None

    def list_of(self, setting: str) -> list[str]:
        """The names in a setting that may be a list."""
        return list(map(str, self.config[setting])) if isinstance(self.config.get(setting), list) else []

    @property
    def asked(self) -> dict[str, str]:
        """What settings bring into the file, beside A and B, and how its tensors are called."""
        asked = {setting: pattern for setting, pattern in BROUGHT.items() if self.config.get(setting) not in OFF}
        return asked | {module: rf"{re.escape(module)}\." for module in self.list_of("modules_to_save")}

    def read_tensors(self) -> None:
        """Of each layer, pairs holds A (rank, in_features) and B (out_features, rank). Raises Unreadable."""
        self.tensors = read_weights(self.folder)
        # beside LoRA's, in place of the base's, such as a head
        self.whole = {name: one for name, one in self.tensors.items() if not re.search(r"\.lora_|trainable_tok", name)}
        # |number| of each that has any; NaN or infinity if one is
        self.largest = {name: one.float().abs().max().item() for name, one in self.tensors.items() if one.numel()}
        self.lora = {name: match for name in sorted(self.tensors) if (match := LORA.fullmatch(name))}
        self.factors = [name for name, match in self.lora.items() if match["part"] in "AB"]
        self.parts: dict[str, dict[str, str]] = defaultdict(dict)  # of each layer: the names of A, B, magnitude_vector
        for name, match in self.lora.items():
            self.parts[match["path"].removeprefix(PREFIX)][match["part"]] = name
        self.pairs = {path: pair for path, names in self.parts.items() if (pair := _pair(names, self.tensors))}


def _pair(names: dict[str, str], tensors: dict[str, Tensor]) -> tuple[Tensor, Tensor] | None:
    """A (rank, in_features) and B (out_features, rank) of a layer; None where one is not there, or they do not fit."""
    both = [tensors[names[part]] for part in "AB" if part in names]
    if len(both) < 2 or any(factor.ndim < 2 or not factor.numel() for factor in both):
        return None
    A, B = (factor.flatten(1).float() for factor in both)  # of a convolution, too
    if "lora_embedding_" in names["A"]:
        A, B = B.T, A.T  # the weight of an embedding is (vocabulary, width), the transpose of B A
    return (A, B) if B.shape[1] == len(A) else None


AGAIN = "download it, or save it again"
PICKLE = "is a pickle, which can run any code, and was not opened: save as safetensors"
BEGINS = {  # the first bytes of what is not the file that its name says: what it is, and what to do
    rb"$": f"is empty: was the disk full? {AGAIN}",
    rb"version ": "is a pointer of Git LFS and not the file: git lfs pull",
    rb"<": "is a web page, the download failed: download the file itself",
    rb"GGUF": "is for llama.cpp (GGUF), PEFT cannot read it: find the folder that it was made from",
    rb"PK\x03\x04(?!.*data\.pkl)": "is a zip archive: unpack it, and name the folder that it holds",
}
INSTEAD = {  # what may lie in a folder in place of the file {0}: what to say of what is found, {1}
    "*/{0}": "the adapter lies one folder deeper: name {1}",
    "adapter_model*-of-*.safetensors": f"the tensors are split over files such as {{1}}: join them as {WEIGHTS}",
    "adapter_[0-9]*.*": "{1} is of torchtune, whose names PEFT does not read: save there as PEFT's safetensors",
    "global_step*": "{1} is a checkpoint of DeepSpeed, in pieces: run its zero_to_fp32.py, then save_pretrained",
    "pytorch_model_fsdp*": "{1} is a checkpoint of FSDP, in pieces: gather it, then save_pretrained",
    "[mp]*odel*.[bs]*": "{1} is the state of a whole model: call save_pretrained of what get_peft_model gave",
}
TOKENS = {"tokenizer.json": rb'"id": *(\d+)', "added_tokens.json": rb'": *(\d+)',
    "tokenizer_config.json": rb'"(\d+)": *\{'}  # fmt: skip
BESIDES = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state|tokenizer|README|.*\.(json|md|txt|py|log)$")


def largest_token(folder: Path) -> int:
    """The largest id of the tokenizer that lies in a folder, -1 if none does."""
    found = (re.findall(ids, (folder / name).read_bytes()) for name, ids in TOKENS.items() if (folder / name).is_file())
    return max((int(one) for some in found for one in some), default=-1)


def read_config(folder: Path) -> tuple[dict, str]:
    """The settings in adapter_config.json, and how the file is encoded. Raises Unreadable."""
    path = folder / CONFIG
    if not folder.is_dir():
        there = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        raise Unreadable(f"{there}: name the folder that holds {CONFIG}, unpacked if that is an archive")
    if not path.is_file():
        raise Unreadable(in_place_of(path))
    content = path.read_bytes()
    try:
        config = json.loads(content)  # finds out the encoding by itself
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{CONFIG} {what_is(path) or f'is not valid JSON ({error}): {AGAIN}'}") from error
    if not isinstance(config, dict):
        raise Unreadable(f"{CONFIG} holds a {type(config).__name__} and no settings: {AGAIN}")
    return DEFAULTS | config, json.detect_encoding(content)


def read_weights(folder: Path) -> dict[str, Tensor]:
    """All tensors of adapter_model.safetensors. Raises Unreadable."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise Unreadable(in_place_of(path))
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
        raise Unreadable(f"{WEIGHTS} {what_is(path) or f'is damaged or cut short ({error}): {AGAIN}'}") from error
    if not tensors:
        raise Unreadable(f"{WEIGHTS} holds no tensors: save it from the model that PEFT wrapped")
    return tensors


def what_is(path: Path) -> str | None:
    """What a file is, and what to do, by its first bytes and not by its name; None if they do not tell."""
    with path.open("rb") as file:
        start = file.read(256).lstrip()
        size = file.seek(0, 2)
    known = next((what for begin, what in BEGINS.items() if re.match(begin, start, re.DOTALL)), None)
    if not known and is_pickle(path):  # one of an empty dictionary has 443 bytes, or of today's torch 1,297
        return PICKLE if size > 1500 else PICKLE.replace(": ", f"; its {size} bytes are too few for weights: ")
    return known


def in_place_of(path: Path) -> str:
    """What lies in a folder where a file that PEFT reads should be, by content and not by name, and what to do."""
    folder, weights = path.parent, path.with_name(WEIGHTS)
    if path.is_symlink():
        return f"{path.name} is a link to {path.readlink()}, as in the Hub's cache, which is not here: download it"
    if path.name == CONFIG and (folder / "config.json").exists() and not weights.exists():
        return "this is a whole model and no adapter (it has config.json): load it without PEFT"
    for pattern, what in INSTEAD.items():
        if found := [one.relative_to(folder) for one in sorted(folder.glob(pattern.format(path.name)))]:
            names = ", ".join(str(one.parent if one.name == path.name else one) for one in found)
            pieces = re.match(r"adapter_model.*-of-0*(\d+)", names)
            if pieces and len(found) < int(pieces[1]):
                return f"a shard is missing, {len(found)} of {pieces[1]} is there, {names}: download or save all again"
            return what.format(path.name, names)
    others = [weights] if weights.is_file() else filter(Path.is_file, sorted(folder.iterdir()))
    said = (what for other in others if not BESIDES.match(other.name) and (what := _other_file(other)))
    return next(said, f"there is no {path.name}: copy it here, or save the adapter with save_pretrained")


def _other_file(path: Path) -> str | None:
    """What a file is whose name PEFT does not read, or that lies without its config."""
    try:
        with safe_open(path, "pt") as file:
            whose = whose_names(list(file.keys()))
    except (SafetensorError, OSError):
        other = "" if path.name in (WEIGHTS, "adapter_model.bin") else ", a name that PEFT does not read,"
        return f"{path.name}{other} {what}" if (what := what_is(path)) else None
    right = None if path.name == WEIGHTS else f"PEFT reads another name: if it is an adapter alone, call it {WEIGHTS}"
    said = f"{whose[0]}: save with save_pretrained" if whose else right
    return f"{path.name} is safetensors, {said}" if said else None
