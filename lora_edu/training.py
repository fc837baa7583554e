"""The training loop of the course: AdamW with warm-up and cosine decay, for everything that asks for a gradient.

One loop serves pre-training, full fine-tuning, LoRA and QLoRA: what differs is only which parameters have
`requires_grad`. The same seed gives the same curve on CPU, bit for bit. What makes the loop survive a kill, and what
spreads it over several devices, is one object that it talks to, `lora_edu.engine.run.Run`.

    lora-edu train --help
    torchrun --nproc-per-node=2 -m lora_edu train --help
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from lora_edu.checks import CALLABLE, TRAINING, TRUTH, check, check_model, check_tokens, one_loss, optional, whole
from lora_edu.engine.run import UNSCALED, Run, mean, mixed_precision, own_rows, total  # the door: checkpoints, devices
from lora_edu.layers import evaluating
from lora_edu.texts import Text, batches, check_length, spread_windows

# --- evaluation ------------------------------------------------------------------------------------------------------
# How good a model is on a text it has not trained on: the mean loss, in nats per token.


LossFn = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (model, inputs (B, S), targets (B, S)) -> the mean loss


def model_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model whose forward returns (logits, loss), such as the course's GPT."""
    return model(inputs, targets)[1]


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: Tensor,
    *,
    seq_len: int = 256,
    max_windows: int = 64,
    batch_size: int = 4,
    loss_fn: LossFn = model_loss,
    autocast: bool | None = None,
) -> float:
    """The mean loss in nats per token over windows spread evenly over a text: no randomness, so runs can be compared.

    tokens: (n,) of any integer type: uint8 for bytes, int64 for those of a tokenizer.
    seq_len: how many tokens a window has. max_windows: how many windows at most.
    batch_size: how many of them the model reads at once. autocast: as for `train`.
    loss_fn: gets the model, inputs and targets, each (B, seq_len) int64, and returns their mean loss.
    Several processes share the windows: all of them must call this, and all get the same number.
    Raises ValueError for a text shorter than one window, for a token that the model does not have and for a size below
    1; TypeError for what is no model or no tensor of tokens, and for a loss that is not one number in a tensor.
    """
    check_model(model)
    check(whole(1), max_windows=max_windows, batch_size=batch_size)
    check(optional(TRUTH), autocast=autocast)
    check(CALLABLE, loss_fn=loss_fn)
    check_length(tokens, seq_len)
    check_tokens("tokens", tokens, vocabulary(model))
    tokens = tokens if tokens.dtype == torch.uint8 else tokens.long()  # torch cannot look up in uint16
    device = next(model.parameters()).device
    count = min(max_windows, (len(tokens) - 1) // seq_len)
    windows = own_rows(spread_windows(tokens, seq_len, count))  # (count, seq_len + 1)
    loss_sum = 0.0
    with evaluating(model), mixed_precision(device, autocast):
        for batch in windows.split(batch_size) if len(windows) else ():
            batch = batch.to(device)
            loss_sum += one_loss(loss_fn(model, batch[:, :-1], batch[:, 1:])).item() * len(batch)
    return total(loss_sum) / count


def vocabulary(model: nn.Module) -> int | None:
    """How many different tokens a model knows, if its config says so."""
    return getattr(getattr(model, "config", None), "vocab_size", None)


# --- history ---------------------------------------------------------------------------------------------------------
# What a training run hands back.


@dataclass
class History:
    """What happened during a training run. Losses are in nats per token."""

    train_loss: list[float] = field(default_factory=list)  # one entry per step
    validation_loss: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss)
    tokens_per_second: float = 0.0
    seconds: float = 0.0  # spent in steps, validation aside; a run that was stopped goes on counting
    interrupted: bool = False  # by the stop button
    gradient_bytes: int = 0  # what one process hands to the all-reduce of a step; 0 for a single process
    steps: int = 0  # that were asked for

    @property
    def stopped(self) -> str:
        """A sentence for a run that was interrupted, such as "stopped after 1 of 150 steps"; else empty."""
        return f"stopped after {len(self.train_loss)} of {self.steps} steps" if self.interrupted else ""

    def add_step(self, loss: float, seconds: float, tokens: int, gradient_bytes: int) -> None:
        """One step more, of a run in which each step sees the same number of tokens."""
        self.gradient_bytes = gradient_bytes
        self.train_loss.append(loss)
        self.seconds += seconds
        self.tokens_per_second = len(self.train_loss) * tokens / self.seconds

    def as_dict(self) -> dict:
        """The same as plain lists and numbers, ready for JSON."""
        return asdict(self)

    def continue_from(self, stored: dict) -> None:
        """Take over what `as_dict` gave, of a run that goes on."""
        vars(self).update(stored | {"interrupted": False})
        self.validation_loss = [(done, loss) for done, loss in self.validation_loss]  # JSON has no tuples


