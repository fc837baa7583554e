"""One command for a computer with an NVIDIA GPU: notebook 09 at its larger size, timed.

    make gpu                    (or: lora-edu gpu)
    lora-edu gpu --rehearse     the same program on the CPU, with the laptop's model

The notebook pre-trains a base of 25 million parameters, quantizes it and fine-tunes it with QLoRA. The goal is to do
all of it within ten minutes on one GPU. The executed notebook and a page of HTML go to `build/gpu/`; both name the card
and the time. A base that is there already is used again, and then the goal is not judged; `--again` trains it anew.
"""

import argparse
import os
import time
from pathlib import Path

import nbformat
import torch

from lora_edu.command import check_output
from lora_edu.models.pretrain import base_path
from lora_edu.setup import environment, report, working_copy
from lora_edu.setup.doctor import describe_device
from lora_edu.training import pick_device

NOTEBOOK = working_copy.course_folder() / "09_qlora_gpt.ipynb"
GOAL_SECONDS = 600
PATIENCE = 2 * 3600  # seconds that one cell may take: a slow card shall miss the goal, not fail


def run(folder: Path, again: bool = False, rehearse: bool = False, notebook: Path = NOTEBOOK) -> str:
    """Execute the notebook, write it and its page to a folder, and return what there is to say about the time.

    Raises ValueError if there is no CUDA GPU, unless this is a rehearsal.
    """
    size, device = ("laptop", "cpu") if rehearse else ("gpu", "cuda")
    try:
        pick_device(device)
    except ValueError as error:
        raise ValueError(f"{error}. Without a GPU, --rehearse tries the program out on the CPU") from error
    if again and not rehearse:
        base_path(size).unlink(missing_ok=True)
    pretrained_before = base_path(size).exists()
    os.environ |= {"LORA_EDU_SIZE": size, "LORA_EDU_DEVICE": device}  # the kernel inherits them
    start = time.perf_counter()
    executed = report.execute(notebook, timeout=PATIENCE)
    line = verdict(time.perf_counter() - start, pretrained_before, rehearse)
    note = f"> {describe_device()}, torch {torch.__version__}. {line}"
    executed.cells.insert(1, nbformat.v4.new_markdown_cell(note, id="gpu-run"))
    for path in report.save(executed, folder / notebook.name):
        print(f"wrote {path}")
    return line


def verdict(seconds: float, pretrained_before: bool, rehearse: bool) -> str:
    """The time that the notebook took, against the goal where it can be judged."""
    took = f"The notebook took {int(seconds) // 60} min {int(seconds) % 60} s"
    if rehearse:
        return f"{took}. This is a rehearsal: the laptop's model on the CPU. It says nothing about a GPU."
    if pretrained_before:
        return f"{took}, without pre-training: the base was there already (--again trains it anew). Goal: not judged."
    word = "met" if seconds <= GOAL_SECONDS else "missed"
    return f"{took}, pre-training included. Goal, {GOAL_SECONDS // 60} minutes: {word}."


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="lora-edu gpu", description="Notebook 09 on a GPU, timed.")
    parser.add_argument("--again", action="store_true", help="pre-train the base anew if it is there already")
    parser.add_argument("--rehearse", action="store_true", help="the laptop's model on the CPU: tries the program out")
    parser.add_argument(
        "--folder", type=Path, help="where to write; default: build/gpu, of a rehearsal build/rehearsal"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or environment.home() / "build" / ("rehearsal" if options.rehearse else "gpu")
    check_output(folder, "name another, --folder")
    print(run(folder, options.again, options.rehearse))
