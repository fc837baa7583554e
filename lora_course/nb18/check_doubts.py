"""What a wrong cause of notebook 18's list is answered with: one number of the reader's own sick run.

It is the page's claim, taken at its word: each number is chosen so that every cause but the right one would have made
it another number. So it speaks against them all.
"""

import torch
from torch import nn

from lora_course.nb18 import lab
from lora_course.nb18.lab import Kept, base_loss, held_out
from lora_course.running.finetune import shipped
from lora_edu import adapters_off, dequantize_linears, load_adapter, load_base, merge


def against(kept: Kept) -> str:
    """What was measured of a run that was seen, in a sentence or two."""
    return while_training(kept) if kept.number in (1, 2, 4, 5) else around_it(kept)


def while_training(kept: Kept) -> str:
    model, log = kept.model, kept.result[-1]
    if kept.number == 1:
        B = numbers_of(model, "lora_B")
        moved = f"B began at 0, and {(B != 0).sum():,} of its {len(B):,} numbers have left it."
        return f"{moved} At any rate and strength, AdamW's first step moves whatever it holds by about the rate."
    if kept.number == 2:
        with adapters_off(model):
            off = held_out(model)
        return f"With its adapter off it has {off:.2f} held out. The log begins, B still 0, with {log[0]:.2f}."
    if kept.number == 4:
        broken = f"{broken_after_one_step(1e-5, 0.16):,} numbers of A and B, in {numbers_of(model).dtype}"
        tried = "At a rate of 1e-5 and a hundredth of alpha, too, after one step"
        return f"The first loss is {log[0]:.2f}. {tried} {broken}, are not finite."
    before, after = map(lab.chance_of_end, (shipped(), model))
    return f"{kept.facts['ends']} The chance of END where a speech ends: {before:.0e} before, {after:.0e} after."


def around_it(kept: Kept) -> str:
    facts = kept.facts
    if kept.number == 3:
        here, there = (numbers_of(one, "lora_B") for one in (kept.model, load_adapter(load_base(), *lab.given(3, 0))))
        counts = (
            f"{(there != 0).sum():,} of {len(there):,} numbers of B are not 0 in the file, {(here != 0).sum():,} here"
        )
        return f"Trained it had {facts['trained']:.3f}. {counts}."
    if kept.number == 6:
        return f"One model, the same rows and labels, no step: its gradients have a cosine of {facts['cosine']:.2f}."
    if kept.number == 8:
        whole = held_out(merge(dequantize_linears(*lab.given(8, 0))))
        rounding = f"Rounding took the base from {base_loss():.3f} to {facts['base']:.3f}."
        return f"Apart it had {facts['trained']:.3f}. The same sum, not rounded, has {whole:.3f}. {rounding}"
    here, there, found = numbers_of(kept.model), numbers_of(facts["loaded"]), []
    for strength in (0, 0.5, 2, 1):
        lab.set_strength(facts["loaded"], strength)
        found.append(f"{held_out(facts['loaded']):.3f}")
    same = f"{(here == there).sum():,} of {len(here):,} numbers of A and B came back, equal in every bit"
    return f"Trained it had {facts['trained']:.3f}. {same}; at strength 0, 0.5, 2 and 1 it has {', '.join(found)}."


def numbers_of(model: nn.Module, part: str = "lora_") -> torch.Tensor:
    """All numbers of A and B, or of one of them, as one row."""
    return torch.cat([p.detach().flatten() for name, p in model.named_parameters() if part in name])


def broken_after_one_step(lr: float, alpha: float = 16) -> int:
    """How many numbers of a float16 adapter are not finite after one step of AdamW."""
    model = lab.add_lora(load_base().half(), 8, alpha, "all-linear").half()
    lab.loop(model, lab.adam(lab.trainable_parameters(model), lr), 1, lab.plays(0, rows=1))
    return (~numbers_of(model).isfinite()).sum().item()
