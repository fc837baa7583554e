"""The checks of notebook 18: is the cause named, and is the mended run well?

A wrong cause is answered with a number of the reader's own sick run. For the right one the mended run is run, with
something that it has not seen before. What it returns is measured; its code is never read.
"""

import copy
import inspect
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lora_course.checking.grading import CORRECT, FORGOTTEN_RETURN, NOT_DONE, beside, record, wrong
from lora_course.nb18 import lab
from lora_course.nb18.check_doubts import against
from lora_course.nb18.lab import base_loss, held_out
from lora_course.running.finetune import shipped
from lora_edu import GPT, load_adapter, load_base, load_text, quantize_linears, save_adapter
from lora_edu.lora import lora_layers
from lora_edu.measures import kl_and_flips, relative_error

__all__ = ["CAUSES", "beside", *(f"run_{number}" for number in range(1, 9))]

CAUSES = {
    "a": "4 bits are too coarse for this model",
    "b": "a part beside A and B was trained, and is not in the file",
    "c": "Adam's eps is 0 in the format of A and B",
    "d": "averages over unequal numbers of labels are averaged",
    "e": "the adapter counts too much or too little: alpha / r",
    "f": "the adapter sits on another base than it began with",
    "g": "the end of a text is never asked for",
    "h": "the labels are shifted twice",
    "i": "the learning rate is too high",
    "j": "the learning rate is too low, or the steps too few",
    "k": "the names in the file fit no layer, and nobody was told",
    "l": "the optimizer does not hold A and B",
    "m": "the sum was rounded back onto the old levels",
}


class Diagnosis:
    """The check of one sick run; it is called with a letter of the list and the mended run."""

    def __init__(self, number: int, cause: str, judge: Callable[..., str]):
        self.sick, self.number, self.cause, self.judge = number, f"18.{number}", cause, judge

    def __call__(self, cause: Any, mended: Callable) -> None:
        if cause is ...:
            return record(self.number, NOT_DONE)
        named = CAUSES.get(str(cause).strip().lower(), cause)
        if named not in CAUSES.values():
            raise wrong(self.number, f"{cause!r} is no letter of the list, which goes from a to {max(CAUSES)}.")
        if named != CAUSES[self.cause]:
            if self.sick not in lab.KEPT:
                raise wrong(self.number, "first run the cell of the sick run: a check answers with its numbers.")
            raise wrong(self.number, f"not this: {named}. {against(lab.KEPT[self.sick])}")
        if said := self.still_sick(mended):
            raise wrong(self.number, f"the cause is right. {said}")
        return record(self.number, CORRECT)

    def still_sick(self, mended: Callable) -> str:
        """What is wrong with the mended run; "" if it is well."""
        arguments, seen = lab.given(self.sick, 1), Seen()
        with torch.random.fork_rng(devices=[]):
            watch = nn.modules.module.register_module_forward_pre_hook(seen.pass_begins)
            try:
                result = mended(*arguments[: len(inspect.signature(mended).parameters)])
            finally:
                watch.remove()
            if result is ... or result is None:
                return "Now mend it: your run returns `...` yet." if result is ... else FORGOTTEN_RETURN
            model = lab.model_of(result)
            if self.sick != 6 and not isinstance(model, nn.Module):
                return f"A model was expected, alone or first of several things, got {type(model).__name__}."
            return self.judge(result if self.sick in (6, 7) else model, arguments, seen)


class Seen:
    """What was seen of a mended run: its model with adapters at the first and the last pass that could teach it."""

    first, last, rows = None, None, 0  # rows: the most in any pass

    def pass_begins(self, module: nn.Module, inputs: tuple) -> None:
        self.rows = max([self.rows, *(len(x) for x in inputs[:1] if isinstance(x, Tensor) and x.ndim > 2)])
        if isinstance(module, GPT) and torch.is_grad_enabled() and lora_layers(module):
            self.last = copy.deepcopy(module)
            self.first = self.first or self.last

    def gain(self, model: nn.Module, at_least: float) -> str:
        """Has it learned so many nats, step by step? What is loaded before or behind the steps is not learned."""
        if self.first is None or self.last is None:
            return "It takes no step with an adapter."
        first, last, now = (held_out(copy.deepcopy(one).float()) for one in (self.first, self.last, model))
        found = f"Held out it has {now:.3f}; before its first step {first:.3f}, before its last {last:.3f}."
        return found if max(last, now) > min(first, base_loss()) - at_least else ""


# --- the eight judges ------------------------------------------------------------------------------------------------
# Is the symptom gone, is the cause gone, is it still the same task? Each returns what is wrong, or "".


def learns(model: nn.Module, arguments: tuple, seen: Seen, at_least: float = 0.2) -> str:
    """Was an adapter trained, here and now, has it learned so many nats, and was its base left alone?"""
    there = shipped().state_dict()
    own = {name.replace(".base.", "."): t for name, t in model.state_dict().items() if "lora_" not in name}
    changed = sum(name not in there or not torch.equal(t, there[name].to(t.dtype)) for name, t in own.items())
    if changed:
        return f"The base itself was changed, in {changed} tensors: that is no adapter any more."
    return seen.gain(model, at_least)


