"""What the config of an adapter says: does PEFT know each word of it, and do the tensors beside it keep its promises?

`adapter_files` reads the folder; `inspecting` asks these questions, and then looks at the numbers.
"""

import difflib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import Path

from torch import Tensor

from lora_edu.checks import is_real, whole
from lora_edu.models.adapter_files import BROKEN, DEAD, NOTE, ODD, OTHER, TURNED, Report, by, counted, type_name
from lora_edu.peft_io import CHANGES_THE_BASE, CONFIG

# --- what PEFT knows: a test holds these lists against the PEFT that is installed -------------------------------------

VERSION = (0, 21, 2)
SETTINGS = """
    alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias corda_config
    ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights kasa_config
    layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout
    lora_ga_config megatron_config megatron_core modules_to_save monteclora_config peft_type peft_version
    qalora_group_size r rank_pattern revision runtime_config target_modules target_parameters task_type
    trainable_token_indices use_bdlora use_dora use_qalora use_rslora velora_config""".split()
TYPES = """
    ADALORA ADAMSS ADAPTION_PROMPT BEFT BOFT C3A CARTRIDGE CPT DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3
    LILY LN_TUNING LOHA LOKR LORA MISS MULTITASK_PROMPT_TUNING OFT OSF PEANUT POLY PREFIX_TUNING PROMPT_TUNING PSOFT
    PVERA P_TUNING RANDLORA ROAD SHADOW SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT
    XLORA""".split()
CHOICES = {
    "bias": ("none", "all", "lora_only"),
    "task_type": ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica", *CHANGES_THE_BASE),
} | dict.fromkeys(("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"), (True, False))
OFF = (None, False, "none", "", [], {})
PROMISES = {  # a setting, and how the tensors are called that it brings into the file
    "use_dora": r"lora_magnitude_vector",
    "lora_bias": r"lora_B\.bias$",
    "trainable_token_indices": r"trainable_tokens_delta",
}
OF_CLASSIFIERS = {"classifier", "score"}  # PEFT writes both into the config; a model has one
WITH_HEAD = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
FOREIGN_CONFIGS = {
    "model_type": "the config.json of a whole model",
    "lora_parameters": "of MLX",
    "lora_layers": "of MLX",
}
IN_A_BLOCK = re.compile(r"(.*?)\.(\d+)\.(.+)")
EXPERTS = re.compile(r'"(?:num_local_experts|num_experts|n_routed_experts)": *(\d+)')  # in the config of a model
EMBEDDING = re.compile(r"\.(embed_tokens|lm_head|wte|shared|word_embeddings|embed_in|embed_out)\.")  # saved unasked


def _meant(word: object, known: Iterable[str]) -> str:
    """A question, where a word is nearly one that is known."""
    lower = {one.lower(): one for one in known}
    near = difflib.get_close_matches(str(word).lower(), lower, 1, 0.75)
    return f", is {lower[near[0]]!r} meant?" if near else ""


def is_of_lora(config: dict, report: Report) -> bool:
    """Whether this config is one of LoRA's; if not, whose is said."""
    kind = config.get("peft_type")
    if kind is None:
        whose = next((what for key, what in FOREIGN_CONFIGS.items() if key in config), "of no PEFT that is known")
        report.say(BROKEN, f"{CONFIG} has no peft_type, it is {whose}: save the adapter with save_pretrained")
    elif kind not in TYPES:
        report.say(BROKEN, f"peft_type is {kind!r}, which PEFT does not know{_meant(kind, TYPES)}")
    elif kind != "LORA":
        report.say(OTHER, f"peft_type is {kind!r}, and this doctor knows LORA only: PEFT may load it")
    elif config.get("use_bdlora"):
        report.say(ODD, "use_bdlora cuts A and B into blocks, which this doctor cannot read: PEFT may load it")
    return kind == "LORA" and not config.get("use_bdlora")


