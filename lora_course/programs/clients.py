"""What other programs make of an adapter: what each refuses, or hears otherwise than PEFT, before it is given to them.

    lora-edu inspect ADAPTER --for llama.cpp,vllm

The rules were read in the programs' sources at the end of 2026, each beside its file; another version may know more.
"""

import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from lora_course.programs.adapter_report import LORA, Finding, Report

REFUSES, OTHERWISE, ASKS = "refuses it", "hears it otherwise", "asks for more"
MERGE = "merge it into its base with PEFT's merge_and_unload, and give it that model"


class Habit(NamedTuple):
    """What one program does with some adapters: `applies` says with which, and what goes into the words."""

    program: str
    does: str
    applies: Callable[[Report], Any]  # False, or None, for those that it takes
    words: str  # what is seen: what to do


def first(pattern: str) -> Callable[[Report], str | None]:
    """The first tensor with this in its name that is neither A nor B; a copy of the base's own is passed by."""

    def found(a: Report) -> str | None:
        matches = {name: LORA.fullmatch(name) for name in a.tensors if not name.endswith(".base_layer.weight")}
        others = (name for name, match in matches.items() if not match or match["part"] not in "AB")
        return next((name for name in others if re.search(pattern, name)), None)

    return found


def lost_by_the_flag(a: Report) -> str | None:
    """How much is heard by who divides alpha by r, where the root of r was meant."""
    r, alpha = a.config["r"], a.config["lora_alpha"]
    if not a.on("use_rslora") or not isinstance(r, int) or r < 2 or not isinstance(alpha, int | float):
        return None
    return f"1/{math.sqrt(r):.3g} of the update is heard: write lora_alpha {alpha * math.sqrt(r):.6g} and no use_rslora"


def largest_rank(a: Report) -> int:
    return max((layer.rank for layer in a.layers), default=0)


def no_public_base(a: Report) -> bool:
    base = str(a.config.get("base_model_name_or_path") or "")
    return not base or base.count("/") > 1 or base[0] in "./~"


HABITS = (
    # llama.cpp, convert_lora_to_gguf.py: get_tensors stops at what is neither lora_A, lora_B nor a norm, which
    # src/llama-adapter.cpp then leaves out
    Habit("llama.cpp", OTHERWISE, first(r"_layernorm|\.norm"), "it leaves out {}: " + MERGE),
    Habit("llama.cpp", REFUSES, first(r"^(?!.*(_layernorm|\.norm))"), "its converter stops at {}: " + MERGE),
    # llama.cpp, conversion/gpt2.py turns each weight, an adapter's, too; src/llama-adapter.cpp compares the shapes
    Habit("llama.cpp", REFUSES, lambda a: a.on("fan_in_fan_out"), "its converter turns GPT-2's A and B over: " + MERGE),
    # llama.cpp, convert_lora_to_gguf.py: modify_tensors raises where the base's head is its embedding
    Habit("llama.cpp", REFUSES, lambda a: a.known and not any("lm_head" in name for name in a.known)
          and next((path for path in a.parts if "lm_head" in path), None),
          "its converter stops at {}, which is tied to the embedding here: " + MERGE),
    # llama.cpp, src/llama-adapter.h: get_scale is alpha / rank, and the converter reads one lora_alpha and no flag
    Habit("llama.cpp", OTHERWISE, lost_by_the_flag, "{}"),
    Habit("llama.cpp", OTHERWISE, lambda a: a.on("alpha_pattern"), "it takes one alpha for all layers: " + MERGE),
    # llama.cpp, convert_lora_to_gguf.py: without --base, it asks the hub for the config's name
    Habit("llama.cpp", ASKS, no_public_base,
          "the config names no base of the hub: give its converter --base, a folder with the base's config.json"),
    # vLLM, vllm/lora/peft_helper.py: from_dict has no defaults for these; _validate_features, validate_legal
    Habit("vllm", REFUSES, lambda a: ", ".join(a.lacking),
          "the config lacks {}: write what the adapter was trained with"),
    Habit("vllm", REFUSES, lambda a: a.on("use_dora"), "it has no DoRA: " + MERGE),
    Habit("vllm", REFUSES, lambda a: a.config["modules_to_save"], "it takes no modules_to_save, {}: " + MERGE),
    Habit("vllm", REFUSES, lambda a: a.on("bias"), "it takes no biases: " + MERGE),
    # vLLM, vllm/lora/utils.py: parse_fine_tuned_lora_name
    Habit("vllm", REFUSES, first(""), "it has no place for {}: " + MERGE),
    # vLLM, vllm/config/lora.py: MaxLoRARanks goes to 512, and max_lora_rank is 16 unless told
    Habit("vllm", REFUSES, lambda a: largest_rank(a) > 512, "it goes to rank 512: " + MERGE),
    Habit("vllm", ASKS, lambda a: next((r for r in (32, 64, 128, 256, 320, 512) if 16 < largest_rank(a) <= r), None),
          "its limit is rank 16 unless told: start it with --max-lora-rank {}"),
    # vLLM, vllm/lora/peft_helper.py: one scaling for all layers, by r and lora_alpha, and no pattern is read
    Habit("vllm", OTHERWISE, lambda a: a.on("rank_pattern") or a.on("alpha_pattern"),
          "it divides one alpha by one r in all layers, and the patterns of this config are not read: " + MERGE),
)  # fmt: skip
PROGRAMS = ("llama.cpp", "vllm")


def answers(a: Report, program: str) -> list[Finding]:
    """What a program does with an adapter that was read, other than PEFT would."""
    asked = ((rule, rule.applies(a)) for rule in HABITS if rule.program == program)
    said = ((rule, rule.words.format(value).rpartition(": ")) for rule, value in asked if value)
    return [Finding(f"{program} {rule.does}", seen, advice) for rule, (seen, _, advice) in said]
