"""What PEFT knows of the config of LoRA, and how it reads names in it. A test holds the lists against PEFT itself."""

import difflib
import math
import re
from collections.abc import Iterable

from lora_edu.checks import FACTOR, Rule, is_real, whole
from lora_edu.peft_io import CHANGES_THE_BASE

VERSION = "0.21.2"
SETTINGS = """
    alora_invocation_tokens alpha_pattern arrow_config auto_mapping base_model_name_or_path bias corda_config
    ensure_weight_tying eva_config exclude_modules fan_in_fan_out inference_mode init_lora_weights kasa_config
    layer_replication layers_pattern layers_to_transform loftq_config lora_alpha lora_bias lora_dropout
    lora_ga_config megatron_config megatron_core modules_to_save monteclora_config peft_type peft_version
    qalora_group_size r rank_pattern revision runtime_config target_modules target_parameters task_type
    trainable_token_indices use_bdlora use_dora use_qalora use_rslora velora_config""".split()
CHOICES = {
    "bias": ("none", "all", "lora_only"),
    "task_type": ("CAUSAL_LM", "SEQ_2_SEQ_LM", "FEATURE_EXTRACTION", "SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"),
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva", "mica", *CHANGES_THE_BASE),
} | dict.fromkeys(("use_rslora", "use_dora", "lora_bias", "fan_in_fan_out"), (True, False))
OFF = (None, False, "none", "", [], {})
REPEATED = ("pissa", "olora", "loftq")  # at each load; other starts draw at random, or need gradients or activations
OTHERS = {"model_type": "the config.json of a whole model", "lora_parameters": "of MLX", "lora_layers": "of MLX"}
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")  # of the base's config.json
HEADS = ("classifier", "score")  # of modules_to_save
PARTS = {  # of other methods: what the file must hold for each layer
    "ADALORA": "lora_A lora_B lora_E", "VERA": "vera_lambda_b vera_lambda_d", "IA3": "ia3_l", "LOKR": "lokr_w1 lokr_w2",
    "LOHA": "hada_w1_a hada_w1_b hada_w2_a hada_w2_b", "FOURIERFT": "fourierft_spectrum",
} | dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"), "prompt_embeddings")  # fmt: skip
UNFIT = {  # of task_type: the class in the base's config.json that it does not go with
    "CAUSAL_LM": "Classification|Answering|MaskedLM", "SEQ_CLS": "TokenClassification|Answering",
    "SEQ_2_SEQ_LM": "CausalLM|LMHead|Classification|Answering|MaskedLM",
    "TOKEN_CLS": "SequenceClassification|Answering", "QUESTION_ANS": "Classification",
}  # fmt: skip
WITH_HEAD = r"SEQ_CLS|TOKEN_CLS|QUESTION_ANS|For\w+Classification|ForQuestionAnswering"
DEFAULTS = {"r": 8, "lora_alpha": 8}  # PEFT's own, for a config that leaves them out
NAMES = Rule("a list of names", lambda value: isinstance(value, list))
NUMBERS = Rule("names with numbers", lambda value: isinstance(value, dict) and all(map(is_real, value.values())))
EXPECTED = {
    "r": whole(1), "lora_alpha": Rule("a number", is_real), "lora_dropout": FACTOR, "modules_to_save": NAMES,
    "target_parameters": NAMES, "rank_pattern": NUMBERS, "alpha_pattern": NUMBERS,
}  # fmt: skip


def with_head(config: dict) -> str | None:
    """The task or the class of the training, if it brings a head of its own in place of the base's."""
    auto = config.get("auto_mapping")
    trained_as = config.get("task_type") or (auto.get("base_model_class") if isinstance(auto, dict) else None)
    return trained_as if re.search(WITH_HEAD, str(trained_as)) else None


def unexpected(config: dict) -> Iterable[str]:
    """Values that PEFT refuses or misreads, and what it expects."""
    ours = config.get("peft_type") == "LORA"  # other methods have other choices
    for name, rule in EXPECTED.items() if ours else ():
        value = config.get(name)
        if not rule.holds(value) and (value is not None or name in DEFAULTS):
            yield f"{name} is {value!r}, expected {rule.wanted}"
    for name, values in CHOICES.items():
        value = config.get(name)
        lower = re.sub(r"^pissa_niter_\d+$", "pissa", str(value).lower())
        if value is not None and value not in values and lower not in values and (ours or name == "task_type"):
            yield f"{name} is {value!r}, expected one of {', '.join(map(repr, values))}{meant(value, values)}"
    pattern = config.get("target_modules") if isinstance(config.get("target_modules"), str) else ""
    if re.fullmatch(r"\w+([,\s]+\w+)+", pattern):
        yield f"target_modules is {pattern!r}, one pattern to PEFT, expected a list of names"
    if pattern and config.get("layers_to_transform") is not None:
        yield "target_modules is a pattern, and PEFT refuses layers_to_transform beside one"


