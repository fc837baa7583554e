"""An adapter's files as they are read and measured: what `inspecting` asks its questions of."""

import dataclasses
import math
import re
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_course.programs import adapter_files as files
from lora_course.programs.adapter_files import LEVELS, OFF, SAVE
from lora_edu.measures import cosine
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS
from lora_edu.quantization import quantize

PARTS = {"A": "r", "B": "r", "E": "target_r", "magnitude_vector": "use_dora", "B.bias": "lora_bias"}  # and who asks
LORA = re.compile(
    rf"{re.escape(PREFIX)}(?P<path>.+?)\.lora_(embedding_)?(?P<part>{'|'.join(PARTS)})(\.default)?(\.weight)?"
)
END = re.compile(r"^.*?(?=[^.]+\.\d+\.)")  # of model.layers.3.self_attn.q_proj what comes before `layers`
WITH_HEAD = re.compile(r"SEQ_CLS|TOKEN_CLS|QUESTION_ANS|\w+Classification|\w+QuestionAnswering")
FACTS = {  # what they are called in the config
    "rank": "r", "alpha": "lora_alpha", "rsLoRA": "use_rslora", "targets": "target_modules",
    "base": "base_model_name_or_path",
}  # fmt: skip


@dataclass
class Finding:
    """What was seen, how bad that is (one of LEVELS), and what to do."""

    level: str
    seen: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.seen}: {self.advice}"


@dataclass
class Layer:
    """An adapted layer, and its update s B A; the last four numbers are known with the base alone."""

    path: str
    rank: int
    scaling: float  # s
    norm: float  # ||s B A||
    directions: int  # how many hold 90% of its squared norm
    relative: float | None = None  # ||s B A|| / ||W||
    along: float | None = None  # the cosine of both
    bf16: float | None = None  # the shares of s B A that a merge leaves, 1 for all
    nf4: float | None = None


class Report:
    """What lies in a folder, and what was found. facts: what the files say."""

    def __init__(self, folder: Path, known: dict[str, Any]):
        """known: the tensors of the base by name, not loaded."""
        self.folder, self.known = folder, known
        self.findings: list[Finding] = []
        self.programs: dict[str, list[Finding]] = {}  # what other programs do with it, where that was asked
        self.layers: list[Layer] = []
        self.facts: dict[str, Any] = {}
        self.places: dict[str, str | None] = {}  # layer -> what its weight is called in the base
        self.parts: dict[str, dict[str, Tensor]] = defaultdict(dict)  # of each layer: A (rank, in), B (out, rank), ...
        self.others: dict[str, Tensor] = {}  # such as a head, saved whole

    @property
    def verdict(self) -> str:
        """The worst finding, in words."""
        worst = (one for level in LEVELS[:-1] for one in self.findings if one.level == level)
        return str(next(worst, f"alive: {self.facts.get('layers')} carry an update"))

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain data, for `lora-edu inspect --json`."""
        programs = {}
        for name, said in self.programs.items():
            programs[name] = [dataclasses.asdict(finding) for finding in said]
        return {
            "folder": str(self.folder),
            "verdict": self.verdict,
            "facts": self.facts,
            "findings": [dataclasses.asdict(finding) for finding in self.findings],
            "programs": programs,
            "layers": [dataclasses.asdict(layer) for layer in self.layers],
        }

    def read(self) -> None:
        """Raises ValueError with what lies there instead of an adapter, and what to do."""
        written, self.tensors = files.read(self.folder / CONFIG), files.read(self.folder / WEIGHTS, load=True)
        self.config = files.DEFAULTS | written
        self.lacking = [name for name in ("r", "lora_alpha", "target_modules") if name not in written]
        for setting, type_ in {"modules_to_save": list, "rank_pattern": dict, "alpha_pattern": dict}.items():
            value = self.config.get(setting)
            self.config[setting] = value if isinstance(value, type_) else type_()
        kind, self.start = self.config.get("peft_type"), str(self.config.get("init_lora_weights")).lower()
        if not kind or kind != str(kind).upper():
            raise ValueError(f"{CONFIG} has peft_type {kind!r}, and PEFT expects 'LORA': correct it, or {SAVE}")
        self.kind = str(kind)
        if not self.tensors:
            raise ValueError(f"{WEIGHTS} holds no tensors, as in pieces of ZeRO-3: gather them before saving")
        if self.on("layer_replication"):  # then blocks of the adapter are not those of the base's files
            self.known = {}
        for name in sorted(self.tensors, key=lambda name: [int(n) if n.isdigit() else -1 for n in name.split(".")]):
            tensor = self.tensors[name]
            tensor = tensor.flatten(1) if tensor.ndim > 2 else tensor  # of a convolution
            if (match := LORA.fullmatch(name)) and "lora_embedding" in name:  # its weight is the transpose of B A
                self.parts[match["path"]]["BA"["AB".index(match["part"])]] = tensor.t()
            elif match:
                self.parts[match["path"]][match["part"]] = tensor
            elif not files.unread(name):
                self.others[name] = tensor
        self.trained = WITH_HEAD.search(f"{self.config.get('task_type')} {self.config.get('auto_mapping')}")
        self.facts = {name: self.config.get(setting) for name, setting in FACTS.items()}
        self.facts["trained as"] = files.noted(self.folder / WEIGHTS)
        self.facts["layers"], experts = f"{len(self.parts)} layers", self.on("target_parameters")
        for path in [path for path in self.parts if experts and (".base_layer" in path or self.left_out(path))]:
            del self.parts[path]  # one A and one B for all experts
        ends = {END.sub("", name, count=1): name for name in self.known}  # GPT-2's files leave out `transformer.`
        for path in self.parts:
            name = f"{path}.weight"
            self.places[path] = name if name in self.known else ends.get(END.sub("", name, count=1))

    def weight(self, path: str):
        """W of a layer in the base, not loaded; None where it is not known, or packed in codes."""
        found = self.known.get(self.places[path] or "")
        return found if found and found.get_dtype() in ("F64", "F32", "F16", "BF16") else None

    def on(self, setting: str) -> bool:
        return self.config.get(setting) not in OFF

    def number(self, setting: str, patterns: str, path: str) -> float:
        """A layer's rank or alpha: the first key of rank_pattern or alpha_pattern that fits decides. NaN for none."""
        keys = (key for key in self.config[patterns] if named(rf"(.*\.)?({key})", path))
        value = next((self.config[patterns][key] for key in keys), self.config.get(setting))
        return value if isinstance(value, int | float) else math.nan

    def left_out(self, path: str) -> str:
        """Why PEFT would make no room for an adapter of this layer; "" if it would."""
        number, chosen = re.search(r"\.(\d+)\.", path), self.config.get("layers_to_transform")
        if not named(self.config.get("target_modules"), path):
            return f"target_modules ({self.config.get('target_modules')}) does not name it"
        if chosen is not None and number and number[1] not in re.findall(r"\d+", str(chosen)):
            return f"layers_to_transform is {chosen}"
        return "exclude_modules names it" if named(self.config.get("exclude_modules"), path) else ""

    def may_leave_out(self, target: str) -> bool:
        """Whether PEFT may have made no adapter of a target. No base is known: what a pattern hits is not, either."""
        excluded = self.config.get("exclude_modules")
        if isinstance(excluded, str) and not re.search(r"\.\d+\.", target):
            return True
        inside = isinstance(excluded, list) and any(named([target], str(one)) for one in excluded)
        return bool(inside or self.left_out(target))


