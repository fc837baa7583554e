"""What lies in the folder of an adapter in PEFT's format: files, names and tensors, and what does not fit together.

Nothing is unpickled and no model is built. `adapter_settings` reads the config, `inspecting` looks at the numbers.
"""

import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS
from lora_edu.tensor_files import is_pickle

BROKEN, DEAD, ODD, NOTE = "broken", "has not learned", "odd", "note"
CLOSED, OTHER = "not opened", "another method"  # of this doctor, not of the adapter
LEVELS = BROKEN, CLOSED, OTHER, DEAD, ODD, NOTE  # the order in which a verdict looks
PART = re.compile(r"(.+?)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(\.(?!weight$|bias$)[^.]+)?(?:\.weight)?$")
FOREIGN = {
    r"lora_(unet|te\d?)_|lora_(down|up)\b|\.lora\.(down|up)\.": "kohya or diffusers wrote these names, not PEFT",
    r"(^|\.)_orig_mod\.": "the model was saved inside of torch.compile",
    r"^module\.|_fsdp_wrapped_module": "the model was saved inside of DistributedDataParallel or FSDP",
    rf"^(?:{re.escape(PREFIX)}){{2}}": "PEFT had wrapped the model twice",
}
METHODS = {
    "hada_": "LoHa",
    "lokr_": "LoKr",
    "ia3_": "IA3",
    "oft_": "OFT",
    "vera_lambda": "VeRA",
    "prompt_": "prompt tuning",
}
PICKLE = "a pickle, which can run any code, and was not opened: save as safetensors"
BEGINS = {  # the first bytes of what is no safetensors file: what it is
    rb"version ": "is a pointer of Git LFS and not the file: git lfs pull",
    rb"<": "is a web page, the download failed: download the file itself",
    rb"GGUF": "is for llama.cpp (GGUF), PEFT cannot read it: find the folder that it was made from",
    rb"PK\x03\x04(?!.*data\.pkl)": "is a zip archive: unpack it, and name the folder that it holds",
}
WHOLE_OBJECT = re.compile(rb"\x80[\x02-\x05]c(?!collections\n)[\w.]+\n(\w+)")  # a pickle that begins with a class
BESIDES = re.compile(r"training_args|optimizer|scheduler|scaler|rng_state|tokenizer|README|.*\.(json|md|txt|py|log)$")
INSTEAD = {  # what may lie in a folder without adapter_model.safetensors, and what to do
    "adapter_model*-of-*.safetensors": f"the tensors are split over files such as {{}}: join them as {WEIGHTS}",
    "global_step*": "{} is a checkpoint of DeepSpeed, in pieces: run its zero_to_fp32.py, then save_pretrained",
    "pytorch_model_fsdp*": "{} is a checkpoint of FSDP, in pieces: gather it, then save_pretrained",
    f"*/{WEIGHTS}": "the tensors lie one folder deeper, in {}: name the folder that holds both files",
}
TURNED = "the shapes fit the other way round: exchange the names of A and B, or transpose each; A is (rank, in)"


@dataclass
class Layer:
    """One adapted layer. norm: ||s B A||; directions: how many hold 90% of its squared norm.

    With a base: relative is ||s B A|| / ||W||; bf16 and nf4 are the shares of s B A that a merge leaves, 1 for all;
    stray is how far DoRA's magnitudes lie off the norms of W's rows, 0 where they follow them.
    """

    path: str
    rank: int
    in_features: int
    out_features: int
    scaling: float
    norm: float
    directions: int
    relative: float | None = None
    bf16: float | None = None
    nf4: float | None = None
    stray: float | None = None


@dataclass
class Report:
    """facts: what the files say; findings: (level, what was seen and what to do); entries: quantiles of |s B A|."""

    folder: str
    facts: dict = field(default_factory=dict)
    findings: list[tuple[str, str]] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    entries: dict[str, float] = field(default_factory=dict)
    of_experts: int = 0  # layers whose experts share their factors: read, not measured

    @property
    def verdict(self) -> str:
        """The worst finding, in words."""
        for level in LEVELS[:-1]:
            if found := [text for found, text in self.findings if found == level]:
                return f"{level}: {found[0]}"
        return f"alive: {len(self.layers) + self.of_experts} layers carry an update"

    def as_dict(self) -> dict:
        return {"verdict": self.verdict} | asdict(self)

    def say(self, level: str, text: str) -> None:
        """Each kind of finding once: of many layers the first."""
        kinds = {re.sub(r"\S*\d\S*", "", said) for _, said in self.findings}
        if re.sub(r"\S*\d\S*", "", text) not in kinds:
            self.findings.append((level, text))


# --- the files -------------------------------------------------------------------------------------------------------