def check_words(config: dict, report: Report) -> None:
    """Settings and values that PEFT does not know: it passes by the first and refuses the second."""
    version = config.get("peft_version")
    newer = tuple(map(int, re.findall(r"\d+", str(version))[:3])) > VERSION
    for key in sorted(key for key, value in config.items() if key not in SETTINGS and value not in OFF):
        near = "" if newer else _meant(key, SETTINGS)
        then = f": PEFT {version} wrote it, upgrade" if newer else near
        what = f"the config sets {key}, which PEFT {'.'.join(map(str, VERSION))} does not know and passes by"
        report.say(ODD if near else NOTE, what + then)
    for name, values in CHOICES.items():
        value = config.get(name)
        plain = re.sub(r"^pissa_niter_\d+$", "pissa", str(value).lower())
        if value is not None and value not in values and plain not in values:
            near = _meant(value, filter(None, map(str, values)))
            report.say(BROKEN, f"{name} is {value!r}, expected one of {', '.join(map(repr, values))}{near}")
    for name in ("modules_to_save", "target_parameters"):
        if not isinstance(config.get(name) or [], list):
            report.say(BROKEN, f"{name} is {config[name]!r}, a list of names is expected: write [...]")
    if isinstance(config.get("target_modules"), str) and config.get("layers_to_transform") is not None:
        report.say(BROKEN, "target_modules is a pattern, and PEFT refuses layers_to_transform beside one: remove it")
    if not is_real(dropout := config.get("lora_dropout", 0)) or not 0 <= dropout < 1:
        level = NOTE if dropout == 1 else BROKEN  # harmless until somebody trains on
        report.say(level, f"lora_dropout is {dropout!r}, a probability below 1 is expected: write 0.0")


def check_base(config: dict, base: Path | None, report: Report) -> bool:
    """Which base the config names. Returns whether it is another than the one that lies here."""
    named = config.get("base_model_name_or_path")
    if not named:
        report.say(NOTE, "the config names no base: write base_model_name_or_path, nobody else knows it")
        return False
    parts = re.split(r"[/\\]", str(named).rstrip("/\\"))
    if (len(parts) > 2 or parts[0] in ("", ".", "..", "~")) and not Path(str(named)).expanduser().exists():
        report.say(NOTE, f"the config names the base {named}, a path that is not here: write its public name")
    here = base.resolve().parts if base else ()  # a cache of the Hub calls it models--owner--name
    other = not any(part.lower() == parts[-1].lower() or part.endswith(f"--{parts[-1]}") for part in here)
    if base and other:
        report.say(NOTE, f"the config names the base {named}, and this is {base}: are they the same weights?")
    return other


# --- rank and strength -----------------------------------------------------------------------------------------------


def _names(value: object) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def _fits(pattern: str, path: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern means a layer: it ends the path, as a regular expression."""
    try:
        return bool(re.match(rf"(.*\.)?({pattern})$", path))
    except re.error:
        return False


def _pattern(patterns: object, path: str, otherwise: object) -> object:
    """PEFT's rank_pattern and alpha_pattern: the first key that fits decides."""
    items = patterns.items() if isinstance(patterns, dict) else ()
    return next((value for key, value in items if _fits(key, path)), otherwise)


def scaling_of(config: dict, path: str, rank: int) -> float:
    """s = alpha / r, or alpha / sqrt(r) for rsLoRA; NaN where alpha is no number."""
    alpha = _pattern(config.get("alpha_pattern"), path, config.get("lora_alpha"))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank) if is_real(alpha) else math.nan


def check_strength(config: dict, pairs: dict, report: Report) -> None:
    """Rank, alpha and what they make of s."""
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if not whole(1).holds(rank):
        report.say(BROKEN, f"r is {rank!r} and no whole number from 1: write the rank, the rows of A")
    for path, (A, B) in pairs.items() if isinstance(rank, int) else ():
        if (wanted := _pattern(config.get("rank_pattern"), path, rank)) != len(A):
            turned = A.shape[1] == wanted == len(B)
            why = TURNED if turned else f"the config gives rank {wanted}, its A has {len(A)} rows: files of two runs?"
            report.say(BROKEN, f"{path}: {why}")
            break
        if len(A) > (most := min(A.shape[1], len(B))):
            report.say(NOTE, f"rank {len(A)} is more than {path} can use, its matrix has rank {most} at most: lower r")
    strengths = [scaling_of(config, path, len(A)) for path, (A, _) in pairs.items()]
    if not is_real(alpha):
        report.say(BROKEN, f"lora_alpha is {alpha!r} and no number: write the alpha of the training")
    elif alpha == 0:
        report.say(DEAD, "lora_alpha is 0, so the adapter adds nothing: write the alpha of the training")
    elif alpha < 0:
        report.say(ODD, f"lora_alpha is {alpha}, so the adapter subtracts what it learned: meant as negation?")
    elif any(not 1e-3 <= abs(s) <= 100 for s in strengths):
        report.say(ODD, f"s is {report.facts['s']}, most adapters have 0.25 to 4: is alpha the one of the training?")
    for name in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(name) or {}
        if not isinstance(patterns, dict):
            report.say(BROKEN, f"{name} is {patterns!r}, names with numbers are expected: write {{}}")
        elif pairs and not config.get("target_parameters"):
            for key, value in patterns.items():
                if not is_real(value):
                    report.say(BROKEN, f"{name} gives {key} {value!r}, and a number is expected: write one")
                elif not any(_fits(key, path) for path in pairs):
                    near = _meant(key, {path.rpartition(".")[-1] for path in pairs})
                    report.say(ODD, f"{name} names {key}, and no adapted layer is called so: it changes nothing{near}")


