"""The checks of notebook 05, Blocks: sizes and constants of blocks. Those of codes are in `nb05_codes`."""

import math

import numpy as np
import torch

from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.nb05_codes import code_error, round_between

__all__ = ["beside", "block_constants", "code_error", "round_between", "smallest_block"]


def _smallest(bits, budget, scale_bits, code=None, strict=False):
    """The smallest power of two whose blocks fit the budget; `code` counts other bits for the codes."""
    if budget <= (bits if code is None else code):
        raise ValueError("no block is large enough: the codes alone take the whole budget")
    size = 1
    while (total := (bits if code is None else code) + scale_bits / size) > budget or (strict and total == budget):
        size *= 2
    return size


def _fits(size, bits, budget, scale_bits):
    return bits + scale_bits / size <= budget


smallest_block = Exercise(
    "5.1",
    _smallest,
    [(4, 4.5, 32), (4, 4.4, 32), (3, 3.2, 16), (5, 5.125, 16), (4, 6.5, 32), (4, 36, 32), (4, 4.001, 32)],
    {
        "this is the largest block that costs at least the budget: too expensive by a little. Go on to the next power "
        "of two.": lambda bits, budget, scale: 2 ** math.floor(math.log2(scale / (budget - bits))),
        "this is the power of two that is nearest to scale_bits / (budget - bits). A smaller one is over the budget: "
        "round the exponent up.": lambda bits, budget, scale: 2 ** round(math.log2(scale / (budget - bits))),
        "this is a size that fits the budget, but not a power of two: round up to the next one.": (
            lambda bits, budget, scale: math.ceil(scale / (budget - bits) - 1e-9)
        ),
        "this is scale_bits / (budget - bits) itself, not a whole number. A block has 1, 2, 4, 8, ... weights.": (
            lambda bits, budget, scale: scale / (budget - bits)
        ),
        "this refuses a block size that costs exactly the budget. It fits.": (
            lambda bits, budget, scale: _smallest(bits, budget, scale, strict=True)
        ),
        "this takes every constant for 32 bits. A constant in fp16 has 16: use `scale_bits`.": (
            lambda bits, budget, scale: _smallest(bits, budget, 32)
        ),
        "this leaves the whole budget to the constant. The code takes its bits first.": (
            lambda bits, budget, scale: _smallest(bits, budget, scale, code=0)
        ),
        "this takes the constant in bytes and the budget in bits. Both are bits here.": (
            lambda bits, budget, scale: _smallest(bits, budget, scale / 8)
        ),
        "this is the exponent. The question asks for the block size, 2 to that power.": (
            lambda bits, budget, scale: round(math.log2(_smallest(bits, budget, scale)))
        ),
        "these are the bits that a weight takes in such a block. The question asks for the block size.": (
            lambda bits, budget, scale: bits + scale / _smallest(bits, budget, scale)
        ),
        "this is half the block that is needed: it is over the budget. The size at which the search ends is the one.": (
            lambda bits, budget, scale: _smallest(bits, budget, scale) // 2
        ),
        "this is twice the block that is needed. A smaller one fits the budget too, and has the smaller error.": (
            lambda bits, budget, scale: 2 * _smallest(bits, budget, scale)
        ),
    },
    symptoms={
        "one block size is asked for, and these are several numbers.": lambda size, *case: size.size > 1,
        "a block has 1, 2, 4, 8, ... weights. This is another number.": (
            lambda size, *case: size <= 0 or math.log2(size.item()) % 1 != 0
        ),
        "a block of one weight fits where the budget has room for a whole constant: begin at 1.": (
            lambda size, *case: bool(size > _smallest(*case)) and _smallest(*case) == 1
        ),
        "with blocks of this size a weight costs bits + scale_bits / size, more than the budget.": (
            lambda size, *case: not _fits(size.item(), *case)
        ),
        "this block fits the budget, and a smaller one does too.": lambda size, *case: size > _smallest(*case),
    },
)


def _tensors() -> list[tuple]:
    """Tensors with block sizes that do not divide them; their largest magnitude sits at the end. One is tiny."""
    rng = np.random.default_rng(3)
    cases = []
    shapes = (((10,), 4, 1), ((3, 5), 4, 1), ((7,), 3, 1), ((4, 6), 8, 1), ((5,), 8, 1), ((6,), 4, 0.01))
    for shape, block_size, unit in shapes:
        values = torch.from_numpy(rng.normal(size=shape)).float()
        values.view(-1)[-1] = -5.0
        cases.append((unit * values, block_size))
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


def _along(values, axis):
    """One constant a row, or a column; of a flat tensor, one."""
    return values.abs().amax(dim=axis if values.ndim > 1 else 0)


def _every_kth(values, block_size):
    flat = values.flatten()
    n_blocks = math.ceil(len(flat) / block_size)
    return torch.stack([flat[first::n_blocks].abs().max() for first in range(n_blocks)])


def _filled_up(values, block_size, largest):
    """Blocks filled up with zeros, so that all are equally long."""
    padded = torch.nn.functional.pad(values.flatten(), (0, -values.numel() % block_size))
    return largest(padded.view(-1, block_size))