def read_config(folder: Path, report: Report) -> dict | None:
    """adapter_config.json, or None with the reason said."""
    path = folder / CONFIG
    if not folder.is_dir():
        there = f"{folder} is a file" if folder.exists() else f"there is no folder {folder}"
        advice = "unpack it, and " if folder.suffix in (".zip", ".tar", ".gz", ".tgz") else ""
        return report.say(BROKEN, f"{there}: {advice}name the folder that holds {CONFIG}")
    if not path.is_file():
        if inside := sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}")):
            return report.say(BROKEN, f"the adapter lies one folder deeper: name {', '.join(inside)}")
        if (folder / "config.json").exists():
            return report.say(BROKEN, "this is a whole model and no adapter (it has config.json): load it without PEFT")
        return report.say(*_instead_of(path) or (BROKEN, f"there is no {CONFIG}: save_pretrained writes it"))
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        return report.say(BROKEN, f"{CONFIG} {why_unreadable(path, f'is not valid JSON ({error})')}")
    if not isinstance(config, dict):
        return report.say(BROKEN, f"{CONFIG} holds a {type(config).__name__} and no settings: save the adapter again")
    return config


def why_unreadable(path: Path, otherwise: str) -> str:
    """What a file is, by its first bytes, if not what its name says; and what to do. otherwise: if they do not tell."""
    if path.is_symlink() and not path.exists():
        return f"is a link to {path.readlink()}, which is not here, as where the Hub's cache was copied: download it"
    with path.open("rb") as file:
        start = file.read(256).lstrip()
    if not start:
        return "is empty: was the disk full? Download it, or save it again"
    if what := next((what for begin, what in BEGINS.items() if re.match(begin, start, re.DOTALL)), None):
        return what
    if whole := WHOLE_OBJECT.search(start):
        return f"is {PICKLE}; it begins as a whole {whole[1].decode()}, not as its tensors: save_pretrained"
    return f"is {PICKLE}" if is_pickle(path) else f"{otherwise}: download it, or save it again"


def _of_others(names: list[str]) -> str | None:
    """Who named these tensors, if not PEFT."""
    what = (f"{what} ({name})" for pattern, what in FOREIGN.items() for name in names if re.search(pattern, name))
    return next((f"PEFT would load none of these tensors, {one}: save with save_pretrained" for one in what), None)


def _instead_of(path: Path) -> tuple[str, str] | None:
    """What lies in a folder in place of a file, by content and not by name: a level, and what to do."""
    if path.is_symlink() and not path.exists():
        return BROKEN, f"{path.name} {why_unreadable(path, '')}"
    found = ((sorted(set(path.parent.glob(pattern)) - {path}), what) for pattern, what in INSTEAD.items())
    if lies := next((what.format(paths[0].relative_to(path.parent)) for paths, what in found if paths), None):
        return BROKEN, lies
    weights = path.with_name(WEIGHTS)
    for other in [weights] if weights.is_file() else sorted(path.parent.iterdir()):
        if not other.is_file() or BESIDES.match(other.name):
            continue
        try:
            with safe_open(other, "pt") as file:
                whose = _of_others(list(file.keys()))
        except (SafetensorError, OSError):
            if "unknown" in (what := why_unreadable(other, "unknown")):
                continue  # a picture, say
            return CLOSED if PICKLE in what else BROKEN, f"{other.name} {what}"
        if whose or other != weights:
            what = f" is safetensors, and not the name that PEFT reads: if it is an adapter alone, call it {WEIGHTS}"
            return BROKEN, other.name + (f": {whose}" if whose else what)
    return None


def read_weights(folder: Path, report: Report) -> dict[str, Tensor]:
    """All tensors of adapter_model.safetensors; none where it cannot be read, with the reason said."""
    path = folder / WEIGHTS
    if not path.is_file():
        report.say(*_instead_of(path) or (BROKEN, f"there is no {WEIGHTS}: copy it here, or save the adapter again"))
        return {}
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
        report.say(BROKEN, f"{WEIGHTS} {why_unreadable(path, f'is damaged ({error})')}")
        return {}
    if (pickle := path.with_suffix(".bin")).exists():
        report.say(NOTE, f"{pickle.name} lies beside {WEIGHTS}: PEFT reads the latter, and so does this report")
    if not tensors:
        report.say(BROKEN, f"{WEIGHTS} holds no tensors: save the adapter from the model that PEFT wrapped")
    if empty := [name for name, tensor in tensors.items() if not tensor.numel()]:
        what = f"{empty[0]}, one of {len(empty)}, has no numbers, as where ZeRO-3 or FSDP keep them in pieces"
        report.say(BROKEN, f"{what}: gather them before saving")
        return {}
    return tensors


# --- names and numbers -----------------------------------------------------------------------------------------------


