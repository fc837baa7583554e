"""The checks of notebook 05, Blocks."""

import math

import numpy as np
import torch

from lora_edu.grading import Exercise, as_array, beside

__all__ = ["beside", "bits_per_weight", "block_constants", "code_error", "round_block"]

bits_per_weight = Exercise(
    "5.1",
    lambda bits, block_size, scale_bits: bits + scale_bits / block_size,
    [(4, 64, 32), (4, 64, 16), (3, 128, 32), (8, 32, 16), (2, 4096, 32)],
    {
        "this is the code alone. Each block also stores a constant, and its weights share the cost of it.": (
            lambda bits, size, scale: bits
        ),
        "this counts eight bits a code. That is what a code takes while it lies in an int8 tensor; packed, it takes "
        "`bits`.": lambda bits, size, scale: 8 + scale / size,
        "this takes every constant for 32 bits. A constant in fp16 has 16: use `scale_bits`.": (
            lambda bits, size, scale: bits + 32 / size
        ),
        "this gives each weight a constant of its own. A block of weights shares one: divide by the block size.": (
            lambda bits, size, scale: bits + scale
        ),
        "this counts the constant in bytes and the code in bits. Both are bits here.": (
            lambda bits, size, scale: bits + scale / 8 / size
        ),
        "this counts everything in bytes. The question asks for bits.": lambda bits, size, scale: (
            (bits + scale / size) / 8
        ),
        "this is the total of a block. Divide by the block size to get the bits of one weight.": (
            lambda bits, size, scale: bits * size + scale
        ),
        "this is the share of the constant alone. The code is missing.": lambda bits, size, scale: scale / size,
    },
)


def _coded() -> list[tuple]:
    """Values, their integer codes, the absmax and the number of bits; no tensor is square."""
    rng = np.random.default_rng(1)
    cases = []
    for shape, bits in (((5, 8), 4), ((3, 7), 3), ((9, 4), 8)):
        values = torch.from_numpy(rng.normal(0, 2, size=shape)).float()
        absmax = values.abs().max().item()
        codes = (values / absmax * (2 ** (bits - 1) - 1)).round().to(torch.int8)
        cases.append((values, codes, absmax, bits))
    return cases


def _difference(values, codes, absmax, bits, levels=None):
    levels = levels or 2 ** (bits - 1) - 1
    return values - codes.float() * absmax / levels


code_error = Exercise(
    "5.2",
    lambda v, c, absmax, bits: (_difference(v, c, absmax, bits).norm() / v.norm()).item(),
    _coded(),
    {
        "this compares the values with the codes themselves. A code is a number of steps: turn it back into a value "
        "first.": lambda v, c, absmax, bits: ((v - c.float()).norm() / v.norm()).item(),
        "this measures in code space, in steps. Two tensors with other constants could not be compared: measure in "
        "values.": lambda v, c, absmax, bits: (
            (v / absmax * (2 ** (bits - 1) - 1) - c.float()).norm() / c.float().norm()
        ).item(),
        "this is the largest error of a single value. The relative error takes the norm of all of them.": (
            lambda v, c, absmax, bits: _difference(v, c, absmax, bits).abs().max().item()
        ),
        "this is the largest error over the absmax. The relative error takes norms: ||W - W'|| / ||W||.": (
            lambda v, c, absmax, bits: (_difference(v, c, absmax, bits).abs().max() / absmax).item()
        ),
        "this is the norm of the difference. Divide by the norm of the values to make it relative.": (
            lambda v, c, absmax, bits: _difference(v, c, absmax, bits).norm().item()
        ),
        "this is the square of the relative error. Take the root, or divide norms.": lambda v, c, absmax, bits: (
            (_difference(v, c, absmax, bits).norm() / v.norm()) ** 2
        ).item(),
        "this is the mean squared error, which depends on the unit of the values.": lambda v, c, absmax, bits: (
            (_difference(v, c, absmax, bits) ** 2).mean().item()
        ),
        "this turns codes back with 2**(bits - 1) steps. The largest code is 2**(bits - 1) - 1, and it stands for the "
        "absmax.": lambda v, c, absmax, bits: (
            _difference(v, c, absmax, bits, 2 ** (bits - 1)).norm() / v.norm()
        ).item(),
    },
)


def _blocks() -> list[tuple]:
    """Blocks whose largest magnitude is negative, and a block of zeros."""
    rng = np.random.default_rng(2)
    cases = [(torch.from_numpy(rng.normal(size=n)).float(), bits) for n, bits in ((7, 4), (16, 3), (10, 8), (5, 2))]
    for block, _ in cases[:2]:
        block[3] = -3 * block.abs().max()
    return [*cases, (torch.zeros(6), 4)]


def _rounded(block, bits, largest=None, turn=torch.round, scale=None, back=True):
    largest = largest or 2 ** (bits - 1) - 1
    absmax = (block.abs().max() if scale is None else scale(block)).clamp(min=1e-30)
    codes = turn(block / absmax * largest)
    return codes * absmax / largest if back else codes