def _whole_block_of_padding(values, block_size):
    missing = block_size - values.numel() % block_size  # block_size, and not 0, where nothing is missing
    return _constants(torch.nn.functional.pad(values.flatten(), (0, missing)), block_size)


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
        "this is one absmax for the whole tensor, as a list. Each block has its own: that is the point of blocks.": (
            lambda v, size: v.abs().max()[None]
        ),
        "this repeats one absmax for the whole tensor. Each block has its own: that is the point of blocks.": (
            lambda v, size: v.abs().max().expand(math.ceil(v.numel() / size))
        ),
        "where the blocks fit, this adds a whole block of zeros, and its constant 0. -n % block_size values are "
        "missing: none, if it divides.": _whole_block_of_padding,
        "the rest is thrown into the last whole block. It is a block of its own, a short one.": (_rest_in_the_last),
        "this takes the largest value of each block. The largest *magnitude* may be negative: take absolute values.": (
            lambda v, size: _constants(v, size, lambda block: block.max())
        ),
        "this takes the largest value of each filled-up block, without absolute values. The largest *magnitude* may be "
        "negative, and then a zero of the filling wins: take `abs()` before `amax`.": (
            lambda v, size: _filled_up(v, size, lambda blocks: blocks.amax(dim=1))
        ),
        "this takes the largest value and then its absolute value. The largest *magnitude* may be negative: take "
        "absolute values first.": lambda v, size: _constants(v, size, lambda block: block.max().abs()),
        "this takes the largest value of each filled-up block, then its absolute value: take `abs()` before `amax`.": (
            lambda v, size: _filled_up(v, size, lambda blocks: blocks.amax(dim=1).abs())
        ),
        "this keeps the sign of the largest magnitude. An absmax is positive: the codes carry the signs.": (
            lambda v, size: _constants(v, size, lambda block: block[block.abs().argmax()])
        ),
        "this is the smallest value of each block. An absmax is the largest magnitude.": (
            lambda v, size: _constants(v, size, lambda block: block.min())
        ),
        "this is the range of each block, largest minus smallest. The symmetric code needs the largest magnitude.": (
            lambda v, size: _constants(v, size, lambda block: block.max() - block.min())
        ),
        "this is the mean magnitude of each block. With it the largest weights lie beyond the last code.": (
            lambda v, size: _constants(v, size, lambda block: block.abs().mean())
        ),
        "this is the sum of the magnitudes of each block. The absmax is the largest of them.": (
            lambda v, size: _constants(v, size, lambda block: block.abs().sum())
        ),
        "this is the norm of each block. The absmax is the magnitude of its largest weight alone.": (
            lambda v, size: _constants(v, size, lambda block: block.norm())
        ),
        "`block_size` is taken for the number of blocks. It is the number of weights in each.": (
            lambda v, size: torch.stack([block.abs().max() for block in v.flatten().tensor_split(size) if len(block)])
        ),
        "this cuts every row by itself. Blocks run through the flattened tensor, on over the end of a row.": _per_row,
        "this has one constant for each row. Blocks run through the flattened tensor, `block_size` values each.": (
            lambda v, size: _along(v, -1)
        ),
        "this has one constant for each column. Blocks run through the flattened tensor, `block_size` values each.": (
            lambda v, size: _along(v, 0)
        ),
        "these blocks are `block_size` rows: `split` cuts along the first axis. Flatten the tensor first.": (
            lambda v, size: torch.stack([block.abs().max() for block in v.split(size)])
        ),
        "this hands a constant to each value. One for each block is asked for.": (
            lambda v, size: _constants(v, size).repeat_interleave(size)[: v.numel()]
        ),
        "these blocks run down the columns. The tensor is flattened row by row.": (
            lambda v, size: _constants(v.T if v.ndim == 2 else v, size)
        ),
        "these blocks overlap: each begins one value after the one before it. Go on by `block_size`.": (
            lambda v, size: torch.stack([v.flatten()[i : i + size].abs().max() for i in range(v.numel())])
        ),
        "the short block comes first here. It is the last one: blocks are filled from the start.": (
            lambda v, size: torch.stack([block.abs().max() for block in v.flatten().flip(0).split(size)]).flip(0)
        ),
        "these blocks are every k-th value. A block is made of neighbors: values 0 to block_size - 1, and so on.": (
            _every_kth
        ),
        "this divides by the largest code. The constant that is stored here is the absmax itself.": (
            lambda v, size: _constants(v, size) / 7
        ),
    },
    symptoms={
        "an absmax is a magnitude: it is never below zero.": lambda got, v, size: bool((got < 0).any()),
        "the number of blocks is wrong: there is one for each `block_size` values of the flattened tensor, and one "
        "for the rest.": lambda got, v, size: got.size != math.ceil(v.numel() / size),
    },
    broadly={
        "some of these are no magnitude of a value of the tensor.": (
            lambda got, v, size: bool(
                (np.abs(got.reshape(-1, 1) - v.abs().double().numpy().ravel()).min(1) > 1e-5).any()
            )
        ),
        "these are magnitudes of values, but of the wrong blocks: the first `block_size` values of the flattened "
        "tensor are the first block, and so on.": lambda got, v, size: got.ndim == 1,
    },
)