def named_as_peft_does(tensors: dict[str, Tensor], report: Report) -> bool:
    """PEFT looks for base_model.model.<path>.lora_A.weight, and passes by what is named otherwise."""
    lora = [match for match in map(PART.fullmatch, tensors) if match]
    if whose := _of_others(list(tensors)):
        report.say(BROKEN, whose)
        return False
    twice = Counter(match[1] + "." + match[2] for match in lora)
    if tensors and not lora:
        of = next((whose for part, whose in METHODS.items() if any(part in name for name in tensors)), None)
        then = f"they are of {of}: is the config of another run?" if of else "save the adapter, not the model around it"
        report.say(BROKEN, f"no tensor belongs to LoRA ({min(tensors)}): {then}")
    elif double := [name for name, count in twice.items() if count > 1]:
        what = f"{double[0]} is there twice, with the adapter's name and without"
        report.say(BROKEN, f"{what} (of {len(double)}): which is meant? Save with save_pretrained")
    elif outside := [match[0] for match in lora if not match[0].startswith(PREFIX)]:
        report.say(
            BROKEN, f"{outside[0]} does not begin with {PREFIX}, so PEFT would pass by: put that before each name"
        )
    elif short := [name for name in tensors if re.search(r"lora_[AB]$", name)]:
        report.say(BROKEN, f"{short[0]} does not end in .weight, so PEFT would pass by: save with save_pretrained")
    elif named := [match[0] for match in lora if match[3]]:
        usual = ".default." in named[0]
        then = "PEFT loads it under the name default only" if usual else "PEFT would pass by: save with save_pretrained"
        report.say(ODD if usual else BROKEN, f"{named[0]} holds the adapter's name, so {then}")
    return True


def check_values(tensors: dict[str, Tensor], report: Report) -> None:
    """Numbers that are none, types that are unusual, numbers that ran away."""
    lora = {name: tensor for name, tensor in tensors.items() if PART.fullmatch(name)}
    for name, tensor in lora.items():
        if not tensor.is_floating_point():
            report.say(BROKEN, f"{name} is {type_name(tensor)}: A and B have fractions, save before quantizing")
    if bad := [name for name, t in tensors.items() if t.is_floating_point() and not t.float().isfinite().all()]:
        more = f" and {len(bad) - 1} more of {len(tensors)}" if len(bad) > 1 else ""
        report.say(BROKEN, f"{bad[0]}{more} hold NaN or infinity, training diverged: take an earlier checkpoint")
    for name, tensor in lora.items():
        if (
            tensor.is_floating_point()
            and "magnitude" not in name
            and 100 < (largest := tensor.float().abs().max().item()) < math.inf
        ):
            report.say(ODD, f"{name} holds numbers as large as {largest:.3g}: did training diverge?")
            break
    if any(tensor.dtype == torch.float64 for tensor in lora.values()):
        report.say(NOTE, "the numbers are float64, twice the bytes for nothing: save them in float32 or bfloat16")


def pairs_of(tensors: dict[str, Tensor], report: Report) -> dict[str, tuple[Tensor, Tensor]]:
    """A (rank, in_features) and B (out_features, rank) of each layer whose two factors are there and fit."""
    found: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for match in filter(None, map(PART.fullmatch, tensors)):
        found[match[1].removeprefix(PREFIX)][match[2].replace("embedding_", "")] = tensors[match[0]]
    pairs = {}
    for path, parts in found.items():
        if missing := [part for part in ("lora_A", "lora_B") if part not in parts]:
            report.say(BROKEN, f"{path} has no {missing[0]}, and half an adapter is none: save it again")
        elif min(t.ndim for t in parts.values()) < 1 or min(parts["lora_A"].ndim, parts["lora_B"].ndim) < 2:
            report.say(BROKEN, f"{path}: A or B is no matrix, as pieces of ZeRO or FSDP are: gather before saving")
        else:
            A, B = (parts[part].flatten(1).float() for part in ("lora_A", "lora_B"))  # of a convolution, too
            if (count := parts.get("lora_magnitude_vector", B[:, 0]).numel()) != len(B):
                report.say(BROKEN, f"{path}: DoRA's magnitude has {count} numbers, B {len(B)} rows: of two runs?")
            if f"{PREFIX}{path}.lora_embedding_A" in tensors:
                A, B = B.T, A.T  # the weight of an embedding is (vocab, dim), the transpose of B A
            if B.shape[1] == len(A):
                pairs[path] = A, B
            else:
                why = (
                    TURNED
                    if A.shape[1] == len(B)
                    else "rows of A must be columns of B: one is transposed, or of another run"
                )
                report.say(BROKEN, f"{path}: A is {by(A)} and B is {by(B)}, {why}")
    return pairs


# --- small things ---------------------------------------------------------------------------------------------------


def counted(names) -> str:
    counts = Counter(names)
    return ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items())


def by(matrix: Tensor) -> str:
    return " x ".join(map(str, matrix.shape))


def type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
