"""What speaks against a cause of notebook 18's list: a number of the reader's own sick run.

Each function gets a run that was seen and says why this cause is not the one. It is never asked about the run whose
cause it is.
"""

import torch
from torch import nn

from lora_course.nb18 import lab
from lora_course.nb18.lab import Kept, base_loss, held_out
from lora_course.running.finetune import shipped
from lora_edu import dequantize_linears, load_adapter, load_base, load_text, merge
from lora_edu.layers import is_nf4
from lora_edu.lora import adapters_off


def bits(kept: Kept) -> str:
    if kept.number == 8:
        return f"Rounding took the base from {base_loss():.3f} to {kept.facts['base']:.3f}. {went_well(kept)}"
    return f"Layers in 4 bits: {sum(is_nf4(module) for module in kept.model.modules())}."


def not_saved(kept: Kept) -> str:
    others = [name for name, p in trained(kept).named_parameters() if p.requires_grad and "lora_" not in name]
    return f"Beside A and B, {len(others)} tensors of this model can be trained."


def small_eps(kept: Kept) -> str:
    numbers = numbers_of(trained(kept))
    eps, broken = torch.tensor(1e-8, dtype=numbers.dtype).item(), (~numbers.isfinite()).sum().item()
    return f"A and B are in {numbers.dtype}, where 1e-8 is {eps:.0e}, and {broken} of their numbers are not finite."


def averages(kept: Kept) -> str:
    if kept.number == 5:
        return "A step takes 1 average, over all labels of its 8 rows at once."
    if kept.number in (3, 8):
        return f"No step is taken here. {went_well(kept)}"
    return "Every row has 64 bytes: nothing of unequal size is averaged."


def strength(kept: Kept) -> str:
    if kept.number == 2:
        return f"While B is 0, no strength matters, and the log begins with {kept.log[0]:.2f}."
    if kept.number == 4:
        return f"At a hundredth of alpha, too, {broken_after_one_step(3e-3, 0.16):,} numbers of A and B are not finite."
    if kept.number == 6:
        return went_well(kept)
    if kept.number == 8:
        whole = held_out(merge(dequantize_linears(trained(kept))))
        return f"The same sum, not rounded to 4 bits, has {whole:.3f}. {went_well(kept)}"
    model, found = kept.facts.get("loaded", kept.model), []
    name, measure = ("chance of END", lab.chance_of_end) if kept.number == 5 else ("loss", held_out)
    for share in (0.5, 2, 1):
        lab.set_strength(model, share)
        found.append(f"{measure(model):.4g}")
    return f"At strength 0.5, 2 and 1 the {name} is {', '.join(found)}."


def other_base(kept: Kept) -> str:
    with adapters_off(model := kept.facts.get("loaded", trained(kept))):
        found = held_out(model)
    at_start = kept.facts.get("base", base_loss())
    return f"With its adapter off this model has {found:.4f}, and the base that it began with {at_start:.4f}."


@torch.no_grad()
def shifted_twice(kept: Kept) -> str:
    inputs, targets = next(lab.plays())
    logits = shipped()(inputs)[0]
    later = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten()).item()
    first = kept.log[0] if kept.log else kept.facts.get("whole", base_loss())
    return f"Before any step the loss is {first:.2f} here. Asked for the byte after next, the base has {later:.2f}."


def rate(kept: Kept) -> str:
    if kept.number == 1:
        return f"{not_held(kept)} AdamW's first step moves a number by about the rate, whatever the rate."
    if kept.number == 2:
        return f"The log begins with {kept.log[0]:.2f}: at any rate, no step was taken yet."
    if kept.number == 4:
        return f"At a rate of 1e-5, too, {broken_after_one_step(1e-5):,} numbers of A and B are not finite."
    if kept.number == 5:
        before, after = (lab.chance_of_end(model) for model in (shipped(), kept.model))
        return f"{kept.ends} The chance of END where a speech ends: {before:.0e} before, {after:.0e} after."
    return went_well(kept)


def lost_names(kept: Kept) -> str:
    if kept.number == 7:
        here, there = (numbers_of(model) for model in (kept.model, kept.facts["loaded"]))
        return f"Of the {len(here):,} numbers of A and B, {(here == there).sum():,} came back, equal in every bit."
    if kept.number == 8:
        return went_well(kept)
    return f"No adapter's file is read here. The base that is, has {base_loss():.2f} held out, as it ships."


def not_held(kept: Kept) -> str:
    """Where B is, which began at 0; of run 3 as it stands in the file."""
    if kept.number == 6:
        return went_well(kept)
    B = numbers_of(load_adapter(load_base(), *lab.given(3, 0)) if kept.number == 3 else trained(kept), "lora_B")
    place = " in the file" * (kept.number == 3)
    return f"B began at 0. Of its {len(B):,} numbers {(B != 0).sum():,} have left it{place}."


def no_end(kept: Kept) -> str:
    read = load_text("shakespeare").validation if kept.number != 6 else lab.given(6, 0)[1]
    return f"The plays that show the symptom have END {(read == lab.END).sum().item()} times in {read.numel():,} bytes."


def trained(kept: Kept) -> nn.Module:
    """The model with its adapter: of run 8 the one that was to be merged, made anew."""
    return lab.given(8, 0)[0] if kept.number == 8 else kept.model


def numbers_of(model: nn.Module, part: str = "lora_") -> torch.Tensor:
    """All numbers of A and B, or of one of them, as one row."""
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if part in name])


def went_well(kept: Kept) -> str:
    """That the symptom comes before this cause, or after it."""
    if kept.number == 6:
        return f"The two gradients of one model have a cosine of {kept.facts['cosine']:.2f}, and no step was taken yet."
    had, before = kept.facts["trained"], kept.facts.get("base", base_loss())
    return f"Before anything was saved or merged it had {had:.3f}, and {before:.3f} untrained."


def broken_after_one_step(lr: float, alpha: float = 16) -> int:
    """How many numbers of a float16 adapter are not finite after one step of AdamW."""
    model = lab.add_lora(load_base().half(), 8, alpha, "all-linear").half()
    lab.loop(model, lab.adam(lab.trainable_parameters(model), lr), 1, lab.plays(0, rows=1))
    return (~numbers_of(model).isfinite()).sum().item()