_round_block = Exercise(
    "5.3",
    _rounded,
    _blocks(),
    {
        "these are the codes. Multiply them by absmax / (2**(bits - 1) - 1) to get what they stand for.": (
            lambda block, bits: _rounded(block, bits, back=False)
        ),
        "these are the codes divided by the largest one, between -1 and 1. The absmax is not multiplied back.": (
            lambda block, bits: _rounded(block, bits, back=False) / (2 ** (bits - 1) - 1)
        ),
        "this uses 2**(bits - 1) steps on each side. Then +8 would be a code of 4 bits, and from -8 to 8 there are 17: "
        "one too many. The largest code is 2**(bits - 1) - 1.": (
            lambda block, bits: _rounded(block, bits, 2 ** (bits - 1))
        ),
        "2**bits - 1 is how many codes there are, both sides of zero together. The largest is 2**(bits - 1) - 1.": (
            lambda block, bits: _rounded(block, bits, 2**bits - 1)
        ),
        "this cuts off instead of rounding: 2.9 steps become 2. The nearest code is 3.": (
            lambda block, bits: _rounded(block, bits, turn=torch.trunc)
        ),
        "this always rounds down. Take the nearest code.": lambda block, bits: _rounded(block, bits, turn=torch.floor),
        "this scales by the largest value. The largest *magnitude* may be negative: take the absolute value first.": (
            lambda block, bits: _rounded(block, bits, scale=lambda b: b.max())
        ),
        "this scales by the standard deviation. Values beyond it get codes that do not exist: scale by the absmax.": (
            lambda block, bits: _rounded(block, bits, scale=lambda b: b.std())
        ),
        "nothing is rounded here: the values come back as they were.": lambda block, bits: block,
    },
)


def round_block(attempt) -> None:
    """Check a function (block, bits) -> the rounded block; a block of zeros is tried first."""
    try:
        with np.errstate(all="ignore"):
            zeros = as_array(attempt(torch.zeros(6), 4))
    except Exception:
        zeros = None  # the exercise says what stopped, and for which input
    if zeros is not None and np.isnan(zeros).any():
        raise AssertionError(
            "Exercise 5.3: a block of zeros comes back as NaN (not a number): its absmax is 0, and 0 / 0 has no value. "
            "Divide by something that is never 0, for example absmax.clamp(min=1e-30)."
        )
    _round_block(attempt)


def _tensors() -> list[tuple]:
    """Tensors with block sizes that do not divide them; their largest magnitude sits at the end."""
    rng = np.random.default_rng(3)
    cases = []
    for shape, block_size in (((10,), 4), ((3, 5), 4), ((7,), 3), ((4, 6), 8), ((5,), 8)):
        values = torch.from_numpy(rng.normal(size=shape)).float()
        values.view(-1)[-1] = -5.0
        cases.append((values, block_size))
    return cases


def _constants(values, block_size, largest=lambda block: block.abs().max()):
    return torch.stack([largest(block) for block in values.flatten().split(block_size)])


def _per_row(values, block_size):
    rows = values if values.ndim == 2 else values[None]
    return torch.cat([_constants(row, block_size) for row in rows])


def _rest_in_the_last(values, block_size):
    flat, whole = values.flatten(), max(1, values.numel() // block_size)
    blocks = [*flat[: (whole - 1) * block_size].split(block_size), flat[(whole - 1) * block_size :]][-whole:]
    return torch.stack([block.abs().max() for block in blocks])


def _every_kth(values, block_size):
    flat = values.flatten()
    n_blocks = math.ceil(len(flat) / block_size)
    return torch.stack([flat[first::n_blocks].abs().max() for first in range(n_blocks)])


block_constants = Exercise(
    "5.4",
    _constants,
    _tensors(),
    {
        "the last block is missing. It is shorter than the others, but its weights need a constant too.": (
            lambda v, size: _constants(v, size)[: v.numel() // size]
        ),
        "this is one absmax for the whole tensor. Each block has its own: that is the point of blocks.": (
            lambda v, size: v.abs().max()
        ),
        "this repeats one absmax for the whole tensor. Each block has its own: that is the point of blocks.": (
            lambda v, size: v.abs().max().expand(math.ceil(v.numel() / size))
        ),
        "the rest is thrown into the last whole block. It is a block of its own, a short one.": (_rest_in_the_last),
        "this takes the largest value of each block. The largest *magnitude* may be negative: take absolute values.": (
            lambda v, size: _constants(v, size, lambda block: block.max())
        ),
        "this cuts every row by itself. Blocks run through the flattened tensor, on over the end of a row.": _per_row,
        "these blocks are every k-th value. A block is made of neighbors: values 0 to block_size - 1, and so on.": (
            _every_kth
        ),
        "this divides by the largest code. The constant that is stored here is the absmax itself.": (
            lambda v, size: _constants(v, size) / 7
        ),
    },
)
