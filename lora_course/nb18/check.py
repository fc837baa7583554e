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
from lora_course.nb18 import check_doubts as doubts
from lora_course.nb18 import lab
from lora_course.nb18.lab import base_loss, held_out
from lora_course.running.finetune import shipped
from lora_edu import load_adapter, load_base, load_text, quantize_linears
from lora_edu.lora import lora_layers
from lora_edu.measures import kl_and_flips, relative_error

__all__ = ["beside", "causes", *(f"run_{number}" for number in range(1, 9))]

CAUSES = {  # a cause as the list says it -> what speaks against it
    "4 bits are too coarse for this model": doubts.bits,
    "a part beside A and B was trained, and is not in the file": doubts.not_saved,
    "Adam's eps is 0 in the format of A and B": doubts.small_eps,
    "averages over unequal numbers of labels are averaged": doubts.averages,
    "the adapter counts too much or too little: alpha / r": doubts.strength,
    "the adapter sits on another base than it began with": doubts.other_base,
    "the end of a text is never asked for": doubts.no_end,
    "the labels are shifted twice": doubts.shifted_twice,
    "the learning rate is too high": doubts.rate,
    "the learning rate is too low, or the steps too few": doubts.rate,
    "the names in the file fit no layer, and nobody was told": doubts.lost_names,
    "the optimizer does not hold A and B": doubts.not_held,
    "the sum was rounded back onto the old levels": doubts.bits,
}
LETTERS = dict(zip("abcdefghijklm", CAUSES, strict=True))


def causes() -> None:
    """Print the list of causes, each with its letter."""
    print("\n".join(f"{letter}  {cause}" for letter, cause in LETTERS.items()))


class Diagnosis:
    """The check of one sick run; it is called with a letter of the list and the mended run."""

    def __init__(self, number: int, cause: str, judge: Callable[..., str]):
        self.sick, self.number, self.cause, self.judge = number, f"18.{number}", cause, judge

    def __call__(self, cause: Any, mended: Callable) -> None:
        if cause is ...:
            return record(self.number, NOT_DONE)
        named = LETTERS.get(str(cause).strip().lower(), cause)
        if named not in CAUSES:
            raise wrong(self.number, f"{cause!r} is no letter of the list, which goes from a to {max(LETTERS)}.")
        if named != LETTERS[self.cause]:
            if self.sick not in lab.KEPT:
                raise wrong(self.number, "first run the cell of the sick run: a check answers with its numbers.")
            raise wrong(self.number, f"not this: {named}. {CAUSES[named](lab.KEPT[self.sick])}")
        said = self.still_sick(mended)
        if said:
            raise wrong(self.number, f"the cause is right. {said}")
        return record(self.number, CORRECT)

    def still_sick(self, mended: Callable) -> str:
        """What is wrong with the mended run; "" if it is well."""
        arguments, steps = lab.given(self.sick, 1), [0]
        backward = Tensor.backward

        def counted(self, *args, **how):
            steps[0] += 1
            return backward(self, *args, **how)

        with torch.random.fork_rng(devices=[]):
            Tensor.backward = counted  # a stored result takes no step
            try:
                result = mended(*arguments[: len(inspect.signature(mended).parameters)])
                if result is ... or result is None:
                    return "Now mend it: your run returns `...` yet." if result is ... else FORGOTTEN_RETURN
                model = lab.model_of(result)
                if self.sick != 6 and not isinstance(model, nn.Module):
                    return f"A model was expected, alone or first of several things, got {type(model).__name__}."
                return self.judge(result if self.sick in (6, 7) else model, arguments, steps[0])
            finally:
                Tensor.backward = backward


# --- the eight judges ------------------------------------------------------------------------------------------------
# Is the symptom gone, is the cause gone, is it still the same task? Each returns what is wrong, or "".


def learns(model: nn.Module, arguments: tuple, steps: int, at_least: float = 0.2) -> str:
    """Was an adapter trained, here and now, has it learned so many nats, and was its base left alone?"""
    if not lora_layers(model) or steps < 3:
        return f"It is to train an adapter. It takes {steps} steps, and has {len(lora_layers(model))} adapters."
    there = shipped().state_dict()
    own = {name.replace(".base.", "."): t for name, t in model.state_dict().items() if "lora_" not in name}
    changed = sum(not torch.equal(t, there[name].to(t.dtype)) for name, t in own.items())
    if changed:
        return f"The base itself was changed, in {changed} tensors: that is no adapter any more."
    now = held_out(copy.deepcopy(model).float())  # float16 is slow on a CPU
    return "" if now < base_loss() - at_least else f"Held out it has {now:.3f}, and the base {base_loss():.3f}."


def loads_the_file(model: nn.Module, arguments: tuple, steps: int) -> str:
    """The file holds random numbers: what is trained, or taken from elsewhere, is not in it."""
    here, there, base = map(logits, (model, load_adapter(load_base(), *arguments), shipped()))
    off, far = relative_error(there, here), relative_error(there, base)
    return "" if off < 1e-4 else f"With another file its logits are off by {off:.1%}, and the base's by {far:.1%}."


