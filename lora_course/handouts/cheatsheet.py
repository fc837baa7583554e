"""The course on one printable page (A4): its formulas, its diagram, its numbers. `lora-edu cheatsheet` writes it.

Every number on the page is computed when it is written, from the functions and stored results that the notebooks show.
"""

import argparse
import base64
from pathlib import Path
from statistics import mean
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure

from lora_course.drawing import looks, plots
from lora_course.programs.command import check_output
from lora_course.running.stored import load_results
from lora_course.running.sweeps import stored_runs
from lora_edu.codebooks import nf_codebook
from lora_edu.memory.calculator import GIB, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES
from lora_edu.records import staging
from lora_edu.rounding import total_bits

NAME = "lora_edu_cheatsheet.html"
STYLE = """
@page { size: A4 portrait; margin: 0 }
* { box-sizing: border-box }
body { margin: 0; background: #ddd; font: 9.4pt/1.34 Georgia, "DejaVu Serif", serif; color: #111 }
main { width: 210mm; height: 297mm; margin: 0 auto; padding: 9mm 10mm; background: white; overflow: hidden }
h1 { font-size: 15pt; margin: 0 0 1mm } h1 small { font-size: 9pt; font-weight: normal; color: #555 }
h2 { font-size: 10.3pt; margin: 2.2mm 0 .6mm; color: #0072B2; border-bottom: .3mm solid #0072B2 }
.columns { columns: 2; column-gap: 7mm; column-fill: auto; height: 181mm }
section { break-inside: avoid }
p { margin: .5mm 0 } code { font: 8pt "DejaVu Sans Mono", monospace } pre { margin: .6mm 0 }
pre code { font-size: 7.3pt; line-height: 1.25 }
.formula { margin: .9mm 0 .9mm 3mm; font-style: italic; font-size: 9.8pt }
table { border-collapse: collapse; font-size: 8.4pt; margin: .8mm 0; width: 100% }
td, th { text-align: right; padding: .15mm 1.2mm; border-bottom: .1mm solid #ccc; font-weight: normal }
td:first-child, th:first-child { text-align: left } th { color: #555 }
ul { margin: .4mm 0; padding-left: 4mm } img { display: block; width: 100% } .pictures { display: flex; gap: 4mm }
@media print { body { background: white } }
"""


def cheat_sheet() -> str:
    """The page as HTML that needs nothing else: pictures are inside."""
    diagram, words = plots.layer_diagram(adapter=True, quantized=True, backward=True)
    levels, level_words = levels_picture()
    body = "".join(f"<section><h2>{title}</h2>{text}</section>" for title, text in sections().items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>LoRA and QLoRA on a page</title>'
        f"<style>{STYLE}</style></head><body><main>"
        f"<h1>LoRA and QLoRA on a page <small>lora-edu; in brackets: the notebook</small></h1>"
        f'<div class="pictures">{image(diagram, words, 61)}{image(levels, level_words, 38)}</div>'
        f'<div class="columns">{body}</div></main></body></html>'
    )


def image(figure: Figure, words: str, width: int) -> str:
    source = base64.b64encode(plots.png(figure)).decode("ascii")
    plt.close(figure)
    return f'<div style="width: {width}%"><img src="data:image/png;base64,{source}" alt="{words}"></div>'


def levels_picture() -> tuple[Figure, str]:
    """The 16 levels of NF4 as ticks on a line, over the bell that they are quantiles of."""
    levels = nf_codebook(4)
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    grid = [i / 100 - 1.2 for i in range(241)]
    axes.fill_between(grid, [2.718 ** (-((1.848 * x) ** 2) / 2) for x in grid], color=looks.BLUE, alpha=0.14, lw=0)
    axes.vlines(levels, 0, 0.42, color=looks.GREEN, lw=2.4)
    for code, level in enumerate(levels.tolist()):
        axes.text(level, 0.46 + 0.09 * (code % 2), str(code), ha="center", fontsize=9, color=looks.GREEN)
        axes.text(level, -0.05, f"{level:.3f}", ha="center", va="top", rotation=90, fontsize=9)
    axes.set(xlim=(-1.12, 1.12), ylim=(-0.42, 1.05))
    axes.axis("off")
    axes.set_title("NF4: code (above) and level (below)")
    return figure, "The 16 levels of NF4 between -1 and 1, dense around 0, with their codes, over a bell curve."


def formula(html: str) -> str:
    return f'<p class="formula">{html}</p>'


