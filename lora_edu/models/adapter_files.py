"""What lies in the folder of an adapter in PEFT's format: files, names, settings, and what does not fit together.

Nothing is unpickled and no model is built. `inspecting` asks these questions, and then looks at the numbers.
"""

import json
import math
import re
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lora_edu.peft_io import CHANGES_THE_BASE, CONFIG, PREFIX, WEIGHTS
from lora_edu.tensor_files import is_pickle

BROKEN, DEAD, ODD, NOTE = "broken", "has not learned", "odd", "note"  # the order in which a verdict looks
PART = re.compile(r"(.+?)\.(lora_(?:embedding_)?[AB]|lora_magnitude_vector)(\.(?!weight$|bias$)[^.]+)?(?:\.weight)?$")
FOREIGN = {
    r"lora_(unet|te\d?)_|lora_(down|up)\b|\.lora\.(down|up)\.": "kohya or diffusers wrote these names, not PEFT",
    r"(^|\.)_orig_mod\.": "the model was saved inside of torch.compile",
    r"^module\.|_fsdp_wrapped_module": "the model was saved inside of DistributedDataParallel or FSDP",
    rf"^(?:{re.escape(PREFIX)}){{2}}": "PEFT had wrapped the model twice",
}
LFS = b"version "  # how a pointer of Git LFS begins
OF_CLASSIFIERS = {"classifier", "score"}  # PEFT writes both into the config; a model has one


@dataclass
class Layer:
    """One adapted layer. norm: ||s B A||; directions: how many hold 90% of its squared norm.

    With a base: relative is ||s B A|| / ||W||; bf16 and nf4 are the shares of s B A that a merge leaves, 1 for all.
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


@dataclass
class Report:
    """facts: what the files say; findings: (level, what was seen and what to do); entries: quantiles of |s B A|."""

    folder: str
    facts: dict = field(default_factory=dict)
    findings: list[tuple[str, str]] = field(default_factory=list)
    layers: list[Layer] = field(default_factory=list)
    entries: dict[str, float] = field(default_factory=dict)

    @property
    def verdict(self) -> str:
        """The worst finding, in words."""
        for level in (BROKEN, DEAD, ODD):
            if found := [text for found, text in self.findings if found == level]:
                return f"{level}: {found[0]}"
        return f"alive: {len(self.layers)} layers carry an update"

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
        return report.say(BROKEN, f"{there}: name the folder that holds {CONFIG}")
    if not path.is_file():
        if inside := sorted(found.parent.name for found in folder.glob(f"*/{CONFIG}")):
            return report.say(BROKEN, f"the adapter lies one folder deeper: name {', '.join(inside)}")
        if (folder / "config.json").exists():
            return report.say(BROKEN, "this is a whole model and no adapter (it has config.json): load it without PEFT")
        return report.say(BROKEN, f"there is no {CONFIG}: save the adapter with save_pretrained, which writes it")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        if path.read_bytes().startswith(LFS):
            return report.say(BROKEN, f"{CONFIG} is a pointer of Git LFS and not the file: git lfs pull")
        return report.say(BROKEN, f"{CONFIG} is not valid JSON ({error}): save the adapter again")
    if not isinstance(config, dict):
        return report.say(BROKEN, f"{CONFIG} holds a {type(config).__name__} and no settings: save the adapter again")
    if config.get("peft_type") != "LORA":
        return report.say(BROKEN, f"peft_type is {config.get('peft_type')!r}: this doctor knows LORA only")
    return config


def read_weights(folder: Path, report: Report) -> dict[str, Tensor]:
    """All tensors of adapter_model.safetensors; none where it cannot be read, with the reason said."""
    path = folder / WEIGHTS
    if not path.is_file():
        if pickles := sorted(found.name for found in folder.glob("*.bin")):
            report.say(
                BROKEN, f"{pickles[0]} is a pickle, which can run any code, and was not opened: save as safetensors"
            )
        elif (folder / CONFIG).exists():
            report.say(BROKEN, f"there is no {WEIGHTS}: copy it here, or save the adapter again")
        return {}
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError, TypeError, RuntimeError, OSError) as error:
        with path.open("rb") as file:
            pointer = file.read(8) == LFS
        what = "a pickle, which can run any code, and was not opened" if is_pickle(path) else f"damaged ({error})"
        what = "a pointer of Git LFS and not the file: git lfs pull" if pointer else f"{what}: save the adapter again"
        report.say(BROKEN, f"{WEIGHTS} is {what}")
        return {}
    if not tensors:
        report.say(BROKEN, f"{WEIGHTS} holds no tensors: save the adapter from the model that PEFT wrapped")
    return tensors


# --- names and numbers -----------------------------------------------------------------------------------------------


def named_as_peft_does(tensors: dict[str, Tensor], report: Report) -> bool:
    """PEFT looks for base_model.model.<path>.lora_A.weight, and passes by what is named otherwise."""
    lora = [match for match in map(PART.fullmatch, tensors) if match]
    for pattern, what in FOREIGN.items():
        if some := [name for name in tensors if re.search(pattern, name)]:
            report.say(BROKEN, f"PEFT would load none of these tensors, {what} ({some[0]}): save with save_pretrained")
            return False
    if tensors and not lora:
        report.say(BROKEN, f"no tensor belongs to LoRA ({min(tensors)}): save the adapter, not the model around it")
    elif outside := [match[0] for match in lora if not match[0].startswith(PREFIX)]:
        report.say(
            BROKEN, f"{outside[0]} does not begin with {PREFIX}, so PEFT would pass by: put that before each name"
        )
    elif short := [name for name in tensors if re.search(r"lora_[AB]$", name)]:
        report.say(BROKEN, f"{short[0]} does not end in .weight, so PEFT would pass by: save with save_pretrained")
    elif named := [match[0] for match in lora if match[3]]:
        report.say(BROKEN, f"{named[0]} holds the adapter's name, so PEFT would pass by: save with save_pretrained")
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
            tensor.numel()
            and "magnitude" not in name
            and 100 < (largest := tensor.float().abs().max().item()) < math.inf
        ):
            return report.say(ODD, f"{name} holds numbers as large as {largest:.3g}: did training diverge?")


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
            report.say(BROKEN, f"{path}: A or B is no matrix: save the adapter again")
        else:
            A, B = (parts[part].flatten(1).float() for part in ("lora_A", "lora_B"))  # of a convolution, too
            if f"{PREFIX}{path}.lora_embedding_A" in tensors:
                A, B = B.T, A.T  # the weight of an embedding is (vocab, dim), the transpose of B A
            if B.shape[1] == len(A) and A.numel() and B.numel():
                pairs[path] = A, B
            else:
                shapes = f"A is {by(A)} and B is {by(B)}"
                report.say(BROKEN, f"{path}: {shapes}, rows of A must be columns of B: transposed, or of another run?")
    return pairs


# --- the config, and what it says of the tensors ---------------------------------------------------------------------


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _pattern(patterns: object, path: str, otherwise: object) -> object:
    """PEFT's rank_pattern and alpha_pattern: the first key that ends the path decides."""
    items = patterns.items() if isinstance(patterns, dict) else ()
    return next((value for key, value in items if re.match(rf"(.*\.)?({key})$", path)), otherwise)


