"""What the doctor for adapters knows: a list of small rules, each a level, what to look for, and what to do about it.

A rule yields what is wrong, in words; of each rule the first counts, and of the worst level the first rule.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from math import inf, isfinite, isinf, prod
from pathlib import Path

import torch

from lora_edu.checks import is_real
from lora_edu.models import adapter_files as files
from lora_edu.models import adapter_settings as settings
from lora_edu.models.adapter_files import BROKEN, DEAD, NOTE, ODD, OTHER, Adapter, by, counted, when
from lora_edu.models.adapter_settings import VERSION, ends
from lora_edu.peft_io import CONFIG, WEIGHTS
from lora_edu.tensor_files import fingerprint

Seen = Iterable[str]
Rule = tuple[str, Callable[[Adapter], Seen], str]  # a level, what to look for, what to do about it
LOUD, OUTLIER = 4, 100  # times the weight itself, or the median layer; in one step of SGD 18 times happens
ALONG = 0.2  # the cosine of an update with its weight
MOVED = 1e-6  # the first step of Adam moves every entry of B by about the learning rate


def no_peft_type(a: Adapter) -> Seen:
    kind, whose = a.config.get("peft_type"), (whose for key, whose in settings.OTHERS.items() if key in a.config)
    said = f"{CONFIG} has peft_type {kind!r}{', it is '.join(['', *whose])}, and PEFT expects 'LORA'"
    return when(not kind or kind != str(kind).upper(), said)


def promises(a: Adapter) -> Seen:
    """What A promises of B, or a setting of the file, and is not there; what is there, though no setting brings it."""
    for path, parts in a.parts.items():
        wanted = ["A", "B", "magnitude_vector"] if a.config.get("use_dora") else ["A", "B"]
        yield from (f"{path} has no lora_{part}" for part in wanted if part not in parts)
    lost = [what for what, pattern in a.asked.items() if not any(re.search(pattern, name) for name in a.tensors)]
    heads = [head for head in settings.HEADS if head in a.asked]  # PEFT asks for both, and a model has one
    others = [what for what in lost if what not in ["bias", *heads]]
    others += [" or ".join(heads)] if heads and set(heads) <= set(lost) else []
    brought = {files.plain(name) for name in a.tensors}
    for layer in a.layers if "bias" in a.asked else ():
        had = layer.place and re.sub(r"weight$", "bias", files.unquantized(layer.place.name)) in a.known
        others += [f"the bias of {layer.path}"] if had and f"{layer.path}.bias" not in brought else []
    for what in others:
        whose = " of modules_to_save" if what in a.list_of("modules_to_save") else ""
        yield f"{what}{whose} is asked for, and not in the file"
    for setting in ("use_dora", "lora_bias", "trainable_token_indices"):
        names = [name for name in a.tensors if re.search(files.BROUGHT[setting], name)]
        yield from (f"{setting} is off, and the file has {name}" for name in names if setting not in a.asked)
    for path in a.pairs:
        if not settings.of_all_experts(a.config, path) and (why := settings.passed_by(a.config, path)):
            yield f"{why} {path}, PEFT passes by it{', was target_parameters lost?' if '.experts' in path else ''}"


def misfits(a: Adapter) -> Seen:
    """Shapes that do not agree with each other, with the rank of the config, or with the base's experts."""
    experts = next((a.model[name] for name in settings.EXPERTS if name in a.model), None)
    several = len({len(A) for A, _ in a.pairs.values()}) > 1  # ranks
    for path, parts in a.parts.items() if settings.EXPECTED["r"].holds(a.config.get("r")) else ():
        A, B = (a.tensors[parts[part]].shape if part in parts else () for part in "AB")
        turned = len(A) == len(B) == 2 and min(A) == min(B) and (A[0] > A[1] or B[1] > B[0])
        both = f"{path}: A is {by(A)} and B is {by(B)}{', as if transposed' if turned else ''}"
        if path in a.pairs:
            rank, rows = settings.by_pattern(a.config, "rank_pattern", path, "r"), len(a.pairs[path][0])
            right, each = rows == rank, ", was rank_pattern or target_parameters lost?" if several else ""
            if settings.of_all_experts(a.config, path):  # there rank_pattern names parameters, not paths
                ranks = filter(is_real, (rank, *dict(a.config.get("rank_pattern") or {}).values()))
                many = experts if ".experts" in path else None
                right = any(rows == one * many if many else one and rows % one == 0 for one in ranks)
                each = f" for each of the base's {many} experts" if many else ""
            yield from when(not right, f"{both}, the config gives rank {rank}{each}")
        elif A and B:
            piece = ", as in one piece of FSDP's" if len(B) == 2 and A[0] < B[1] == a.config["r"] else ""
            yield f"{both}, rows of A must be columns of B{piece}"
    tokens = a.config.get("trainable_token_indices")
    for module, chosen in (tokens if isinstance(tokens, dict) else {"": tokens}).items():
        for name, delta in a.tensors.items() if isinstance(chosen, list) else ():
            if f"{module}.t" in name and "trainable_tokens_delta" in name and delta.shape[:1] != (len(chosen),):
                yield f"{name} is {by(delta.shape)}, for {len(chosen)} tokens of trainable_token_indices"


