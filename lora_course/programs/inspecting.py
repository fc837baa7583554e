"""A doctor for adapters: is a folder in PEFT's format whole, has it learned, and what would a merge leave of it?

    lora-edu inspect ADAPTER [--base MODEL] [--text TEXT] [--for llama.cpp,vllm] [--json]

It compares what the config promises with what the file holds, and the numbers with what training leaves. With the base,
each update s B A is measured beside the weight W that it is added to. Nothing is unpickled, and no model is built.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from lora_course.programs import adapter_files as files
from lora_course.programs.adapter_files import BROKEN, CLOSED, DEAD, NOTE, ODD, OTHER, SAVE, Said
from lora_course.programs.adapter_report import END, LORA, PARTS, Finding, Report, measure, named
from lora_course.programs.clients import answers
from lora_edu.peft_io import CHANGES_THE_BASE, PREFIX

EMBEDDING = re.compile(r"\b(embed_tokens|lm_head|wte|shared|word_embeddings|embed_in|embed_out)\b")
HEAD = re.compile(r"\b(score|classifier|qa_outputs|(?!lm_)\w*head)\b")
FAR = ("false", *CHANGES_THE_BASE)  # starts that are not zero
CONVERT, RESIZE = "convert it, or give that base", "first base.resize_token_embeddings(rows)"
EARLIER, PIECE = "take the files before that", "or gather its pieces, or restore rank_pattern"
ONE_RUN = "take both files from one run, or save it again"
LOUD = 100  # layers of one adapter differ by a factor of ten or so
NONSENSE = 1e6  # the norm of a weight of 16384 x 16384 numbers of 0.1 is 1,638
MOVED = 1e-6  # the first step of Adam moves every entry of B by about the learning rate


def inspect_adapter(folder: str | Path, base: str | Path | dict | None = None, programs: Iterable[str] = ()) -> Report:
    """A report on an adapter, damaged or not.

    base: the folder or file with its weights, or these; ValueError for a bad one. programs: some of `clients.PROGRAMS`.
    """
    known = base if isinstance(base, dict) else files.read_base(Path(base)) if base else {}
    report = Report(Path(folder), known)
    alike: dict[tuple[str, str, str], list[str]] = defaultdict(list)  # what differs in names alone is one finding
    for level, said in examine(report):
        seen, _, advice = said.rpartition(": ")
        but_for_names = re.sub(r"\S*[\d._]\S*", "", seen)
        alike[level, but_for_names, advice].append(seen)
    for (level, _, advice), all_seen in alike.items():
        seen = all_seen[0] if len(all_seen) == 1 else f"{all_seen[0]}, one of {len(all_seen)}"
        report.findings.append(Finding(level, seen, advice))
    report.programs = {program: answers(report, program) for program in programs if report.parts}
    return report


def examine(a: Report) -> Said:
    """Reads, measures, and asks question after question."""
    try:
        a.read()
    except ValueError as error:
        yield CLOSED if "not opened" in str(error) else BROKEN, str(error)
        return
    for path in a.parts:
        measure(a, path)
    sizes = {name: tensor.nbytes for name, tensor in a.tensors.items()}
    a.facts |= {
        "s": ", ".join(sorted({f"{layer.scaling:.4g}" for layer in a.layers})),
        "types": ", ".join(sorted({str(tensor.dtype)[6:] for tensor in a.tensors.values()})),
        "bytes": sum(sizes.values()),
        "largest": "{}, {:,} bytes".format(*max(sizes.items(), key=lambda item: item[1])),
    }
    if a.kind != "LORA":
        yield OTHER, f"peft_type is {a.kind}: this doctor knows LORA, it looked at names and numbers only"
    elif not any(LORA.fullmatch(name) or files.unread(name) for name in a.tensors):
        yield BROKEN, f"no tensor belongs to LoRA, not {min(a.tensors)}: save the adapter, or find its config"
    for name in a.tensors:
        if why := files.unread(name):
            yield BROKEN, f"PEFT would not load {name}, {why}: {SAVE}"
    rows, tokens = len(a.tensors.get("prompt_embeddings", ())), a.config.get("num_virtual_tokens")
    if isinstance(tokens, int) and rows not in (0, tokens, 2 * tokens):  # an encoder's and a decoder's
        yield BROKEN, f"the config promises {tokens} num_virtual_tokens, and the file has {rows}: {ONE_RUN}"
    alike = [numbers, promises, absences, whole]
    for question in {"LORA": [settings, *alike, updates], "ADALORA": alike}.get(a.kind, [numbers]):
        yield from question(a)


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
        what = f"{kind} is {value:.3g} throughout" if abs(value) > MOVED else f"{kind} {nearly}"
        if flat and len(flat) == len(some):
            yield DEAD, f"{what}, in every layer, as at the start: did the optimizer have it? Save what was trained"
        elif flat and "lora" in kind:
            yield ODD, f"{what} in {len(flat)} of {len(some)} layers, such as {flat[0]}: was it frozen, or not used?"


def settings(a: Report) -> Said:
    """Does PEFT read each setting, and is there what it names?"""
    yield from files.refused(a.config)
    for name in sorted(files.DEFAULTS.keys() & a.lacking):
        yield NOTE, f"the config lacks {name}, and PEFT takes {files.DEFAULTS[name]}: write the training's"
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
            elif why or part not in wanted:
                reason = why or f"{PARTS[part]} is off"
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
                ranks = shape[1:2] if part == "A" else shape[:1]  # where the other one has it
                turned = ", transposed" if ranks == [rank] else ""
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
    targets = a.config.get("target_modules")
    for target in targets if a.parts and not a.known and isinstance(targets, list) else ():
        if not any(named([target], path) for path in a.parts) and not a.may_leave_out(str(target)):
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
            own = "PEFT adds it where an embedding is adapted or has grown" if level == NOTE else "if that is meant"
            yield level, f"the file holds {what}: {'' if level == NOTE else 'name it in modules_to_save, '}{own}"


def updates(a: Report) -> Said:
    """What training leaves in no layer, and how large an update is."""
    same: dict[int, list[str]] = defaultdict(list)
    loudness = sorted(layer.norm for layer in a.layers)
    for layer in a.layers:
        path, middle = layer.path, loudness[(len(loudness) - 1) // 2]
        if not layer.norm < NONSENSE:
            yield BROKEN, f"the update of {path} has the norm {layer.norm:.3g}, training diverged: take an earlier one"
        elif layer.norm > LOUD * middle > 0 and len(loudness) > 2 and not a.known and not EMBEDDING.search(path):
            much = f"{layer.norm / middle:.0f} times as large as that of half the layers"
            yield ODD, f"the update of {path} is {much}: was a number damaged, or its rate or alpha another?"
        A, B = (a.parts[path][part].float() for part in "AB")
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
        why = "as PiSSA starts, or as a base has them that holds them already"
        yield ODD, f"updates point along their weights (cosine {along[0]:.2f}), {why}: {CONVERT}"
