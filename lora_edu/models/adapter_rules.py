"""What the doctor for adapters knows: a list of small rules, each a level, what to look for, and what to do about it.

A rule looks at what `adapter_files` has read and yields what is wrong, in words; of each rule the first counts. The
order of RULES is the order in which the doctor asks, and so which finding names the verdict.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from math import inf, isfinite
from pathlib import Path

import torch

from lora_edu.models import adapter_files as files
from lora_edu.models import adapter_settings as settings
from lora_edu.models.adapter_files import BROKEN, DEAD, NOTE, ODD, OTHER, Adapter, Finding, Place
from lora_edu.models.adapter_settings import VERSION
from lora_edu.peft_io import CONFIG, WEIGHTS

Seen = Iterable[str]
Rule = tuple[str, Callable[[Adapter], Seen], str]  # a level, what to look for, what to do about it
LOUD = 4  # times the weight itself; with rsLoRA and a large alpha, once or twice happens
MOVED = 1e-6  # the first step of Adam moves every entry of B by about the learning rate

# --- rules that need more than a line ---------------------------------------------------------------------------------


def by(shape: Iterable[int]) -> str:
    return " x ".join(map(str, shape))


def counted(names: Iterable[str]) -> str:
    counts = Counter(names)
    return ", ".join(f"{name} ({count})" if len(counts) > 1 else str(name) for name, count in counts.items())


def when(condition: object, seen: str) -> list[str]:
    return [seen] if condition else []


def no_peft_type(a: Adapter) -> Seen:
    whose = next((f", it is {whose}" for key, whose in settings.OTHERS.items() if key in a.config), "")
    wrong = not a.kind or a.kind != str(a.kind).upper()
    return when(wrong, f"{CONFIG} has peft_type {a.kind!r}{whose}, and PEFT expects 'LORA'")


def missing(a: Adapter) -> Seen:
    """What A promises of B, or a setting of the file, and what is not there."""
    for path, parts in a.parts.items():
        wanted = ["A", "B", "magnitude_vector"] if a.config.get("use_dora") else ["A", "B"]
        yield from (f"{path} has no lora_{part}" for part in wanted if part not in parts)
    lost = [what for what, pattern in a.asked.items() if not any(re.search(pattern, name) for name in a.tensors)]
    heads = [head for head in settings.HEADS if head in a.asked]  # PEFT asks for both, and a model has one
    others = [what for what in lost if what not in ["bias", *heads]]
    if heads and set(heads) <= set(lost):
        had = [head for head in heads if any(f".{head}." in f".{name}" for name in a.known)]
        others.append(" or ".join(had or heads))
    yield from (f"{what} is asked for, and not in the file" for what in others)


def unasked(a: Adapter) -> Seen:
    """What the file has and the config does not ask for, though only a setting brings it."""
    for setting in ("use_dora", "lora_bias", "trainable_token_indices"):
        brought = [name for name in a.tensors if re.search(files.BROUGHT[setting], name)]
        if brought and setting not in a.asked:
            yield f"{setting} is off, and the file has {brought[0]}"
    for path in a.pairs:
        if not settings.of_all_experts(a.config, path) and (why := settings.passed_by(a.config, path)):
            yield f"{why} {path}"


def misfits(a: Adapter) -> Seen:
    """Shapes that do not agree with each other, or with the rank of the config."""
    for path, parts in a.parts.items():
        if {"A", "B"} <= parts.keys() and path not in a.pairs:
            A, B = (a.tensors[parts[part]].shape for part in "AB")
            why = "hold a matrix for each expert, PEFT has one" if len(A) == 3 else "rows of A must be columns of B"
            if len(A) == len(B) == 2 and A[0] < B[1] == a.config.get("r"):
                why = f"{A[0]} of {B[1]} rows of A, as in one piece of FSDP's that was not gathered"
            yield f"{path}: {shapes(A, B)}, {why}"
    for path, (A, B) in a.pairs.items() if settings.EXPECTED["r"][0](a.config.get("r")) else ():
        rank = settings.by_pattern(a.config, "rank_pattern", path, "r")
        all_experts = settings.of_all_experts(a.config, path)
        right = rank and len(A) % rank == 0 if all_experts else len(A) == rank
        if not right:
            yield f"{path}: the config gives rank {rank}, and {shapes(A.shape, B.shape)}"
        if name := a.parts[path].get("magnitude_vector"):
            count, rows = a.tensors[name].numel(), A.shape[1] if "embedding" in a.parts[path]["A"] else len(B)
            yield from when(count != rows, f"{path}: DoRA's magnitude has {count} numbers and not {rows}")
    tokens = a.config.get("trainable_token_indices")
    for module, chosen in (tokens if isinstance(tokens, dict) else {"": tokens}).items():
        for name, delta in a.tensors.items() if isinstance(chosen, list) else ():
            if f"{module}.t" in name and "trainable_tokens_delta" in name and delta.shape[:1] != (len(chosen),):
                yield f"{name} is {by(delta.shape)}, for {len(chosen)} tokens of trainable_token_indices"


def shapes(A: Sequence[int], B: Sequence[int]) -> str:
    """In words, and whether they are as if transposed: their smaller sides agree, and do not meet."""
    turned = len(A) == len(B) == 2 and min(A) == min(B) and (A[0] > A[1] or B[1] > B[0])
    return f"A is {by(A)} and B is {by(B)}{', as if transposed' if turned else ''}"


def place_of(a: Adapter, name: str) -> Place | None:
    """The base's weight that a tensor is loaded over."""
    return next((place for other, place in a.known.items() if f".{files.plain(name)}".endswith(f".{other}")), None)


