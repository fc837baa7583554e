"""The checks of notebook 05, Blocks."""

import math

import numpy as np
import torch

from lora_edu.exercises.grading import Exercise, as_array, beside

__all__ = ["beside", "block_constants", "code_error", "round_between", "smallest_block"]


def _smallest(bits, budget, scale_bits, code=None, strict=False):
    """The smallest power of two whose blocks fit the budget; `code` counts other bits for the codes."""
    if budget <= (bits if code is None else code):
        raise ValueError("no block is large enough: the codes alone take the whole budget")
    size = 1
    while (total := (bits if code is None else code) + scale_bits / size) > budget or (strict and total == budget):
        size *= 2
    return size


smallest_block = Exercise(
    "5.1",
    _smallest,
    [(4, 4.5, 32), (4, 4.4, 32), (3, 3.2, 16), (5, 5.125, 16), (4, 6.5, 32)],
    {
        "this is the largest block that costs at least the budget: too expensive by a little. Go on to the next power "
        "of two.": lambda bits, budget, scale: 2 ** math.floor(math.log2(scale / (budget - bits))),
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
        "this is twice the block that is needed. A smaller one fits the budget too, and has the smaller error.": (
            lambda bits, budget, scale: 2 * _smallest(bits, budget, scale)
        ),
    },
)


def _coded() -> list[tuple]:
    """Values, their integer codes, the absmax and the number of bits; no tensor is square, one has cut-off codes."""
    rng = np.random.default_rng(1)
    cases = []
    for shape, bits, turn in (((5, 8), 4, torch.round), ((3, 7), 3, torch.trunc), ((9, 4), 8, torch.round)):
        values = torch.from_numpy(rng.normal(0, 2, size=shape)).float()
        absmax = values.abs().max().item()
        codes = turn(values / absmax * (2 ** (bits - 1) - 1)).to(torch.int8)
        cases.append((values, codes, absmax, bits))
    return cases


def _difference(values, codes, absmax, bits, levels=None):
    levels = levels or 2 ** (bits - 1) - 1
    return values - codes.float() * absmax / levels


def _nearest(values, absmax, bits):
    step = absmax / (2 ** (bits - 1) - 1)
    return (values / step).round() * step


code_error = Exercise(
    "5.2",
    lambda v, c, absmax, bits: (_difference(v, c, absmax, bits).norm() / v.norm()).item(),
    _coded(),
    {
        "this compares the values with the codes themselves. A code is a number of steps: turn it back into a value "
        "first.": lambda v, c, absmax, bits: ((v - c.float()).norm() / v.norm()).item(),
        "this divides by the norm of the rounded tensor. The original is what we compare with.": (
            lambda v, c, absmax, bits: (
                _difference(v, c, absmax, bits).norm() / (v - _difference(v, c, absmax, bits)).norm()
            ).item()
        ),
        "this rounds the values again. The tensor was rounded by somebody else, and not always to the nearest mark: "
        "decode the codes that are given.": lambda v, c, absmax, bits: (
            (v - _nearest(v, absmax, bits)).norm() / v.norm()
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
    """Blocks away from zero on both sides, a tiny one, and one whose values are all equal."""
    rng = np.random.default_rng(2)
    middles = ((7, 4, 0.5), (16, 3, -2.0), (10, 8, 4.0), (5, 2, 0.0))
    cases = [(torch.from_numpy(rng.normal(middle, size=n)).float(), bits) for n, bits, middle in middles]
    return [*cases, (1e-6 * cases[0][0], 4), (torch.full((6,), 0.7), 4)]


def _between(block, bits, steps=None, turn=torch.round, back=True, add=True, least=1e-30):
    low, steps = block.min(), steps or 2**bits - 1
    step = ((block.max() - low) / steps).clamp(min=least)
    codes = turn((block - low) / step)
    return (codes * step if back else codes) + (low if add else 0)


def _symmetric(block, bits):
    largest, absmax = 2 ** (bits - 1) - 1, block.abs().max()
    return (block / absmax * largest).round() * absmax / largest


_round_between = Exercise(
    "5.3",
    _between,
    _blocks(),
    {
        "this is the ruler of section 2, from -absmax to absmax. This one lies between the smallest and the largest "
        "value of the block.": _symmetric,
        "this has 2**bits steps, and so one mark more than the bits can number. Between 2**bits marks there are "
        "2**bits - 1 steps.": lambda block, bits: _between(block, bits, 2**bits),
        "this has 2**(bits - 1) - 1 steps, as on each side of a symmetric ruler. Here 2**bits marks share one side.": (
            lambda block, bits: _between(block, bits, 2 ** (bits - 1) - 1)
        ),
        "these are the codes. Multiply them by the step, and add the smallest value.": lambda block, bits: _between(
            block, bits, back=False, add=False
        ),
        "the smallest value is not added back: the ruler begins there, not at 0.": (
            lambda block, bits: _between(block, bits, add=False)
        ),
        "this cuts off instead of rounding: 2.9 steps become 2. The nearest code is 3.": (
            lambda block, bits: _between(block, bits, turn=torch.trunc)
        ),
        "a step is kept above a bound that a block of small weights needs to go below. Nothing but 0 must be kept "
        "away: 1e-30 is enough.": lambda block, bits: _between(block, bits, least=1e-3),
        "nothing is rounded here: the values come back as they were.": lambda block, bits: block,
    },
)


def round_between(attempt) -> None:
    """Check a function (block, bits) -> the rounded block; a block of equal values is tried first."""
    try:
        with np.errstate(all="ignore"):
            equal = as_array(attempt(torch.full((6,), 0.7), 4))
    except Exception:
        equal = None  # the exercise says what stopped, and for which input
    if equal is not None and np.isnan(equal).any():
        raise AssertionError(
            "Exercise 5.3: a block of equal values comes back as NaN (not a number): its step is 0, and 0 / 0 has no "
            "value. Divide by something that is never 0, for example step.clamp(min=1e-30)."
        )
    _round_between(attempt)


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
        "this is the norm of each block. The absmax is the magnitude of its largest weight alone.": (
            lambda v, size: _constants(v, size, lambda block: block.norm())
        ),
        "`block_size` is taken for the number of blocks. It is the number of weights in each.": (
            lambda v, size: torch.stack([block.abs().max() for block in v.flatten().tensor_split(size) if len(block)])
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