def survives_float16(model: nn.Module, arguments: tuple, steps: int) -> str:
    broken = sum((~p.isfinite()).sum().item() for p in model.parameters())
    if broken:
        return f"{broken:,} numbers of A and B are not finite."
    wide = sum("lora_" not in name and p.dtype == torch.float32 for name, p in model.named_parameters())
    if wide:
        return f"{wide} tensors of the base take 32 bits. It is to stay in 16, for the memory's sake."
    return learns(model, arguments, steps, at_least=0.02)


def stops(model: nn.Module, arguments: tuple, steps: int) -> str:
    if said := learns(model, arguments, steps, at_least=-math.inf):  # another text
        return said
    chance, ended = lab.chance_of_end(model), sum(length is not None for length in lab.answers(model))
    if chance < 0.5 or ended < 6:
        return f"The chance of END where a speech ends is {chance:.1e}, and {ended} of 8 answers end."
    now, before = (lab.loss_before_end(one) for one in (model, shipped()))
    return "" if now < before - 0.3 else f"It ends, but before the end its loss is {now:.2f}, the base's {before:.2f}."


def same_gradient(result: Any, arguments: tuple, steps: int) -> str:
    """The gradient lies in the model that the run was given: beside it that of one batch, of the same model."""
    model, rows, targets = arguments
    if max(model.rows_read, default=0) > 1:
        return f"A forward pass of your run reads {max(model.rows_read)} rows. The card has room for one."
    if any(p.grad is None for p in lab.trainable_parameters(model)) or not isinstance(result, float | Tensor):
        return "Your run is to leave the gradient of A and B in the model, and to return the loss."
    row_by_row, loss = lab.gradient_of(model).clone(), torch.as_tensor(result).item()
    model.zero_grad()
    whole = lab.in_one_batch(model, rows, targets)
    error = relative_error(lab.gradient_of(model), row_by_row)
    if error > 1e-3:
        return f"On 8 other rows its gradient is off by {error:.0%}; the loss is {loss:.3f}, in one batch {whole:.3f}."
    return "" if abs(loss - whole) < 1e-3 else f"The gradient is right, the loss is not: {loss:.3f} for {whole:.3f}."


def comes_back(result: Any, arguments: tuple, steps: int) -> str:
    """Noise, which no file holds yet, is added to what was trained: do `save` and `load` bring it back?"""
    if not (isinstance(result, tuple) and len(result) == 3 and callable(result[1]) and callable(result[2])):
        return "Your run is to return three things: the model, a function that saves it and one that loads it."
    model, save, load = result
    if steps < 3 or held_out(model) > base_loss() - 0.2:
        return f"After {steps} steps it has {held_out(model):.3f} held out: it is to learn as the sick run does."
    wanted, folders, there = [], [], shipped().state_dict()
    for _ in range(2):  # the first is loaded when the second is there: whoever keeps the last one only is seen
        noisy = copy.deepcopy(model)
        for name, p in noisy.named_parameters():
            if "lora_" in name or not torch.equal(p, there[name.replace(".base.", ".")]):
                p.data.add_(torch.randn_like(p) * 1e-3)
        wanted.append(logits(noisy))
        folders.append(Path(tempfile.mkdtemp()))
        save(noisy, folders[-1])
    off = max(relative_error(y, logits(load(folder))) for y, folder in zip(wanted, folders, strict=True))
    return "" if off < 1e-4 else f"What is saved and loaded has logits that are off by {off:.1%}."


def keeps_the_lesson(model: nn.Module, arguments: tuple, steps: int) -> str:
    if any(not layer.merged for layer in lora_layers(model).values()):
        return "It has adapters yet. That is a way out, but it is not merged."
    (apart,), base, tokens = lab.given(8, 1), quantize_linears(load_base()), load_text("shakespeare").validation
    with_it, now, without = map(held_out, (apart, model, base))
    kept = (without - now) / (without - with_it)
    if kept < 0.8:
        return f"Of a gain of {without - with_it:.3f} nats {kept:.0%} is left."
    far, all_of_it = (kl_and_flips(one, apart, tokens, seq_len=128, max_windows=8).kl for one in (model, base))
    return "" if far < all_of_it else f"It guesses unlike the model with the adapter apart: KL {far:.3f}."


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    """What a model says of 128 bytes that nobody trained on."""
    return model(load_text("shakespeare").validation[None, :128].long())[0]


run_1 = Diagnosis(1, "l", learns)
run_2 = Diagnosis(2, "h", learns)
run_3 = Diagnosis(3, "k", loads_the_file)
run_4 = Diagnosis(4, "c", survives_float16)
run_5 = Diagnosis(5, "g", stops)
run_6 = Diagnosis(6, "d", same_gradient)
run_7 = Diagnosis(7, "b", comes_back)
run_8 = Diagnosis(8, "m", keeps_the_lesson)