def named(value: object, path: str) -> bool:
    """Whether a setting, a list of names or one pattern, names a layer."""
    if isinstance(value, list):
        return any(f".{path}".endswith(f".{name}") for name in value)
    with suppress(re.error):
        return isinstance(value, str) and (value == "all-linear" or bool(re.fullmatch(value, path)))
    return False


def measure(a: Report, path: str) -> None:
    """Adds a layer whose A and B fit."""
    A, B = (a.parts[path].get(part, torch.empty(0)).float().nan_to_num(0, 0, 0) for part in "AB")
    if A.ndim != 2 or B.ndim != 2 or not len(A) == B.shape[1] > 0:
        return
    s = a.number("lora_alpha", "alpha_pattern", path) / len(A) ** (0.5 if a.on("use_rslora") else 1)
    if not math.isfinite(s):
        return
    # The singular values of B A are those of two small triangles: (out, in) is never made.
    strengths = torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    norm, squares = abs(s) * strengths.double().norm().item(), strengths.double().square()
    directions = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + bool(norm)
    layer = Layer(path, len(A), s, norm, directions)
    a.layers.append(layer)
    some = torch.linspace(0, len(B) - 1, min(256, len(B))).long()  # rows of W, where a merge is tried
    update = s * (B[some] @ A)
    W = found[...].flatten(1).float() if (found := a.weight(path)) else torch.empty(0)
    if {*W.shape} == {len(B), A.shape[1]}:
        rows = (W if len(W) == len(B) else W.T)[some].contiguous()
        layer.relative, layer.along = norm / max(W.norm().item(), 1e-30), cosine(rows, update)
        layer.bf16 = share((rows + update).bfloat16().float() - rows.bfloat16().float(), update)
        rounded = quantize(rows).dequantize()
        layer.nf4 = share(quantize(rounded + update).dequantize() - rounded, update)


def share(arrived: Tensor, update: Tensor) -> float:
    """How much of an update arrives in what a merge changes, along the update: 1 for all."""
    return (arrived * update).sum().item() / max(update.square().sum().item(), 1e-30)
