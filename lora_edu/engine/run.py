"""A training run at the moments that are not about learning: how it is spread over devices, and how it survives a kill.

`lora_edu.training.train` talks to one object:

    run = Run(model, optimizer, generator, settings, data)   one process or several; without a folder nothing is kept
    run.begin(...)           dropout is seeded, a stored run is put back, the model is compiled and spread over devices
    run.between_steps(done)  a checkpoint is written, if one is due
    run.own_rows(batch)      of a batch, the part of this process
    run.step_done()          a whole step was made: from here the run could go on
    run.stopped(done)        the stop button: what was done is kept
    run.end()                the folder is free again, and the reader's random state is as it was
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.engine import compiling, distributed
from lora_edu.engine.checkpoints import Checkpoints
from lora_edu.engine.distributed import mean, own_rows, total
from lora_edu.engine.precision import UNSCALED, gradient_scaler, mixed_precision, restore
from lora_edu.engine.same_run import describe_run

FLOAT32_MAX = torch.finfo(torch.float32).max
__all__ = ["UNSCALED", "Run", "mean", "mixed_precision", "own_rows", "total"]


class Run:
    """One training run, in this process and in those beside it."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        settings: dict,
        data: Iterable[Tensor],
        *,
        defaults: dict | None = None,
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
    ):
        """settings: what the curve depends on, by name: `steps`, `seed`, `batch_size`, `compile` and others.

        generator: what draws the batches. checkpoint: the folder to keep the run in; None keeps nothing.
        defaults: see `Checkpoints`.
        Raises ValueError if a batch cannot be split evenly over the processes.
        """
        distributed.check_batch(settings["batch_size"])
        self.model, self.settings, self.every = model, settings, checkpoint_every
        self.device = next(model.parameters()).device
        self.speaks = distributed.rank() == 0  # one process prints for all
        self.traffic = distributed.GradientTraffic()
        self.scaler = gradient_scaler(self.device, settings["autocast"])  # for float16
        self.checkpoints: Checkpoints | None = None
        self._history: Callable[[], dict] = dict
        self._cleanup = ExitStack()
        if checkpoint is not None:
            settings = settings | {"device": self.device.type, "processes": distributed.processes()}
            settings |= describe_run(model, data)
            self.checkpoints = Checkpoints(checkpoint, settings, model, optimizer, generator, defaults)
            self._cleanup.callback(self.checkpoints.close)

    def begin(self, history: Callable[[], dict], take_over: Callable[[dict], None]) -> nn.Module:
        """Returns the model to train with, which shares its parameters with the one given.

        history: gives the curves so far, which a checkpoint keeps. take_over: called with the stored ones if there are
        any. Raises what `Checkpoints.load` raises.
        """
        self._history = lambda: history() | ({"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {})
        gpus = [self.device] if self.device.type == "cuda" else []
        self._cleanup.enter_context(torch.random.fork_rng(devices=gpus))  # dropout draws from here
        torch.manual_seed(int(self.settings["seed"]) + distributed.rank())
        if self.checkpoints:
            self.checkpoints.load(lambda stored, done: self._take_over(dict(stored), done, take_over))
        engine = compiling.compiled(self.model, self.device) if self.settings["compile"] else self.model
        engine, self.traffic = distributed.wrap(engine)
        return engine

    def _take_over(self, stored: dict, done: int, take_over: Callable[[dict], None]) -> None:
        scaler = stored.pop("scaler", {})
        check_history(stored, self._history(), done, self.settings["steps"])
        take_over(stored)
        restore(self.scaler, scaler)

    def own_rows(self, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """This process's rows of each tensor, on its device: (B, ...) -> (B / processes, ...)"""
        return [own_rows(part).to(self.device) for part in batch]

    def step_done(self) -> None:
        """Model, optimizer and history are at the end of a whole step now."""
        if self.checkpoints:
            self.checkpoints.mark()

    def between_steps(self, done: int) -> None:
        """Write a checkpoint if one is due: at the start, now and then, at the end. Raises OSError if it cannot be."""
        if done in (0, self.settings["steps"]) or done % self.every == 0:
            self._keep(done)

    def stopped(self, done: int) -> None:
        """Write one now. Several processes may have stopped at different steps: their last common one counts."""
        if distributed.processes() == 1:
            self._keep(done)

    def _keep(self, done: int) -> None:
        if self.checkpoints:
            self.checkpoints.save(done, self._history())

    @property
    def gradient_bytes(self) -> int:
        """What this process handed to the all-reduce of the last step."""
        return self.traffic.bytes

    def end(self) -> None:
        """However the run ended."""
        self._cleanup.close()


def check_history(stored: dict, own: dict, done: int, steps: int) -> None:
    """Raise ValueError unless these are the curves of a run after `done` of its `steps`, of the kinds of `own`.

    A validation loss may be NaN, for a run goes on after one.
    """
    if odd := [name for name, value in stored.items() if name not in own or type(value) is not type(own[name])]:
        raise ValueError(f"the history has {odd[0]}={stored[odd[0]]!r}")
    losses, pairs = stored.get("train_loss", []), stored.get("validation_loss", [])
    if len(losses) != done or not all(isinstance(x, float) and abs(x) < FLOAT32_MAX for x in losses):  # not so for NaN
        raise ValueError(f"the history has no finite loss for each of {done} steps")
    validated = [pair[0] for pair in pairs if isinstance(pair, list) and [*map(type, pair)] == [int, float]]
    numbers = [value for value in stored.values() if not isinstance(value, list)]
    if len(validated) < len(pairs) or validated != sorted(set(validated) & set(range(done + 1))):
        raise ValueError(f"the history has validation_loss={pairs!r}")
    if not all(0 <= number < FLOAT32_MAX for number in numbers) or stored.get("steps", steps) != steps:
        raise ValueError(f"the history has numbers that no run of {steps} steps has")
