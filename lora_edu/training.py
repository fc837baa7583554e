"""The training loop of the course: AdamW with warm-up and cosine decay, for everything that asks for a gradient.

One loop serves pre-training, full fine-tuning, LoRA and QLoRA: what differs is only which parameters have
`requires_grad`. The same seed gives the same curve on CPU, bit for bit.
"""

import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field

import torch
from torch import Tensor, nn
from tqdm.auto import tqdm

from lora_edu.texts import Text, batches, check_length

LossFn = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass
class History:
    """What happened during a training run. Losses are in nats per token."""

    train_loss: list[float] = field(default_factory=list)  # one entry per step
    validation_loss: list[tuple[int, float]] = field(default_factory=list)  # (steps done, loss)
    tokens_per_second: float = 0.0
    interrupted: bool = False

    def as_dict(self) -> dict:
        """The same as plain lists and numbers, ready for JSON."""
        return asdict(self)


def pick_device(device: str | torch.device | None = None) -> torch.device:
    """The device to use: the one named, else `LORA_EDU_DEVICE`, else the CUDA GPU if there is one, else the CPU."""
    name = device or os.environ.get("LORA_EDU_DEVICE") or ("cuda" if torch.cuda.is_available() else "cpu")
    chosen = torch.device(name)
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            "device 'cuda' was asked for, but this torch sees no CUDA GPU: run `python -m lora_edu doctor`"
        )
    if chosen.type not in ("cpu", "cuda"):
        raise ValueError(f"device must be 'cpu' or 'cuda', got {str(chosen)!r} (the course needs float64, so no 'mps')")
    return chosen


def model_loss(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """The loss of a model whose forward returns (logits, loss), such as the course's GPT."""
    return model(inputs, targets)[1]


def learning_rate_factor(step: int, steps: int, warmup_steps: int, final_factor: float) -> float:
    """The share of the peak learning rate at a step: up in a straight line, then down half a cosine."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)  # 0 .. 1
    return final_factor + (1 - final_factor) * (1 + math.cos(math.pi * progress)) / 2


@torch.no_grad()
def evaluate(
    model: nn.Module,
    tokens: Tensor,
    *,
    seq_len: int = 256,
    max_windows: int = 64,
    batch_size: int = 16,
    loss_fn: LossFn = model_loss,
    autocast: bool | None = None,
) -> float:
    """The mean loss in nats per token over windows spread evenly over a text: no randomness, so runs can be compared.

    tokens: (n,) uint8. Uses at most `max_windows` windows of `seq_len` tokens each.
    """
    check_length(tokens, seq_len)
    device = next(model.parameters()).device
    count = min(max_windows, (len(tokens) - 1) // seq_len)
    starts = torch.linspace(0, len(tokens) - seq_len - 1, count).long()[:, None]
    windows = tokens[starts + torch.arange(seq_len + 1)].long()  # (count, seq_len + 1)
    was_training = model.training
    model.eval()
    total = 0.0
    with _autocast(device, autocast):
        for batch in windows.split(batch_size):
            batch = batch.to(device)
            total += loss_fn(model, batch[:, :-1], batch[:, 1:]).item() * len(batch)
    model.train(was_training)
    return total / count


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
    eval_every: int | None = None,
    eval_windows: int = 64,
    progress: bool = True,
    on_evaluation: Callable[[int, float], None] | None = None,
) -> History:
    """Train every parameter that requires a gradient, in place, and leave the model in evaluation mode.

    data: a Text; batches are drawn from `data.train`, the validation loss is measured on `data.validation` before the
    first step, after the last, and every `eval_every` steps between.
    autocast: compute in bfloat16 where that is safe; None means yes on a CUDA GPU and no on the CPU.
    on_evaluation: called with (steps done, validation loss), for example to write a log.
    The stop button (KeyboardInterrupt) ends the run early: the history so far is returned, the model stays usable.
    Raises ValueError if nothing is trainable, FloatingPointError if the loss is no longer a finite number.
    """
    _check_run(steps, lr)
    device = pick_device(device)
    model.to(device)
    optimizer = torch.optim.AdamW(trainable_parameters(model), lr=lr, betas=betas, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_factor(step, steps, warmup_steps, final_lr_factor)
    )
    draw = batches(data.train, batch_size, seq_len, torch.Generator().manual_seed(seed))
    history = History()

    def record_validation(done: int) -> None:
        loss = evaluate(
            model, data.validation, seq_len=seq_len, max_windows=eval_windows, loss_fn=loss_fn, autocast=autocast
        )
        history.validation_loss.append((done, loss))
        if on_evaluation:
            on_evaluation(done, loss)

    seconds = 0.0
    bar = tqdm(range(steps), desc="training", disable=not progress)
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)  # dropout draws from here; the reader's own random state is put back at the end
            record_validation(0)
            model.train()
            for step in bar:
                start = time.perf_counter()
                inputs, targets = (part.to(device) for part in next(draw))
                loss = training_step(model, inputs, targets, optimizer, loss_fn, max_grad_norm, autocast)
                _check_finite(loss, step, lr)
                schedule.step()
                seconds += time.perf_counter() - start
                history.train_loss.append(loss)
                history.tokens_per_second = (step + 1) * batch_size * seq_len / seconds
                bar.set_postfix_str(f"loss {loss:.3f}, {history.tokens_per_second:,.0f} tokens/s", refresh=False)
                if step + 1 == steps or (eval_every and (step + 1) % eval_every == 0):
                    record_validation(step + 1)
    except KeyboardInterrupt:
        history.interrupted = True
    finally:  # however it ends, the model is ready to use
        bar.close()
        optimizer.zero_grad(set_to_none=True)
        model.eval()
    return history


def training_step(
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    optimizer: torch.optim.Optimizer,
    loss_fn: LossFn = model_loss,
    max_grad_norm: float = 1.0,
    autocast: bool | None = None,
) -> float:
    """One step: loss, gradients, clipping, update. Returns the loss in nats per token.

    A loss that is not finite is returned, for a gradient that is not finite NaN: the weights are unchanged then.
    """
    optimizer.zero_grad(set_to_none=True)
    with _autocast(inputs.device, autocast):
        loss = loss_fn(model, inputs, targets)
    loss.backward()
    norm = nn.utils.clip_grad_norm_(trainable_parameters(model), max_grad_norm)
    value, norm = loss.item(), norm.item()
    if not (math.isfinite(value) and math.isfinite(norm)):
        return value if not math.isfinite(value) else math.nan
    optimizer.step()
    return value


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """The parameters that ask for a gradient. Raises ValueError if there are none."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "this model has no trainable parameters: add adapters first, add_lora(model, rank=8, alpha=16)"
        )
    return parameters


def _autocast(device: torch.device, enabled: bool | None) -> torch.autocast:
    enabled = device.type == "cuda" if enabled is None else enabled
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=enabled)


def _check_run(steps: int, lr: float) -> None:
    if steps < 1:
        raise ValueError(f"steps must be at least 1, got {steps}")
    if not 0 < lr < math.inf:
        raise ValueError(f"lr (the learning rate) must be positive and finite, got {lr}")


def _check_finite(loss: float, step: int, lr: float) -> None:
    if not math.isfinite(loss):
        raise FloatingPointError(
            f"the loss became {loss} at step {step + 1}; the weights are those of the step before. "
            f"Try a smaller learning rate (now {lr:g}), a longer warm-up, or float32 instead of autocast."
        )
