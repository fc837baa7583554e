"""A doctor for adapters: is a folder in PEFT's format whole, has it learned, and what would a merge leave of it?

    lora-edu inspect ADAPTER [--base FOLDER] [--json] [--card card.png]

It compares what the config promises with what the file holds, and the numbers with what training leaves. With the base,
each update s B A is measured beside the weight W that it is added to. Nothing is unpickled, and no model is built.
"""

import math
import re
from collections import Counter, defaultdict, namedtuple
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor

from lora_course.programs import adapter_files as files
from lora_course.programs.adapter_files import BROKEN, CLOSED, DEAD, LEVELS, NOTE, ODD, OFF, OTHER, SAVE, Said
from lora_edu.measures import cosine
from lora_edu.peft_io import CHANGES_THE_BASE, CONFIG, PREFIX, WEIGHTS
from lora_edu.quantization import quantize

PARTS = {"A": "r", "B": "r", "E": "target_r", "magnitude_vector": "use_dora", "B.bias": "lora_bias"}  # and who asks
LORA = re.compile(
    rf"{re.escape(PREFIX)}(?P<path>.+?)\.lora_(embedding_)?(?P<part>{'|'.join(PARTS)})(\.default)?(\.weight)?"
)
END = re.compile(r"^.*?(?=[^.]+\.\d+\.)")  # of model.layers.3.self_attn.q_proj what comes before `layers`
EMBEDDING = re.compile(r"\b(embed_tokens|lm_head|wte|shared|word_embeddings|embed_in|embed_out)\b")
HEAD = re.compile(r"\b(score|classifier|qa_outputs|(?!lm_)\w*head)\b")
WITH_HEAD = re.compile(r"SEQ_CLS|TOKEN_CLS|QUESTION_ANS|\w+Classification|\w+QuestionAnswering")
FAR = ("false", *CHANGES_THE_BASE)  # starts that are not zero
CONVERT, RESIZE = "convert it, or give that base", "first base.resize_token_embeddings(rows)"
EARLIER, PIECE = "take the files before that", "or gather its pieces, or restore rank_pattern"
ONE_RUN = "take both files from one run, or save it again"
FACTS = {  # what they are called in the config
    "rank": "r", "alpha": "lora_alpha", "rsLoRA": "use_rslora", "targets": "target_modules",
    "base": "base_model_name_or_path",
}  # fmt: skip
MOVED = 1e-6  # the first step of Adam moves every entry of B by about the learning rate
QUANTILES = {"1%": 0.01, "25%": 0.25, "50%": 0.5, "75%": 0.75, "99%": 0.99, "largest": 1}
Finding = namedtuple("Finding", "level seen advice")
# norm: ||s B A||; directions: how many hold 90% of its squared norm. With a base: relative is ||s B A|| / ||W||; along
# the cosine of both; bf16 and nf4 are the shares of s B A that a merge leaves, 1 for all
Layer = namedtuple("Layer", "path rank scaling norm directions relative along bf16 nf4", defaults=4 * [None])


def inspect_adapter(folder: str | Path, base: str | Path | None = None) -> "Report":
    """A report on an adapter, damaged or not. base: the folder or file with its weights; ValueError for a bad one."""
    report, alike = Report(Path(folder), files.read_base(Path(base)) if base else {}), defaultdict(list)
    for level, said in report.examine():
        seen, _, advice = said.rpartition(": ")
        but_for_names = re.sub(r"\S*[\d._]\S*", "", seen)
        alike[level, but_for_names, advice].append(seen)  # what differs in names alone is one finding
    for (level, _, advice), seen in alike.items():
        report.findings.append(Finding(level, seen[0] + f", one of {len(seen)}" * (len(seen) > 1), advice))
    return report