def unasked_whole(a: Adapter, embeddings: bool) -> Seen:
    """Whole tensors that no setting brings. PEFT adds embedding and head, both, if one is adapted or has grown."""
    added = [name for name in a.whole if files.EMBEDDING.search(name)]
    added = [] if len(added) == 1 and ".lm_head.weight" in added[0] else added
    names = [name for name in a.whole if not any(re.search(pattern, name) for pattern in a.asked.values())]
    names = [name for name in names if (name in added) == embeddings]
    if a.lora and names:
        part = sum(a.whole[name].nbytes for name in names) / sum(one.nbytes for one in a.tensors.values())
        most = max(names, key=lambda name: a.whole[name].nbytes)
        what = "embedding or head" if embeddings else "the base's, or trained whole, and not in modules_to_save"
        yield f"{part:.0%} of the bytes are {what}, in {len(names)}: {most} ({by(a.whole[most].shape)}) is largest"


def other_task(a: Adapter) -> Seen:
    """task_type against the class of the base, against layers of an encoder and a decoder, and without its head."""
    task, classes = a.config.get("task_type"), ", ".join(a.model.get("architectures") or [])
    paths, parts = [*a.pairs, *a.known], ("encoder", "decoder", "vision")
    stacks = {part for part in parts if any(f".{part}" in f".{path}" for path in paths)}
    if re.search(settings.UNFIT.get(str(task), "(?!)"), classes):
        yield f"task_type is {task}, and the base is a {classes}"
    if task == "CAUSAL_LM" and (a.model.get("is_encoder_decoder") or stacks == {"encoder", "decoder"}):
        yield f"task_type is {task}, and the base has an encoder and a decoder"
    no_head = not a.config.get("modules_to_save") and all(map(files.EMBEDDING.search, a.whole))
    trained_as = settings.with_head(a.config)
    yield from when(no_head and trained_as, f"it was trained for {trained_as}, and its head is not in the file")


def moved_base(a: Adapter) -> Seen:
    """A start that took A and B out of the base: by the config, or by an update along its own weight."""
    if a.start:
        again = "PEFT repeats" if a.start in settings.REPEATED else "no load repeats"
        yield f"it started with {a.start}, which moves the base, and {again} that; as plain LoRA it is another model"
    elif 2 * len(along := [layer for layer in a.layers if (layer.along or 0) > ALONG]) > len(a.layers):
        most = max(along, key=lambda layer: layer.along)
        yield f"the update points along its weight, as PiSSA and OLoRA start (cosine {most.along:.2f} in {most.path})"


