"""Checkpoints: what a training run needs to go on as if it had never been stopped.

A checkpoint is one safetensors file, `step-00000150.safetensors`. Its tensors are
    parameter.<name>          every trainable parameter: the adapters, or the whole model in full fine-tuning
    optimizer.<name>.<key>    AdamW's two running means and its count of steps, for each of these parameters
    random.<source>           the random states: of the batches ("data", the position in the text) and of dropout
                              ("cpu", "cuda"); one row for each process
and its header carries, as JSON, the settings of the run and the history so far. The learning rate is a function of the
step (`training.learning_rate_factor`): the number of the step is all there is to know of the schedule. Frozen weights
are not stored; a fingerprint tells whether they are the same.

A file is written beside its place and then renamed, so that each file in the folder is whole at any moment, and the
checkpoint before it is removed only afterwards. Nothing is ever unpickled: opening a pickle can run any code.
"""

import json
import os
import re
import shutil
import warnings
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from lora_edu import distributed
from lora_edu.locks import lock_folder
from lora_edu.storage import staging

NAME, KEPT = "step-{:08d}.safetensors", 2
PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")


class Saved(NamedTuple):
    """What a checkpoint gives back besides parameters and optimizer state, which it puts in their places."""

    history: dict
    random_states: dict[str, Tensor]  # name -> (processes, n) uint8