class Report:
    """What lies in a folder, and what was found. facts: what the files say; entries: quantiles of |s B A|."""

    def __init__(self, folder: Path, known: dict):
        """known: the tensors of the base by name, not loaded."""
        self.folder, self.known, self.findings, self.layers = folder, known, [], []
        self.facts, self.entries, self.places = {}, {}, {}
        self.parts: dict[str, dict[str, Tensor]] = defaultdict(dict)  # of each layer: A (rank, in), B (out, rank), ...
        self.others: dict[str, Tensor] = {}  # such as a head, saved whole

    @property
    def verdict(self) -> str:
        """The worst finding, in words."""
        worst = [one for level in LEVELS[:-1] for one in self.findings if one.level == level]
        return ": ".join(worst[0]) if worst else f"alive: {self.facts['layers']} carry an update"

    def as_dict(self) -> dict:
        found, layers = ([one._asdict() for one in some] for some in (self.findings, self.layers))
        facts = {"folder": str(self.folder), "facts": self.facts, "entries": self.entries}
        return {"verdict": self.verdict, "findings": found, "layers": layers} | facts

    def examine(self) -> Said:
        """Reads, measures, and asks question after question."""
        try:
            self.read()
        except ValueError as error:
            yield CLOSED if "not opened" in str(error) else BROKEN, str(error)
            return
        entries = torch.cat([torch.empty(0), *(measure(self, path) for path in self.parts)]).sort().values.tolist()
        self.entries = {name: entries[int(share * (len(entries) - 1))] for name, share in QUANTILES.items() if entries}
        sizes = {name: tensor.nbytes for name, tensor in self.tensors.items()}
        self.facts |= {
            "s": ", ".join(sorted({f"{layer.scaling:.4g}" for layer in self.layers})),
            "types": ", ".join(sorted({str(tensor.dtype)[6:] for tensor in self.tensors.values()})),
            "bytes": sum(sizes.values()),
            "largest": "{}, {:,} bytes".format(*max(sizes.items(), key=lambda item: item[1])),
        }
        if self.kind != "LORA":
            yield OTHER, f"peft_type is {self.kind}: this doctor knows LORA, it looked at names and numbers only"
        elif not any(LORA.fullmatch(name) or files.unread(name) for name in self.tensors):
            yield BROKEN, f"no tensor belongs to LoRA, not {min(self.tensors)}: save the adapter, or find its config"
        for name in self.tensors:
            if why := files.unread(name):
                yield BROKEN, f"PEFT would not load {name}, {why}: {SAVE}"
        rows, tokens = len(self.tensors.get("prompt_embeddings", ())), self.config.get("num_virtual_tokens")
        if isinstance(tokens, int) and rows not in (0, tokens, 2 * tokens):  # an encoder's and a decoder's
            yield BROKEN, f"the config promises {tokens} num_virtual_tokens, and the file has {rows}: {ONE_RUN}"
        alike = [numbers, promises, absences, whole]
        for question in {"LORA": [settings, *alike, updates], "ADALORA": alike}.get(self.kind, [numbers]):
            yield from question(self)

    def read(self) -> None:
        """Raises ValueError with what lies there instead of an adapter, and what to do."""
        self.config, self.tensors = files.read(self.folder / CONFIG), files.read(self.folder / WEIGHTS, load=True)
        for setting, kind in {"modules_to_save": list, "rank_pattern": dict, "alpha_pattern": dict}.items():
            self.config[setting] = value if isinstance(value := self.config.get(setting), kind) else kind()
        self.kind, self.start = self.config.get("peft_type"), str(self.config.get("init_lora_weights")).lower()
        if not self.kind or self.kind != str(self.kind).upper():
            raise ValueError(f"{CONFIG} has peft_type {self.kind!r}, and PEFT expects 'LORA': correct it, or {SAVE}")
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
        self.facts["layers"], experts = f"{len(self.parts)} layers", self.on("target_parameters")
        for path in [path for path in self.parts if experts and (".base_layer" in path or self.left_out(path))]:
            del self.parts[path]  # one A and one B for all experts
        ends = {END.sub("", name, count=1): name for name in self.known}  # GPT-2's files leave out `transformer.`
        for path in self.parts:
            name = f"{path}.weight"
            self.places[path] = name if name in self.known else ends.get(END.sub("", name, count=1))

    def weight(self, path: str):
        """W of a layer in the base, not loaded; None where it is not known, or packed in codes."""
        found = self.known.get(self.places[path])
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


def named(value: object, path: str) -> bool:
    """Whether a setting, a list of names or one pattern, names a layer."""
    if isinstance(value, list):
        return any(f".{path}".endswith(f".{name}") for name in value)
    with suppress(re.error):
        return isinstance(value, str) and (value == "all-linear" or bool(re.fullmatch(value, path)))
    return False