def rows(header: list[str], lines: list[list[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    return f"<table><tr>{head}</tr>" + "".join(
        "<tr>" + "".join(f"<td>{cell}</td>" for cell in line) + "</tr>" for line in lines
    ) + "</table>"  # fmt: skip


def memory_rows() -> list[list[str]]:
    """GiB by kind for a model of 7B, one sequence of 512 tokens."""
    llama = ARCHITECTURES["LLaMA 7B"]
    ways: list[dict[str, Any]] = [{}, {"rank": 64}, {"rank": 64, "bits": 4, "checkpointing": True}]
    needed = [training_bytes(llama, **how) for how in ways]
    lines = [[kind, *(f"{size[kind] / GIB:.1f}" for size in needed)] for kind in needed[0]]
    return [*lines, ["in all", *(f"<b>{sum(size.values()) / GIB:.1f}</b>" for size in needed)]]


def quality_rows() -> list[list[str]]:
    """Loss on plays and on addresses after 100 steps, each method at its best rate, the mean of three seeds."""
    lines = []
    stored = stored_runs("qlora-quality", "after").where(steps=100, permuted=None, text="all plays", rank=8)
    for method, name in looks.NAMES.items():
        runs = stored.where(method=method)
        losses = [mean(runs.at_best(which)) for which in ("after", "addresses")]
        lines.append([name, f"{runs.best_rate():g}", *(f"{loss:.3f}" for loss in losses)])
    return lines


def format_rows() -> list[list[str]]:
    arms = load_results("scoreboard")["arms"]
    shown = ("int4, one constant a layer", "int4, blocks of 64", "nf4, blocks of 64", "nf4, double quantization")
    start = arms["as shipped"]["loss"]
    return [
        [name, f"{arm['bits']:.3f}", f"{arm['weight_error']:.1%}", f"{arm['loss'] - start:+.4f}"]
        for name, arm in arms.items()
        if name in shown
    ]


def sections() -> dict[str, str]:
    """Title -> HTML, in the order of the page."""
    llama, gap = ARCHITECTURES["LLaMA 7B"], nf_codebook(4).diff()
    trained = llama.adapter_numbers(64, tuple(llama.linears))
    base = load_results("qlora-quality")["arms"]["lora, not trained"]
    return {
        "LoRA [02, 04]": (
            formula("y = W x + s B (A x), &nbsp; s = &alpha; / r")
            + "<p>W: d<sub>out</sub> &times; d<sub>in</sub>, frozen. A: r &times; d<sub>in</sub>, random. "
            "B: d<sub>out</sub> &times; r, <b>zero</b>: nothing changes at the start, and B learns first.</p>"
            + formula("&part;B = s G A<sup>T</sup>, &nbsp; &part;A = s B<sup>T</sup> G &nbsp; (G = &part;L/&part;W)")
            + "<p>Trained: r (d<sub>out</sub> + d<sub>in</sub>) a layer. 7B, r = 64, all linears: "
            f"{trained / 1e6:.0f}M of {llama.n_parameters / 1e9:.2f}B. Merge: W + s B A, once; then no extra work.</p>"
            "<p>Operations, layer N &times; N: forward 1 + 2r/N; forward and backward 2 + 6r/N, full training 3.</p>"
        ),
        "Quantization [05, 06, 07]": (
            formula("code = nearest(w / absmax), &nbsp; w&prime; = level[code] &middot; absmax")
            + "<p>One absmax for 64 weights. NF4: quantiles of the normal law from 929/960 to 1/2, 8 above an exact 0 "
            f"and 7 below, over the largest. Gaps {gap.min():.3f} to {gap.max():.3f}: the largest weight of a block is "
            "exact, those next to it are worst.</p>"
            + formula(f"bits: 4 + 32/64 = {total_bits(64):g}")
            + formula(f"4 + 8/64 + 32/(64 &middot; 256) = {total_bits(64, 8, 256):.3f}")
            + rows(["", "bits", "error of W", "loss added"], format_rows())
        ),
        "QLoRA [09]": (
            formula("y = W&prime; x + s B (A x), &nbsp; W&prime; decoded each time")
            + formula("&part;x = &part;y W&prime; + s (&part;y B) A")
            + "<p>Forward: decode, multiply, forget. Backward: decode again. Storage 4 bits, arithmetic 16 or 32. "
            "Head, embeddings and norms are not rounded. Codes never move.</p>"
        ),
        "Memory, 7B, 512 tokens, GiB [08, 14]": (
            rows(["", "full", "LoRA", "QLoRA, checkp."], memory_rows())
            + "<p>Freezing: gradients, state. 4 bits: weights. Checkpointing: activations.</p>"
        ),
        "What it costs: our GPT, 100 steps [09]": (
            rows(["each at its own rate", "rate", "plays", "addresses"], quality_rows())
            + "<p>Search the rate for each method. Before: {before:.2f} and {addresses:.2f}.</p>".format(**base)
        ),
        "In code": (
            "<pre><code>model = load_base()\nquantize_linears(model, double_quant=True)\n"
            'add_lora(model, rank=8, alpha=16, targets="all-linear")\n'
            'train(model, load_text("shakespeare"), steps=150, lr=1e-2)\n'
            'save_adapter(model, "mine")   # PEFT\'s format</code></pre>'
        ),
        "Before you believe it": (
            "<ul><li>Output equal before and after injection? Base bytes equal before and after training?</li>"
            "<li>Did <b>every B</b> leave zero? (Reentrant checkpointing: none.)</li>"
            "<li>Test with &alpha; &ne; r and a weight that is not square.</li>"
            "<li>Merging in bf16 gets a part of a small update wrong; rounding again loses nearly all of it.</li>"
            "<li>Each method at its own rate; three seeds; a difference seed by seed, with a tolerance.</li>"
            "<li>A verdict has a number, settings, and a control that could have said no [13].</li></ul>"
        ),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="lora-edu cheatsheet", description="Write the course's page to print (A4).")
    parser.add_argument("path", nargs="?", type=Path, default=Path(NAME), help=f"a file or a folder; default: {NAME}")
    path = parser.parse_args().path
    path = path / NAME if path.is_dir() else path
    if path.suffix not in (".html", ".htm"):
        raise ValueError(f"the page is HTML, and {path} would hide that: name a folder, or a file such as {NAME}")
    check_output(path.parent, "name another")
    with staging(path) as target:
        target.write_text(cheat_sheet(), encoding="utf-8")
    print(f"{path}: open it in a browser and print it, one page A4")
