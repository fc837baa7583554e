"""What the doctor for adapters saw, in a terminal: `lora-edu inspect ADAPTER`."""

import argparse
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
    usage = "lora-edu inspect ADAPTER [--base MODEL] [--text TEXT] [--for llama.cpp,vllm]"
    parser = argparse.ArgumentParser(prog="lora-edu inspect", usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("adapter", type=Path, help="a folder in PEFT's format")
    parser.add_argument("--base", help="the base, to measure it beside W: a folder with its safetensors, or laptop")
    parser.add_argument("--text", type=Path, help="a text, to measure it beside cheaper changes of the base: minutes")
    parser.add_argument("--for", dest="programs", type=_programs, default=[], help="what these programs make of it")
    options = parser.parse_args(arguments)
    base = base_path("laptop") if options.base == "laptop" else options.base
    if options.text and not base:
        parser.error("--text needs --base: laptop (the course's), smollm2, a folder, or an id on the Hugging Face hub")
    if options.text:
        model, tokens = read(options.base, options.text)
        base = {name: Weight(weight.detach()) for name, weight in model.named_parameters()}
    report = inspect_adapter(options.adapter, base, options.programs)
    print("\n".join(lines(report)), flush=True)
    if options.text and report.layers:
        print("", *told(against_text(model, options.adapter, tokens)), sep="\n")
    heard = all(one.level.endswith(ASKS) for said in report.programs.values() for one in said)
    raise SystemExit(0 if report.verdict.startswith("alive") and heard else 1)
