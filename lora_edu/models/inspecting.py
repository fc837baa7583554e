"""A doctor for adapters: what lies in a folder in PEFT's format, has it learned, and what would a merge leave of it?

    lora-edu inspect ADAPTER [--base FOLDER] [--json] [--card card.png]

With the weights of the base, each update s B A is measured against the weight W that it is added to. `adapter_files`
reads, this file measures, `adapter_rules` judges.
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

    independent: rows of A not made of others. With a base: place is its weight there; relative is ||s B A|| / ||W||;
    along the cosine of both; bf16 and nf4 are the shares of s B A that a merge leaves, 1 for all.
    """

    path: str
    rank: int
    in_features: int
    out_features: int
    scaling: float
    independent: int | None = None
    norm: float = math.nan
    directions: int = 0
    place: Place | None = None
    fits: bool = True
    relative: float | None = None
    along: float | None = None
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
        experts = f", {self.of_experts} of them of all experts, not measured" if self.of_experts else ""
        return f"alive: {len(self.layers) + self.of_experts} layers carry an update{experts}"

    def as_dict(self) -> dict:
        layers = [asdict(layer) | {"place": layer.place and layer.place.name} for layer in self.layers]
        return {"verdict": self.verdict} | asdict(self) | {"layers": layers}


def inspect_adapter(folder: str | Path, base: str | Path | None = None) -> Report:
    """A report on an adapter, damaged or not. base: the folder or file with its weights; ValueError for a bad one."""
    report, folder = Report(str(folder)), Path(folder)
    known = places_of_weights(Path(base)) if base else {}
    try:
        a = Adapter(folder)
        report.findings = findings(a, rules.OF_ANOTHER_METHOD)
        if any(finding.level == files.BROKEN for finding in report.findings):
            return report
        a.read_tensors()
    except Unreadable as error:
        report.findings.append(error.finding)
        return report
    if report.findings:  # of another method
        report.findings += findings(a, rules.OF_ANY_METHOD)
        return report
    beside = Path(base or str(a.config.get("base_model_name_or_path") or "none"))
    with suppress(ValueError, OSError):  # of a base that only the config names, at least the names of its tensors
        known = known or places_of_weights(beside)
        a.model = json.loads((beside / "config.json").read_bytes())
    if not a.config.get("layer_replication"):  # else blocks of the adapter are not blocks of the files
        a.base, a.known = Path(base) if base else None, known
    single = [path for path in a.pairs if not settings.of_all_experts(a.config, path)]
    single.sort(key=lambda path: [int(part) if part.isdigit() else -1 for part in path.split(".")])  # 2 before 10
    measured = [measure(a, path) for path in single]
    a.layers = report.layers = [layer for layer, _ in measured]
    report.findings, report.facts = findings(a, rules.OF_ANY_METHOD + rules.RULES), facts(a)
    report.of_experts = len(a.pairs) - len(single)
    if values := sorted(torch.cat([entries for _, entries in measured]).tolist() if measured else []):
        report.entries = {name: values[int(share * (len(values) - 1))] for name, share in QUANTILES.items()}
    return report


def findings(a: Adapter, which: list[rules.Rule]) -> list[Finding]:
    """Of each rule the first word."""
    asked = ((level, next(iter(seen(a)), None), advice) for level, seen, advice in which)
    return [Finding(level, seen, advice) for level, seen, advice in asked if seen]


def facts(a: Adapter) -> dict:
    """What the files say, and which tensor fills them."""
    largest = max(a.tensors, key=lambda name: a.tensors[name].nbytes)
    return {
        "rank": a.config.get("r"),
        "alpha": a.config.get("lora_alpha"),
        "s": files.counted(f"{layer.scaling:.4g}" for layer in a.layers),
        "rsLoRA": a.config.get("use_rslora", False),
        "targets": a.config.get("target_modules"),
        "types": files.counted(str(one.dtype)[6:] for one in a.tensors.values()),
        "bytes": sum(tensor.nbytes for tensor in a.tensors.values()),
        "largest": f"{largest}, {a.tensors[largest].nbytes:,} bytes",
        "base": a.config.get("base_model_name_or_path"),
    }


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
        found = [name for name in known if settings.ends(name, f"{path}.weight")]
        if len(found) == 1 or (found and files.NUMBERED.match(path)):  # many end in dense.weight
            return known[found[0]]
        path = path.partition(".")[2] if files.NUMBERED.match(path) else ""
    return None


def measure(a: Adapter, path: str) -> tuple[Layer, Tensor]:
    """One layer, and |s B A| at a sample of entries, none where a number is not finite."""
    A, B = a.pairs[path]
    layer = Layer(path, len(A), A.shape[1], len(B), settings.strength(a.config, path, len(A)))
    if a.base and (place := find(path, a.known)):
        shape = [place.shape[0], math.prod(place.shape[1:])]  # of a convolution, too
        layer.place, wanted = place, [layer.out_features, layer.in_features]
        layer.fits = place.in_codes or wanted in (shape, shape[::-1] if a.config.get("fan_in_fan_out") else shape)
    if not all(map(math.isfinite, [layer.scaling, *(a.largest[a.parts[path][part]] for part in "AB")])):
        return layer, torch.empty(0)
    # The singular values of B A are those of two small triangles: (out, in) is never made.
    of_A = torch.linalg.qr(A.double().T).R
    strengths = torch.linalg.svdvals(torch.linalg.qr(B).R @ of_A.float().T)
    bases = torch.linalg.svdvals(of_A)
    layer.independent = int((bases > 1e-6 * bases.max()).sum())
    layer.norm, squares = abs(layer.scaling) * strengths.norm().item(), strengths.double().square()
    layer.directions = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + bool(layer.norm)
    some = torch.linspace(0, len(B) - 1, min(ROWS, len(B))).long()
    update = layer.scaling * (B[some] @ A)  # (rows, in_features)
    if layer.place and layer.fits and not layer.place.in_codes:
        with safe_open(layer.place.file, "pt") as file:
            W = file.get_tensor(layer.place.name).flatten(1)
        _beside(layer, update, W[some] if len(W) == len(B) else W.T[some], W.float().norm().item())
    return layer, update.abs().flatten()[:: max(1, update.numel() // 4096)]


def _beside(layer: Layer, update: Tensor, rows: Tensor, norm: float) -> None:
    """Measure an update against its weight, and try a merge on a sample. update, rows of W: (rows, in_features)."""
    layer.relative, rows = layer.norm / max(norm, 1e-30), rows.float().contiguous()
    layer.along = torch.cosine_similarity(rows.flatten(), update.flatten(), dim=0).item()
    rounded = quantize(rows).dequantize()
    layer.bf16 = _kept(rows.bfloat16().float(), (rows + update).bfloat16().float(), update)
    layer.nf4 = _kept(rounded, quantize(rounded + update).dequantize(), update)


def _kept(before: Tensor, after: Tensor, update: Tensor) -> float:
    """The share of an update that arrives: what changed, along it. 1 is all of it, 0 nothing."""
    return ((after - before) * update).sum().item() / max(update.square().sum().item(), 1e-30)