def lacking(config: dict, tensors: dict) -> Iterable[str]:
    """What the file of another method must hold for each layer, and for each virtual token."""
    kind = config.get("peft_type")
    both = ["vera_A", "vera_B"] if kind == "VERA" and config.get("save_projection") else []
    parts = [*PARTS.get(str(kind), "").split(), *both]
    counts = {part: len({name.partition(part)[0] for name in tensors if part in name}) for part in parts}
    if not all(counts.values()) or len({count for part, count in counts.items() if part not in both}) > 1:
        yield f"the file has {', '.join(f'{count} {part}' for part, count in counts.items())}"
    rows, tokens = len(tensors.get("prompt_embeddings", ())), config.get("num_virtual_tokens")
    if isinstance(tokens, int) and rows not in (0, tokens, 2 * tokens):  # an encoder's and a decoder's
        yield f"num_virtual_tokens is {tokens}, and the file has {rows}"


def unknown(config: dict) -> dict[str, str]:
    """Settings that PEFT passes by: which was meant, if it is nearly one and no newer PEFT wrote it."""
    wrote, here = (list(map(int, re.findall(r"\d+", str(one))[:3])) for one in (config.get("peft_version"), VERSION))
    keys = sorted(key for key, value in config.items() if key not in SETTINGS and value not in OFF)
    return {key: "" if wrote > here else meant(key, SETTINGS) for key in keys}


def meant(word: object, known: Iterable[object]) -> str:
    """A question, where a word is nearly one that is known."""
    plainly = {str(one).lower().replace("_", ""): one for one in known}
    near = difflib.get_close_matches(str(word).lower().replace("_", ""), plainly, 1, 0.75)
    return f", is {plainly[near[0]]!r} meant?" if near else ""


def strength(config: dict, path: str, rank: int) -> float:
    """s = alpha / r, or alpha / sqrt(r) for rsLoRA; NaN where alpha is no number."""
    alpha = by_pattern(config, "alpha_pattern", path, "lora_alpha")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") is True else rank) if is_real(alpha) else math.nan


def by_pattern(config: dict, patterns: str, path: str, otherwise: str) -> object:
    """PEFT's rank_pattern and alpha_pattern: the first key that fits decides."""
    items = config[patterns].items() if isinstance(config.get(patterns), dict) else ()
    return next((value for key, value in items if fits(key, path)), config.get(otherwise))


def fits(pattern: str, path: str) -> bool:
    """Whether a key of rank_pattern or alpha_pattern means a layer: it ends the path, as a regular expression."""
    try:
        return bool(re.match(rf"(.*\.)?({pattern})$", path))
    except re.error:
        return False


def ends(path: str, name: object) -> bool:
    """Whether a path is this name, or ends in it."""
    return f".{path}".endswith(f".{name}")


def names(config: dict, setting: str, path: str) -> bool:
    """Whether target_modules or exclude_modules, a list or a pattern, names a path."""
    value = config.get(setting)
    if isinstance(value, list):
        return any(ends(path, name) for name in value)
    return isinstance(value, str) and (value == "all-linear" or fits(f"^(?:{value})", path))


def passed_by(config: dict, path: str) -> str | None:
    """The setting for which PEFT would not adapt a layer of this path; None if it would."""
    if not names(config, "target_modules", path):
        return "target_modules does not name"
    chosen, number = config.get("layers_to_transform"), re.search(r"\.(\d+)\.", path)
    if chosen is not None and number and int(number[1]) not in (chosen if isinstance(chosen, list) else [chosen]):
        return f"layers_to_transform is {chosen} and leaves out"
    return "exclude_modules takes out" if names(config, "exclude_modules", path) else None


def of_all_experts(config: dict, path: str) -> bool:
    """An adapter of target_parameters: one A and one B hold the factors of all experts."""
    return bool(config.get("target_parameters")) and (".base_layer" in path or passed_by(config, path) is not None)