# --- the loop ----------------------------------------------------------------------------------------------------


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device to use: the one named, else `LORA_EDU_DEVICE`, else the CUDA GPU if there is one, else the CPU."""
    name = device or os.environ.get("LORA_EDU_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    if str(name).partition(":")[0] not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {str(name)!r} (the course needs float64, so no 'mps')")
    chosen = torch.device(name)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("device 'cuda' was asked for, but this torch sees no CUDA GPU: run `lora-edu doctor`")
    return chosen


def learning_rate_factor(step: int, steps: int, warmup_steps: int, final_factor: float) -> float:
    """The share of the peak learning rate at a step: up in a straight line, then down half a cosine."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)  # 0 .. 1
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


def train(
    model: nn.Module,
    data: Text,
    steps: int,
    *,
    lr: float = 3e-3,
    batch_size: int = 8,
    seq_len: int = 256,
    seed: int = 0,
    device: str | torch.device | None = None,
    loss_fn: LossFn = model_loss,
    warmup_steps: int = 10,
    final_lr_factor: float = 0.1,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    max_grad_norm: float = 1.0,
    autocast: bool | None = None,
    compile: bool = False,
    eval_every: int | None = None,
    eval_windows: int = 64,
    progress: bool = True,
    on_evaluation: Callable[[int, float], None] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 100,
) -> History:
    """Train every parameter that requires a gradient, in place, and leave the model in evaluation mode.

    data: a Text; batches are drawn from `data.train`, the validation loss is measured on `data.validation` before the
    first step, after the last, and every `eval_every` steps between, on `eval_windows` windows.
    lr: the peak of the learning rate: it rises in `warmup_steps`, then falls to `final_lr_factor` of the peak.
    batch_size: how many sequences a step sees. seq_len: how many tokens each has. seed: of batches and of dropout.
    device: where to train; None takes `LORA_EDU_DEVICE`, else a CUDA GPU if there is one, else the CPU.
    loss_fn: gets the model, inputs and targets, each (B, seq_len) int64, and returns their mean loss.
    weight_decay, betas: AdamW's: how fast weights shrink by themselves, how long its two running means remember.
    max_grad_norm: a longer gradient is shortened to this length.
    autocast: compute in 16 bits where that is safe; None means yes on a CUDA GPU and no on the CPU. Cards without
    bfloat16 compute in float16, with a gradient scaler (`lora_edu.engine.precision`).
    compile: use `torch.compile` for the training steps on a CUDA GPU (`lora_edu.engine.compiling`); pays in long runs.
    progress: whether to show a bar. on_evaluation: called with (steps done, validation loss), as to write a log.
    checkpoint: a folder. The run is written to it at the start, every `checkpoint_every` steps, at the end and when it
    is stopped; the same call goes on from there, and a finished run returns its history at once.
    The stop button (KeyboardInterrupt) ends the run early: the history so far is returned, the model stays usable.
    Raises ValueError if nothing is trainable, FloatingPointError if the loss is no longer a finite number, and what
    `Checkpoints` raises for a folder that cannot be used.
    """
    settings = {  # what the curve depends on
        "steps": steps, "lr": lr, "batch_size": batch_size, "seq_len": seq_len, "seed": seed,
        "warmup_steps": warmup_steps, "final_lr_factor": final_lr_factor, "weight_decay": weight_decay,
        "betas": betas, "max_grad_norm": max_grad_norm, "autocast": autocast, "compile": compile,
        "eval_every": eval_every, "eval_windows": eval_windows, "loss_fn": loss_fn,
    }  # fmt: skip
    _check_run(settings | {"checkpoint_every": checkpoint_every, "on_evaluation": on_evaluation}, model, data)
    model.to(pick_device(device))
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lr, betas=betas, weight_decay=weight_decay)
    generator = torch.Generator().manual_seed(int(seed))
    draw = batches(data.train, batch_size, seq_len, generator)
    history = History(steps=int(steps))
    run = Run(model, optimizer, generator, settings, data, checkpoint=checkpoint, checkpoint_every=checkpoint_every)

    def validate(done: int) -> None:
        loss = evaluate(
            model, data.validation, seq_len=seq_len, max_windows=eval_windows, loss_fn=loss_fn, autocast=autocast
        )
        history.validation_loss.append((done, loss))
        if on_evaluation and run.speaks:
            on_evaluation(done, loss)

    with run.around(history, progress):  # the stop button ends the block
        engine = run.begin()  # the model; a stopped run goes on where it was
        for step in run.steps(validate):
            start = time.perf_counter()
            set_learning_rate(optimizer, lr * learning_rate_factor(step, steps, warmup_steps, final_lr_factor))
            inputs, targets = run.own_rows(next(draw))
            loss = training_step(engine, inputs, targets, optimizer, loss_fn, max_grad_norm, autocast, run.scaler)
            _check_finite(loss, step, lr)
            history.add_step(loss, time.perf_counter() - start, batch_size * seq_len, sum(run.traffic))
    return history