class Checkpoints:
    """The checkpoints of one run in one folder; the two newest are kept."""

    def __init__(self, folder: str | Path, settings: dict):
        """settings: everything that the run's curve depends on, by name. Raises ValueError if `folder` is a file."""
        self.folder = Path(folder)
        self.settings = json.loads(json.dumps(settings))  # as they read when they come back: a tuple is a list
        self._lock = None
        _check_folder(self.folder)

    def files(self) -> list[Path]:
        """The checkpoints in the folder, oldest first."""
        if not self.folder.is_dir():
            return []
        return sorted(path for path in self.folder.iterdir() if re.fullmatch(r"step-\d{8}\.safetensors", path.name))

    def load(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> Saved | None:
        """Put the newest checkpoint into a model and its optimizer; None if there is no checkpoint yet.

        Raises ValueError, before anything is changed, for a damaged file, a pickle, or a run with other settings.
        """
        if not self.files():
            _check_no_pickle(self.folder)
            return None
        path = self.files()[-1]
        record, tensors = _read(path, self.files()[:-1])
        _check_same_run(record["settings"], self.settings, path)
        _warn_if_another_torch(record["written_with"])
        _restore(model, optimizer, tensors)
        return Saved(record["history"], _part(tensors, "random"))

    def claim(self) -> None:
        """Keep other runs out of the folder until `close`, and remove what a killed run left half written.

        Raises PermissionError if it cannot be written to, BlockingIOError if another run is at work there.
        """
        if distributed.rank() > 0:
            return
        self._lock = lock_folder(self.folder)
        for leftover in self.folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def save(
        self, model: nn.Module, optimizer: torch.optim.Optimizer, random_states: dict[str, Tensor], history: dict
    ) -> None:
        """Write the checkpoint of the steps in `history`, then remove all but the two newest.

        Of several processes all must call this; process 0 writes. Raises OSError if it cannot be written; the
        checkpoints before it are untouched then.
        """
        states = {f"random.{name}": distributed.gather(state) for name, state in random_states.items()}
        if distributed.rank() > 0:
            return
        path = self.folder / NAME.format(len(history["train_loss"]))
        record = {"settings": self.settings, "history": history, "written_with": _versions()}
        try:
            with staging(path) as target:
                save_file(_state(model, optimizer) | states, target, metadata={"checkpoint": json.dumps(record)})
                _sync_to_disk(target)
        except (SafetensorError, OSError) as error:  # safetensors has an error of its own for a full disk
            raise _cannot_write(path, error, self.files()) from error
        for old in self.files()[:-KEPT]:
            old.unlink(missing_ok=True)


def random_states(generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """Where the random numbers are at this moment: of the batches, and of dropout on the CPU and on a GPU."""
    states = {"data": generator.get_state(), "cpu": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def set_random_states(states: dict[str, Tensor], generator: torch.Generator, device: torch.device) -> None:
    """Put them back. states: name -> (processes, n), each process takes its own row."""
    own = {name: rows[distributed.rank()] for name, rows in states.items()}
    generator.set_state(own["data"])
    torch.set_rng_state(own["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(own["cuda"], device)


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of a checkpoint, on the CPU, each with memory of its own."""
    tensors = {}
    for name, parameter in _trainable(model).items():
        tensors[f"parameter.{name}"] = parameter
        for key, value in optimizer.state[parameter].items():
            tensors[f"optimizer.{name}.{key}"] = value
    return {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}


@torch.no_grad()
def _restore(model: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """The way back. The settings agree by now, and with them every name and shape."""
    parameters, moments = _part(tensors, "parameter"), _part(tensors, "optimizer")
    state = {}
    for index, (name, parameter) in enumerate(_trainable(model).items()):
        parameter.copy_(parameters[name])
        if own := {key.rpartition(".")[-1]: moments[key] for key in moments if key.rpartition(".")[0] == name}:
            state[index] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _part(tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{head}."): tensor for name, tensor in tensors.items() if name.startswith(f"{head}.")}


def _versions() -> dict:
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


# --- what can be wrong ---------------------------------------------------------------------------------------------


def _check_folder(folder: Path) -> None:
    if folder.exists() and not folder.is_dir():
        pickle = " (and a pickle, which is never opened: it can run any code)" if folder.suffix in PICKLES else ""
        raise ValueError(f"checkpoint={str(folder)!r} is a file{pickle}: name a folder, which need not exist yet")


def _check_no_pickle(folder: Path) -> None:
    if pickles := [path for path in folder.glob("*") if path.suffix in PICKLES]:
        raise ValueError(
            f"{pickles[0]} is a pickle, which can run any code when it is opened, so it is not used. Checkpoints of "
            "this course are named step-<number>.safetensors; name another folder for this run"
        )


def _read(path: Path, before: list[Path]) -> tuple[dict, dict[str, Tensor]]:
    """The header and the tensors of a checkpoint."""
    try:
        with safe_open(path, "pt") as file:
            record = json.loads(file.metadata()["checkpoint"])
            return record, {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, TypeError, KeyError, ValueError) as error:
        is_pickle = path.read_bytes()[:4].startswith((b"\x80", b"PK\x03\x04"))  # plain, and torch.save's zip
        what = "is a pickle, which is never opened since it can run any code" if is_pickle else "is damaged or not a checkpoint"
        rest = f"goes on from {before[-1].name}" if before else "starts from the beginning"
        raise ValueError(f"{path} {what} ({error}): delete it, and the same command {rest}") from error


def _check_same_run(stored: dict, wanted: dict, path: Path) -> None:
    names = [*wanted, *(name for name in stored if name not in wanted)]
    differences = [
        f"{name} is {stored.get(name, 'missing')} there and {wanted.get(name, 'missing')} here"
        for name in names
        if name not in stored or name not in wanted or stored[name] != wanted[name]
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ValueError(
            f"{path} is a checkpoint of another run: {'; '.join(differences[:3])}{more}. "
            "Use the same settings to continue that run, or name another folder for this one"
        )


def _warn_if_another_torch(written_with: dict) -> None:
    for name, here in _versions().items():
        if (there := written_with[name]) != here:
            warnings.warn(
                f"the checkpoint was written with {name} {there}, this is {name} {here}: the run goes on, "
                "but its numbers may differ in the last digits from those of a run that was not stopped",
                stacklevel=4,
            )


def _cannot_write(path: Path, error: Exception, before: list[Path]) -> OSError:
    reason = getattr(error, "strerror", None) or str(error).rpartition("I/O error: ")[2]
    kept = f"The last good checkpoint is {before[-1].name}: " if before else ""
    message = f"{path} could not be written ({reason}). {kept}mend that and run the same command again to go on"
    return PermissionError(message) if isinstance(error, PermissionError) else OSError(message)


def _sync_to_disk(path: Path) -> None:
    """Wait until the bytes are on the disk: a rename must not arrive there before them when the power fails."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())
