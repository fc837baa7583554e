"""Examine an adapter in PEFT's format: is it whole, has it learned something, and what would a merge leave of it?"""

import argparse
import json
import math
from collections import defaultdict
from pathlib import Path
from statistics import median

from lora_course.programs.adapter_files import LEVELS
from lora_course.programs.adapter_report import Layer, Report
from lora_course.programs.against_text import Weight, against_text, read, told
from lora_course.programs.clients import ASKS, PROGRAMS
from lora_course.programs.inspecting import inspect_adapter
from lora_edu.models.base import base_path


def lines(report: Report) -> list[str]:
    """The report for a terminal: the verdict, what the files say, what was found, a line for each kind of layer."""
    kinds: dict[str, list[Layer]] = defaultdict(list)  # such as q_proj
    for layer in report.layers:
        kinds[layer.path.rpartition(".")[-1]].append(layer)
    text = [report.verdict, ""]
    text += [f"{name:8} {_shown(value)}" for name, value in report.facts.items() if value not in (None, "", [])]
    found = sorted(report.findings, key=lambda finding: LEVELS.index(finding.level))  # the worst first
    text += ["", *(f"[{finding.level}] {finding.seen}: {finding.advice}" for finding in found)] if found else []
    for program, said in report.programs.items():
        nothing = f"[{program}] no rule that is known here keeps it from hearing what PEFT hears"
        text += ["", *([f"[{one.level}] {one.seen}: {one.advice}" for one in said] or [nothing])]
    if report.layers:
        text += ["", f"{'layers':34}{'rank':>5}{'|sBA|':>10}{'for 90%':>9}{'/ |W|':>9}{'bf16':>7}{'NF4':>7}"]
        text += [_line(kind, layers) for kind, layers in kinds.items()]
        text += ["medians; for 90%: directions that hold 90% of the update; bf16, NF4: the share a merge leaves of it"]
    return text


def _line(kind: str, layers: list[Layer]) -> str:
    def middle(name: str, form: str) -> str:
        values = [value for layer in layers if (value := getattr(layer, name)) is not None]
        return format(median(values), form) if values else "-"

    numbers = f"{middle('rank', 'g'):>5}{middle('norm', '.3g'):>10}{middle('directions', 'g'):>9}"
    return f"{f'{len(layers)} x {kind}':34}{numbers}" + "".join(
        f"{middle(name, form):>{width}}"
        for name, form, width in (("relative", ".3g", 9), ("bf16", ".0%", 7), ("nf4", ".0%", 7))
    )


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _programs(text: str) -> list[str]:
    names = [name.strip().lower() for name in text.split(",")]
    if unknown := [name for name in names if name not in PROGRAMS]:
        raise argparse.ArgumentTypeError(f"no rules are known of {unknown[0]!r}: name some of {', '.join(PROGRAMS)}")
    return names


def main(arguments: list[str] | None = None) -> None:
    usage = "lora-edu inspect ADAPTER [--base MODEL] [--text TEXT] [--for llama.cpp,vllm] [--json]"
    parser = argparse.ArgumentParser(prog="lora-edu inspect", usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("adapter", type=Path, help="a folder in PEFT's format")
    parser.add_argument(
        "--base", help="compare the adapter with its base: a folder of safetensors, or laptop for the course's own base"
    )
    parser.add_argument(
        "--text",
        type=Path,
        help="compare it on this text with cheaper changes to the base (takes minutes; needs --base)",
    )
    parser.add_argument(
        "--for",
        dest="programs",
        type=_programs,
        default=[],
        metavar="llama.cpp,vllm",
        help="say what these programs would refuse or read differently",
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON, for a script")
    options = parser.parse_args(arguments)
    base = base_path("laptop") if options.base == "laptop" else options.base
    if options.text and not base:
        parser.error("--text needs --base: laptop (the course's), smollm2, a folder, or an id on the Hugging Face hub")
    if options.text:
        model, tokens = read(options.base, options.text)
        base = {name: Weight(weight.detach()) for name, weight in model.named_parameters()}
    report = inspect_adapter(options.adapter, base, options.programs)
    if not options.json:
        print("\n".join(lines(report)), flush=True)
    rows = against_text(model, options.adapter, tokens) if options.text and report.layers else {}
    if options.json:
        text = {name: row.tolist() for name, row in rows.items()}  # of each window: loss, top-1, KL, flips
        print(json.dumps(_finite(report.as_dict() | {"text": text}), indent=2))
    elif rows:
        print("", *told(rows), sep="\n")
    heard = all(one.level.endswith(ASKS) for said in report.programs.values() for one in said)
    raise SystemExit(0 if report.verdict.startswith("alive") and heard else 1)


def _finite(value: object) -> object:
    """JSON has no NaN: None for it."""
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
