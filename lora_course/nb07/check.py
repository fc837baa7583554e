"""The checks of notebook 07, double quantization: counting. The others are in `check_rounding`."""

import math

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_course.nb07.check_rounding import moved_again, round_constants

__all__ = ["beside", "bits_of_constants", "moved_again", "resident_bytes", "round_constants"]


@exercise(
    "7.1",
    [
        *((4.127, 64, 256), (4.25, 64, 32), (4.2, 128, 16), (4.13, 32, 256), (4.1, 256, 64), (4.125, 64, 64)),
        *((4.253, 100, 16), (4.251, 100, 16), (4.2501, 100, 16)),  # what is taken off for the second level
    ],
    taught={
        "int(left) -> round(left)": "You round to the nearest. {left:.2f} bits hold a code of {result}; one bit "
        "more would exceed the budget of {budget}.",
        "share = 32 / second_size -> share = 0": "Your answer pays nothing for the second level. Its constants have 32 "
        "bits, which {second_size} blocks share: section 3.",
        "share = 32 / second_size -> share = 32": "Your answer takes a whole float32 of the second level from every "
        "block. {second_size} blocks share it.",
        "(budget - 4) -> budget": "Your answer gives the whole {budget} bits to the constants. The 4-bit code of the "
        "weight comes first.",
        "int(left) -> budget - 4 - 32 / (block_size * second_size)": "Your answer lets one weight pay for the "
        "constant. A block of {block_size} weights pays together, {beside:.2f} bits.",
        "beside - share -> beside - share - 32": "Your answer still keeps a float32 for every block. The code that you "
        "count takes its place.",
        "int(left) -> min(8, int(left))": "Your answer is never more than 8. {left:.2f} bits are left: a "
        "constant may have any number of bits.",
    },
    noticed={
        "this is not a whole number. A code has whole bits: round down.": lambda got, *case: got % 1 != 0,
        "this is below zero: something takes more than the whole budget.": lambda got, *case: got < 0,
    },
)
def bits_of_constants(budget, block_size, second_size):
    beside = (budget - 4) * block_size  # the bits that a block has beside its codes
    share = 32 / second_size  # the block's share of a float32 of the second level
    left = beside - share  # the bits that are left
    return int(left)  # how they are rounded


@exercise(
    "7.3",
    [
        (4096 * 64, 64, 256, True, False),
        (1000, 64, 256, True, False),
        (999, 32, 16, False, False),
        (999, 64, 16, True, False),  # the last code has a byte to itself
        (5000, 64, 16, True, True),
        (777, 128, 256, False, True),
    ],
    taught={
        "blocks / second_size -> n / second_size": "The second level serves blocks: {blocks} blocks of {block_size} "
        "weights have {groups} constants there, one for each {second_size} blocks.",
        "return codes -> return (0 if copy_alive else codes)": "Your answer lets the copy take the place of the codes. "
        "Both are alive: {codes:,} bytes of codes lie beside it.",
        "return codes -> return copy if copy_alive else codes": "Where a copy is alive, your answer counts nothing "
        "else. The packed weight is still there.",
        "offset = 4 -> offset = 4 + 64": "Your answer counts the codebook's 64 bytes. All layers share it.",
        "offset = 4 -> offset = 4 * groups": "Your answer has an offset for each group of blocks. There is one for the "
        "layer.",
        "constants + second + offset -> 4 * blocks": "Your answer keeps a float32 for each block. Double quantization "
        "leaves one byte of it, and the second level's {second} bytes.",
    },
    noticed={
        "this is not a whole number of bytes: round up, a byte that is not full is one too.": (
            lambda got, *case: got.ndim == 0 and got % 1 != 0
        ),
    },
)
def resident_bytes(n, block_size, second_size, packed, copy_alive):
    codes = math.ceil(n / 2) if packed else n  # the bytes of codes
    blocks = math.ceil(n / block_size)  # the number of blocks
    constants = 1 * blocks  # the bytes of the blocks' constants
    groups = math.ceil(blocks / second_size)  # the number of groups of blocks
    second = 4 * groups  # the bytes of the second-level constants
    offset = 4  # the bytes of the offset
    copy = 4 * n if copy_alive else 0  # the bytes of the float32 copy
    return codes + constants + second + offset + copy  # the sum
