"""The checks of notebook 05, Blocks: sizes of blocks. Those of codes are in `nb05_codes`."""

import math

from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb05_codes import code_error, round_between

__all__ = ["beside", "code_error", "round_between", "smallest_block"]


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