def training_step(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn = model_loss,
    max_grad_norm: float = 1.0,
    autocast: bool | None = None,
    scaler: torch.amp.GradScaler = UNSCALED,
) -> float:
    """One step: loss, gradients, clipping, update. Returns the loss in nats per token.

    A loss that is not finite is returned, for a gradient that is not finite NaN: the weights are unchanged then.
    scaler: keeps small gradients from becoming zero in float16; it leaves a step out where it scaled too much.
    """
    optimizer.zero_grad(set_to_none=True)
    with mixed_precision(inputs.device, autocast):
        loss = one_loss(loss_fn(model, inputs, targets))
    scaler.scale(loss).backward()
    scaler.unscale_(optimizer)
    norm = nn.utils.clip_grad_norm_(trainable_parameters(model), max_grad_norm).item()
    value = mean(loss.item())  # over the processes, if there are several: of the whole batch, so all agree
    if not (math.isfinite(value) and (math.isfinite(norm) or scaler.get_scale() > 1)):
        return value if not math.isfinite(value) else math.nan
    scaler.step(optimizer)
    scaler.update()
    return value


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """The schedule is a function of the step: it has no state of its own that a checkpoint would have to keep."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that ask for a gradient. Raises ValueError if there are none."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("no parameter of this model is trained: add adapters first, add_lora(model, rank=8, alpha=16)")
    return parameters


def _check_run(settings: dict, model: nn.Module, data: Text) -> None:
    check_model(model)
    for name, rule in TRAINING.items():
        check(rule, **{name: settings[name]})
    for name in ("train", "validation"):
        check_tokens(f"data.{name}", getattr(data, name, None), vocabulary(model))
    if not torch.is_grad_enabled():
        raise RuntimeError("train was called inside torch.no_grad(), where nothing can be learned: call it outside")


def _check_finite(loss: float, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step + 1}; the weights are those of the step before. "
            f"Try a smaller learning rate (now {lr:g}), a longer warm-up, or float32 instead of autocast."
        )
