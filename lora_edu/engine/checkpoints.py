"""Checkpoints: what a training run needs to go on as if it had never been stopped.

A checkpoint is one file, `step-00000150.safetensors`. It holds the tensors
    parameter.<name>          every trainable parameter: the adapters, or the whole model in full fine-tuning
    optimizer.<name>.<key>    AdamW's two running means and its count of steps, for each of these parameters
    random.<source>           the random states: of the batches ("data", the position in the text) and of dropout
                              ("cpu", "cuda"); one row for each process
and a JSON record: the settings of the run, the history so far, a SHA-256 over all of it. The learning rate is a
function of the step. Frozen weights are not stored; a fingerprint tells whether they are the same. A file is written
beside its place and then renamed: each is whole at any moment. All of it is checked before anything is changed.
"""

import json
import os
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
from lora_edu.engine.same_run import as_json, check_same_run, versions, warn_if_another_torch
from lora_edu.files import take_lock
from lora_edu.records import staging
from lora_edu.tensor_files import PICKLES, is_pickle, misfit, read_tensors, seal

KEPT = 2  # the newest, and the one before in case the newest is damaged later


class Checkpoints:
    """The checkpoints of one run in one folder. If the run has several processes, all of them call each method."""

    def __init__(
        self,
        folder: str | Path,
        settings: dict,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        defaults: dict | None = None,
    ):
        """settings: everything that the run's curve depends on, by name, `steps` among them.

        generator: what draws the batches. defaults: what a setting was before it existed: runs that were stored then
        go on, if it still has this value.
        """
        self.folder, self.model, self.optimizer, self.generator = Path(folder), model, optimizer, generator
        self.settings, self.defaults = as_json(settings), as_json(defaults or {})
        self.device = next(model.parameters()).device
        self._random_states: dict[str, Tensor] | None = None
        self._stored: dict | None = None  # the history in the newest file
        self._lock: FileLock | None = None

    def load(self, take_over: Callable[[dict, int], None]) -> None:
        """Put the newest checkpoint into model, optimizer and random states; leave them if there is none.

        take_over: called with the stored history and the number of steps done, before anything is changed; raises
        ValueError if it makes no sense.
        Raises ValueError, before anything is changed, for a damaged file, a pickle or a run with other settings;
        OSError if the folder cannot be written to, BlockingIOError if another run is at work there.
        """
        check_folder(self.folder)
        paths = checkpoint_paths(self.folder)
        step = int(paths[-1].stem.removeprefix("step-")) if paths else 0
        if distributed.total(step) != distributed.processes() * step:
            raise ValueError(f"the processes do not see the same files in {self.folder}: name a folder that they share")
        if step < self.settings["steps"]:  # a finished run is only read
            self._claim()
        if paths:
            record, tensors = read_checkpoint(paths[-1])
            check_same_run(record["settings"], self.settings, self.defaults, paths[-1])
            try:
                self._check(record, tensors)
                take_over(record["history"], step)
            except (ValueError, TypeError) as error:
                raise _damaged(paths[-1], error) from error
            warn_if_another_torch(record["written_with"])
            self._restore(tensors)
            self._stored = record["history"]
        self.mark()

    def mark(self) -> None:
        """Take down the random states: model, optimizer and history are at the end of a whole step now."""
        self._random_states = random_states(self.generator, self.device)

    def save(self, step: int, history: dict) -> None:
        """Write a checkpoint of the last whole step, then remove all but the two newest.

        Raises OSError if it cannot be written; the checkpoints before it are untouched then.
        """
        history = as_json(history)
        if self._random_states is None or self._stored == history:
            return  # nothing has happened yet, or nothing new
        tensors = {f"random.{name}": distributed.gather(state) for name, state in self._random_states.items()}
        if distributed.rank() == 0:
            self._claim()
            slots = self._slots()
            tensors |= {name: slot.detach().to("cpu", copy=True).contiguous() for name, slot in slots.items()}
            record = {"settings": self.settings, "history": history, "idle": [], "written_with": versions()}
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

    def _check(self, record: dict, tensors: dict[str, Tensor]) -> None:
        """Raise ValueError unless there is every tensor that this run needs, of its shape and type, and no other."""
        started = any(name.startswith("optimizer.") for name in tensors)
        idle = [f"optimizer.{name}." for name in record.get("idle", [])] if started else ["optimizer."]  # of before
        expected = {name: slot for name, slot in self._slots().items() if not name.startswith(tuple(idle))}
        states = random_states(self.generator, self.device)
        expected |= {f"random.{name}": own.expand(distributed.processes(), -1) for name, own in states.items()}
        if problem := misfit(tensors, expected):
            raise ValueError(problem)

    @torch.no_grad()
    def _restore(self, tensors: dict[str, Tensor]) -> None:
        for name, slot in self._slots().items():
            if name in tensors:
                slot.copy_(tensors[name])
        states = {name.removeprefix("random."): rows for name, rows in tensors.items() if name.startswith("random.")}
        set_random_states(states, self.generator, self.device)


def random_states(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Where the random numbers are at this moment: of the batches, and of dropout on the CPU and on a GPU."""
    states = {"data": generator.get_state(), "cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    """Put them back. states: name -> (processes, n) uint8; each process takes its own row."""
    own = {name: rows[distributed.rank()].clone() for name, rows in states.items()}  # a copy: torch reads no row 1
    generator.set_state(own["data"])
    torch.set_rng_state(own["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)


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
            with target.open("rb+") as file:
                os.fsync(file.fileno())  # a rename must not reach the disk before the bytes when the power fails
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
        if not all(isinstance(record[name], dict) for name in ("settings", "history", "written_with")):
            raise ValueError("its record is incomplete")
        if record.get("sha256") != (seal(tensors, record) if "idle" in record else None):  # both came at once
            raise ValueError("its content is not what was written")
    except (TypeError, LookupError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error
    return record, tensors


def _damaged(path: Path, error: Exception) -> ValueError:
    return ValueError(f"{path} is damaged ({error}): {_advice(path)}")


def _advice(path: Path) -> str:
    before = [other for other in checkpoint_paths(path.parent) if other < path]
    rest = f"goes on from {before[-1].name}" if before else "starts from the beginning"
    return f"delete it, and the same command {rest}"


def check_folder(folder: Path) -> None:
    """Raise ValueError if this is no folder, or one that holds somebody's pickles instead of checkpoints."""
    never = "is a pickle, which can run any code when it is opened, so it is never opened"
    if folder.exists() and not folder.is_dir():
        what = never if is_pickle(folder) else "is a file"
        raise ValueError(f"{folder} {what}: checkpoint= names a folder, which need not exist yet")
    pickles = [path for path in sorted(folder.glob("*")) if path.suffix in PICKLES]
    if pickles and not checkpoint_paths(folder):
        raise ValueError(f"{pickles[0]} {never}: this run needs another folder, for step-<number>.safetensors")
