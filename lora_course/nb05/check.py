"""The checks of notebook 05, Blocks: their sizes, the errors of codes, and rounding between two ends."""

import math

import numpy as np
import torch

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "code_error", "round_between", "smallest_block"]


def _costs_more(size, bits, budget, scale_bits):
    return size == 0 or bits + scale_bits / size > budget


def _where_a_loop_ends(solution, bits, budget, scale_bits):
    """The answer. Where no block fits, a search without an end is not begun.

    At a budget of only the code's bits it does end, at a huge block, because floats are rounded: that is its answer.
    """
    if budget < bits:
        at_the_border = solution(bits, bits, scale_bits)
        if isinstance(at_the_border, int | float) and at_the_border != 0:
            return at_the_border
    return solution(bits, budget, scale_bits)


@exercise(
    "5.1",
    [
        *[(4, 4.5, 32), (4, 4.4, 32), (3, 3.2, 16), (5, 5.125, 16), (4, 6.5, 32), (4, 4.001, 32)],
        *[(4, 36, 32), (4, 70, 32)],  # room for a whole constant a weight, and for more than that
        *[(4, 4, 32), (5, 4.5, 16)],  # no room at all
    ],
    taught={
        "return size -> return size // 2": "Your answer is half the block that is needed: it takes more than the "
        "budget. The answer is the size at which the search ends, {result}.",
        "> budget -> >= budget": "Your answer refuses a block that costs exactly the budget. With blocks of {result} a "
        "weight takes {budget} bits: it fits.",
        "scale_bits / size -> 32 / size": "Your answer gives every constant 32 bits, as in fp32. Here a constant "
        "has {scale_bits}: section 5.",
        "bits + scale_bits -> scale_bits": "Your answer leaves the whole {budget} bits to the constant. The code of "
        "the weight takes {bits} of them first.",
        "scale_bits / size -> scale_bits / 8 / size": "Your answer counts the constant in bytes and the budget in "
        "bits. A constant takes {scale_bits} bits.",
    },
    noticed={
        "here no block fits, because the codes alone take the whole budget. Return 0.": (
            lambda size, bits, budget, scale_bits: budget <= bits and size != 0
        ),
        "a block that fits is there: 0 is the answer only where none fits.": lambda size, *case: size == 0,
        "a block has 1, 2, 4, 8, ... weights. This is another number.": (
            lambda size, *case: size < 1 or math.log2(size) % 1 != 0
        ),
        "with blocks of this size a weight takes more than the budget.": _costs_more,
        "this block fits the budget, and a smaller one does too.": (
            lambda size, *case: size > 1 and not _costs_more(size / 2, *case)
        ),
    },
    observe=_where_a_loop_ends,
)
def smallest_block(bits, budget, scale_bits):
    size = 1 if budget > bits else 0  # the size at which the search begins
    while size > 0 and bits + scale_bits / size > budget:  # what a weight takes, and when the search goes on
        size *= 2  # how the size grows
    return size  # the size at which the search ends


# --- 5.2: the error of a tensor of codes -----------------------------------------------------------------------------


def _coded():
    """Values, their integer codes, the absmax and the number of bits; no tensor is square.

    One has codes that are cut off, one has none of the largest.
    """
    rng = np.random.default_rng(1)
    kinds = (((5, 8), 4, torch.round), ((3, 7), 3, torch.trunc), ((9, 4), 8, torch.round), ((4, 6), 4, _below_7))
    for shape, bits, turn in kinds:
        values = torch.from_numpy(rng.normal(0, 2, size=shape)).float()
        absmax = values.abs().max().item()
        yield values, turn(values / absmax * (2 ** (bits - 1) - 1)).to(torch.int8), absmax, bits


def _below_7(steps):
    return steps.round().clamp(-6, 6)


