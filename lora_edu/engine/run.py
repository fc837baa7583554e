"""A training run at the moments that are not about learning: how it is spread over devices, and how it survives a kill.

`lora_edu.training.train` talks to one object:

    run = Run(model, optimizer, generator, settings, data)   one process or several; without a folder nothing is kept
    run.begin(...)       a stored run is put back, dropout is seeded, the model is compiled and spread over devices
    run.own_rows(batch)  of a batch, the part of this process
    run.step_done()      a whole step was made: from here the run could go on
    run.keep(...)        write a checkpoint
    run.end()            the folder is free again, and the reader's random state is as it was
"""

from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.engine import compiling, distributed
from lora_edu.engine.checkpoints import Checkpoints, describe_run
from lora_edu.engine.distributed import mean, own_rows, total

__all__ = ["Run", "mean", "own_rows", "total"]


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
        compile: bool = False,
        checkpoint: str | Path | None = None,
    ):
        """settings: what the curve depends on, `steps`, `seed` and `batch_size` among it. generator: draws the batches.

        checkpoint: the folder to keep the run in; None keeps nothing. defaults: see `Checkpoints`.
        Raises ValueError if a batch cannot be split evenly over the processes.
        """
        distributed.check_batch(settings["batch_size"])
        self.model, self.seed, self.compile = model, settings["seed"], compile
        self.device = next(model.parameters()).device
        self.speaks = distributed.rank() == 0  # one process prints for all
        self.traffic = distributed.GradientTraffic()
        self.checkpoints: Checkpoints | None = None
        self._cleanup = ExitStack()
        if checkpoint is not None:
            settings = settings | {"device": self.device.type, "processes": distributed.processes()}
            settings |= describe_run(model, data)
            self.checkpoints = Checkpoints(checkpoint, settings, model, optimizer, generator, defaults)
            self._cleanup.callback(self.checkpoints.close)

    def begin(self, take_over: Callable[[dict], None]) -> nn.Module:
        """Returns the model to train with, which shares its parameters with the one given.

        take_over: called with the stored history if there is one. Raises what `Checkpoints.load` raises.
        """
        gpus = [self.device] if self.device.type == "cuda" else []
        self._cleanup.enter_context(torch.random.fork_rng(devices=gpus))  # dropout draws from here
        torch.manual_seed(self.seed + distributed.rank())
        if self.checkpoints:
            self.checkpoints.load(take_over)
        engine = compiling.compiled(self.model, self.device) if self.compile else self.model
        engine, self.traffic = distributed.wrap(engine)
        return engine

    def own_rows(self, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """This process's rows of each tensor, on its device: (B, ...) -> (B / processes, ...)"""
        return [own_rows(part).to(self.device) for part in batch]

    def step_done(self) -> None:
        """Model, optimizer and history are at the end of a whole step now."""
        if self.checkpoints:
            self.checkpoints.mark()

    def keep(self, step: int, history: dict) -> None:
        """Write a checkpoint of the last whole step, unless it is there already. Raises OSError if it cannot be."""
        if self.checkpoints:
            self.checkpoints.save(step, history)

    def keep_stopped(self, step: int, history: dict) -> None:
        """The same, for a run that was stopped. Several processes may have stopped at different steps: their last
        common checkpoint counts."""
        if distributed.processes() == 1:
            self.keep(step, history)

    @property
    def gradient_bytes(self) -> int:
        """What this process handed to the all-reduce of the last step."""
        return self.traffic.bytes

    def end(self) -> None:
        """However the run ended."""
        self._cleanup.close()
