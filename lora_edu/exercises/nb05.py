"""The checks of notebook 05, Blocks: sizes and constants of blocks. Those of codes are in `nb05_codes`."""

import math

import numpy as np
import torch

from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb05_codes import code_error, round_between

__all__ = ["beside", "block_constants", "code_error", "round_between", "smallest_block"]


def _costs_more(size, bits, budget, scale_bits):
    return bits + scale_bits / size > budget


@exercise(
    "5.1",
    # the last two have room for a whole constant a weight, and for more than that
    [(4, 4.5, 32), (4, 4.4, 32), (3, 3.2, 16), (5, 5.125, 16), (4, 6.5, 32), (4, 4.001, 32), (4, 36, 32), (4, 70, 32)],
    taught={
        "return size -> return size // 2": "Your answer is half the block that is needed: it takes more than the "
        "budget. The size at which the search ends is the one, {result}.",
        "> budget -> >= budget": "Your answer refuses a block that costs exactly the budget. With blocks of {result} a "
        "weight takes {budget} bits: it fits.",
        "scale_bits / size -> 32 / size": "Your answer takes every constant for 32 bits, as in fp32. Here it has "
        "{scale_bits}: section 5.",
        "bits + scale_bits -> scale_bits": "Your answer leaves the whole {budget} bits to the constant. The code of "
        "the weight takes {bits} of them first.",
        "scale_bits / size -> scale_bits / 8 / size": "Your answer counts the constant in bytes and the budget in "
        "bits. A constant takes {scale_bits} bits.",
    },
    also=(
        "return size -> return 2 ** math.floor(math.log2(scale_bits / (budget - bits)))",
        "return size -> return 2 ** round(math.log2(scale_bits / (budget - bits)))",
        "return size -> return 2 ** math.ceil(math.log2(scale_bits / (budget - bits)) - 1e-9)",
        "return size -> return max(1, math.ceil(scale_bits / (budget - bits) - 1e-9))",
        "return size -> return scale_bits / (budget - bits)",
        "return size -> return round(math.log2(size))",
        "return size -> return bits + scale_bits / size",
    ),
    noticed={
        "one block size is asked for, and these are several numbers.": lambda size, *case: size.size > 1,
        "a block has 1, 2, 4, 8, ... weights. This is another number.": (
            lambda size, *case: size < 1 or math.log2(size) % 1 != 0
        ),
        "with blocks of this size a weight takes more than the budget.": _costs_more,
        "this block fits the budget, and a smaller one does too.": (
            lambda size, *case: size > 1 and not _costs_more(size / 2, *case)
        ),
    },
)
def smallest_block(bits, budget, scale_bits):
    size = 1  # the size at which the search begins
    while bits + scale_bits / size > budget:  # what a weight takes, and when the search goes on
        size *= 2  # how the size grows
    return size  # the size at which the search ends


def _tensors():
    """Tensors with block sizes that do not divide them; their largest magnitude sits at the end. One is tiny."""
    rng = np.random.default_rng(3)
    shapes = (((10,), 4, 1), ((3, 5), 4, 1), ((7,), 3, 1), ((4, 6), 8, 1), ((5,), 8, 1), ((6,), 4, 0.01))
    for shape, block_size, unit in shapes:
        values = torch.from_numpy(rng.normal(size=shape)).float()
        values.view(-1)[-1] = -5.0
        yield unit * values, block_size


FLAT, ABSMAX = "values.flatten()", "float(block.abs().max())"


@exercise(
    "5.4",
    list(_tensors()),
    taught={
        f"{ABSMAX} -> float(block.max())": "Your answer is the largest value of each block. The largest *magnitude* "
        "may be negative, as in the last block here: section 4.",
        f"{ABSMAX} -> float(block.max().abs())": "Your answer is the largest value of a block, and then its magnitude. "
        "The largest magnitude may belong to a negative value.",
        f"return torch.tensor([{ABSMAX} for block in blocks]) -> return values.abs().max()": "Your answer is one "
        "absmax for the whole tensor. Each block has its own: that is the point of blocks.",
        "in blocks]) -> in blocks])[: values.numel() // block_size]": "Your answer leaves the last block out. It is "
        "shorter than the others, but its weights need a constant too.",
        f"{FLAT}.split(block_size) -> [part for row in values.view(-1, values.shape[-1]) for part in "
        "row.split(block_size)]": (
            "Your answer cuts every row by itself. Blocks run through the flattened tensor, on over the end of a row."
        ),
        f"{FLAT}.split(block_size) -> [part for part in {FLAT}.tensor_split(block_size) if len(part)]": "Your answer "
        "makes {block_size} blocks. `block_size` is the number of weights in each of them.",
        f"{ABSMAX} -> float(block[block.abs().argmax()])": "Your answer keeps the sign of the largest magnitude. An "
        "absmax is positive: the codes carry the signs.",
    },
    also=(
        f"{FLAT}.split -> torch.nn.functional.pad({FLAT}, (0, block_size - values.numel() % block_size)).split",
        f"{FLAT}.split(block_size) -> {FLAT}.flip(0).split(block_size)[::-1]",
        f"{FLAT}.split(block_size) -> [{FLAT}[k : k + block_size] for k in range(values.numel())]",
        f"{FLAT}.split(block_size) -> [{FLAT}[k :: -(-values.numel() // block_size)] for k in "
        "range(-(-values.numel() // block_size))]",
        f"{ABSMAX} -> float(torch.nn.functional.pad(block, (0, block_size - len(block))).max())",
        f"{ABSMAX} -> float(torch.nn.functional.pad(block, (0, block_size - len(block))).max().abs())",
        f"{ABSMAX} -> {ABSMAX} / 7",
        "in blocks] -> in blocks for _ in block]",
        f"return torch.tensor([{ABSMAX} for block in blocks]) -> return values.abs().amax(dim=-1)",
        f"return torch.tensor([{ABSMAX} for block in blocks]) -> return values.abs().amax(dim=0)",
    ),
    noticed={
        "an absmax is a magnitude: it is never below zero.": lambda got, v, size: (got < 0).any(),
        "the number of blocks is wrong: there is one for each `block_size` values of the flattened tensor, and one "
        "for the rest.": lambda got, v, size: got.size != math.ceil(v.numel() / size),
        "some of these are no magnitude of a value of the tensor.": lambda got, v, size: (
            np.abs(got.reshape(-1, 1) - v.abs().double().numpy().ravel()).min(axis=1).max() > 1e-5
        ),
    },
)
def block_constants(values, block_size):
    blocks = values.flatten().split(block_size)  # how the values are cut into blocks
    return torch.tensor([float(block.abs().max()) for block in blocks])  # what is taken of each block
