"""Exercise 3.2: answers, right and wrong. Which is which, and the points, are in a3_codes.py."""

import numpy as np
import torch

from lora_edu import quantization
from lora_edu import quantization as packing


def reference(values, constants, codebook, block_size):
    scale = constants.repeat_interleave(block_size)[: values.numel()]
    scaled = values.flatten() / torch.where(scale == 0, 1.0, scale)
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    codes = torch.zeros_like(scaled, dtype=torch.uint8)
    for midpoint in midpoints:
        codes += scaled >= midpoint
    return codes


# --- right -----------------------------------------------------------------------------------------------------------


def distances(values, constants, codebook, block_size):
    scaled = divided(values, constants, block_size)
    far = (scaled[:, None] - codebook.flip(0)).abs()  # from the highest level down: the first of two equal ones is it
    return (len(codebook) - 1 - far.argmin(dim=1)).to(torch.uint8)


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


def divided(values, constants, block_size):
    scale = constants.repeat_interleave(block_size)[: values.numel()]
    return values.flatten() / torch.where(scale == 0, 1.0, scale)


def nearest_code(scaled, codebook):
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return (scaled[:, None] >= midpoints).sum(dim=1).to(torch.uint8)


def otherwise(scale):
    """An answer that divides by something else: `scale` makes one divisor for each value."""
    return lambda v, constants, codebook, size: nearest_code(v.flatten() / scale(v, constants, size), codebook)


def guarded(scale):
    return torch.where(scale == 0, 1.0, scale)


def not_guarded(values, constants, codebook, block_size, nan_counts=False):
    scaled = values.flatten() / constants.repeat_interleave(block_size)[: values.numel()]
    codes = nearest_code(scaled, codebook)
    return torch.where(scaled.isnan(), len(codebook) - 1, codes).to(torch.uint8) if nan_counts else codes


def clamped(values, constants, codebook, block_size):
    """The guard of an absmax, which is never negative, on a constant with a sign."""
    scale = constants.clamp(min=1e-30).repeat_interleave(block_size)[: values.numel()]
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


def ties_down(values, constants, codebook, block_size):
    return down(divided(values, constants, block_size), codebook)


def one_more(values, constants, codebook, block_size):
    return reference(values, constants, codebook, block_size) + 1


def in_place(values, constants, codebook, block_size):
    for block, constant in zip(values.view(-1).split(block_size), constants, strict=True):
        block /= constant if constant != 0 else 1
    return nearest_code(values.view(-1), codebook)


def whole_blocks_only(values, constants, codebook, block_size):
    whole = values.numel() // block_size
    return reference(values.flatten()[: whole * block_size], constants[:whole], codebook, block_size)


def lora_edu_steps(values, constants, codebook, block_size):
    return packing.nearest_code(quantization.normalize(values.flatten(), constants, block_size), codebook)