def unasked_whole(a: Adapter) -> dict[str, str]:
    """Tensors that no setting brings, and whose they are; PEFT itself adds embedding and head."""
    names = [name for name in a.whole if not any(re.search(pattern, name) for pattern in a.asked.values())]
    embeddings = [name for name in a.whole if files.EMBEDDING.search(name)]
    if len(embeddings) == 1 and ".lm_head.weight" in embeddings[0]:
        embeddings = []  # PEFT adds both, if tokens were added or one of them is adapted
    return {name: "embedding or head" if name in embeddings else origin(a, name) for name in names}


def origin(a: Adapter, name: str) -> str:
    """Whether a tensor is as in the base; where that is not here, a head of a task was trained."""
    place, tensor = place_of(a, name), a.whole[name]
    same = place and (place.in_codes or torch.equal(place.read().to(tensor.dtype), tensor))
    return "the base's" if same or not (a.known or files.HEAD.search(name)) else "trained"


def share(a: Adapter, whose: str) -> Seen:
    names = [name for name, one in unasked_whole(a).items() if one == whose]
    if a.lora and names:
        part = sum(a.tensors[name].nbytes for name in names) / sum(one.nbytes for one in a.tensors.values())
        most = max(names, key=lambda name: a.whole[name].nbytes)
        yield f"{part:.0%} of the bytes are {whose}, in {len(names)}: {most} ({by(a.whole[most].shape)}) is largest"


def lost_head(a: Adapter) -> Seen:
    task, whole = a.config.get("task_type"), [name for name in a.whole if not files.EMBEDDING.search(name)]
    lost = task in settings.WITH_HEAD and not whole and not a.config.get("modules_to_save")
    return when(lost, f"task_type is {task}, and its head is not in the file, so it starts at random")


def moved_base(a: Adapter) -> Seen:
    again = "and PEFT repeats that at each load" if a.start in settings.REPEATED else "and no load repeats that"
    return when(a.start, f"it started with {a.start}, which moves the base, {again}; as plain LoRA it is another model")


def patterns_for_nothing(a: Adapter) -> Seen:
    kinds = {path.rpartition(".")[-1] for path in a.pairs}
    for name in ("rank_pattern", "alpha_pattern") if not a.config.get("target_parameters") else ():
        for key in a.config[name] if isinstance(a.config.get(name), dict) else ():
            if not any(settings.fits(key, path) for path in a.pairs):
                yield f"{name} names {key}, and no adapted layer is called so{settings.meant(key, kinds)}"


def empty_targets(a: Adapter) -> Seen:
    """What target_modules names, and the file has no tensor of: as far as the base is known, only what it has, too."""
    found = {files.unquantized(layer.place.name) for layer in a.layers if layer.place}
    for name, place in a.known.items():
        path = name.removesuffix(".weight")
        adapted = name in found or any(f".{one}".endswith(f".{path}") for one in a.parts)
        if a.parts and not adapted and path != name and len(place.shape) > 1 and not settings.passed_by(a.config, path):
            yield f"{path} of the base is a target, and has no adapter"
    kinds, around = {path.rpartition(".")[-1] for path in a.pairs}, {path.rpartition(".")[0] for path in a.pairs}
    for target in a.list_of("target_modules") if a.pairs else ():
        adapted = any(f".{path}".endswith(f".{target}") for path in a.parts)
        excluded = any(settings.names(a.config, "exclude_modules", f"{outer}.{target}") for outer in around)
        if not adapted and not excluded and (not a.known or settings.meant(target, kinds)):
            yield f"no tensor belongs to the target {target}{settings.meant(target, kinds)}"