def left_out(a: Adapter) -> Seen:
    """What the config names, and the file has no tensor of: in the base, or else in blocks with less than another."""
    found = {files.unquantized(layer.place.name) for layer in a.layers if layer.place}
    ours = (item for item in a.known.items() if not settings.with_head(a.config) or files.NUMBERED.match(item[0]))
    for name, place in ours:  # the class of the training has another head than the base
        path = name.removesuffix(".weight")
        adapted = name in found or any(ends(one, path) for one in a.parts)
        if a.parts and not adapted and path != name and len(place.shape) > 1 and not settings.passed_by(a.config, path):
            yield f"{path} of the base is a target, and has no adapter"
    kinds, around = {path.rpartition(".")[-1] for path in a.pairs}, {path.rpartition(".")[0] for path in a.pairs}
    for target in a.list_of("target_modules") if a.pairs else ():
        adapted = any(ends(path, target) for path in a.parts)
        excluded = any(settings.names(a.config, "exclude_modules", f"{outer}.{target}") for outer in around)
        if not adapted and not excluded and (not a.known or settings.meant(target, kinds)):
            yield f"no tensor belongs to the target {target}{settings.meant(target, kinds)}"
    for name in ("rank_pattern", "alpha_pattern") if not a.config.get("target_parameters") else ():
        for key in a.config[name] if isinstance(a.config.get(name), dict) else ():
            if not any(settings.fits(key, path) for path in a.pairs):
                yield f"{name} names {key}, and no adapted layer is called so{settings.meant(key, kinds)}"
    stacks: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for match in filter(None, map(files.NUMBERED.match, a.pairs)):
        stacks[match["stack"]][int(match["number"])].add(match["kind"])
    for stack, blocks in stacks.items() if not a.config.get("layer_replication") and not a.known else ():
        kinds, every = sorted(set().union(*blocks.values())), range(min(blocks), max(blocks) + 1)
        more = ((number, kind) for kind in kinds[::-1] for number in every if kind not in blocks.get(number, ()))
        lost = {number: kind for number, kind in more if not settings.passed_by(a.config, f"{stack}.{number}.{kind}")}
        if lost and 2 * len(lost) < len(every):  # else a hybrid, with attention in each fourth block only
            where = f"{stack} {', '.join(map(str, sorted(lost)))} of {every[0]} to {every[-1]}"
            yield f"no adapter in {where}, such as {lost[min(lost)]}"


def constant(a: Adapter) -> Seen:
    """Kinds of tensors with one number throughout, in every layer. Zeros of A or B have rules of their own."""
    kinds: dict[str, list[torch.Tensor]] = defaultdict(list)
    for name, one in a.tensors.items():
        of_a_method = name in a.lora or not re.search(r"\.(weight|bias)$|trainable_tokens", name)
        if one.numel() > 16 and (of_a_method or (one.ndim > 1 and name in a.whole)):
            kinds[name.removesuffix(".weight").rpartition(".")[-1]].append(one.flatten())
    for kind, some in kinds.items():
        if all((one == some[0][0]).all() for one in some) and (some[0][0] or not a.pairs or "lora_" not in kind):
            yield f"{kind} is {some[0][0].item():.3g} throughout, in {len(some)} tensors"


def repeated(a: Adapter) -> Seen:
    """The same A or B in several layers, or rows of A that others make up. Few steps leave few directions in B only."""
    # EVA gives layers of one input the same A; MiCA and orthogonal start with few rows; PiSSA, converted, cancels some
    for part in "AB" if a.config.get("init_lora_weights") != "eva" else "B":
        same: dict[str, list[str]] = defaultdict(list)
        for path in a.pairs:
            if 0 < a.largest[name := a.parts[path][part]] < inf and a.tensors[name].numel() > 16:
                same[fingerprint([a.tensors[name]])].append(path)
        most = max(same.values(), key=len, default=[])
        which = f"{part} is the same, bit for bit, in {len(most)} of {len(a.pairs)} layers, {' and '.join(most[:2])}"
        yield from when(len(most) > 1, which)
    low = []
    for layer in a.layers if a.config.get("init_lora_weights") not in ("mica", "orthogonal") else ():
        (A, B), half = a.pairs[layer.path], layer.rank // 2
        converted = (B[:, :half] + B[:, half : 2 * half]).norm() < B.norm() / 2
        if (layer.independent or layer.rank) < min(A.any(1).sum(), A.shape[1]) and not converted:
            low.append(f"in {layer.path} A has {layer.independent} different rows of {layer.rank}, others repeat them")
    yield from low[:1] if 2 * len(low) > len(a.layers) else ()


