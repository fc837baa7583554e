"""A doctor for adapters: what lies in a folder in PEFT's format, has it learned, and what would a merge leave of it?

    lora-edu inspect ADAPTER [--base FOLDER] [--json] [--card card.png]

The config and the tensors say nearly all. With the weights of the base beside them, each update s B A is measured
against the weight W that it is added to. `adapter_files` reads, this file measures, `adapter_rules` judges.
"""

import json
import math
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_edu.models import adapter_files as files
from lora_edu.models import adapter_rules as rules
from lora_edu.models import adapter_settings as settings
from lora_edu.models.adapter_files import Adapter, Finding, Place, Unreadable
from lora_edu.quantization import quantize

ROWS = 256  # of each weight: where a merge is tried and entries are sampled
QUANTILES = {"1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99, "largest": 1}


@dataclass
class Layer:
    """One adapted layer. norm: ||s B A||; directions: how many hold 90% of its squared norm, 0 where it is zero.

    With a base: place is its weight there; relative is ||s B A|| / ||W||; bf16 and nf4 are the shares of s B A that a
    merge leaves, 1 for all.
    """

    path: str
    rank: int
    in_features: int
    out_features: int
    scaling: float
    norm: float = math.nan
    directions: int = 0
    place: Place | None = None
    fits: bool = True
    relative: float | None = None
    bf16: float | None = None
    nf4: float | None = None


@dataclass
class Report:
    """facts: what the files say; findings: what is wrong and what to do; entries: quantiles of |s B A|."""

    folder: str
    facts: dict = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    entries: dict[str, float] = field(default_factory=dict)
    of_experts: int = 0  # layers whose experts share their factors: read, not measured

    @property
    def verdict(self) -> str:
        """The worst finding, in words."""
        for level in files.LEVELS[:-1]:
            if found := [finding for finding in self.findings if finding.level == level]:
                return f"{level}: {found[0]}"
        return f"alive: {len(self.layers) + self.of_experts} layers carry an update"

    def as_dict(self) -> dict:
        layers = [asdict(layer) | {"place": layer.place and layer.place.name} for layer in self.layers]
        return {"verdict": self.verdict} | asdict(self) | {"layers": layers}


def inspect_adapter(folder: str | Path, base: str | Path | None = None) -> Report:
    """Look at an adapter. base: the folder or file with the weights that it was trained beside.

    Returns a report, also of what is damaged. Raises ValueError for a base whose safetensors cannot be read.
    """
    report, folder = Report(str(folder)), Path(folder)
    known = places_of_weights(Path(base)) if base else {}
    try:
        a = Adapter(folder, *files.read_config(folder))
        report.findings = rules.findings(a, rules.OF_ANOTHER_METHOD)
        if report.findings:
            return report
        a.read_tensors()
    except Unreadable as error:
        report.findings.append(error.finding)
        return report
    named = Path(str(a.config.get("base_model_name_or_path") or "none"))
    if not base and named.is_dir():  # then at least the names of its tensors are known
        with suppress(ValueError):
            known = places_of_weights(named)
    if not a.config.get("layer_replication"):  # else blocks of the adapter are not blocks of the files
        a.base, a.known = Path(base) if base else None, known
    single = [path for path in a.pairs if not settings.of_all_experts(a.config, path)]
    measured = [measure(a, path) for path in sorted(single, key=_in_order)]
    a.layers = report.layers = [layer for layer, _ in measured]
    report.findings, report.facts = rules.findings(a, rules.RULES), facts(a)
    report.of_experts = len(a.pairs) - len(single)
    if values := sorted(torch.cat([entries for _, entries in measured]).tolist() if measured else []):
        report.entries = {name: values[int(share * (len(values) - 1))] for name, share in QUANTILES.items()}
    return report


def facts(a: Adapter) -> dict:
    """What the files say, and which tensor fills them."""
    largest = max(a.tensors, key=lambda name: a.tensors[name].nbytes)
    return {
        "rank": a.config.get("r"),
        "alpha": a.config.get("lora_alpha"),
        "s": rules.counted(f"{layer.scaling:.4g}" for layer in a.layers),
        "rsLoRA": a.config.get("use_rslora", False),
        "targets": a.config.get("target_modules"),
        "types": rules.counted(map(files.type_name, a.tensors.values())),
        "bytes": sum(tensor.nbytes for tensor in a.tensors.values()),
        "largest": f"{largest}, {a.tensors[largest].nbytes:,} bytes",
        "base": a.config.get("base_model_name_or_path"),
    }


def _in_order(path: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]


# --- the base ---------------------------------------------------------------------------------------------------------


def places_of_weights(base: Path) -> dict[str, Place]:
    """Of each tensor of the base, by its name before quantization. Each file is opened once. Raises ValueError."""
    found: dict[str, Place] = {}
    for path in [base] if base.is_file() else sorted(base.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                for name in file.keys():
                    header = file.get_slice(name)
                    found[files.unquantized(name)] = Place(name, path, header.get_shape(), header.get_dtype())
        except (SafetensorError, ValueError, RuntimeError, OSError) as error:
            what = files.what_is(path) or f"is damaged or cut short ({error}): download it again"
            raise ValueError(f"the base's {path} {what}") from error
    if not found or any("lora_A" in name for name in found):
        what = "is an adapter itself" if found else "holds no safetensors" if base.exists() else "is not here"
        raise ValueError(f"{base} {what}: name the folder, or the file, with the weights of the base")
    for index in base.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if lost := sorted(name for name in named if not (base / name).exists()):
            raise ValueError(f"{base} lacks {', '.join(lost)}, of {len(named)} files: download the base again")
    return found


def find(path: str, known: dict[str, Place]) -> Place | None:
    """The weight of a layer in the base, which may leave out the outermost names of a path (`transformer` of GPT-2)."""
    if f"{path}.weight" in known:
        return known[f"{path}.weight"]
    while path:
        ends = [name for name in known if name.endswith(f".{path}.weight") or name == f"{path}.weight"]
        if len(ends) == 1 or (ends and files.NUMBERED.match(path)):  # many end in dense.weight
            return known[ends[0]]
        path = path.partition(".")[2] if files.NUMBERED.match(path) else ""
    return None


# --- measuring --------------------------------------------------------------------------------------------------------


def measure(a: Adapter, path: str) -> tuple[Layer, Tensor]:
    """One layer, and |s B A| at a sample of entries, none where a number is not finite."""
    A, B = a.pairs[path]
    layer = Layer(path, len(A), A.shape[1], len(B), settings.strength(a.config, path, len(A)))
    if a.base and (place := find(path, a.known)):
        shape = [place.shape[0], math.prod(place.shape[1:])]  # of a convolution, too
        layer.place, wanted = place, [layer.out_features, layer.in_features]
        layer.fits = (
            place.in_codes or wanted == shape or (bool(a.config.get("fan_in_fan_out")) and wanted == shape[::-1])
        )
    if not all(map(math.isfinite, [layer.scaling, *(a.largest[a.parts[path][part]] for part in "AB")])):
        return layer, torch.empty(0)
    # The singular values of B A are those of two small triangles: (out, in) is never made.
    strengths = torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    layer.norm, squares = abs(layer.scaling) * strengths.norm().item(), strengths.double().square()
    if layer.norm:
        layer.directions = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + 1
    some = torch.linspace(0, len(B) - 1, min(ROWS, len(B))).long()
    update = layer.scaling * (B[some] @ A)  # (rows, in_features)
    if layer.place and layer.fits and not layer.place.in_codes:
        W = layer.place.read().flatten(1)
        _beside(layer, update, W[some] if len(W) == len(B) else W.T[some], W.float().norm().item())
    return layer, update.abs().flatten()[:: max(1, update.numel() // 4096)]


def _beside(layer: Layer, update: Tensor, rows: Tensor, norm: float) -> None:
    """Measure an update against its weight, and try a merge on a sample. update, rows of W: (rows, in_features)."""
    layer.relative, rows = layer.norm / max(norm, 1e-30), rows.float().contiguous()
    rounded = quantize(rows).dequantize()
    layer.bf16 = _kept(rows.bfloat16().float(), (rows + update).bfloat16().float(), update)
    layer.nf4 = _kept(rounded, quantize(rounded + update).dequantize(), update)


def _kept(before: Tensor, after: Tensor, update: Tensor) -> float:
    """The share of an update that arrives: what changed, along it. 1 is all of it, 0 nothing."""
    return ((after - before) * update).sum().item() / max(update.square().sum().item(), 1e-30)