def blocks_left_out(a: Adapter) -> Seen:
    """Some blocks with less than another, though no setting leaves that out. A hybrid's have each something else."""
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for match in filter(None, map(files.NUMBERED.match, a.pairs)):
        stacks[match["stack"]][int(match["number"])].add(match["kind"])
    for stack, blocks in stacks.items() if not a.config.get("layer_replication") and not a.known else ():
        lost = {}
        for number in range(min(blocks), max(blocks) + 1):
            have = blocks.get(number, set())
            less = sorted({kind for more in blocks.values() if have < more for kind in more - have})
            if less := [kind for kind in less if not settings.passed_by(a.config, f"{stack}.{number}.{kind}")]:
                lost[number] = less[0]
        if lost and 2 * len(lost) < max(blocks) + 1 - min(blocks):  # else attention may be in each fourth block only
            which = f"{', '.join(map(str, lost))} of {min(blocks)} to {max(blocks)}"
            yield f"no adapter in {stack} {which}, such as {lost[min(lost)]}, and no setting leaves that out"


def one_piece(a: Adapter) -> Seen:
    """Of matrices that several processes shared, what one of them had, and zeros in the rows of others."""
    cut = [path for path, (_, B) in a.pairs.items() if len(B) > 3 and B.any() and not B[-(len(B) // 4) :].any()]
    if 2 * len(cut) > len(a.pairs):
        yield f"the last rows of B are zero in {len(cut)} of {len(a.pairs)} layers, as where other pieces are lost"


def zeros_at_the_end(a: Adapter) -> Seen:
    """A download that reserved its place and stopped leaves zeros in A, where training leaves none."""
    for path, (A, B) in a.pairs.items():
        if not A.flatten()[-A.numel() // 16 :].any() and (A.any() or not B.any()):
            yield f"A of {path} {'ends in zeros' if A.any() else 'is zero as well as B, and A starts at random'}"


def never_moved(a: Adapter, everywhere: bool) -> Seen:
    sizes = {path: sorted(a.largest[a.parts[path][part]] for part in "AB") for path in a.pairs}
    zero = [path for path, (less, more) in sizes.items() if less == 0 < more]
    hardly = [path for path, (less, _) in sizes.items() if 0 < less < MOVED]
    for what, paths in (("is zero, as at the start", zero), ("has hardly moved", hardly)):
        if paths and everywhere == (len(paths) == len(a.pairs)):
            where = "every layer" if everywhere else f"{len(paths)} of {len(a.pairs)} layers, such as {paths[0]},"
            yield f"in {where} B (or A) {what}"


# --- with the base ----------------------------------------------------------------------------------------------------


def path_that_is_gone(a: Adapter) -> Seen:
    named = str(a.config.get("base_model_name_or_path") or "")
    gone = re.match(r"[/\\.~]|([^/\\]+[/\\]){2}.", named) and not Path(named).expanduser().exists()
    return when(gone, f"the config names the base {named}, a path that is not here")


def beside_another(a: Adapter) -> Seen:
    """Layers that the base does not have, or has in another shape; a head may be tied, a pooler new for the task."""
    for layer in a.layers if a.base else ():
        if layer.place is None and files.NUMBERED.match(layer.path):
            yield f"the base has no {layer.path}.weight"
        elif layer.place and not layer.fits:
            yield f"{layer.path} wants {layer.out_features} x {layer.in_features}, the base has {by(layer.place.shape)}"


def larger_than_the_weight(a: Adapter) -> Seen:
    """Not of embeddings, whose few trained rows go far from small entries, nor where training starts far from zero."""
    loud = [layer for layer in a.layers if (layer.relative or 0) > LOUD and "embedding" not in a.parts[layer.path]["A"]]
    if loud and a.config.get("init_lora_weights") is not False and not a.start:
        most = max(loud, key=lambda layer: layer.relative)
        where = f"in {len(loud)} of {len(a.layers)} layers the update is far larger than its weight"
        yield f"{where}, {most.relative:.3g} times in {most.path}"


def other_shapes(a: Adapter) -> Seen:
    """Tensors that are saved whole, and the base has in another shape."""
    for name, tensor in a.whole.items() if a.base else ():
        if (there := place_of(a, name)) and list(tensor.shape) != there.shape:
            yield f"{name} is saved as {by(tensor.shape)}, the base has {by(there.shape)}"


def bare(a: Adapter) -> Seen:
    """The matrices of the base that have no adapter, by kind."""
    whole = [files.plain(name).removesuffix(".weight") for name in a.tensors if ".lora_" not in name]
    adapted = {files.of_experts(path) for path in (*a.pairs, *whole, *a.list_of("target_parameters"))}
    paths = [files.of_experts(name) for name, place in a.known.items() if a.base and len(place.shape) > 1]
    paths = [path for path in paths if not any(path.endswith(one) or f".{one}".endswith(f".{path}") for one in adapted)]
    kinds = counted(re.sub(r"\.\d+\.", ".*.", re.sub(r"^.*?\.\d+\.", "", path)) for path in paths)
    return when(kinds, f"matrices of the base have no adapter: {kinds}")


# --- the list ---------------------------------------------------------------------------------------------------------

SAVE, ALPHA = "save it again with save_pretrained", "write the alpha of the training"

# fmt: off
OF_ANOTHER_METHOD: list[Rule] = [  # where one of these speaks, the others are not asked
    (BROKEN, no_peft_type, f"correct it, or {SAVE}"),
    (OTHER, lambda a: when(a.kind and str(a.kind).upper() != "LORA", f"peft_type is {a.kind}, this doctor knows LORA"),
        "PEFT may load it, if it knows that name"),
    (OTHER, lambda a: when(a.config.get("use_bdlora"), "use_bdlora cuts A and B into blocks"), "PEFT may load it"),
]
RULES: list[Rule] = [
    # would PEFT read the config, and find the tensors?
    (BROKEN, lambda a: when(a.encoding != "utf-8",
        f"{CONFIG} is in {a.encoding.upper()} with a mark (BOM), and PEFT stops at that"), "save it as plain UTF-8"),
    (BROKEN, lambda a: (f"{name}, one of {len(a.tensors) - len(a.largest)}, has no numbers, as in pieces of ZeRO-3"
        for name in a.tensors if name not in a.largest), "gather them before saving"),
    (BROKEN, lambda a: files.whose_names(list(a.tensors)), SAVE),
    (BROKEN, lambda a: when(not a.lora, f"no tensor belongs to LoRA, not {min(a.tensors)}"),
        "save the adapter, not the model around it; or is the config of another run?"),
    (ODD, lambda a: share(a, "the base's"), "it is loaded over yours, save with save_pretrained"),
    (ODD, lambda a: (f"{name} was trained whole, and the config's modules_to_save does not say so"
        for name, whose in unasked_whole(a).items() if whose == "trained" and a.lora), "name it there"),
    (ODD, lambda a: (f"{name} holds the adapter's name, so PEFT loads it under the name default only"
        for name, match in a.lora.items() if match["adapter"] == ".default"), SAVE),
    # are they numbers?
    (BROKEN, lambda a: (f"{name} is {files.type_name(a.tensors[name])}, and A and B have fractions"
        for name in a.lora if not a.tensors[name].is_floating_point()), "save the adapter before quantizing"),
    (BROKEN, lambda a: (f"{name} holds NaN or infinity" for name, value in a.largest.items() if not isfinite(value)),
        "training diverged, take an earlier checkpoint"),
    (BROKEN, lambda a: (f"{name} is no matrix, as in the pieces of ZeRO or FSDP" for name in a.factors
        if a.tensors[name].ndim < 2), "gather them before saving"),
    (BROKEN, zeros_at_the_end, "a download, conversion or gathering lost it, take the file again"),
    (BROKEN, one_piece, "gather all pieces before saving"),
    (ODD, lambda a: (f"{name} is {files.type_name(a.tensors[name])}, and precision is lost" for name in a.factors
        if a.tensors[name].is_floating_point() and a.tensors[name].element_size() == 1),
        "save it again in bfloat16 or float32"),
    (ODD, lambda a: (f"{name} holds numbers as large as {a.largest[name]:.3g}" for name in a.factors
        if 100 < a.largest.get(name, 0) < inf and a.tensors[name].is_floating_point()),
        "did training diverge? Take an earlier checkpoint"),
    # does PEFT know the words of the config, and does the file keep their promises?
    (BROKEN, lambda a: settings.unexpected(a.config), "write what PEFT expects"),
    (BROKEN, lambda a: when(a.config.get("enable_lora"), "enable_lora is a setting of PEFT before 0.3, which is gone"),
        "no PEFT of today can load it, convert it or train again"),
    (BROKEN, misfits, "take both files from one run; A is (rank, in), B (out, rank)"),
    (BROKEN, missing, f"{SAVE}, or take both files from one run"),
    (BROKEN, unasked, "PEFT would pass by it, take both files from one run"),
    (ODD, lambda a: (f"the config sets {key}, and PEFT passes by{near}"
        for key, near in settings.unknown(a.config).items() if near), "correct it"),
    (ODD, patterns_for_nothing, "it changes nothing, correct or remove it"),
    (ODD, empty_targets, "spell it as in print(model), or save the adapter whole"),
    (ODD, blocks_left_out, "is the file cut short?"),
    (ODD, lost_head, "if the base does not bring it, name it in modules_to_save and train again"),
    (ODD, moved_base, "convert it with path_initial_model_for_weight_conversion, or give the start's base"),
    # has it learned, and how loud is it?
    (DEAD, lambda a: never_moved(a, everywhere=True), "did the optimizer have them, were they on when saved?"),
    (DEAD, lambda a: when(a.config.get("lora_alpha") == 0, "lora_alpha is 0, so the adapter adds nothing"), ALPHA),
    (ODD, lambda a: never_moved(a, everywhere=False), "no gradient came there, was it frozen, or not used?"),
    (ODD, lambda a: (f"s is {layer.scaling:.4g} in {layer.path}, most adapters have 0.25 to 4"
        for layer in a.layers if layer.scaling and not 1e-3 <= layer.scaling <= 100), ALPHA),
    # is this its base?
    (BROKEN, other_shapes, "are there more tokens? First base.resize_token_embeddings(rows)"),
    (BROKEN, beside_another, "it was trained beside another model, name that"),
    (ODD, lambda a: (f"the base calls {layer.path} {layer.place.name}" for layer in a.layers
        if layer.place and not f".{layer.path}.weight".endswith(f".{files.unquantized(layer.place.name)}")),
        "PEFT finds it only where both are called alike, load the class of the training"),
    (ODD, larger_than_the_weight, "is alpha too large, or another base meant?"),
    # what harms nobody
    (NOTE, lambda a: (f"the config sets {key}, which PEFT {VERSION} passes by"
        for key, near in settings.unknown(a.config).items() if not near), "upgrade, if a newer PEFT wrote it"),
    (NOTE, lambda a: share(a, "embedding or head"), "PEFT adds embedding and head, if one is adapted or has grown"),
    (NOTE, bare, "name them if they should learn, too; experts by target_parameters"),
    (NOTE, lambda a: (f"the base has no {name} of its own, it is tied to another" for name in a.tied),
        "a merge changes both, or loses one: set tie_word_embeddings to False first"),
    (NOTE, lambda a: (f"the base holds {layer.place.name} in codes ({layer.place.dtype})" for layer in a.layers
        if layer.place and layer.place.in_codes), "measure beside the unquantized one"),
    (NOTE, lambda a: when(not a.config.get("base_model_name_or_path"), "the config names no base"),
        "write base_model_name_or_path, nobody else knows it"),
    (NOTE, path_that_is_gone, "write its public name"),
    (NOTE, lambda a: when((Path(str(a.config.get("base_model_name_or_path"))) / CONFIG).is_file(),
        "the base that the config names is an adapter itself"), "merge that one first, and name the merged model"),
    (NOTE, lambda a: when((a.folder / "adapter_model.bin").exists(), f"adapter_model.bin lies beside {WEIGHTS}"),
        "PEFT reads the latter, and so does this report"),
]
# fmt: on


def findings(a: Adapter, rules: list[Rule]) -> list[Finding]:
    """Of each rule the first word."""
    asked = ((level, next(iter(seen(a)), None), advice) for level, seen, advice in rules)
    return [Finding(level, seen, advice) for level, seen, advice in asked if seen]
