"""Checkpoints: what a training run needs to go on as if it had never been stopped.

One file (`lora_edu.engine.checkpoint_files`) holds the tensors
    parameter.<name>          every trainable parameter: the adapters, or the whole model in full fine-tuning
    optimizer.<name>.<key>    AdamW's two running means and its count of steps, for each of these parameters
    random.<source>           the random states: of the batches ("data", the position in the text) and of dropout
                              ("cpu", "cuda"); one row for each process
and a record with the settings of the run and the history so far. The learning rate is a function of the step
(`training.learning_rate_factor`): the number of the step is all there is to know of the schedule. Frozen weights are
not stored; a fingerprint in the settings tells whether they are the same.
"""

import json
import shutil
import warnings
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.engine import distributed
from lora_edu.engine.checkpoint_files import (
    check_folder,
    checkpoint_path,
    checkpoint_paths,
    read_checkpoint,
    write_checkpoint,
)
from lora_edu.engine.locks import lock_folder

KEPT = 2  # the newest, and the one before in case the newest is damaged later


class NoCheckpoints:
    """What `train` talks to when no folder is given: nothing is read and nothing is written."""

    def load(self, history) -> None: ...

    def mark(self) -> None: ...

    def save(self, history) -> None: ...

    def close(self) -> None: ...


class Checkpoints:
    """The checkpoints of one run in one folder. If the run has several processes, all of them call each method."""

    def __init__(
        self,
        folder: str | Path,
        settings: dict,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
    ):
        """settings: everything that the run's curve depends on, by name. generator: what draws the batches."""
        self.folder, self.model, self.optimizer, self.generator = Path(folder), model, optimizer, generator
        self.settings = json.loads(json.dumps(settings, default=str))  # as they come back: a tuple is a list
        self.device = next(model.parameters()).device
        self._random_states: dict[str, Tensor] | None = None
        self._stored, self._lock = None, None

    def load(self, history) -> None:
        """Put the newest checkpoint into model, optimizer, random states and history; leave them if there is none.

        Raises ValueError, before anything is changed, for a damaged file, a pickle or a run with other settings;
        PermissionError if the folder cannot be written to, BlockingIOError if another run is at work there.
        """
        check_folder(self.folder)
        if paths := checkpoint_paths(self.folder):
            record, tensors = read_checkpoint(paths[-1])
            _check_same_run(record["settings"], self.settings, paths[-1])
            _warn_if_another_torch(record["written_with"])
            _restore(self.model, self.optimizer, tensors)
            set_random_states(_part(tensors, "random"), self.generator, self.device)
            history.continue_from(record["history"])
            self._stored = _length(history)
        _check_same_folder(len(history.train_loss), self.folder)
        if len(history.train_loss) < self.settings["steps"]:  # a finished run is only read
            self._claim()
        self.mark()

    def mark(self) -> None:
        """Take down the random states: model, optimizer and history are at the end of a whole step now."""
        self._random_states = random_states(self.generator, self.device)

    def save(self, history) -> None:
        """Write a checkpoint of the last whole step, then remove all but the two newest.

        Raises OSError if it cannot be written; the checkpoints before it are untouched then.
        """
        if self._random_states is None or self._stored == _length(history):
            return  # nothing has happened yet, or nothing new
        states = {f"random.{name}": distributed.gather(state) for name, state in self._random_states.items()}
        if distributed.rank() == 0:
            self._claim()
            record = {"settings": self.settings, "history": history.as_dict(), "written_with": _versions()}
            tensors = _state(self.model, self.optimizer) | states
            write_checkpoint(checkpoint_path(self.folder, len(history.train_loss)), tensors, record)
            for old in checkpoint_paths(self.folder)[:-KEPT]:
                old.unlink(missing_ok=True)
        self._stored = _length(history)

    def close(self) -> None:
        """Let other runs use the folder."""
        if self._lock:
            self._lock.close()
            self._lock = None

    def _claim(self) -> None:
        """Keep other runs out of the folder until `close`, and remove what a killed run left half written."""
        if self._lock or distributed.rank() > 0:
            return
        self._lock = lock_folder(self.folder)
        for leftover in self.folder.glob(".partial-*"):
            shutil.rmtree(leftover, ignore_errors=True)


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


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """The tensors of model and optimizer, copied to the CPU."""
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
        if own := _part(moments, name):  # nothing before the first step
            state[index] = own
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _part(tensors: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(f"{head}."): tensor for name, tensor in tensors.items() if name.startswith(f"{head}.")}


def _length(history) -> tuple[int, int]:
    return len(history.train_loss), len(history.validation_loss)


def _check_same_run(stored: dict, wanted: dict, path: Path) -> None:
    names = [*wanted, *(name for name in stored if name not in wanted)]
    there, here = ({name: settings.get(name, "missing") for name in names} for settings in (stored, wanted))
    differences = [
        f"{name} is {there[name]} there and {here[name]} here" for name in names if there[name] != here[name]
    ]
    if differences:
        more = f" (and {len(differences) - 3} more)" if len(differences) > 3 else ""
        raise ValueError(
            f"{path} is a checkpoint of another run: {'; '.join(differences[:3])}{more}. "
            "Use the same settings to continue that run, or name another folder for this one"
        )


def _check_same_folder(steps: int, folder: Path) -> None:
    if distributed.total(steps) != distributed.processes() * steps:
        raise ValueError(f"the processes do not see the same files in {folder}: name a folder that they share")


def _warn_if_another_torch(written_with: dict) -> None:
    for name, here in _versions().items():
        if (there := written_with[name]) != here:
            warnings.warn(
                f"the checkpoint was written with {name} {there}, this is {name} {here}: the run goes on, "
                "but its numbers may differ in the last digits from those of a run that was not stopped",
                stacklevel=4,
            )


def _versions() -> dict:
    """What the last digits of a sum depend on."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}
