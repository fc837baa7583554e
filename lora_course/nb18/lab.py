"""The sick runs of notebook 18: the tools they share, what each is given, and what its owner saw.

The runs stand on the page, in plain torch, as people post them. `see` runs one and keeps it, so that a check can
answer with the numbers of the reader's own run.
"""

import functools
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.nb00.lab import set_strength
from lora_course.running.finetune import shipped
from lora_edu import add_lora, data_file, evaluate, load_adapter, load_base, load_text, quantize_linears, save_adapter
from lora_edu.lora import lora_layers
from lora_edu.texts import batches
from lora_edu.training import LossFn, model_loss, trainable_parameters

END = 0  # the byte that ends a speech: no text of the course has it
PROMPT = "**HAMLET**\n"


def plays(seed: int = 0, rows: int = 3) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of plays without end: inputs and targets, each (rows, 64). The target of a byte is the next byte."""
    return batches(load_text("shakespeare").train, rows, 64, torch.Generator().manual_seed(seed))


@functools.cache
def short_speeches() -> list[bytes]:
    """The speeches of at most 45 bytes, each with its speaker's name; the last 64 are never trained on."""
    text = bytes(load_text("shakespeare").train[:400_000].tolist())
    return [speech for speech in re.findall(rb"\*\*[A-Z ]+\*\*\n(?:.+\n)+", text) if len(speech) <= 45]


def speeches(seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of 8 speeches, each with END behind it and filled up with END: rows (8, longest), lengths (8,)."""
    said, generator = short_speeches(), torch.Generator().manual_seed(seed)
    while True:
        chosen = torch.randint(len(said) - 64, (8,), generator=generator)
        rows = [torch.tensor([*said[i], END]) for i in chosen]
        lengths = torch.tensor([len(row) for row in rows])
        yield nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=END), lengths


def adam(parameters: Iterable, lr: float = 1e-2) -> torch.optim.Optimizer:
    """AdamW as in the course's loop."""
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.95), weight_decay=0)


