"""Exercise 3.2, the nearest level, and ties go up: right and wrong answers."""

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu import quantization


def each(constants, values, block_size):
    """The constant of each value."""
    return constants.repeat_interleave(block_size)[: values.numel()]


def guarded(scale):
    return torch.where(scale == 0, 1.0, scale)


def divided(values, constants, block_size):
    return values.flatten() / guarded(each(constants, values, block_size))


def nearest_code(scaled, codebook):
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return (scaled[:, None] >= midpoints).sum(dim=1).to(torch.uint8)


def reference(values, constants, codebook, block_size):
    return nearest_code(divided(values, constants, block_size), codebook)


# --- right -----------------------------------------------------------------------------------------------------------


def searched(values, constants, codebook, block_size, *, side="right"):
    midpoints = (codebook[1:] + codebook[:-1]) / 2
    flat = values.reshape(-1)
    scale = constants[torch.arange(len(flat)) // block_size]
    scaled = torch.where(scale == 0, torch.zeros_like(flat), flat / scale)
    return torch.searchsorted(midpoints, scaled, side=side).byte()


def in_numpy(values, constants, codebook, block_size):
    levels, codes = np.asarray(codebook, dtype=np.float64), []
    for block, constant in zip(values.flatten().split(block_size), np.asarray(constants), strict=True):
        scaled = block.double().numpy() / (constant or 1)
        codes.append(np.digitize(scaled, (levels[1:] + levels[:-1]) / 2))
    return np.concatenate(codes).astype(np.uint8)


# --- wrong -----------------------------------------------------------------------------------------------------------


def otherwise(scale):
    """An answer that divides by something else: `scale` makes one divisor for each value."""
    return lambda v, constants, codebook, size: nearest_code(v.flatten() / scale(v, constants, size), codebook)


def not_guarded(values, constants, codebook, block_size, nan_counts=False):
    scaled = values.flatten() / each(constants, values, block_size)
    codes = nearest_code(scaled, codebook)
    return torch.where(scaled.isnan(), len(codebook) - 1, codes).to(torch.uint8) if nan_counts else codes


def clamped(values, constants, codebook, block_size):
    """The guard of an absmax, which is never negative, on a constant with a sign."""
    scale = each(constants.clamp(min=1e-30), values, block_size)
    return nearest_code((values.flatten() / scale).clamp(-1, 1), codebook)


def level_below(values, constants, codebook, block_size):
    scaled = divided(values, constants, block_size)
    return ((scaled[:, None] >= codebook).sum(dim=1) - 1).clamp(min=0).to(torch.uint8)


def outward(values, constants, codebook, block_size):
    """Ties go to the level that is farther from 0."""
    scaled = divided(values, constants, block_size)
    return torch.where(scaled > 0, nearest_code(scaled, codebook), down(scaled, codebook)).to(torch.uint8)


def down(scaled, codebook):
    return (scaled[:, None] - codebook).abs().argmin(dim=1).to(torch.uint8)


def in_place(values, constants, codebook, block_size):
    for block, constant in zip(values.view(-1).split(block_size), constants, strict=True):
        block /= constant if constant != 0 else 1
    return nearest_code(values.view(-1), codebook)


def whole_blocks_only(values, constants, codebook, block_size):
    whole = values.numel() // block_size
    return reference(values.flatten()[: whole * block_size], constants[:whole], codebook, block_size)


def of_the_package(values, constants, codebook, block_size):
    return quantization.nearest_code(quantization.normalize(values.flatten(), constants, block_size), codebook)


BLOCKS = "notebook 05, section 4"
CODES = "notebook 06, section 3"

WRONG = [
    Wrong("ties go down", lambda c: lambda v, constants, codebook, size: down(divided(v, constants, size), codebook), 6,
          "only ties are wrong: a value in the middle between two levels gets the lower code, as in "
          "bitsandbytes. Here it gets the higher one: compare with the mid-points by >=, and not by >.", CODES),
    Wrong("ties go outward", lambda c: outward, 6,
          "only ties are wrong, and only below 0: there they go to the level farther from 0. Up means the "
          "higher code on both sides.", CODES),
    Wrong("0 / 0 becomes code 0", lambda c: not_guarded, 7,
          "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: "
          "its values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.", BLOCKS),
    Wrong("0 / 0 becomes the last code", lambda c: lambda *case: not_guarded(*case, nan_counts=True), 7,
          "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which a search puts behind every "
          "mid-point: its values get the last code. They must get the code of the level 0: divide by 1 there.", BLOCKS),
    Wrong("the guard of an absmax", lambda c: clamped, 4,
          "this keeps the divisor above a small positive number, and so replaces every negative constant. That "
          "guard is for an absmax, which is never negative: replace only the constants that are 0.", BLOCKS),
    Wrong("the sign of the constant is dropped",
          lambda c: otherwise(lambda v, k, size: guarded(each(k.abs(), v, size))), 4,
          "this divides by the magnitude of the constant. Divide by the constant itself: in a block with a negative "
          "one, all signs turn.", BLOCKS),
    Wrong("constants repeated in turn", lambda c: otherwise(lambda v, k, size: guarded(k.repeat(size)[: v.numel()])), 0,
          "the constants are dealt out in turn, one value each. The first block_size values share the first constant: "
          "`repeat_interleave` does that, `repeat` does not.", BLOCKS),
    Wrong("the neighbor's constant", lambda c: otherwise(lambda v, k, size: guarded(each(k.roll(1), v, size))), 0,
          "each block is divided by the constant of the block before it.", BLOCKS),
    Wrong("one constant for all", lambda c: otherwise(lambda v, k, size: k[k.abs().argmax()]), 0,
          "all blocks are divided by one constant, the largest. Each block has its own.", "notebook 05, section 3"),
    Wrong("not scaled", lambda c: otherwise(lambda v, k, size: 1.0), 0,
          "the values are not divided by the constants of their blocks. The levels stand for values between -1 and 1.",
          CODES),
    Wrong("the level below", lambda c: level_below, 0,
          "this takes the highest level that is not above the value. The nearest level may be the one above: "
          "the mid-points decide.", CODES),
    Wrong("one code too high", lambda c: lambda *case: reference(*case) + 1, 0,
          "each code is one too high. Codes count from 0: the code is the number of mid-points that are passed.",
          CODES),
    Wrong("levels instead of codes",
          lambda c: lambda v, constants, codebook, size: codebook[reference(v, constants, codebook, size).long()], 0,
          "these are the levels. Stored is the code of each, its index in the codebook.", CODES),
    Wrong("codes of 64 bits", lambda c: lambda *case: reference(*case).long(), 7,
          "the codes are right, and each takes 64 bits. Convert them with .to(torch.uint8).", CODES),
    Wrong("the values are scaled in place", lambda c: in_place, 7,
          "the codes are right, but what you were given is changed: an operation in place works on the caller's "
          "tensor. Compute in a new one.", CODES),
    Wrong("the short last block is dropped", lambda c: whole_blocks_only, 4,
          "the short last block is missing. Its values need codes too.", BLOCKS),
    Wrong("calls lora_edu", lambda c: of_the_package, 2),
]  # fmt: skip

RIGHT = {"a search, an extra keyword": lambda c: searched, "NumPy, float64, block by block": lambda c: in_numpy}
SOLUTIONS = Solutions(lambda c: reference, RIGHT, WRONG)
