"""Train an adapter on your own text, say what it learned and what that cost, and write a page in which it speaks.

    lora-edu voice my_text.txt --rights "written by me"

The folder that it writes holds the adapter in PEFT's format, 0.6 MB to give away; voice.json, with the losses; and
voice.html, a page of one file in which the model itself runs under a dial, wherever it is opened.
"""

import argparse
import os
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from lora_course.alive.dial_page import voice_page
from lora_course.programs.command import check_output, keep
from lora_course.programs.own_text import held_out_line, read_own_text
from lora_course.running.shuffling import shuffle_adapter
from lora_edu import GPT, adapter_state, add_lora, load_adapter_state, load_base, quantize_linears, save_adapter
from lora_edu.checks import TRAINING, check
from lora_edu.records import staging, write_record
from lora_edu.texts import Text, load_text
from lora_edu.training import evaluate, train

RANK, ALPHA, RATE = 8, 16, 1e-2  # as in notebook 09
AFTERWARDS, STEP = 2.2, 0.21  # how long other measurements and a step of training take, in first measurements


class Voice(NamedTuple):
    """Where it was written, and what was measured."""

    folder: Path
    losses: dict  # name of a model (`before`, `after`, `shuffled`) -> on `own` and `addresses`, nats per byte
    words: str  # what it gained, and what that cost


def make_voice(
    path: str | Path, *, rights: str, name: str | None = None, folder: str | Path | None = None, steps: int = 150,
    windows: int = 64, seed: int = 0, progress: bool = True,
) -> Voice:  # fmt: skip
    """Train a QLoRA adapter of the course's base on a text file, and write it with its page.

    rights: why you may train on this text and pass the adapter on, in a few words; it stands on the page.
    name: what the voice is called there; by default the file's.
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
    say = partial(print, flush=True) if progress else lambda _: None
    say(f"{len(text.train):,} bytes to train on, {len(text.validation):,} held out. The first measurement ...")
    start = time.perf_counter()
    losses = {"before": _losses(model, text, windows)}
    took = time.perf_counter() - start
    minutes = took * (AFTERWARDS + steps * STEP) / 60
    say(f"took {took:.0f} s: about {minutes:.1f} minutes more, while this machine is as busy as now")
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, RANK, ALPHA, "all-linear")
    if train(model, text, steps, lr=RATE, batch_size=8, seed=seed, eval_windows=4, progress=progress).interrupted:
        raise KeyboardInterrupt(f"stopped: nothing was written to {folder}")
    say("trained. The second measurement ...")
    losses["after"] = _losses(model, text, windows)
    adapter = adapter_state(model)
    say("The third, with the adapter's numbers shuffled ...")
    shuffle_adapter(model, seed)  # the control
    losses["shuffled"] = _losses(model, text, windows)
    load_adapter_state(model, adapter)
    rights, line = rights.strip(), held_out_line(text)
    facts = {"name": name, "rights": rights, "line": line, "steps": steps, "seed": seed}
    page = voice_page(model, name, rights, line)

    def write(place: Path) -> None:
        with staging(place) as target:
            save_adapter(model, target)
            (target / "voice.html").write_text(page, encoding="utf-8")
            write_record(target / "voice.json", facts | losses)

    keep(write, folder)
    return Voice(folder, losses, _words(name, losses))


def _losses(model: GPT, text: Text, windows: int) -> dict[str, float]:
    held_out = {"own": text.validation, "addresses": load_text("speeches").validation}
    return {name: round(evaluate(model, tokens, max_windows=windows), 4) for name, tokens in held_out.items()}


def _words(name: str, losses: dict[str, dict[str, float]]) -> str:
    gain, control = (losses["before"]["own"] - losses[other]["own"] for other in ("after", "shuffled"))
    price = losses["after"]["addresses"] - losses["before"]["addresses"]
    return (
        f"The adapter gains {gain:.2f} nats per byte on held-out text of {name} and costs {price:.2f} on addresses; "
        f"with its numbers shuffled it gains {control:.2f}."
    )


def main(arguments: list[str] | None = None) -> None:
    usage = 'lora-edu voice my_text.txt --rights "written by me" [--name NAME] [--steps N] [--output FOLDER]'
    parser = argparse.ArgumentParser(prog="lora-edu voice", usage=usage, description=__doc__.partition("\n")[0])
    parser.add_argument("text", type=Path, help="a file of plain text, at least 100,000 bytes in UTF-8")
    parser.add_argument("--rights", default="", help="why you may train on it, such as 'written by me'")
    parser.add_argument("--name", help="what the voice is called, such as 'My grandmother'; default: the file's name")
    parser.add_argument("--steps", type=int, default=150, help="how many training steps; default: 150")
    parser.add_argument("--output", type=Path, help="the folder to write to; default: voice-<name of the text>")
    options = parser.parse_args(arguments)
    how = {"rights": options.rights, "name": options.name, "steps": options.steps, "folder": options.output}
    voice = make_voice(options.text, **how)
    print(f"{voice.words}\nwritten to {voice.folder}: the adapter, and voice.html, which you can send to a classmate:")
    print(f'it runs where it is opened. To hear it here: lora-edu speak {voice.folder} "I have " --compare')