def zeros_at_the_end(a: Adapter) -> Seen:
    """A download that stopped leaves zeros in A, where training leaves none; lost pieces leave zeros in most B."""
    cut = []
    for path, (A, B) in a.pairs.items():
        right = A.flatten()[-A.numel() // 16 :].any() or (B.any() and not (A.any() and B[:, -1].any()))  # e.g. padded
        if not right:
            yield f"A of {path} {'ends in zeros' if A.any() else 'is zero as well as B, and A starts at random'}"
        cut += [path] if len(B) > 3 and B.any() and not B[-(len(B) // 4) :].any() else []
    lost = f"the last rows of B are zero in {len(cut)} of {len(a.pairs)} layers, as where pieces are lost"
    yield from when(2 * len(cut) > len(a.pairs), lost)


def never_moved(a: Adapter, everywhere: bool) -> Seen:
    yield from when(everywhere and a.config.get("lora_alpha") == 0, "lora_alpha is 0, so the adapter adds nothing")
    sizes = {path: sorted(a.largest[a.parts[path][part]] for part in "AB") for path in a.pairs}
    still = {path: less for path, (less, more) in sizes.items() if less < MOVED and more}
    if still and everywhere == (len(still) == len(a.pairs)):
        where = "every layer" if everywhere else f"{len(still)} of {len(a.pairs)} layers, such as {min(still)},"
        yield f"in {where} B (or A) {'has hardly moved' if max(still.values()) else 'is zero, as at the start'}"


def named_base(a: Adapter) -> Seen:
    named = str(a.config.get("base_model_name_or_path") or "")
    yield from when(not named, "the config names no base, and nobody else knows it")
    yield from when(named and Path(named, CONFIG).is_file(), f"the base {named} is an adapter itself")
    gone = re.match(r"[/\\.~]|([^/\\]+[/\\]){2}.", named) and not Path(named).expanduser().exists()
    yield from when(gone, f"the config names the base {named}, a path that is not here")


def beside_another(a: Adapter) -> Seen:
    """Layers that the base does not have, or has in another shape; a head may be tied, a pooler new for the task."""
    for layer in a.layers if a.base else ():
        if layer.place is None and (numbered := files.NUMBERED.match(layer.path)):
            first = f"{numbered['stack']}.0.{numbered['kind']}.weight" in a.known
            yield f"the base has no {layer.path}.weight{', but that of block 0: is layer_replication lost?' * first}"
        elif layer.place and not layer.fits:
            wants, there = (layer.out_features, layer.in_features), layer.place.shape
            piece = prod(there) / prod(wants) in (2, 4, 8) and set(wants) & set(there)
            more = f", {prod(there) // prod(wants)} times as much: is it one piece of a tensor-parallel run?"
            yield f"{layer.path} wants {by(wants)}, the base has {by(there)}{more if piece else ''}"


def larger_than_the_weight(a: Adapter) -> Seen:
    """Not of embeddings, whose few trained rows go far from small entries, nor where training starts far from zero."""
    for layer in sorted((one for one in a.layers if one.norm > 0), key=lambda one: one.norm)[-1:]:
        alike = sorted(one.norm for one in a.layers if one.path.split(".")[-1] == layer.path.split(".")[-1])
        if len(alike) > 2 and layer.norm > OUTLIER * alike[len(alike) // 2] > 0:
            yield f"{layer.path} is {layer.norm / alike[len(alike) // 2]:.0f} times as loud as most of its kind"
    loud = [layer for layer in a.layers if (layer.relative or 0) > LOUD and "embedding" not in a.parts[layer.path]["A"]]
    if loud and a.config.get("init_lora_weights") is not False and not a.start:
        most = max(loud, key=lambda layer: layer.relative)
        times = f"{most.relative:.3g} times in {most.path}"
        yield f"in {len(loud)} of {len(a.layers)} layers the update is far larger than its weight, {times}"


def other_vocabulary(a: Adapter) -> Seen:
    """Whole tensors in another shape than the base's; tokens, the tokenizer's or chosen ones, beyond its embedding."""
    for name, tensor in a.whole.items() if a.base else ():
        there = next((place for one, place in a.known.items() if ends(files.plain(name), one)), None)
        if there and list(tensor.shape) != there.shape and tensor.numel() and tensor.is_floating_point():
            yield f"{name} is saved as {by(tensor.shape)}, the base has {by(there.shape)}"
    brought = [len(one) for name, one in a.whole.items() if files.EMBEDDING.search(name) and one.ndim > 1]
    rows = brought or [place.shape[0] for name, place in a.known.items() if files.EMBEDDING.search(f".{name}")]
    chosen = map(int, re.findall(r"\b\d+\b", str(a.config.get("trainable_token_indices"))))
    ids = {"the tokenizer beside it": files.largest_token(a.folder), "trainable_token_indices": max(chosen, default=-1)}
    for whose, largest in ids.items() if rows else ():
        yield from when(largest >= max(rows), f"{whose} goes to token {largest}, the embedding has {max(rows)} rows")


def tied(a: Adapter) -> Seen:
    brought = {files.plain(name): one for name, one in a.whole.items() if files.EMBEDDING.search(name)}
    equal = len(brought) == 2 and torch.equal(*map(torch.Tensor.float, brought.values()))
    same = f", here they {'are equal' if equal else 'differ'}" if len(brought) == 2 else ""
    names = [*brought, *(f"{path}.weight" for path in a.pairs if files.EMBEDDING.search(f".{path}."))]
    for name in names if a.base and a.model.get("tie_word_embeddings") is not False else ():
        if not any(ends(name, one) for one in a.known):
            yield f"the base has no {name} of its own, it is tied to another{same}"


def bare(a: Adapter) -> Seen:
    """The matrices of the base that have no adapter, by kind."""
    whole = [files.plain(name).removesuffix(".weight") for name in a.tensors if ".lora_" not in name]
    adapted = {files.of_experts(path) for path in (*a.pairs, *whole, *a.list_of("target_parameters"))}
    paths = [files.of_experts(name) for name, place in a.known.items() if a.base and len(place.shape) > 1]
    paths = [path for path in paths if not any(path.endswith(one) or ends(one, path) for one in adapted)]
    kinds = counted(re.sub(r"\.\d+\.", ".*.", re.sub(r"^.*?\.\d+\.", "", path)) for path in paths)
    return when(kinds, f"matrices of the base have no adapter: {kinds}")


SAVE = "save it again with save_pretrained"

# fmt: off
OF_ANOTHER_METHOD: list[Rule] = [  # where one of these speaks, the others are not asked
    (BROKEN, no_peft_type, f"correct it, or {SAVE}"),
    (OTHER, lambda a: when(a.config.get("peft_type") != "LORA", f"peft_type is {a.config.get('peft_type')}"),
        "this doctor knows LORA, it looked at names and numbers only, and PEFT may load it"),
    (OTHER, lambda a: when(a.config.get("use_bdlora"), "use_bdlora cuts A and B into blocks"), "PEFT may load it"),
]
OF_ANY_METHOD: list[Rule] = [
    (BROKEN, lambda a: when(a.encoding != "utf-8",
        f"{CONFIG} is in {a.encoding.upper()} with a mark (BOM), and PEFT stops at that"), "save it as plain UTF-8"),
    (BROKEN, lambda a: (f"{name} {'is no matrix' if one.numel() else 'has no numbers'}, as in pieces of FSDP or ZeRO-3"
        for name, one in a.tensors.items() if not one.numel() or (one.ndim < 2 and name in a.factors)),
        "gather them before saving"),
    (BROKEN, lambda a: files.whose_names(list(a.tensors), a.config.get("peft_type")), SAVE),
    (BROKEN, lambda a: (f"{name} is {str(one.dtype)[6:]}, and weights have fractions" for name, one in
        a.tensors.items() if not one.is_floating_point() and (name in a.lora or name.endswith((".weight", ".bias")))),
        "packed codes, as of bitsandbytes? Dequantize before saving"),
    (BROKEN, lambda a: (f"{name} holds {'infinity' if isinf(value) else 'NaN'}" + (", float16 ends at 65,504"
        if a.tensors[name].dtype == torch.float16 else "") for name, value in a.largest.items() if not isfinite(value)),
        "take an earlier checkpoint if training diverged, or a wider type"),
    (ODD, lambda a: (f"{name} is {str(one.dtype)[6:]}, and precision is lost" for name, one in a.tensors.items()
        if one.is_floating_point() and one.element_size() == 1), "save it again in bfloat16 or float32"),
    (BROKEN, lambda a: settings.unexpected(a.config), "write what PEFT expects"),
    (BROKEN, lambda a: settings.lacking(a.config, a.tensors), f"{SAVE}, or take both files from one run"),
    (DEAD, constant, "as at the start, or lost: save again what was trained"),
]
RULES: list[Rule] = [
    (BROKEN, lambda a: when(not a.lora, f"no tensor belongs to LoRA, not {min(a.tensors)}"),
        "save the adapter, not the model around it; or is the config of another run?"),
    (ODD, lambda a: unasked_whole(a, embeddings=False), "it is loaded over yours, name it there, or save again"),
    (ODD, lambda a: (f"{name} holds the adapter's name, so PEFT loads it under the name default only"
        for name, match in a.lora.items() if match["adapter"] == ".default"), SAVE),
    (BROKEN, zeros_at_the_end, "a download, conversion or gathering lost it, take the file again"),
    (ODD, lambda a: (f"{name} holds numbers as large as {a.largest[name]:.3g}" for name in a.factors
        if 100 < a.largest.get(name, 0) < inf), "did training diverge? Take an earlier checkpoint"),
    (BROKEN, misfits, "take both files from one run; A is (rank, in), B (out, rank)"),
    (BROKEN, promises, f"{SAVE}, or take both files from one run"),
    (ODD, lambda a: (f"the config sets {key}, and PEFT passes by{near}"
        for key, near in settings.unknown(a.config).items() if near), "correct it"),
    (ODD, left_out, "spell it as in print(model), or save the adapter whole: is the file cut short?"),
    (ODD, repeated, "did a conversion or a gathering copy them? Take the files before it"),
    (ODD, other_task, "correct it, or train a head, named in modules_to_save: it starts at random"),
    (ODD, moved_base, "convert it with path_initial_model_for_weight_conversion, or give the start's base"),
    (DEAD, lambda a: never_moved(a, everywhere=True), "did the optimizer have them, was alpha so in training?"),
    (ODD, lambda a: never_moved(a, everywhere=False), "no gradient came there, was it frozen, or not used?"),
    (ODD, lambda a: (f"s is {layer.scaling:.4g} in {layer.path}, most adapters have 0.25 to 4"
        for layer in a.layers if layer.scaling and not 1e-3 <= layer.scaling <= 100), "write the training's alpha"),
    (BROKEN, other_vocabulary, "are there more tokens? First base.resize_token_embeddings(rows)"),
    (BROKEN, beside_another, "it was trained beside another model, name that, or gather its pieces"),
    (ODD, lambda a: (f"the base calls {layer.path} {layer.place.name}" for layer in a.layers
        if layer.place and not ends(f"{layer.path}.weight", files.unquantized(layer.place.name))),
        "PEFT finds it only where both are called alike, load the class of the training"),
    (ODD, larger_than_the_weight, "is alpha too large, a layer damaged, or another base meant?"),
    # what harms nobody
    (NOTE, lambda a: (f"the config sets {key}, which PEFT {VERSION} passes by"
        for key, near in settings.unknown(a.config).items() if not near), "upgrade, if a newer PEFT wrote it"),
    (NOTE, lambda a: unasked_whole(a, embeddings=True), "PEFT adds embedding and head, if one is adapted or has grown"),
    (NOTE, bare, "name them if they should learn, too; experts by target_parameters"),
    (NOTE, lambda a: when("bias" in a.asked and not any(re.search(a.asked["bias"], name) for name in a.tensors),
        f"bias is {a.config.get('bias')}, and the file has none"), "right only where the base has none"),
    (NOTE, tied, "a merge changes both, or loses one: set tie_word_embeddings to False first"),
    (NOTE, lambda a: (f"the base holds {layer.place.name} in codes ({layer.place.dtype})" for layer in a.layers
        if layer.place and layer.place.in_codes), "measure beside the unquantized one"),
    (NOTE, named_base, "write its public name as base_model_name_or_path; merge an adapter first"),
    (ODD, lambda a: when((a.folder / "config.json").exists() and any(a.folder.glob("model*.safetensors")),
        "a whole model lies beside it"), "loaders may add the adapter to a model that has it already, keep them apart"),
    (NOTE, lambda a: when((a.folder / "adapter_model.bin").exists(), f"adapter_model.bin lies beside {WEIGHTS}"),
        "PEFT reads the latter, and so does this report"),
]
# fmt: on