def scaling_of(config: dict, path: str, rank: int) -> float:
    """s = alpha / r, or alpha / sqrt(r) for rsLoRA; NaN where alpha is no number."""
    alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank) if _number(alpha) else math.nan


def say_facts(config: dict, tensors: dict[str, Tensor], pairs: dict, report: Report) -> None:
    """What the files say, and which tensor fills them."""
    size, others = sum(t.nbytes for t in tensors.values()), {n: t for n, t in tensors.items() if not PART.fullmatch(n)}
    report.facts = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "s": counted(f"{scaling_of(config, path, len(A)):.4g}" for path, (A, _) in pairs.items()),
        "rsLoRA": config.get("use_rslora", False),
        "targets": config.get("target_modules"),
        "types": counted(map(type_name, tensors.values())),
        "bytes": size,
        "base": config.get("base_model_name_or_path"),
    }
    if others:
        name = max(others, key=lambda name: others[name].nbytes)
        asked = config.get("modules_to_save") or config.get("trainable_token_indices") or config.get("bias") != "none"
        asked = asked or config.get("lora_bias") or ".base_layer" in name  # of an adapted embedding: PEFT's own habit
        what = f"{sum(t.nbytes for t in others.values()) / size:.0%} of the bytes are saved whole, above all {name}"
        advice = "if it was not trained, save with save_embedding_layers=False"
        report.say(NOTE if asked else ODD, f"{what} ({others[name].nbytes / 1e6:.1f} MB): {advice}")


