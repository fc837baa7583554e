"""Exercise 3.3, the nearest level, and ties go up: the reference, other right answers, and wrong ones."""

import numpy as np
import torch
from a3_cheats import cheats

from lora_edu.classroom.solutions import Solutions, Wrong
from lora_edu.quantization import nearest_code, normalize, quantize

BLOCKS = "notebook 05, section 4"
CODES = "notebook 06, section 3"


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
    scaled = _scaled(values, constants, block_size)
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


def one_by_one(values, constants, codebook, block_size):
    levels, codes = codebook.tolist(), []
    for i, value in enumerate(values.flatten().tolist()):
        constant = constants[i // block_size].item()
        scaled = value / constant if constant else 0.0
        codes.append(min(range(len(levels)), key=lambda code: (abs(levels[code] - scaled), -code)))
    return torch.tensor(codes, dtype=torch.uint8)


# --- wrong -----------------------------------------------------------------------------------------------------------


def _scaled(values, constants, block_size):
    scale = constants.repeat_interleave(block_size)[: values.numel()]
    return values.flatten() / torch.where(scale == 0, 1.0, scale)


def _nearest(scaled, codebook):
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return (scaled[:, None] >= midpoints).sum(dim=1).to(torch.uint8)


def _otherwise(scale):
    """An answer that divides by something else: `scale` makes one divisor for each value."""
    return lambda v, constants, codebook, size: _nearest(v.flatten() / scale(v, constants, size), codebook)


def _guarded(scale):
    return torch.where(scale == 0, 1.0, scale)


def _not_guarded(values, constants, codebook, block_size, nan_counts=False):
    scaled = values.flatten() / constants.repeat_interleave(block_size)[: values.numel()]
    codes = _nearest(scaled, codebook)
    return torch.where(scaled.isnan(), len(codebook) - 1, codes).to(torch.uint8) if nan_counts else codes


def _clamped(values, constants, codebook, block_size):
    """The guard of an absmax, which is never negative, on a constant with a sign."""
    scale = constants.clamp(min=1e-30).repeat_interleave(block_size)[: values.numel()]
    return _nearest((values.flatten() / scale).clamp(-1, 1), codebook)


def _below(values, constants, codebook, block_size):
    scaled = _scaled(values, constants, block_size)
    return ((scaled[:, None] >= codebook).sum(dim=1) - 1).clamp(min=0).to(torch.uint8)


def _outward(values, constants, codebook, block_size):
    """Ties go to the level that is farther from 0."""
    scaled = _scaled(values, constants, block_size)
    return torch.where(scaled > 0, _nearest(scaled, codebook), _down(scaled, codebook)).to(torch.uint8)


def _down(scaled, codebook):
    return (scaled[:, None] - codebook).abs().argmin(dim=1).to(torch.uint8)


def _one_more(values, constants, codebook, block_size):
    return reference(values, constants, codebook, block_size) + 1


def _in_place(values, constants, codebook, block_size):
    for block, constant in zip(values.view(-1).split(block_size), constants, strict=True):
        block /= constant if constant != 0 else 1
    return _nearest(values.view(-1), codebook)


def _whole_blocks_only(values, constants, codebook, block_size):
    whole = values.numel() // block_size
    return reference(values.flatten()[: whole * block_size], constants[:whole], codebook, block_size)


def _float64(values, constants, codebook, block_size):
    scaled = torch.zeros(values.numel(), dtype=torch.float64)
    scaled[torch.arange(len(scaled))] = _scaled(values, constants, block_size)
    return _nearest(scaled, codebook)


def _hard_coded_half(values, constants, codebook, block_size):
    """Equal steps from -1 to 1, as in a symmetric int code, whatever the codebook says."""
    scaled, largest = _scaled(values, constants, block_size), len(codebook) // 2
    return (scaled * (largest - 1)).round().add(largest - 1).to(torch.uint8)


def _bitsandbytes(values, constants, codebook, block_size):
    import bitsandbytes.functional

    packed = bitsandbytes.functional.quantize_4bit(values, blocksize=block_size, quant_type="nf4")[0].flatten()
    return torch.stack([packed >> 4, packed & 15], dim=1).flatten()[: values.numel()]


WRONG = [
    Wrong(
        "ties go down",
        lambda c: lambda v, constants, codebook, size: _down(_scaled(v, constants, size), codebook),
        keeps=4,
        sentence="only ties are wrong: a value in the middle between two levels gets the lower code, as in "
        "bitsandbytes. Here it gets the higher one: compare with the mid-points by >=, and not by >.",
        see=CODES,
    ),
    Wrong(
        "ties go outward",
        lambda c: _outward,
        keeps=4,
        sentence="only ties are wrong, and only below 0: there they go to the level farther from 0. Up means the "
        "higher code on both sides.",
        see=CODES,
    ),
    Wrong(
        "ties by the sign of the weight",
        lambda c: (
            lambda v, constants, codebook, size: torch.where(
                v.flatten() > 0, reference(v, constants, codebook, size), _down(_scaled(v, constants, size), codebook)
            )
        ),
        keeps=4,
    ),
    Wrong(
        "0 / 0 becomes code 0",
        lambda c: _not_guarded,
        keeps=4,
        sentence="in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: "
        "its values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.",
        see=BLOCKS,
    ),
    Wrong(
        "0 / 0 becomes the last code",
        lambda c: lambda *case: _not_guarded(*case, nan_counts=True),
        keeps=4,
        sentence="in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which a search puts behind "
        "every mid-point: its values get the last code. They must get the code of the level 0: divide by 1 "
        "there.",
        see=BLOCKS,
    ),
    Wrong(
        "the guard of an absmax",
        lambda c: _clamped,
        keeps=0,
        sentence="this keeps the divisor above a small positive number, and so replaces every negative constant. That "
        "guard is for an absmax, which is never negative: replace only the constants that are 0.",
        see=BLOCKS,
    ),
    Wrong(
        "the sign of the constant is dropped",
        lambda c: _otherwise(lambda v, k, size: _guarded(k.abs().repeat_interleave(size)[: v.numel()])),
        keeps=0,
        sentence="this divides by the magnitude of the constant. Divide by the constant itself: in a block with a "
        "negative one, all signs turn.",
        see=BLOCKS,
    ),
    Wrong(
        "constants repeated in turn",
        lambda c: _otherwise(lambda v, k, size: _guarded(k.repeat(size)[: v.numel()])),
        keeps=0,
        sentence="the constants are dealt out in turn, one value each. The first block_size values share the first "
        "constant: `repeat_interleave` does that, `repeat` does not.",
        see=BLOCKS,
    ),
    Wrong(
        "the neighbor's constant",
        lambda c: _otherwise(lambda v, k, size: _guarded(k.roll(1).repeat_interleave(size)[: v.numel()])),
        keeps=0,
        sentence="each block is divided by the constant of the block before it.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: _otherwise(lambda v, k, size: k[k.abs().argmax()]),
        keeps=0,
        sentence="all blocks are divided by one constant, the largest. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong(
        "not scaled",
        lambda c: _otherwise(lambda v, k, size: 1.0),
        keeps=0,
        sentence="the values are not divided by the constants of their blocks. The levels stand for values between -1 "
        "and 1.",
        see=CODES,
    ),
    Wrong(
        "the level below",
        lambda c: _below,
        keeps=0,
        sentence="this takes the highest level that is not above the value. The nearest level may be the one above: "
        "the mid-points decide.",
        see=CODES,
    ),
    Wrong(
        "one code too high",
        lambda c: _one_more,
        keeps=0,
        sentence="each code is one too high. Codes count from 0: the code is the number of mid-points that are passed.",
        see=CODES,
    ),
    Wrong(
        "levels instead of codes",
        lambda c: lambda v, constants, codebook, size: codebook[reference(v, constants, codebook, size).long()],
        keeps=0,
        sentence="these are the levels. Stored is the code of each, its index in the codebook.",
        see=CODES,
    ),
    Wrong(
        "codes of 64 bits",
        lambda c: lambda *case: reference(*case).long(),
        keeps=4,
        sentence="the codes are right, and each takes 64 bits. Convert them with .to(torch.uint8).",
        see=CODES,
    ),
    Wrong(
        "the values are scaled in place",
        lambda c: _in_place,
        keeps=4,
        sentence="the codes are right, but the weights that you were given are divided in place: the caller's tensor "
        "is changed. Divide into a new tensor.",
        see=CODES,
    ),
    Wrong(
        "the short last block is dropped",
        lambda c: _whole_blocks_only,
        keeps=2,
        sentence="the short last block is missing. Its values need codes too.",
        see=BLOCKS,
    ),
    Wrong("a row is a block", lambda c: lambda v, k, book, size: reference(v, k, book, v.shape[-1]), keeps=0),
    Wrong("block size 64, whatever is asked", lambda c: lambda v, k, book, size: reference(v, k, book, 64), keeps=0),
    Wrong("equal steps, whatever the codebook", lambda c: _hard_coded_half, keeps=0),
    Wrong("float64 is assumed", lambda c: _float64, keeps=0),
    Wrong(
        "lora_edu, its steps",
        lambda c: lambda v, k, book, size: nearest_code(normalize(v.flatten(), k, size), book),
        keeps=0,
    ),
    Wrong("lora_edu, its blocks", lambda c: lambda v, k, book, size: quantize(v, book, size).codes, keeps=0),
    Wrong("bitsandbytes", lambda c: _bitsandbytes, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: reference,
    right={
        "all distances, from the top": lambda c: distances,
        "a search, an extra keyword": lambda c: searched,
        "NumPy, float64, block by block": lambda c: in_numpy,
        "one value at a time": lambda c: one_by_one,
    },
    wrong=[*WRONG, *cheats("3.3", reference)],
)
