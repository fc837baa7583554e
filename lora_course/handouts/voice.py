"""Your own text: an adapter for its voice, and a card of one page that says what it learned and what it cost.

    lora-edu voice my_text.txt --rights "written by me"

The folder that it writes holds the adapter in PEFT's format, 0.6 MB to give away; the card, picture and numbers; and
voice.html, a page of one file in which the model itself runs under a dial, wherever it is opened.
"""

import argparse
import json
import os
import time
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from lora_course.alive.dial_page import voice_page
from lora_course.drawing.looks import ADAPTER, BLUE, GRAY, ORANGE, RED, light
from lora_course.drawing.painted import PaintedLine, in_lines
from lora_course.drawing.plots import png
from lora_course.drawing.style import styled
from lora_course.programs.command import check_output, keep
from lora_course.programs.own_text import held_out_line, read_own_text
from lora_course.running.shuffling import shuffle_adapter
from lora_edu import GPT, adapter_state, add_lora, load_adapter_state, load_base, quantize_linears, save_adapter
from lora_edu.checks import TRAINING, check
from lora_edu.observing import surprise
from lora_edu.records import staging
from lora_edu.texts import ADDRESS_LINE, Text, load_text
from lora_edu.training import evaluate, train

RANK, ALPHA, RATE = 8, 16, 1e-2  # as in notebook 09
AFTERWARDS, STEP = 1.4, 0.06  # how long other measurements and a step of training take, in first measurements
SAMPLE = {"max_new_tokens": 300, "temperature": 0.7, "top_k": 20}


class VoiceCard(NamedTuple):
    """Where it was written, and what stands on it."""

    folder: Path
    numbers: dict  # name of a model (`before`, `after`, `shuffled`) -> losses on `own` and `addresses`, nats per byte
    words: str  # the card for those who do not see it


def make_card(
    path: str | Path, *, rights: str, name: str | None = None, folder: str | Path | None = None, steps: int = 150,
    windows: int = 64, seed: int = 0, progress: bool = True,
) -> VoiceCard:  # fmt: skip
    """Train a QLoRA adapter of the course's base on a text file, and write it with its card.

    rights: why you may train on this text and pass the adapter on, in a few words; it stands on the card.
    name: what the voice is called there and on its page; by default the file's.
    folder: where to write; by default `voice-<name of the text>`. windows: how many of each held-out text are measured.
    Raises what `read_own_text` raises, ValueError without rights, OSError for a folder that is there or cannot be made,
    and KeyboardInterrupt, writing nothing, when stopped.
    """
    text, stem = read_own_text(path), Path(path).stem
    name = (name or "").strip() or stem.replace("_", " ")
    if not isinstance(rights, str) or not rights.strip():
        raise ValueError(
            "rights must say why you may train on this text and give the adapter away, such as "
            f'--rights "written by me" or --rights "public domain", got {rights!r}'
        )
    check(TRAINING["steps"], steps=steps)
    folder = Path(folder or f"voice-{stem}")
    if os.path.lexists(folder):
        raise FileExistsError(f"{folder} is there already: move it away, or name another folder, --output")
    check_output(folder)
    model = load_base("laptop")
    quantize_linears(model, double_quant=True)
    line = held_out_line(text)
    say = partial(print, flush=True) if progress else lambda _: None
    say(f"{len(text.train):,} bytes to train on, {len(text.validation):,} held out. The first measurement ...")
    start = time.perf_counter()
    looks = {"before": _look(model, text, line, windows)}
    took = time.perf_counter() - start
    minutes = took * (AFTERWARDS + steps * STEP) / 60
    say(f"took {took:.0f} s: about {minutes:.1f} minutes more, while this machine is as busy as now")
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, RANK, ALPHA, "all-linear")
    if train(model, text, steps, lr=RATE, batch_size=8, seed=seed, eval_windows=4, progress=progress).interrupted:
        raise KeyboardInterrupt(f"stopped: nothing was written to {folder}")
    say("trained. The second measurement ...")
    looks["after"] = _look(model, text, line, windows)
    adapter = adapter_state(model)
    say("The third, with the adapter's numbers shuffled ...")
    shuffle_adapter(model, seed)  # the control
    looks["shuffled"] = _losses(model, text, windows)
    load_adapter_state(model, adapter)
    facts = {"name": name, "rights": rights.strip(), "line": line, "steps": steps, "seed": seed}
    figure, words = card_figure(facts, looks)
    page = voice_page(model, name, rights.strip(), line)

    def write(place: Path) -> None:
        with staging(place) as target:
            save_adapter(model, target)
            (target / "card.png").write_bytes(png(figure))
            (target / "voice.html").write_text(page, encoding="utf-8")
            (target / "card.json").write_text(json.dumps(facts | looks, indent=1) + "\n", encoding="utf-8")

    keep(write, folder)
    plt.close(figure)
    losses = {name: {on: look[on] for on in ("own", "addresses")} for name, look in looks.items()}
    return VoiceCard(folder, losses, words)


