"""The base models of the course, and how one is loaded.

The laptop's ships in `data/`, the GPU's is trained on first use and kept in the cache: `lora-edu pretrain`, which is
`lora_course.programs.pretrain`, made both. Beside the weights (bfloat16, safetensors) lies a log with their sha256.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch

from lora_edu import files, tensor_files
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.records import read_record, sha256
from lora_edu.training import pick_device


@dataclass(frozen=True)
class Recipe:
    """A model's shape and how long it is trained."""

    config: GPTConfig
    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 200
    compile: bool = False  # with torch.compile, where that works


SIZES = {
    "laptop": Recipe(GPTConfig(), steps=12_000, batch_size=16, lr=2e-3),
    "gpu": Recipe(
        GPTConfig(context=512, n_layers=8, n_heads=8, d_model=512), steps=3_000, batch_size=64, lr=1e-3, compile=True
    ),
}


def pick_size(size: str = "laptop") -> str:
    """The size that a notebook asks for, unless `LORA_EDU_SIZE` overrides it. Raises ValueError for an unknown one."""
    chosen = os.environ.get("LORA_EDU_SIZE")
    return check_size(chosen, "LORA_EDU_SIZE") if chosen else check_size(size)


def base_path(size: str) -> Path:
    """Where the weights of a base model lie: shipped for the laptop, in the cache for the GPU."""
    name = f"base-{check_size(size)}.safetensors"
    return files.data_file(name) if size == "laptop" else files.cache_dir() / name


def load_base(size: str | None = None, device: str | torch.device | None = None) -> GPT:
    """The pre-trained GPT, float32, in evaluation mode.

    size: "laptop" (ships with the course) or "gpu" (25 million parameters; `lora-edu pretrain --size gpu` makes it
    once); None asks `pick_size`.
    device: where to put it; None chooses as `train` does.
    Raises FileNotFoundError if it has not been made yet, ValueError if the file is damaged.
    """
    size = size or pick_size()
    path, command = base_path(size), f"lora-edu pretrain --size {size}"
    if not path.exists():
        raise FileNotFoundError(f"the {size!r} base model is not at {path} yet. Train it (minutes on a GPU): {command}")
    model = GPT(SIZES[size].config)
    advice = f"copy it again, or train it: {command} --replace"
    tensors, _ = tensor_files.read_tensors(path, advice)
    if problem := tensor_files.misfit(tensors, model.state_dict(), any_float=True) or _differs_from_its_log(path):
        raise ValueError(f"{path} is damaged ({problem}): {advice}")
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval().to(pick_device(device))


def _differs_from_its_log(path: Path) -> str | None:
    """In words, unless the weights are the ones that the log beside them was written for."""
    log = path.with_suffix(".json")
    try:
        wanted = read_record(log).get("sha256")
    except ValueError as error:
        return f"its log {log.name} tells nothing: {error}"
    return None if wanted == sha256(path) else "its sha256 is not the one in its log"


def check_size(size: str, name: str = "size") -> str:
    if size not in SIZES:
        raise ValueError(f"unknown {name} {size!r}: choose one of {', '.join(SIZES)}")
    return size