def check_strength(config: dict, pairs: dict, report: Report) -> None:
    """Rank, alpha and what they make of s."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not isinstance(rank, int) or isinstance(rank, bool) or rank < 1:
        report.say(BROKEN, f"r is {rank!r} and no whole number from 1: write the rank, the rows of A")
    for path, (A, _) in pairs.items() if isinstance(rank, int) else ():
        if (wanted := _pattern(config.get("rank_pattern"), path, rank)) != len(A):
            report.say(BROKEN, f"the config gives {path} rank {wanted}, its A has {len(A)} rows: files of two runs?")
            break
    strengths = [scaling_of(config, path, len(A)) for path, (A, _) in pairs.items()]
    if not _number(alpha):
        report.say(BROKEN, f"lora_alpha is {alpha!r} and no number: write the alpha of the training")
    elif alpha == 0:
        report.say(DEAD, "lora_alpha is 0, so the adapter adds nothing: write the alpha of the training")
    elif alpha < 0:
        report.say(ODD, f"lora_alpha is {alpha}, so the adapter subtracts what it learned: meant as negation?")
    elif any(not 1e-3 <= abs(s) <= 100 for s in strengths):
        report.say(
            ODD, f"s is {report.facts['s']}, and most adapters have 0.25 to 4: is alpha the one of the training?"
        )


def check_settings(config: dict, pairs: dict, tensors: dict[str, Tensor], report: Report) -> None:
    """Settings that are none, do not fit the tensors, or change what the adapter means."""
    known = {
        "bias": ("none", "all", "lora_only", None),
        "use_rslora": (True, False, None),
        "use_dora": (True, False, None),
    }
    for name, values in known.items():
        if config.get(name) not in values:
            report.say(BROKEN, f"{name} is {config[name]!r}, expected one of {', '.join(map(repr, values[:-1]))}")
    if not _number(dropout := config.get("lora_dropout", 0)) or not 0 <= dropout < 1:
        report.say(BROKEN, f"lora_dropout is {dropout!r}, a probability below 1 is expected: write 0.0")
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(config.get(name) or {}, dict):
            report.say(BROKEN, f"{name} is {config[name]!r}, names with numbers are expected: write {{}}")
    magnitudes = [tensor for name, tensor in tensors.items() if "lora_magnitude_vector" in name]
    if any(not tensor.any() for tensor in magnitudes):
        report.say(ODD, "a magnitude of DoRA is zero, so its layer gives nothing: take an earlier checkpoint")
    if len(magnitudes) != (len(pairs) if config.get("use_dora") else 0):
        have = f"{len(magnitudes)} of {len(pairs)} layers have a magnitude"
        report.say(BROKEN, f"use_dora is {config.get('use_dora', False)}, and {have}: files of two runs?")
    if str(start := config.get("init_lora_weights")).lower().startswith(CHANGES_THE_BASE):
        report.say(ODD, f"it started with {start}, which changes the base too, so beside the original base it is off: "
                   "save it with path_initial_model_for_weight_conversion")  # fmt: skip
    saved = set(config.get("modules_to_save") or ())
    there = {module for module in saved if any(f".{module}." in f".{name}." for name in tensors)}
    for module in sorted(saved - there - (OF_CLASSIFIERS if there & OF_CLASSIFIERS else set())):
        report.say(BROKEN, f"modules_to_save names {module}, which is not in the file: save the adapter again")


def is_target(config: dict, path: str) -> bool:
    """Whether PEFT would adapt a layer of this path, by target_modules, exclude_modules and layers_to_transform."""

    def named(by: object) -> bool:
        if isinstance(by, list):
            return any(f".{path}".endswith(f".{name}") for name in by)
        try:
            return isinstance(by, str) and (by == "all-linear" or bool(re.fullmatch(by, path)))
        except re.error:
            return False

    chosen, number = config.get("layers_to_transform"), re.search(r"\.(\d+)\.", path)
    if chosen is not None and number and int(number[1]) not in (chosen if isinstance(chosen, list) else [chosen]):
        return False
    return named(config.get("target_modules")) and not named(config.get("exclude_modules"))


def of_one_weight(config: dict, path: str) -> bool:
    """Not inside of another layer, and not of target_parameters, whose adapters serve all experts at once."""
    return ".base_layer" not in path and (not config.get("target_parameters") or is_target(config, path))


def check_targets(config: dict, pairs: dict, report: Report) -> None:
    """Targets without a layer, layers without a target, blocks without what the others have."""
    targets = config.get("target_modules")
    if not targets and not config.get("target_parameters"):
        report.say(BROKEN, f"target_modules is {targets!r}: write the names of the adapted layers")
    elif stray := [path for path in pairs if not is_target(config, path)]:
        report.say(BROKEN, f"target_modules does not name {stray[0]}, so PEFT would pass by: files of two runs?")
    if not isinstance(targets, list) or any(level == BROKEN for level, _ in report.findings):
        return
    if empty := [target for target in targets if not any(f".{path}".endswith(f".{target}") for path in pairs)]:
        report.say(ODD, f"no tensor belongs to the target {', '.join(empty)}: is it spelled as in print(model)?")
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return
    blocks = Counter(re.sub(r"\.\d+\.", ".*.", path, count=1) for path in pairs)
    most = max(blocks.values(), default=0)
    for kind, some in blocks.items():
        if most / 2 < some < most:
            report.say(ODD, f"{kind} has adapters in {some} of {most} blocks: is the file cut short?")


# --- small things ---------------------------------------------------------------------------------------------------


def counted(names) -> str:
    counts = Counter(names)
    return ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items())


def by(matrix: Tensor) -> str:
    return " x ".join(map(str, matrix.shape))


def type_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