# --- promises: what the config says is in the file --------------------------------------------------------------------


def check_promises(config: dict, pairs: dict, tensors: dict[str, Tensor], report: Report) -> None:
    """Both ways: what a setting brings into the file, and what is in the file by no setting."""
    for setting, pattern in PROMISES.items():
        have, asked = sum(bool(re.search(pattern, name)) for name in tensors), config.get(setting, False)
        least = 0 if asked in OFF else len(pairs) if setting == "use_dora" else 1
        if have < least or (have and not least):
            report.say(BROKEN, f"{setting} is {asked}, and the file has {have} tensors of it: files of two runs?")
    if any(not tensor.any() for name, tensor in tensors.items() if "lora_magnitude_vector" in name):
        report.say(ODD, "a magnitude of DoRA is zero, so its layer gives nothing: take an earlier checkpoint")
    if config.get("bias") not in OFF and not any(re.search(r"(?<!lora_B)\.bias$", name) for name in tensors):
        report.say(NOTE, f"bias is {config['bias']!r}, and no bias is in the file: the base has none, or they are lost")
    saved = set(_names(config.get("modules_to_save")))
    there = {module for module in saved if any(f".{module}." in f".{name}." for name in tensors)}
    for module in sorted(saved - there - (OF_CLASSIFIERS if there & OF_CLASSIFIERS else set())):
        report.say(BROKEN, f"modules_to_save names {module}, which is not in the file: save the adapter again")
    if config.get("task_type") in WITH_HEAD and not saved and all("lora_" in n or EMBEDDING.search(n) for n in tensors):
        lost = f"task_type is {config['task_type']}, and its head is not in the file, so it starts at random"
        report.say(ODD, f"{lost} unless the base brings one: name it in modules_to_save and train again")
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(CHANGES_THE_BASE):
        repeated = start in ("pissa", "olora", "loftq")  # the others draw at random, or need gradients or activations
        who = "PEFT repeats that at each load, others do not: for those" if repeated else "no load repeats that:"
        what = f"it started with {start}, which changes the base, too; {who} save it with"
        report.say(NOTE if repeated else ODD, f"{what} path_initial_model_for_weight_conversion")


def say_facts(config: dict, tensors: dict[str, Tensor], pairs: dict, report: Report) -> None:
    """What the files say, and which tensor fills them."""
    size, whole = sum(t.nbytes for t in tensors.values()), {n: t for n, t in tensors.items() if "lora_" not in n}
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
    if pairs and whole:
        name = max(whole, key=lambda name: whole[name].nbytes)
        what = f"{sum(t.nbytes for t in whole.values()) / size:.0%} of the bytes are saved whole, above all {name}"
        brought = {"trainable_token_indices": "trainable_tokens_delta", "bias": "bias"}
        asked = {word for setting, word in brought.items() if config.get(setting) not in OFF}
        alone = ".lm_head.weight" in name and not any(EMBEDDING.search(other) for other in whole if other != name)
        level, advice = ODD, "the config does not ask for it, and PEFT loads it over the base's: was it trained?"
        if sum(".base_layer.weight" in other for other in whole) > 2:  # PEFT saves up to two, those of embeddings
            advice = "the base lies among them and is loaded over yours: save with save_pretrained"
        elif any(f".{word}." in f"{name}." for word in asked.union(_names(config.get("modules_to_save")))):
            level, advice = NOTE, "a setting asks for it"
        elif EMBEDDING.search(name) and not alone:
            level, advice = NOTE, "PEFT does so for added tokens or targets, and loads it over the base's: try --base"
        report.say(level, f"{what} ({by(whole[name])}, {whole[name].nbytes / 1e6:.1f} MB): {advice}")


# --- targets ---------------------------------------------------------------------------------------------------------


def _named(by: object, path: str) -> bool:
    """Whether target_modules or exclude_modules, a list or a pattern, names a path."""
    if isinstance(by, list):
        return any(f".{path}".endswith(f".{name}") for name in by)
    try:
        return isinstance(by, str) and (by == "all-linear" or bool(re.fullmatch(by, path)))
    except re.error:
        return False


def _passed_by(config: dict, path: str) -> str | None:
    """The setting for which PEFT would not adapt a layer of this path; None if it would."""
    if not _named(config.get("target_modules"), path):
        return "target_modules does not name"
    chosen, number = config.get("layers_to_transform"), re.search(r"\.(\d+)\.", path)
    if chosen is not None and number and int(number[1]) not in (chosen if isinstance(chosen, list) else [chosen]):
        return f"layers_to_transform is {chosen} and leaves out"
    return "exclude_modules takes out" if _named(config.get("exclude_modules"), path) else None