@exercise(
    "5.2",
    list(_coded()),
    taught={
        "decoded = codes * step -> decoded = codes": "Your answer compares the values with the codes themselves. A "
        "code counts steps of {step:.3g}: turn it back into a value first.",
        "decoded = codes * step -> decoded = (values / step).round() * step": "Your answer rounds the values again. "
        "They were rounded by somebody else, and not always to the nearest mark: decode the given codes.",
        "2 ** (bits - 1) - 1 -> 2**bits - 1": "Your answer numbers the codes on one side of 0. With {bits} bits they "
        "run from -{largest} to {largest}: section 2.",
        "2 ** (bits - 1) - 1 -> codes.abs().max()": "Your answer takes the largest code that occurs. The absmax "
        "belongs to the code {largest}, whether it occurs or not.",
        "error = (values - decoded).norm() -> error = ((values - decoded) / values).norm()": "Your answer takes the "
        "relative error of each value: the smallest ones decide it. Take one norm above and one below.",
        "error = (values - decoded).norm() -> error = values.norm() - decoded.norm()": "Your answer compares two "
        "norms. Values can move while their norm stays: take the norm of the difference.",
    },
    noticed={
        "an error is never below zero: take the norm, or squares, before anything is added up.": lambda got, *case: (
            got < 0
        ),
    },
)
def code_error(values, codes, absmax, bits):
    values, codes = values.double(), codes.double()
    largest = 2 ** (bits - 1) - 1  # the largest code
    step = absmax / largest  # the step, what one code is worth
    decoded = codes * step  # the values that the codes stand for
    error = (values - decoded).norm()  # the size of the whole error, as one number
    whole = values.norm()  # the size of the values, as one number
    return error / whole  # the quotient


# --- 5.3: the sixteenth pattern ---------------------------------------------------------------------------------------


def _blocks():
    """Blocks away from zero on both sides, a tiny one, and one whose values are all equal."""
    rng = np.random.default_rng(2)
    middles = ((7, 4, 0.5), (16, 3, -2.0), (10, 8, 4.0), (5, 2, 0.0))
    cases = [(torch.from_numpy(rng.normal(middle, size=n)).float(), bits) for n, bits, middle in middles]
    return [*cases, (1e-6 * cases[0][0], 4), (torch.full((6,), 0.7), 4)]


def _is_mark(got, block, bits):
    marks = np.linspace(block.min(), block.max(), 2**bits)
    return np.abs(got[:, None] - marks).min(axis=1) <= 1e-5 * block.abs().max().item()


@exercise(
    "5.3",
    _blocks(),
    taught={
        "2**bits - 1 -> 2**bits": "Your answer has {steps} steps and one more, and so one mark more than {bits} bits "
        "can number. Between marks lie fewer steps than there are marks.",
        "2**bits - 1 -> 2**bits - 2 & low, high = block.min(), block.max() -> low, high = -block.abs().max(), "
        "block.abs().max()": "Your answer is the symmetric ruler of section 2, from -absmax to absmax. This one lies "
        "between {low:.3g} and {high:.3g}.",
        "low, high = block.min(), block.max() -> low, high = -block.abs().max(), block.abs().max()": "Your answer lays "
        "the ruler from -absmax to absmax. This one lies between {low:.3g} and {high:.3g}.",
        "start = low -> start = 0": "Your answer counts the steps from 0. The first mark is the smallest value, "
        "{low:.3g}: take it off, and add it at the end.",
        "2**bits - 1 -> 2**bits & .round() -> .floor().clamp(max=2**bits - 1) + 0.5": "Your answer gives the middles "
        "of bins. Here the smallest value, {low:.3g}, and the largest, {high:.3g}, are marks themselves.",
    },
    noticed={
        "a block of equal values comes back as NaN: its step is 0, and 0 / 0 has no value.": (
            lambda got, block, bits: np.isnan(got).any() and block.max() == block.min()
        ),
        "each value of the block comes back rounded: as many as there were.": (
            lambda got, block, bits: got.shape != tuple(block.shape)
        ),
        "some values come back below the smallest of the block or above the largest. The marks run from one to the "
        "other.": lambda got, block, bits: (
            block.max() > block.min()
            and (got.max() > block.max().item() + 1e-4 or got.min() < block.min().item() - 1e-4)
        ),
        "a step is kept above a bound: a block of small weights comes back wrong.": (
            lambda got, block, bits: block.abs().max() < 1e-3 or block.max() == block.min()
        ),
        "these are marks, but not for every value the nearest one.": (
            lambda got, block, bits: _is_mark(got, block, bits).all()
        ),
    },
)
def round_between(block, bits):
    low, high = block.min(), block.max()  # where the ruler begins and ends
    steps = 2**bits - 1  # the number of steps
    step = ((high - low) / steps).clamp(min=1e-30)  # the length of a step
    start = low  # where the counting of steps begins
    codes = ((block - start) / step).round()  # the steps from the start, and how they are rounded
    return codes * step + start  # the way back from codes to values