def measure(a: Report, path: str) -> Tensor:
    """Adds a layer whose A and B fit. Returns |s B A| at a sample of entries, none where a number is not finite."""
    A, B = (a.parts[path].get(part, torch.empty(0)).float().nan_to_num(0, 0, 0) for part in "AB")
    if A.ndim != 2 or B.ndim != 2 or not len(A) == B.shape[1] > 0:
        return torch.empty(0)
    s = a.number("lora_alpha", "alpha_pattern", path) / len(A) ** (0.5 if a.on("use_rslora") else 1)
    if not math.isfinite(s):
        return torch.empty(0)
    # The singular values of B A are those of two small triangles: (out, in) is never made.
    strengths = torch.linalg.svdvals(torch.linalg.qr(B).R @ torch.linalg.qr(A.T).R.T)
    norm, squares, beside = abs(s) * strengths.norm().item(), strengths.double().square(), ()
    directions = int((squares.cumsum(0) < 0.9 * squares.sum()).sum()) + bool(norm)
    some = torch.linspace(0, len(B) - 1, min(256, len(B))).long()  # rows of W, where a merge is tried
    update = s * (B[some] @ A)
    W = found[...].flatten(1).float() if (found := a.weight(path)) else torch.empty(0)
    if {*W.shape} == {len(B), A.shape[1]}:
        rows = (W if len(W) == len(B) else W.T)[some].contiguous()
        arrived = [(rows + update).bfloat16().float() - rows.bfloat16().float()]
        arrived += [quantize((rounded := quantize(rows).dequantize()) + update).dequantize() - rounded]
        kept = [(one * update).sum().item() / max(update.square().sum().item(), 1e-30) for one in arrived]
        beside = norm / max(W.norm().item(), 1e-30), cosine(rows, update), *kept
    a.layers.append(Layer(path, len(A), s, norm, directions, *beside))
    return update.abs().flatten()[:: max(1, update.numel() // 4096)]


def numbers(a: Report) -> Said:
    """What training leaves in no tensor, and in no kind of tensors."""
    kinds: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for name, tensor in a.tensors.items():
        kind, values = str(tensor.dtype)[6:], tensor.float()
        if not tensor.numel():
            yield BROKEN, f"{name} has no numbers, as in pieces of FSDP or ZeRO-3: gather them before saving"
            continue
        if not tensor.is_floating_point() and name.endswith((".weight", ".bias")):
            yield BROKEN, f"{name} is {kind}, packed codes, and weights have fractions: dequantize before saving"
        if not math.isfinite(largest := values.abs().max().item()):
            yield BROKEN, f"{name} holds {largest}, training diverged, or float16 overflowed: take an earlier one"
        if tensor.is_floating_point() and tensor.element_size() == 1:
            yield ODD, f"{name} is {kind}, and precision is lost: save it again in bfloat16 or float32"
        if "lora_" in name or not name.endswith((".weight", ".bias", "delta")):
            kinds[name.removesuffix(".weight").rpartition(".")[-1]][name] = values
    for kind, some in kinds.items():
        large = {name: one for name, one in some.items() if one.numel() > 16 or not one.any()}
        flat = [name for name, one in large.items() if one.max() - one.min() < MOVED]
        value = some[flat[0]].flatten()[0].item() if flat else 0
        nearly = "has hardly left zero" if any(some[name].any() for name in flat) else "is zero throughout"
        what = f"{kind} {f'is {value:.3g} throughout' if abs(value) > MOVED else nearly}"
        if flat and len(flat) == len(some):
            yield DEAD, f"{what}, in every layer, as at the start: did the optimizer have it? Save what was trained"
        elif flat and "lora" in kind:
            yield ODD, f"{what} in {len(flat)} of {len(some)} layers, such as {flat[0]}: was it frozen, or not used?"


def settings(a: Report) -> Said:
    """Does PEFT read each setting, and is there what it names?"""
    yield from files.refused(a.config)
    for key in {**a.config["rank_pattern"], **a.config["alpha_pattern"]} if not a.on("target_parameters") else ():
        if not any(named(rf"(.*\.)?({key})", path) for path in a.parts):
            yield ODD, f"rank_pattern or alpha_pattern names {key}, and no adapted layer is called so: correct it"
    if a.start.startswith(CHANGES_THE_BASE):
        yield ODD, f"it started with {a.start}, which moves the base, it is another model as plain LoRA: {CONVERT}"
    stacks = [one for one in ("encoder", "decoder", "vision") if re.search(rf"\b{one}", " ".join([*a.parts, *a.known]))]
    if a.config.get("task_type") == "CAUSAL_LM" and stacks == ["encoder", "decoder"]:
        yield ODD, "task_type is CAUSAL_LM, and the base has an encoder and a decoder: write SEQ_2_SEQ_LM"
    yield from files.beside(a.folder, a.config)
    heads = [name for name in [*a.parts, *a.others] if "lm_head" in name]
    if heads and a.known and not any("lm_head" in name for name in a.known):
        yield NOTE, "the base has no lm_head of its own, it is tied to the embedding: a merge changes both, untie them"
    rows = [len(one) for name, one in a.others.items() if EMBEDDING.search(name) and not name.endswith("delta")]
    rows = rows or [one.get_shape()[0] for name, one in a.known.items() if EMBEDDING.search(name)]
    chosen = map(int, re.findall(r"\b\d+\b", str(a.config.get("trainable_token_indices"))))
    tokens = {"its tokenizer": files.largest_token(a.folder), "trainable_token_indices": max(chosen, default=-1)}
    for whose, largest in tokens.items() if rows else ():
        if largest >= max(rows):
            yield BROKEN, f"{whose} goes to token {largest}, the embedding has {max(rows)} rows: {RESIZE}"


def promises(a: Report) -> Said:
    """What the config promises of each layer, and what fits its weight in the base, against what the file holds."""
    wanted = [part for part, setting in PARTS.items() if a.on(setting)]
    for path, parts in a.parts.items():
        foreign = a.known and END.match(path) and not a.places[path]
        why = "the base's files have no such layer" if foreign else a.left_out(path)
        for part in sorted({*parts, *wanted}):
            if part not in parts:
                yield BROKEN, f"the config promises {path}.lora_{part}, and the file lacks it: {ONE_RUN}"
            elif reason := why or f"{PARTS[part]} is off" * (part not in wanted):
                yield BROKEN, f"the file holds {path}.lora_{part}, PEFT passes by it, as {reason}: {ONE_RUN}"
        if a.places[path] and not f".{path}.weight".endswith(f".{a.places[path]}"):
            yield ODD, f"the base calls {path} {a.places[path]}, and PEFT matches names: load the class of the training"
        A, B = (list(parts[part].shape) if part in parts else [] for part in "AB")
        rank, inside, out = a.number("r", "rank_pattern", path), A[-1:], B[:1]
        if W := a.weight(path):
            out, inside = W.get_shape()[:1], [math.prod(W.get_shape()[1:])]
            out, inside = (inside, out) if a.on("fan_in_fan_out") and B[:1] != out else (out, inside)
        for part, shape, asked in (("A", A, [rank, *inside]), ("B", B, [*out, rank])):
            if a.kind == "LORA" and shape and shape != asked:
                turned = ", transposed" * (shape[part == "A" :][:1] == [rank])
                what = f"{path}.lora_{part} has the shape {shape}{turned}, by config and base it is {asked}"
                yield BROKEN, f"{what}: {ONE_RUN}, {PIECE}"


def absences(a: Report) -> Said:
    """Layers without an adapter: what the config promises is in the base, or else in other blocks; the rest is bare."""
    bare: Counter[str] = Counter()  # by kind
    for name in sorted(a.known.keys() - a.places.values()) if a.parts else ():
        path, big = name.removesuffix(".weight"), len(a.known[name].get_shape()) > 1
        if big and path != name and not a.left_out(path) and (END.search(path) or not a.trained):  # else an own head
            yield absent(path)
        elif big and f"{PREFIX}{name}" not in a.others and not a.on("target_parameters"):
            bare[re.sub(r"^.*?\.\d+\.|\d+\.", "", path)] += 1
    if bare:
        kinds = ", ".join(f"{kind} ({count})" for kind, count in bare.items())
        yield NOTE, f"the base's {kinds} have no adapter: name them if they should learn, experts in target_parameters"
    targets, excluded = a.config.get("target_modules"), str(a.config.get("exclude_modules"))
    for target in targets if a.parts and not a.known and isinstance(targets, list) else ():
        if not any(named([target], path) for path in a.parts) and str(target) not in excluded:
            yield absent(target)
    blocks: dict[str, set[int]] = defaultdict(set)  # without a base: the numbers of the blocks of each kind of layer
    for match in filter(None, (re.fullmatch(r"(.*?\.)(\d+)(\..+)", path) for path in a.parts if not a.known)):
        blocks[f"{match[1]}{{}}{match[3]}"].add(int(match[2]))
    for kind, there in blocks.items():
        lost = {*range(min(there), max(there))} - there
        few = 2 * len(lost) <= len(there)  # else a hybrid, as of attention in some blocks
        yield from (absent(path) for path in map(kind.format, sorted(lost)) if few and not a.left_out(path))


def absent(path: str) -> tuple[str, str]:
    return ODD, f"the config promises an adapter of {path}, and the file has none: is it spelled so? {SAVE}"


def whole(a: Report) -> Said:
    """Heads, embeddings and biases that come whole, beside A and B: what settings promise against what is there."""
    modules = [f"{one} of modules_to_save" for one in a.config["modules_to_save"]]
    modules += [f"a head for {a.trained[0]}"] if a.trained and not modules else []
    asked = {one: HEAD.pattern if HEAD.search(one) else rf"{re.escape(one.split()[0])}\b" for one in modules}
    brought = {"trainable_token_indices": "tokens_delta", "bias": r"\.bias$"}
    asked |= {setting: pattern for setting, pattern in brought.items() if a.on(setting)}
    biased = any(re.sub("weight$", "bias", place or "") in a.known for place in a.places.values())
    for what, pattern in asked.items():
        if not any(re.search(pattern, name) for name in a.others) and (what != "bias" or biased):
            yield BROKEN, f"the config promises {what}, and the file lacks it: {ONE_RUN}"
    saved = [name for name in a.others if EMBEDDING.search(name)]  # PEFT adds both, if one is adapted or has grown
    for name, one in sorted(a.others.items(), key=lambda item: -item[1].nbytes) if a.parts else ():
        there = a.known.get(name.removeprefix(PREFIX))
        if there and one.is_floating_point() and one.numel() and list(one.shape) != there.get_shape():
            yield BROKEN, f"{name} is {list(one.shape)}, the base has {there.get_shape()}: {RESIZE}"
        if not any(re.search(pattern, name) for pattern in asked.values()):
            level = NOTE if name in saved and (len(saved) > 1 or "lm_head.weight" not in name) else ODD
            what = f"{name}, {one.nbytes / a.facts['bytes']:.0%} of its bytes, the base's or trained whole"
            yield level, f"the file holds {what}: name it in modules_to_save, if that is meant"


def updates(a: Report) -> Said:
    """What training leaves in no layer, and how large an update is."""
    same: dict[int, list[str]] = defaultdict(list)
    for layer in a.layers:
        A, B = (a.parts[path := layer.path][part].float() for part in "AB")
        if not A.flatten()[-A.numel() // 16 :].any() and not (B.any() and not (A.any() and B[:, -1].any())):
            yield BROKEN, f"A of {path} ends in zeros, and A starts at random, so its end was lost: take the file again"
        rows = [row.tobytes() for row in torch.cat([A, B.T], 1).numpy() if row.any()]
        if len(set(rows)) < len(rows):
            yield ODD, f"in {path} rows of A and columns of B repeat, {len(set(rows))} of {len(rows)} differ: {EARLIER}"
        same[hash(B.numpy().tobytes()) if B.any() else id(layer)].append(path)
        if not 1e-3 <= layer.scaling <= 100:
            yield ODD, f"s is {layer.scaling:.4g} in {path}, most have 0.25 to 4: write the training's alpha"
        if (layer.relative or 0) > 4 and not EMBEDDING.search(path) and not a.start.startswith(FAR):
            much = f"{layer.relative:.3g} times as large as its weight"
            yield ODD, f"the update of {path} is {much}: is alpha too large, or the base another?"
    for paths in same.values():
        if len(paths) > 1:
            yield ODD, f"B is the same, bit for bit, in {len(paths)} layers, {' and '.join(paths[:2])}: {EARLIER}"
    along = sorted(layer.along or 0 for layer in a.layers)[len(a.layers) // 2 :]
    if along and along[0] > 0.2 and not a.start.startswith(CHANGES_THE_BASE):
        yield ODD, f"updates point along their weights (cosine {along[0]:.2f}), as PiSSA starts: {CONVERT}"