def is_target(config: dict, path: str) -> bool:
    """Whether PEFT would adapt a layer of this path, by target_modules, exclude_modules and layers_to_transform."""
    return _passed_by(config, path) is None


def of_one_weight(config: dict, path: str) -> bool:
    """Not inside of another layer, and not of target_parameters, whose adapters serve all experts at once."""
    return ".base_layer" not in path and (not config.get("target_parameters") or is_target(config, path))


def check_experts(config: dict, pairs: dict, base: Path, report: Report) -> None:
    """Of target_parameters: A has the rank's rows for each expert, which a config of the base beside us counts."""
    path = base / "config.json"
    count = EXPERTS.search(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    rank = config.get("r")
    for path, (A, _) in pairs.items() if isinstance(rank, int) and rank > 0 and not config.get("rank_pattern") else ():
        if not of_one_weight(config, path) and (len(A) % rank or (count and len(A) != rank * int(count[1]))):
            of = count[1] if count else "a whole number of"
            report.say(BROKEN, f"{path}: its A has {len(A)} rows, which are not rank {rank} for each of {of} experts")


def check_blocks(config: dict, pairs: dict, known: Collection[str], report: Report) -> None:
    """Blocks that carry no adapter, though no setting leaves them out. known: names of the base's tensors, if here."""
    stacks: dict[str, dict[int, str]] = defaultdict(dict)  # of each stack of blocks: a number, and the end of a path
    for match in filter(None, map(IN_A_BLOCK.match, pairs)):
        stacks[match[1]][int(match[2])] = match[3]
    for stack, ends in stacks.items() if not config.get("layer_replication") else ():
        in_base = filter(None, map(IN_A_BLOCK.match, known))
        there = {int(match[2]) for match in in_base if match[1] == stack}
        blocks = there or range(min(ends), max(ends) + 1)
        paths = [(n, f"{stack}.{n}.{end}") for n in sorted(set(blocks) - set(ends)) for end in set(ends.values())]
        paths = [(n, path) for n, path in paths if is_target(config, path) and (not there or f"{path}.weight" in known)]
        lost = list(dict(paths))
        if lost:  # without the base, it may be one with attention in each fourth block only
            which = f"{stack} {', '.join(map(str, lost))} of {min(blocks)} to {max(blocks)}"
            level = ODD if there or len(lost) < len(ends) else NOTE
            report.say(level, f"there is no adapter in {which}, and no setting leaves that out: is the file cut short?")


def _plain(name: str) -> str:
    """The last part of a name as a misspelling might have it, without _ and capitals."""
    return name.rpartition(".")[-1].replace("_", "").lower()


def check_targets(config: dict, pairs: dict, known: Collection[str], report: Report) -> None:
    """Targets without a layer, layers without a target, blocks without what the others have.

    known: the names of the base's tensors, none if they are not here.
    """
    targets = config.get("target_modules")
    if not targets and not config.get("target_parameters"):
        report.say(BROKEN, f"target_modules is {targets!r}: write the names of the adapted layers")
    elif stray := [(why, path) for path in pairs if (why := _passed_by(config, path))]:
        report.say(BROKEN, f"{' '.join(stray[0])}, so PEFT would pass by: files of two runs?")
    if not isinstance(targets, list) or any(level == BROKEN for level, _ in report.findings):
        return
    excluded, around = config.get("exclude_modules"), {path.rpartition(".")[0] for path in pairs}
    empty = [target for target in targets if not any(f".{path}".endswith(f".{target}") for path in pairs)]
    empty = [target for target in empty if not any(_named(excluded, f"{outer}.{target}") for outer in around)]
    kinds = {_plain(name.removesuffix(".weight")) for name in known}
    foreign = [target for target in empty if kinds and _plain(target) not in kinds]
    if foreign:
        report.say(NOTE, f"the base has no layer for the target {', '.join(foreign)}: a list for several models?")
    if lost := [target for target in empty if target not in foreign]:
        report.say(ODD, f"no tensor belongs to the target {', '.join(lost)}: is it spelled as in print(model)?")
    if config.get("layers_to_transform") is not None or config.get("exclude_modules"):
        return
    blocks = Counter(re.sub(r"\.\d+\.", ".*.", path, count=1) for path in pairs)
    most = max(blocks.values(), default=0)
    for kind, some in blocks.items():
        if most / 2 < some < most:
            report.say(ODD, f"{kind} has adapters in {some} of {most} blocks: is the file cut short?")
