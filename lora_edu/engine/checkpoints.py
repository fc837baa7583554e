"""Checkpoints: what a training run needs to go on as if it had never been stopped.

A checkpoint is one file, `step-00000150.safetensors`. It holds the tensors
    parameter.<name>          every trainable parameter: the adapters, or the whole model in full fine-tuning
    optimizer.<name>.<key>    AdamW's two running means and its count of steps, for each of these parameters
    buffer.<name>             the bytes of every buffer, which training may change; one row for each process
    batches                   the random state that batches are drawn with: the position in the text
and a JSON record: the description of the run (`lora_edu.engine.same_run`), its history, a SHA-256 over all of it. The
learning rate and the other random numbers are functions of the step. Frozen weights are described and not stored.
A file is written beside its place and then renamed: each is whole at any moment. What is put back is what was written,
by its checksum, and of this run, by its description: both are checked before anything is changed.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu.engine import distributed
from lora_edu.engine.same_run import check_same_run
from lora_edu.files import take_lock
from lora_edu.records import staging
from lora_edu.tensor_files import PICKLES, read_tensors, seal

KEPT = 2  # the newest, and the one before in case the newest is damaged later


class Checkpoints:
    """The checkpoints of one run in one folder. If the run has several processes, all of them call each method."""

    def __init__(
        self,
        folder: str | Path,
        describe: Callable[[], dict[str, str]],
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ):
        """describe: what the run's curve depends on, as `describe_run` finds it. generator: what draws the batches."""
        self.folder, self.describe = Path(folder), describe
        self.model, self.optimizer, self.generator = model, optimizer, generator
        self._position: Tensor | None = None  # of the batches, at the end of a whole step
        self._stored: dict | None = None  # the history in the newest file
        self._lock: FileLock | None = None

    def load(self) -> dict:
        """Put the newest checkpoint into model, optimizer and batches; returns its history, {} if there is none.

        Raises ValueError, before anything is changed, for a damaged file, a pickle or another run; OSError if the
        folder cannot be written to, BlockingIOError if another run is at work there.
        """
        check_folder(self.folder)
        described, paths = self.describe(), checkpoint_paths(self.folder)
        step = int(paths[-1].stem.removeprefix("step-")) if paths else 0
        if distributed.total(step) != distributed.processes() * step:
            raise ValueError(f"the processes do not see the same files in {self.folder}: name a folder that they share")
        if step < int(described["steps"]):  # a finished run is only read
            self._claim()
        if paths:
            record, tensors = read_checkpoint(paths[-1])
            check_same_run(record["run"], described, paths[-1])
            self._restore(tensors)
            self._stored = record["history"]
        self.mark()
        return dict(self._stored or {})

    def mark(self) -> None:
        """Take down where the batches are: model, optimizer and history are at the end of a whole step now."""
        self._position = self.generator.get_state()

    def save(self, step: int, history: dict) -> None:
        """Write a checkpoint of the last whole step, then remove all but the two newest.

        What the run depends on is described anew: where a loss function has changed since, only that one can go on.
        Raises OSError if it cannot be written; the checkpoints before it are untouched then.
        """
        history = json.loads(json.dumps(history))  # as it comes back
        if self._position is None or self._stored == history:
            return  # nothing has happened yet, or nothing new
        tensors = {name: distributed.gather(row) for name, row in self._buffers().items()}
        if distributed.rank() == 0:
            self._claim()
            tensors |= {name: slot.detach().to("cpu", copy=True).contiguous() for name, slot in self._slots().items()}
            tensors["batches"] = self._position
            record = {"run": self.describe(), "history": history}
            write_checkpoint(self.folder / f"step-{step:08d}.safetensors", tensors, record)
            for old in checkpoint_paths(self.folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        self._stored = history

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock:
            self._lock.release()
            self._lock = None

    def _claim(self) -> None:
        """Keep other runs out of the folder until `close`, and remove what a killed run left half written."""
        if self._lock or distributed.rank() > 0:
            return
        try:
            self._lock = take_lock(self.folder / ".lock")
        except OSError as error:
            advice = "wait for its end" if isinstance(error, BlockingIOError) else "permit it"
            raise type(error)(f"{error}: {advice}, or name another folder for this run") from error
        for leftover in self.folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _slots(self) -> dict[str, Tensor]:
        """The tensors of model and optimizer themselves, by their names in a file. AdamW's start at zero."""
        slots: dict[str, Tensor] = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                state = self.optimizer.state[parameter]
                if not state:
                    state["step"] = torch.tensor(0.0, dtype=torch.float32, device="cpu")
                    state |= {key: torch.zeros_like(parameter) for key in ("exp_avg", "exp_avg_sq")}
                slots[f"parameter.{name}"] = parameter
                slots |= {f"optimizer.{name}.{key}": value for key, value in state.items()}
        return slots

    def _buffers(self) -> dict[str, Tensor]:
        """Their bytes, each (n,) uint8: infinite numbers, of a mask, come back as they were."""
        flat = {name: buffer.contiguous().reshape(-1) for name, buffer in self.model.named_buffers()}
        return {f"buffer.{name}": buffer.view(torch.uint8) for name, buffer in flat.items()}

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for name, slot in self._slots().items():
            slot.copy_(tensors[name])
        for name, buffer in self.model.named_buffers():
            own = tensors[f"buffer.{name}"][distributed.rank()].clone()  # a copy: its bytes start where numbers may
            buffer.copy_(own.view(buffer.dtype).view(buffer.shape))
        self.generator.set_state(tensors["batches"])


# --- files and the folder --------------------------------------------------------------------------------------------


def checkpoint_paths(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if re.fullmatch(r"step-\d{8}", path.stem))


def write_checkpoint(path: Path, tensors: dict[str, Tensor], record: dict) -> None:
    """Write a checkpoint; a reader sees all of it or nothing.

    Raises OSError; the checkpoints before it are untouched then.
    """
    record = record | {"sha256": seal(tensors, record)}
    try:
        with staging(path) as target:
            save_file(tensors, target, metadata={"checkpoint": json.dumps(record)})
    except (SafetensorError, OSError) as error:  # safetensors has an error of its own for a full disk
        reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
        before = checkpoint_paths(path.parent)
        kept = f"The last good checkpoint is {before[-1].name}: free" if before else "Free"
        message = f"{path} could not be written ({reason}). {kept} some space (or permit writing), then run it again"
        raise (type(error) if isinstance(error, OSError) else OSError)(message) from error


def read_checkpoint(path: Path) -> tuple[dict, dict[str, Tensor]]:
    """The record and the tensors of a checkpoint. Raises ValueError for a damaged file and for a pickle."""
    tensors, metadata = read_tensors(path, _advice(path))
    try:
        record = json.loads(metadata["checkpoint"])
        if record["sha256"] != seal(tensors, record):
            raise ValueError("its content is not what was written")
    except (TypeError, LookupError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged ({error}): {_advice(path)}") from error
    if "run" not in record:
        raise ValueError(f"{path} was written by an earlier version of this package: {_advice(path)}")
    return record, tensors


def _advice(path: Path) -> str:
    before = [other for other in checkpoint_paths(path.parent) if other < path]
    rest = f"goes on from {before[-1].name}" if before else "starts from the beginning"
    return f"delete it, and the same command {rest}"


def check_folder(folder: Path) -> None:
    """Raise ValueError if this is no folder, or one that holds somebody's pickles instead of checkpoints."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file: checkpoint= names a folder, which need not exist yet")
    pickles = [path for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    if pickles and not checkpoint_paths(folder):
        never = "is a pickle, which can run any code when it is opened, so it is never opened"
        raise ValueError(f"{pickles[0]} {never}: this run needs another folder, for step-<number>.safetensors")
