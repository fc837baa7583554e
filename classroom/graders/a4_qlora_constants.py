"""Exercise 4.2: double quantization of the constants. `rounded` is right; each switch turns one mistake on."""

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu.assignments.core import Constants
from lora_edu.quantization import DoubleQuant, quantize_absmax


def offset_of(c: Constants, absmax):
    """A number or a tensor without dimensions, of NumPy or torch."""
    if c.offset == "midpoint":
        return (absmax.min() + absmax.max()) / 2
    return absmax.min() if c.offset == "minimum" else absmax.max()


def rounded(
    c: Constants,
    absmax: torch.Tensor,
    offset=offset_of,
    of_each_block: bool = False,
    one_scale: bool = False,
    reach: float | None = None,
    least: float = 1e-30,
    down: bool = False,
    levels: torch.Tensor | None = None,
    in_place: bool = False,
    whole: bool = False,
) -> tuple:
    """absmax (n_blocks,) -> codes (n_blocks,), scales, offset, all of them as the task wants them but for a mistake."""
    levels, reach = torch.tensor(c.levels) if levels is None else levels, c.reach if reach is None else reach
    taken_off = offset(c, absmax)
    centered = absmax.sub_(taken_off) if in_place else absmax - taken_off
    if whole:
        centered = centered[: len(centered) // c.second_size * c.second_size]
    codes, scales = [], []
    for block in centered.split(c.second_size):
        if of_each_block:
            block = block + taken_off - offset(c, block + taken_off)
        scale = reach * (centered if one_scale else block).abs().max()
        x = block / scale.clamp(min=least)
        edges = levels[1:] if down else (levels[1:] + levels[:-1]) / 2
        codes.append(torch.bucketize(x, edges, right=down).to(torch.uint8))
        scales.append(scale)
    return torch.cat(codes), torch.stack(scales), taken_off


def with_(**changes):
    return lambda c: lambda absmax: rounded(c, absmax, **{k: v(c) if k == "levels" else v for k, v in changes.items()})


def padded(c):
    """All blocks at once, as rows of a table that zeros fill up."""

    def quantize_constants(absmax, eps=1e-30):
        offset = offset_of(c, absmax)
        centered = absmax - offset
        missing = -len(centered) % c.second_size
        table = torch.nn.functional.pad(centered, (0, missing)).view(-1, c.second_size)
        scales = c.reach * table.abs().amax(dim=1)
        x = (table / scales.clamp(min=eps)[:, None]).flatten()[: len(absmax)]
        levels = torch.tensor(c.levels)
        return torch.bucketize(x, (levels[:-1] + levels[1:]) / 2).to(torch.uint8), scales, offset

    return quantize_constants


def in_numpy(c):
    """float64 inside, and the asked types at the end."""

    def quantize_constants(absmax):
        values, levels = absmax.double().numpy(), np.array(c.levels)
        offset = offset_of(c, values)
        starts = np.arange(0, len(values), c.second_size)
        scales = c.reach * np.maximum.reduceat(np.abs(values - offset), starts)
        x = (values - offset) / np.maximum(np.repeat(scales, c.second_size)[: len(values)], 1e-30)
        codes = np.abs(x[:, None] - levels[None]).argmin(axis=1)
        return torch.tensor(codes).byte(), torch.tensor(scales).float(), torch.tensor(offset).float()

    return quantize_constants


def ends(change):
    """Another ending: `change` gets the codes, the scales and the offset."""
    return lambda c: lambda absmax: change(*rounded(c, absmax))


def cut_by_view(c):
    """Whole blocks alone."""
    return lambda absmax: absmax.view(-1, c.second_size) is not None and rounded(c, absmax)


def of_the_package(c):
    def quantize_constants(absmax):
        quantized, offset = quantize_absmax(absmax, DoubleQuant("int8", c.second_size))
        return quantized.codes, quantized.absmax, offset

    return quantize_constants


LEVELS = "notebook 07, section 2"
ZEROS = "notebook 07, exercise 7.3"

QUANTIZE_CONSTANTS = Solutions(
    reference=with_(),
    right={"padded table": padded, "NumPy in float64": in_numpy},
    wrong=[
        Wrong("the mean is subtracted", with_(offset=lambda c, x: x.mean()), 0,
              "this takes the mean off. That is QLoRA's choice; here it is what c.offset names.", LEVELS),
        Wrong("nothing is subtracted", with_(offset=lambda c, x: torch.zeros(())), 0,
              "nothing is taken off. All constants are positive and far from 0: around c.offset the levels are used "
              "better.", LEVELS),
        Wrong("an offset for each block", with_(of_each_block=True), 2,
              "each block loses an offset of its own. There is one offset, of the whole layer; nothing else is stored.",
              LEVELS),
        Wrong("one scale for the layer", with_(one_scale=True), 2,
              "there is one scale for all constants. Each block of c.second_size constants has its own.", LEVELS),
        Wrong("reach forgotten", with_(reach=1.0), 2,
              "the scale is the largest magnitude. Here it is c.reach times that, and what lies beyond takes the last "
              "level.", LEVELS),
        Wrong("rounded down", with_(down=True), 3,
              "this takes the level below. Take the nearest one: mid-points between levels are the thresholds.",
              "notebook 06, section 3"),
        Wrong("levels taken for equally spaced",
              with_(levels=lambda c: torch.linspace(c.levels[0], c.levels[-1], len(c.levels))), 3,
              "this rounds as if the levels were equally far apart. They are those in c.levels.",
              "notebook 07, section 5"),
        Wrong("bounded scale", with_(least=1e-3), 3,
              "tiny constants are divided by a bound, not by their scale. Keep only an exact 0 away.", ZEROS),
        Wrong("a tiny bound", with_(least=1e-8), 3),
        Wrong("division by 0", ends(lambda *found: found if [1 / scale for scale in found[1].tolist()] else None), 0,
              "equal constants are divided by 0. If the scale of a block is 0, all its codes are those of the level 0.",
              ZEROS),
        Wrong("cut by view", cut_by_view, 0,
              "`view` makes whole rows alone, and stops where the last block is shorter: `split` does not, or fill the "
              "last row up with zeros first.", "notebook 05, section 4"),
        Wrong("input changed", with_(in_place=True), 4,
              "the argument is changed: the caller's constants have lost their offset. Make a new tensor.", LEVELS),
        Wrong("codes are not bytes", ends(lambda codes, scales, offset: (codes.long(), scales, offset)), 4,
              "the codes are no bytes. Stored in 64 bits each, they take twice as much as the float32 constants.",
              "notebook 07, section 1"),
        Wrong("lora_edu", of_the_package, 0),
    ],
)  # fmt: skip
