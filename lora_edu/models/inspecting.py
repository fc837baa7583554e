"""A doctor for adapters: what lies in a folder in PEFT's format, has it learned, and what would a merge leave of it?

    lora-edu inspect ADAPTER [--base FOLDER] [--json] [--card card.png]

The config and the tensors say nearly all. With the weights of the base beside them, each update s B A is measured
against the weight W that it is added to.
"""

import json
import math
import re
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_edu.models import adapter_files as files
from lora_edu.models import adapter_settings as settings
from lora_edu.models.adapter_files import BROKEN, DEAD, NOTE, ODD, Layer, Report, by, counted, type_name
from lora_edu.peft_io import CHANGES_THE_BASE, PREFIX
from lora_edu.quantization import quantize

ROWS = 256  # of each weight: where a merge is tried and entries are sampled
STRAY = 0.05  # training moves the magnitudes of DoRA by a percent or two
MOVED = 1e-6  # the first step of Adam moves every entry of B by about the learning rate
QUANTILES = {"1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99, "largest": 1}


def inspect_adapter(folder: str | Path, base: str | Path | None = None) -> Report:
    """Look at an adapter. base: the folder or file with the weights that it was trained beside.

    Returns a report, also of what is damaged. Raises ValueError for a base whose safetensors cannot be read.
    """
    folder, report = Path(folder), Report(str(folder))
    base = Path(base) if base is not None else None
    weights = _places_of_weights(base) if base else None
    config = files.read_config(folder, report)
    if config is None or not settings.is_of_lora(config, report):
        return report
    tensors = files.read_weights(folder, report)
    named = files.named_as_peft_does(tensors, report)
    files.check_values(tensors, report)
    pairs = files.pairs_of(tensors, report) if named else {}
    if not tensors:
        return report
    if config.get("layer_replication"):
        weights = None  # blocks of the adapter are not blocks of the files
    single = {path: pair for path, pair in pairs.items() if settings.of_one_weight(config, path)}
    settings.say_facts(config, tensors, single, report)
    settings.check_strength(config, single, report)
    settings.check_words(config, report)
    settings.check_promises(config, pairs, tensors, report)
    near = base or Path(str(config.get("base_model_name_or_path") or "none"))
    known = weights or {}
    if not known and near.is_dir():  # named by the config, and here
        with suppress(ValueError):
            known = _places_of_weights(near)
    settings.check_targets(config, single, known, report)
    settings.check_blocks(config, single, known, report)
    settings.check_experts(config, pairs, near, report)
    report.of_experts = len(pairs) - len(single)
    paths = sorted(single, key=_in_order)
    entries = [_measured(path, single[path], config, tensors, weights, report) for path in paths]
    _life(pairs, report)
    other = settings.check_base(config, base, report)
    if weights is not None:
        _fit(config, tensors, other, report)
        whole = _saved_whole(tensors, weights, report)
        _left_without(config, pairs.keys() | whole, weights, report)
    if values := sorted(torch.cat(entries).tolist() if entries else []):
        report.entries = {name: values[int(share * (len(values) - 1))] for name, share in QUANTILES.items()}
    return report


class Place(NamedTuple):
    """Where a tensor of the base lies, and its shape, which the header of a file says without the numbers."""

    file: Path
    shape: list[int]


def _places_of_weights(base: Path) -> dict[str, Place]:
    """Of each tensor of the base, by its name. Each file is opened once. Raises ValueError."""
    found: dict[str, Place] = {}
    for path in [base] if base.is_file() else sorted(base.glob("*.safetensors")):
        try:
            with safe_open(path, "pt") as file:
                found |= {name: Place(path, file.get_slice(name).get_shape()) for name in file.keys()}
        except (SafetensorError, ValueError, RuntimeError, OSError) as error:
            raise ValueError(f"the base's {path} {files.why_unreadable(path, f'is damaged ({error})')}") from error
    if not found or any("lora_A" in name for name in found):
        what = "is an adapter itself" if found else "holds no safetensors" if base.exists() else "is not here"
        raise ValueError(f"{base} {what}: name the folder, or the file, with the weights of the base")
    for index in base.glob("*.safetensors.index.json"):
        named = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if lost := sorted(name for name in named if not (base / name).exists()):
            raise ValueError(f"{base} lacks {', '.join(lost)}, of {len(named)} files: download the base again")
    return found


def _measured(
    path: str, pair: tuple, config: dict, tensors: dict[str, Tensor], weights: dict[str, Place] | None, report: Report
) -> Tensor:
    """Adds one layer to the report. Returns |s B A| at a sample of entries; none where a number is not finite."""
    A, B = pair
    s = settings.scaling_of(config, path, len(A))
    if not (A.isfinite().all() and B.isfinite().all() and math.isfinite(s)):
        return torch.empty(0)
    # The singular values of B A are those of two small triangles: (out, in) is never made.
    strengths = torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    norm, squares = abs(s) * strengths.norm().item(), strengths.double().square()
    directions = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + 1 if norm else 0
    layer = Layer(path, len(A), A.shape[1], len(B), s, norm, directions)
    report.layers.append(layer)
    if norm and len(strengths) > 1 and strengths[1] <= 1e-5 * strengths[0]:
        report.say(ODD, f"{path} has rank {len(A)} and one direction, its rows are multiples: started at a constant?")
    some = torch.linspace(0, len(B) - 1, min(ROWS, len(B))).long()
    update = s * (B[some] @ A)  # (rows, in_features)
    if weights is not None:
        W = _weight_of(layer, weights, bool(config.get("fan_in_fan_out")), report)
        if W is not None:
            _beside(layer, update, some, W, tensors.get(f"{PREFIX}{path}.lora_magnitude_vector"))
    return update.abs().flatten()[:: max(1, update.numel() // 4096)]


def _weight_of(layer: Layer, weights: dict[str, Place], turned: bool, report: Report) -> Tensor | None:
    """The weight that a layer changes, (out_features, in_features); None with the reason said."""
    name, same = _in_the_base(layer.path, weights)
    if name is None:
        if not re.search(r"\.\d+\.", layer.path):  # a tied head, or a pooler that the task brought
            return report.say(NOTE, f"the base's files have no {layer.path}.weight: is it tied, or new for the task?")
        return report.say(BROKEN, f"the base has no {layer.path}.weight: it was trained beside another model")
    if not same:
        report.say(ODD, f"the base calls {layer.path} {name}: PEFT finds it only where both are called alike")
    with safe_open(weights[name].file, "pt") as file:
        W = file.get_tensor(name).flatten(1)
    if not W.is_floating_point() or W.itemsize < 2:
        return report.say(NOTE, f"the base holds {name} in codes ({type_name(W)}): measure beside the unquantized one")
    W = W.T if turned and W.shape == (layer.in_features, layer.out_features) else W
    if W.shape == (layer.out_features, layer.in_features):
        return W
    expected = f"{layer.out_features} x {layer.in_features}"
    return report.say(BROKEN, f"{layer.path} wants a weight of {expected}, the base has {by(W)} {type_name(W)}")


def _beside(layer: Layer, update: Tensor, some: Tensor, W: Tensor, magnitude: Tensor | None) -> None:
    """Measure an update against its weight, and try a merge on a sample of rows. update: (rows, in_features)."""
    layer.relative = layer.norm / max(W.float().norm().item(), 1e-30)
    rows = W[some].float().contiguous()
    rounded = quantize(rows).dequantize()
    layer.bf16 = _kept(rows.bfloat16().float(), (rows + update).bfloat16().float(), update)
    layer.nf4 = _kept(rounded, quantize(rounded + update).dequantize(), update)
    if magnitude is not None and magnitude.numel() == len(W) > 2:
        both = torch.stack([magnitude.float().flatten(), W.float().norm(dim=1)])  # (2, out_features)
        follows = torch.corrcoef(both)[0, 1] > 0.5
        layer.stray = 0.0 if follows else (both[0] / both[1].clamp(min=1e-30) - 1).abs().mean().item()


def _fit(config: dict, tensors: dict[str, Tensor], other: bool, report: Report) -> None:
    """Is this the base? An update larger than its weight, or DoRA's magnitudes of other rows, say no.

    other: the config names another. Embeddings are left out: their entries are small, and few rows are trained, far.
    """
    matrices = [layer for layer in report.layers if f"{PREFIX}{layer.path}.lora_embedding_A" not in tensors]
    if loud := [layer for layer in matrices if (layer.relative or 0) > 1]:
        most = max(loud, key=lambda layer: layer.relative)
        what = f"in {len(loud)} of {len(report.layers)} layers the update is larger than the weight that it changes"
        start = config.get("init_lora_weights")
        large = start is False or str(start).lower().startswith(CHANGES_THE_BASE)
        why = f"it started with {start}, not at zero" if large else "is alpha too large, or another base meant?"
        report.say(NOTE if large else ODD, f"{what}, {most.relative:.3g} times in {most.path}: {why}")
    stray = [layer.stray for layer in report.layers if layer.stray is not None]
    if stray and median(stray) > STRAY:
        what = f"DoRA's magnitudes lie {median(stray):.0%} off the norms of the base's rows and do not follow them"
        report.say(ODD if other else NOTE, f"{what}: was it trained beside another base of this shape, or very far?")


def _in_the_base(path: str, weights: dict[str, Place]) -> tuple[str | None, bool]:
    """The base's name for the weight of a layer, and whether PEFT would find it there too.

    A base may be saved without its outermost name (GPT-2's `transformer`), never without the number of a block.
    """
    parts = path.split(".")
    inner = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    if f"{path}.weight" in weights:
        return f"{path}.weight", True
    for dropped in range(max(1, inner)):
        end = ".".join(parts[dropped:]) + ".weight"
        fits = [name for name in weights if f".{name}".endswith(f".{end}")]
        if fits and (len(fits) == 1 or inner < len(parts)):  # many end in dense.weight
            return fits[0], fits[0] == end and dropped <= 1
    return None, False


def _kept(before: Tensor, after: Tensor, update: Tensor) -> float:
    """The share of an update that arrives: what changed, along it. 1 is all of it, 0 nothing."""
    return ((after - before) * update).sum().item() / max(update.square().sum().item(), 1e-30)


def _life(pairs: dict[str, tuple[Tensor, Tensor]], report: Report) -> None:
    """Has it learned? A fresh adapter has a factor of zeros."""
    least = {path: min(A.abs().max().item(), B.abs().max().item()) for path, (A, B) in pairs.items()}
    for what, some in (
        ("is zero, as at the start", {0.0}),
        ("has hardly moved", {x for x in least.values() if 0 < x < MOVED}),
    ):
        paths = [path for path, value in least.items() if value in some]
        if paths and len(paths) == len(pairs):
            report.say(DEAD, f"in every layer B (or A) {what}: did the optimizer have them, were they on when saved?")
        elif paths:
            report.say(
                ODD, f"in {len(paths)} of {len(pairs)} layers, such as {paths[0]}, B (or A) {what}: no gradient came"
            )
    seen: dict[tuple, str] = {}
    for path, (A, B) in pairs.items():
        twin = seen.setdefault((A.shape, B.shape, A.sum().item(), B.sum().item()), path)
        if twin != path and B.any() and all(torch.equal(*both) for both in zip(pairs[twin], (A, B), strict=True)):
            return report.say(ODD, f"{twin} and {path} hold the same numbers: was one copied over the other?")


def _left_without(config: dict, adapted: set[str], weights: dict[str, Place], report: Report) -> None:
    """The matrices of the base that have no adapter, by kind; experts, which are missed most often, on their own."""
    experts, others, targets = [], [], isinstance(config.get("target_modules"), list)
    for name in weights:
        path = name.removesuffix(".weight")
        if any(path.endswith(one) or f".{one}".endswith(f".{path}") for one in adapted):
            continue
        if len(weights[name].shape) < 2:
            continue
        of_experts = "expert" in path and "shared_expert" not in path
        (experts if of_experts else others).append(re.sub(r".*\.\d+\.(?=\D)", "", path))
        if targets and not of_experts and settings.is_target(config, path):
            report.say(ODD, f"{path} is a target and has no adapter: is the file cut short?")
    if experts and not config.get("target_parameters"):
        report.say(
            NOTE, f"the experts have no adapter: {counted(experts)}; target_parameters would name them; intended?"
        )
    if others:
        report.say(NOTE, f"matrices of the base without an adapter: {counted(others)}; intended?")


def _saved_whole(tensors: dict[str, Tensor], weights: dict[str, Place], report: Report) -> set[str]:
    """What an adapter brings whole, such as a head: with the base's shape and other numbers. Returns its paths."""
    paths = set()
    for name, tensor in tensors.items():
        path = name.removeprefix(PREFIX).replace(".base_layer", "").replace(".modules_to_save", "")
        there = next((other for other in weights if f".{path}".endswith(f".{other}")), None)
        if "lora_" in name or there is None:
            continue
        paths.add(path.removesuffix(".weight"))
        if list(tensor.shape) != (shape := weights[there].shape):
            what = f"{path} is saved as {by(tensor)}, the base has {' x '.join(map(str, shape))}"
            more = f"tokens were added, first call base.resize_token_embeddings({len(tensor)})"
            report.say(BROKEN, f"{what}: {more if list(tensor.shape[1:]) == shape[1:] else 'it is of another base'}")
        elif tensor.ndim > 1 and ".base_layer" not in name:
            with safe_open(weights[there].file, "pt") as file:
                if torch.equal(tensor.float(), file.get_tensor(there).float()):
                    report.say(NOTE, f"{path} is saved whole and equals the base's: it was not trained")
    return paths


def _in_order(path: str) -> list[tuple[int, str]]:
    """Layer 2 before layer 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.split(".")]
