"""A training run at the moments that are not about learning: how it is spread over devices, and how it survives a kill.

`lora_edu.training.train` talks to one object:

    with run.around(history, progress):     however the run ends: the folder is free again, the model ready to use
        engine = run.begin()                a stored run is put back, the model is compiled and spread over devices
        for step in run.steps(validate):    between two steps: validation and checkpoints, where they are due
            run.own_rows(batch)             of a batch, the part of this process
"""

import random
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lora_edu.engine import compiling, distributed
from lora_edu.engine.checkpoints import Checkpoints
from lora_edu.engine.distributed import mean, own_rows, total
from lora_edu.engine.precision import UNSCALED, gradient_scaler, mixed_precision
from lora_edu.engine.same_run import describe_run

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
        checkpoint: str | Path | None = None,
        checkpoint_every: int = 100,
    ):
        """settings: what the curve depends on, by name: `steps`, `seed`, `batch_size`, `compile` and others.

        generator: what draws the batches. checkpoint: the folder to keep the run in; None keeps nothing.
        Raises ValueError if a batch cannot be split evenly over the processes.
        """
        distributed.check_batch(settings["batch_size"])
        self.model, self.optimizer, self.settings, self.every = model, optimizer, settings, checkpoint_every
        self.device = next(model.parameters()).device
        self.speaks = distributed.rank() == 0  # one process prints for all
        self.traffic: list[int] = []  # bytes that this process hands to the all-reduce
        self.scaler = gradient_scaler(self.device, settings["autocast"])  # for float16
        self.checkpoints: Checkpoints | None = None
        if checkpoint is not None:
            where = {"device": self.device.type, "processes": distributed.processes()}
            where |= {"float16": self.scaler.is_enabled()}
            describe = partial(describe_run, settings | where, model, data)
            self.checkpoints = Checkpoints(checkpoint, describe, model, optimizer, generator)

    @contextmanager
    def around(self, history, progress: bool) -> Iterator[None]:
        """The run goes on inside. The stop button (KeyboardInterrupt) ends it: what was done is kept.

        history: a `lora_edu.training.History`, which the steps add to. progress: show a bar.
        """
        self.history, progress = history, progress and self.speaks
        self.bar = tqdm(total=self.settings["steps"], desc="training", disable=not progress)
        python, numpy = random.getstate(), np.random.get_state()  # the reader's random numbers go on as they were
        cards = range(torch.cuda.device_count()) if self.device.type == "cuda" else []
        try:
            with torch.random.fork_rng(devices=cards):
                yield
        except KeyboardInterrupt:
            history.interrupted = True
            if distributed.processes() == 1:  # several may stop at different steps: their last common one counts
                self._keep(len(history.train_loss))
            if progress:
                print(history.stopped, flush=True)
        finally:
            self.bar.close()
            if self.checkpoints:
                self.checkpoints.close()
            self.optimizer.zero_grad(set_to_none=True)
            self.model.eval()
            random.setstate(python)
            np.random.set_state(numpy)

    def begin(self) -> nn.Module:
        """Returns the model to train with, which shares its parameters with the one given.

        Raises what `Checkpoints.load` raises.
        """
        engine = compiling.compiled(self.model, self.device) if self.settings["compile"] else self.model
        engine, self.traffic = distributed.wrap(engine)
        if self.checkpoints and (stored := self.checkpoints.load()):  # after wrap, which sends process 0's buffers
            self.scaler.load_state_dict(stored.pop("scaler", {}))  # one that passes everything through has none
            self.history.continue_from(stored)
        self.bar.update(len(self.history.train_loss))
        self.model.train()
        return engine

    def steps(self, validate: Callable[[int], None]) -> Iterator[int]:
        """The steps that are still to be made, counted from 0; before each, and after the last, what is due is done.

        validate: called with the number of steps done. Raises OSError if a checkpoint cannot be written.
        """
        history, steps = self.history, self.settings["steps"]
        for done in range(len(history.train_loss), steps + 1):
            if self._validation_is_due(done):
                self._seed(done)
                validate(done)
            if done in (0, steps) or done % self.every == 0:
                self._keep(done)
            if done == steps:
                return
            self._seed(done)
            with finish_first():  # a stop signal waits: then weights, history and random states are of one step
                yield done
                if self.checkpoints:
                    self.checkpoints.mark()
            speed = f"loss {history.train_loss[-1]:.3f}, {history.tokens_per_second:,.0f} tokens/s"
            self.bar.set_postfix_str(speed, refresh=False)
            self.bar.update()

    def _seed(self, done: int) -> None:
        """Random numbers of dropout, of a loss, of whatever draws: a function of the step, as the learning rate is."""
        seed = random.Random(f"{self.settings['seed']} {distributed.rank()} {done}").getrandbits(32)
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)  # torch.manual_seed takes a millisecond where there is no GPU
        if self.device.type == "cuda":
            torch.cuda.manual_seed_all(seed)

    def _validation_is_due(self, done: int) -> bool:
        every = self.settings["eval_every"]
        wanted = done in (0, self.settings["steps"]) or (every and done % every == 0)
        return bool(wanted) and done not in dict(self.history.validation_loss[-1:])  # a checkpoint may hold it already

    def _keep(self, done: int) -> None:
        if self.checkpoints:
            scale = {"scaler": self.scaler.state_dict()} if self.scaler.is_enabled() else {}
            self.checkpoints.save(done, self.history.as_dict() | scale)

    def own_rows(self, batch: tuple[Tensor, ...]) -> list[Tensor]:
        """This process's rows of each tensor, on its device: (B, ...) -> (B / processes, ...)"""
        return [own_rows(part).to(self.device) for part in batch]


@contextmanager
def finish_first() -> Iterator[None]:
    """Let a stop signal (Ctrl-C, the stop button of a notebook) wait until the block is done.

    Without it, a signal in the middle of an optimizer step would leave half of the weights updated.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield  # signals reach the main thread only; one that nobody handles is left as it is
        return
    waiting = []
    signal.signal(signal.SIGINT, lambda *signal_and_frame: waiting.append(signal_and_frame))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if waiting:
        before(*waiting[0])  # as a rule it raises KeyboardInterrupt