def loop(model: nn.Module, optimizer, steps: int, data: Iterator, loss_fn: LossFn = model_loss) -> list[float]:
    """A plain training loop, with five steps of warm-up and clipping. Returns the loss of each batch: the log."""
    log, rates = [], [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * min(1, (step + 1) / 5)
        loss = loss_fn(model, *next(data))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(trainable_parameters(model), 1.0)
        optimizer.step()
        log.append(loss.item())
    return log


def held_out(model: nn.Module) -> float:
    """The loss on 12 windows of 128 bytes of plays that nobody trained on, in nats per byte."""
    return evaluate(model, load_text("shakespeare").validation, seq_len=128, max_windows=12)


@functools.cache
def base_loss() -> float:
    """Held out, of the base as it ships."""
    return held_out(shipped())


def answers(model: nn.Module) -> list[int | None]:
    """How many bytes each of 8 answers has before END; None for one that has not ended after 80."""
    prompt = torch.tensor([list(PROMPT.encode())] * 8)
    drawn = model.generate(prompt, 80, generator=torch.Generator().manual_seed(0))[:, prompt.shape[1] :]
    return [row.tolist().index(END) if (row == END).any() else None for row in drawn]


def unseen_speeches() -> list[Tensor]:
    """16 speeches that nobody trained on, each (1, length), with END behind it."""
    return [torch.tensor([[*speech, END]]) for speech in short_speeches()[-16:]]


@torch.no_grad()
def chance_of_end(model: nn.Module) -> float:
    """The probability of END where a speech ends, on average over those."""
    return sum(model(row[:, :-1])[0][0, -1].softmax(-1)[END].item() for row in unseen_speeches()) / 16


@torch.no_grad()
def loss_before_end(model: nn.Module) -> float:
    """The loss on what stands before the end, on average over those."""
    return sum(model(row[:, :-2], row[:, 1:-1])[1].item() for row in unseen_speeches()) / 16


def gradient_of(model: nn.Module) -> Tensor:
    """The gradient of A and B that lies in a model, as one row."""
    return torch.cat([p.grad.flatten() for p in trainable_parameters(model)])


def in_one_batch(model: nn.Module, rows: Tensor, targets: Tensor) -> float:
    """One pass with all rows: the loss is the mean over all targets but -100."""
    loss = F.cross_entropy(model(rows)[0].flatten(0, 1), targets.flatten())
    loss.backward()
    return loss.item()


LENGTHS = ((16, 24, 32, 40, 64, 96, 128, 128), (8, 120, 50, 9, 77, 128, 30, 61))  # of the rows of run 6


def given(number: int, draw: int) -> tuple:
    """The arguments of a run, of most the seed alone. Draw 0 is the reader's, 1 a check's, which no run has seen.

    Run 3: an adapter's folder, the shipped one or one of random numbers. Run 6: a model, inputs (8, 128) and targets
    (8, 128), with -100 behind the end of each row. Run 8: a base in 4 bits with the shipped adapter, turned down.
    """
    if number == 3:
        return (save_adapter(with_random_b(draw), tempfile.mkdtemp()) if draw else data_file("shakespeare-adapter"),)
    if number == 6:
        drawn = next(batches(load_text("shakespeare").validation, 8, 128, torch.Generator().manual_seed(draw)))
        rows, targets = (tensor.clone() for tensor in drawn)
        for row, length in zip(targets, LENGTHS[draw], strict=True):
            row[length:] = -100
        return with_random_b(draw), rows, targets
    if number == 8:
        model = load_adapter(quantize_linears(load_base()), data_file("shakespeare-adapter"))
        set_strength(model, 0.1 + 0.02 * draw)
        return (model,)
    return (draw,)


def with_random_b(seed: int) -> nn.Module:
    """The base with adapters whose B is small and not zero."""
    torch.manual_seed(seed)
    model = add_lora(load_base(), 8, 16, "all-linear")
    for layer in lora_layers(model).values():
        nn.init.normal_(layer.lora_B, std=0.03)
    return model


# --- what its owner saw ----------------------------------------------------------------------------------------------


@dataclass
class Kept:
    """A sick run that was seen: what it returned, its model, and the numbers of its symptom."""

    number: int
    result: Any
    model: Any
    facts: dict[str, Any] = field(default_factory=dict)


KEPT: dict[int, Kept] = {}


def model_of(result: Any) -> Any:
    """The model that a run returned, alone or first of several things."""
    return result[0] if isinstance(result, tuple) and result else result


def see(number: int, run: Callable) -> Any:
    """Run a sick run and print what its owner saw. The first one of each number is kept for the check."""
    arguments = given(number, 0)
    result = run(*arguments)
    kept = Kept(number, result, arguments[0] if number == 6 else model_of(result))
    print(symptom(kept))
    KEPT.setdefault(number, kept)
    return result


def symptom(kept: Kept) -> str:
    """What the owner of a run saw; its numbers stay in the run's facts."""
    model, facts = kept.model, kept.facts
    if kept.number == 6:
        _, rows, targets = given(6, 0)
        one_by_one = gradient_of(model).clone()
        model.zero_grad()
        facts["whole"] = in_one_batch(model, rows, targets)
        facts["cosine"] = F.cosine_similarity(one_by_one, gradient_of(model), dim=0).item()
        return f"The loss of the same 8 rows: {kept.result:.3f} one by one, {facts['whole']:.3f} in one batch."
    if kept.number in (3, 7, 8):
        return before_and_after(kept)
    log = kept.result[-1]  # the loss of each batch
    if kept.number == 4:
        return f"The log: {', '.join(f'{loss:.3f}' for loss in log)}."
    first, last = (sum(some) / 5 for some in (log[:5], log[-5:]))
    facts["ends"] = f"The log: {first:.2f} -> {last:.2f}."
    if kept.number == 5:
        facts["ended"] = [length for length in answers(model) if length is not None]
        return f"{facts['ends']} Of 8 answers {len(facts['ended'])} end within 80 bytes."
    said = f"{facts['ends']} Held out {held_out(model):.4f}, before training {base_loss():.4f}."
    if kept.number == 2:
        said += f" It writes {model.generate(PROMPT, 50, generator=torch.Generator().manual_seed(0))!r}."
    return said


def before_and_after(kept: Kept) -> str:
    """Of a run that begins behind the training: held out as it was trained, now, and without an adapter."""
    trained, now, base = kept.model, kept.model, shipped()
    if kept.number == 3:
        trained = load_adapter(load_base(), *given(3, 0))
    if kept.number == 7:
        _, save, load = kept.result
        save(trained, folder := Path(tempfile.mkdtemp()))
        now = kept.facts["loaded"] = load(folder)
    if kept.number == 8:
        (trained,), base = given(8, 0), quantize_linears(load_base())
    kept.facts |= {"trained": held_out(trained), "now": held_out(now), "base": held_out(base)}
    return "Held out {trained:.4f} as trained, {now:.4f} now, {base:.4f} without an adapter.".format(**kept.facts)