def _losses(model: GPT, text: Text, windows: int) -> dict[str, float]:
    addresses = load_text("speeches").validation
    held_out = {"own": text.validation, "addresses": addresses}
    return {name: round(evaluate(model, tokens, max_windows=windows), 4) for name, tokens in held_out.items()}


def _look(model: GPT, text: Text, line: str, windows: int) -> dict:
    """Losses, the two painted lines (n_bytes,), and what the model writes after the line's first words."""
    start = "\n" + " ".join(line.split(" ")[:3])
    sample = model.generate(start, **SAMPLE, generator=torch.Generator().manual_seed(0))
    lines = {"own line": line, "address line": ADDRESS_LINE}
    painted = {name: [round(float(loss), 3) for loss in surprise(model, one)] for name, one in lines.items()}
    return _losses(model, text, windows) | painted | {"sample": sample.strip()}


# --- the card --------------------------------------------------------------------------------------------------------


@styled
def card_figure(facts: dict, looks: dict) -> tuple[Figure, str]:
    """One page: both painted lines before and after, gain, price and control as bars, a sample of each voice."""
    figure = plt.figure(figsize=(9.4, 12.2), layout="none")  # every part has its place
    gain = looks["before"]["own"] - looks["after"]["own"]
    price = looks["after"]["addresses"] - looks["before"]["addresses"]
    control = looks["before"]["own"] - looks["shuffled"]["own"]
    figure.text(0.04, 0.972, f"The voice of {facts['name']}", fontsize=18, weight="bold", va="top")
    made = f"{facts['steps']} steps of QLoRA, rank {RANK}. Rights: {facts['rights']}"
    figure.text(0.04, 0.943, made, va="top", color=GRAY)
    lines, colors = {"own line": facts["line"], "address line": ADDRESS_LINE}, {"before": BLUE, "after": ORANGE}
    for row, (key, when) in enumerate(product(lines, colors)):
        axes = figure.add_axes((0.07, 0.81 - 0.118 * row, 0.9, 0.098))
        PaintedLine(axes, lines[key], when, colors[when]).set(np.array(looks[when][key]))
    _bars(figure.add_axes((0.26, 0.3, 0.6, 0.1)), gain, price, control)
    for top, when in ((0.255, "before"), (0.135, "after")):
        figure.text(0.04, top, f"It writes, {when}:", va="top", fontsize=11)
        sample = in_lines(looks[when]["sample"], 100, 5)
        figure.text(0.04, top - 0.02, sample, va="top", family="monospace", fontsize=9.5)
    words = (
        f"The adapter gains {gain:.2f} nats per byte on held-out text of {facts['name']} and costs {price:.2f} on "
        f"addresses; with its numbers shuffled it gains {control:.2f}. Two lines before and after, a bar of surprise "
        "under every byte, three bars, and a sample of each voice."
    )
    return figure, words


def _bars(axes, gain: float, price: float, control: float) -> None:
    bars = {
        "gain on held-out text": (gain, ADAPTER),
        "price on addresses": (price, (RED, "")),
        "gain if shuffled": (control, (GRAY, "..")),
    }
    reach = max(0.1, *(abs(value) for value, _ in bars.values()))
    for row, (value, look) in enumerate(bars.values()):
        axes.barh(row, value, height=0.6, **light(look))
        axes.text(max(value, 0) + 0.02 * reach, row, f"{value:+.2f}", va="center")
    axes.set(yticks=range(len(bars)), yticklabels=list(bars), xlabel="nats per byte")
    axes.set_xlim(min(-0.05 * reach, control * 1.2), 1.15 * reach)
    axes.invert_yaxis()
    axes.axvline(0, color="black", lw=0.8)
    axes.spines["left"].set_visible(False)


def main(arguments: list[str] | None = None) -> None:
    usage = 'lora-edu voice my_text.txt --rights "written by me" [--name NAME] [--steps N] [--output FOLDER]'
    parser = argparse.ArgumentParser(prog="lora-edu voice", usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path, help="a file of plain text, at least 100,000 bytes in UTF-8")
    parser.add_argument("--rights", default="", help="why you may train on it, such as 'written by me'")
    parser.add_argument("--name", help="what the voice is called, such as 'My grandmother'; default: the file's name")
    parser.add_argument("--steps", type=int, default=150, help="default: 150")
    parser.add_argument("--output", type=Path, help="default: voice-<name of the text>")
    options = parser.parse_args(arguments)
    card = make_card(options.text, rights=options.rights, name=options.name, steps=options.steps, folder=options.output)
    print(f"{card.words}\nwritten to {card.folder}: the adapter, its card.png, and voice.html, which you can send to a")
    print(f'classmate: it runs where it is opened. To hear it here: lora-edu speak {card.folder} "I have " --compare')
