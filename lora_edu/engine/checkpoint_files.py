"""A checkpoint as a file: `step-00000150.safetensors`, tensors with a JSON record in the header.

A file is written beside its place and then renamed, so that each file in the folder is whole at any moment, and an
older one is removed only afterwards. Nothing is ever unpickled: opening a pickle can run any code.
"""

import json
import os
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lora_edu.files import staging

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
PICKLED = re.compile(rb"PK\x03\x04|\x80[\x02-\x05][^\x00]")  # of a pickle: a mark, its protocol, an instruction


def checkpoint_path(folder: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return folder / f"step-{step:08d}.safetensors"


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", path.stem))


def write_checkpoint(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    """Write a checkpoint; a reader sees all of it or nothing.

    Raises OSError (PermissionError for a folder that is not ours to write to); the checkpoints before it are
    untouched then.
    """
    try:
        with staging(path) as target:
            save_file(tensors, target, metadata={"checkpoint": json.dumps(record)})
            _sync_to_disk(target)
    except (SafetensorError, OSError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        before = checkpoint_paths(path.parent)
        kept = f"The last good checkpoint is {before[-1].name}: free" if before else "Free"
        message = f"{path} could not be written ({reason}). {kept} some space (or permit writing), then run it again"
        raise (PermissionError if isinstance(error, PermissionError) else OSError)(message) from error


def read_checkpoint(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The record and the tensors of a checkpoint. Raises ValueError for a damaged file and for a pickle."""
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["checkpoint"])
            return record, {name: file.get_tensor(name).clone() for name in file.keys()}
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        what = "is a pickle, which can run any code and is never opened" if _is_pickle(path) else "is damaged"
        before = [other for other in checkpoint_paths(path.parent) if other < path]
        rest = f"goes on from {before[-1].name}" if before else "starts from the beginning"
        raise ValueError(f"{path} {what} ({error}): delete it, and the same command {rest}") from error


def check_folder(folder: Path) -> None:
    """Raise ValueError if this is no folder, or one that holds somebody's pickles instead of checkpoints."""
    never = "is a pickle, which can run any code when it is opened, so it is never opened"
    if folder.exists() and not folder.is_dir():
        what = never if _is_pickle(folder) else "is a file"
        raise ValueError(f"{folder} {what}: checkpoint= names a folder, which need not exist yet")
    pickles = [path for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    if pickles and not checkpoint_paths(folder):
        raise ValueError(
            f"{pickles[0]} {never}. The checkpoints of this course are called step-<number>.safetensors: "
            "name another folder for this run"
        )


def _is_pickle(path: Path) -> bool:
    """By the first bytes: those of a pickle, or of the zip archive that torch.save wraps around one.

    A safetensors file starts with the length of its header, any eight bytes, which may look like a pickle's; then "{".
    """
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix in PICKLES or bool(PICKLED.match(start) and start[8:] != b"{")


def _sync_to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a rename must not arrive there before them when the power fails."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