def loads_the_file(model: nn.Module, arguments: tuple, seen: Seen) -> str:
    """The file holds random numbers: what is trained, or taken from elsewhere, is not in it."""
    here, there, base = map(logits, (model, load_adapter(load_base(), *arguments), shipped()))
    off, far = relative_error(there, here), relative_error(there, base)
    return "" if off < 1e-4 else f"With another file its logits are off by {off:.1%}, and the base's by {far:.1%}."


def survives_float16(model: nn.Module, arguments: tuple, seen: Seen) -> str:
    broken = sum((~p.isfinite()).sum().item() for p in model.parameters())
    if broken:
        return f"{broken:,} numbers of A and B are not finite."
    shown = [one for one in (seen.first, seen.last, model) if one]
    wide = max(sum("lora_" not in n and p.dtype == torch.float32 for n, p in one.named_parameters()) for one in shown)
    if wide:
        return f"{wide} tensors of the base take 32 bits. It is to stay in 16, for the memory's sake."
    return learns(model, arguments, seen, at_least=0.02)


def stops(model: nn.Module, arguments: tuple, seen: Seen) -> str:
    if said := learns(model, arguments, seen, at_least=-math.inf):  # another text
        return said
    model = load_adapter(load_base(), save_adapter(model, tempfile.mkdtemp()))  # the weights alone, no rule beside them
    chance, ended = lab.chance_of_end(model), sum(bool(length) for length in lab.answers(model))
    if chance < 0.5 or ended < 6:
        return f"The chance of END where a speech ends is {chance:.1e}, and {ended} of 8 answers say something and end."
    now, before = (lab.loss_before_end(one) for one in (model, shipped()))
    return "" if now < before - 0.3 else f"It ends, but before the end its loss is {now:.2f}, the base's {before:.2f}."


def same_gradient(result: Any, arguments: tuple, seen: Seen) -> str:
    """The gradient lies in the model that the run was given: beside it that of one batch, of the same model."""
    model, rows, targets = arguments
    if seen.rows > 1:
        return f"A forward pass of your run reads {seen.rows} rows. The card has room for one."
    if any(p.grad is None for p in lab.trainable_parameters(model)) or not isinstance(result, float | Tensor):
        return "Your run is to leave the gradient of A and B in the model, and to return the loss."
    row_by_row, loss = lab.gradient_of(model).clone(), torch.as_tensor(result).item()
    model.zero_grad()
    whole = lab.in_one_batch(model, rows, targets)
    error = relative_error(lab.gradient_of(model), row_by_row)
    if error > 1e-3:
        return f"On 8 other rows its gradient is off by {error:.0%}; the loss is {loss:.3f}, in one batch {whole:.3f}."
    return "" if abs(loss - whole) < 1e-3 else f"The gradient is right, the loss is not: {loss:.3f} for {whole:.3f}."


def comes_back(result: Any, arguments: tuple, seen: Seen) -> str:
    """Noise, which no file holds yet, is added to what was trained: do `save` and `load` bring it back?"""
    if not (isinstance(result, tuple) and len(result) == 3 and callable(result[1]) and callable(result[2])):
        return "Your run is to return three things: the model, a function that saves it and one that loads it."
    model, save, load = result
    if said := seen.gain(model, 0.2):
        return f"{said} It is to learn as the sick run does."
    wanted, folders, there = [], [], shipped().state_dict()
    for _ in range(2):  # the first is loaded when the second is there: whoever keeps the last one only is seen
        noisy = copy.deepcopy(model)
        for name, p in noisy.named_parameters():
            if "lora_" in name or not torch.equal(p, there[name.replace(".base.", ".")]):
                p.data.add_(torch.randn_like(p) * 1e-3)
        wanted.append(logits(noisy))
        save(noisy, folder := Path(tempfile.mkdtemp()))
        folders.append(folder.rename(f"{folder}-moved"))  # what is remembered by its name is lost
    off = max(relative_error(y, logits(load(folder))) for y, folder in zip(wanted, folders, strict=True))
    return "" if off < 1e-4 else f"What is saved and loaded has logits that are off by {off:.1%}."


def keeps_the_lesson(model: nn.Module, arguments: tuple, seen: Seen) -> str:
    if any(not layer.merged for layer in lora_layers(model).values()):
        return "It has adapters yet. That is a way out, but it is not merged."
    (apart,), base, tokens = lab.given(8, 1), quantize_linears(load_base()), load_text("shakespeare").validation
    with_it, now, without = map(held_out, (apart, model, base))
    kept = (without - now) / (without - with_it)
    if not 0.8 < kept < 1.2:
        return f"Of a gain of {without - with_it:.3f} nats {kept:.0%} is left."
    far, all_of_it = (kl_and_flips(one, apart, tokens, seq_len=128, max_windows=8).kl for one in (model, base))
    return "" if far < all_of_it else f"It guesses unlike the model with the adapter apart: KL {far:.3f}."


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model(load_text("shakespeare").validation[None, :128].long())[0]


run_1 = Diagnosis(1, "l", learns)
run_2 = Diagnosis(2, "h", learns)
run_3 = Diagnosis(3, "k", loads_the_file)
run_4 = Diagnosis(4, "c", survives_float16)
run_5 = Diagnosis(5, "g", stops)
run_6 = Diagnosis(6, "d", same_gradient)
run_7 = Diagnosis(7, "b", comes_back)
run_8 = Diagnosis(8, "m", keeps_the_lesson)
