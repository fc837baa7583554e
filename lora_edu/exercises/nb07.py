"""The checks of notebook 07, double quantization: counting. The others are in `nb07_rounding` and `nb07_trips`."""

import itertools
import math

import numpy as np

from lora_edu.exercises.describing import describe
from lora_edu.exercises.formulas import Formula
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.mistakes import combinations
from lora_edu.exercises.nb07_rounding import round_constants
from lora_edu.exercises.nb07_trips import moved_again

__all__ = ["beside", "bits_of_constants", "moved_again", "resident_bytes", "round_constants"]


# --- 7.1: what a budget leaves for the constants ----------------------------------------------------------------------


def _left(budget, block_size, second_size, code=4.0, second=32.0):
    """The bits that one block's constant may take, before rounding down; one part of the budget can be changed."""
    return (budget - code) * block_size - second / second_size


def _of(**changes):
    return lambda budget, b, s: _left(budget, b, s, **changes)


# Parts that are rounded before they are put together.
_EARLY = {
    "this rounds budget * block_size down": lambda budget, b, s: int(budget * b) - 4 * b - 32 / s,
    "this rounds budget * block_size and 32 / second_size down": lambda budget, b, s: int(budget * b) - 4 * b - 32 // s,
    "this rounds (budget - 4) * block_size down": lambda budget, b, s: int((budget - 4) * b) - 32 / s,
    "this rounds (budget - 4) * block_size and 32 / second_size down": lambda budget, b, s: (
        int((budget - 4) * b) - 32 // s
    ),
    "this rounds 32 / second_size down": lambda budget, b, s: (budget - 4) * b - 32 // s,
    "this rounds the budget down": lambda budget, b, s: (int(budget) - 4) * b - 32 / s,
}
# Wrong formulas, before they are rounded.
_FORMULAS = {
    "this leaves out 32 / (block_size * second_size): the second level has constants of its own.": _of(second=0),
    "this gives one weight's share to the constant. A block of block_size weights pays for it.": (
        lambda budget, b, s: _left(budget, 1, b * s)
    ),
    "this takes a float32 constant for second_size weights. It serves second_size blocks.": (
        lambda budget, b, s: _left(budget, b, s, second=32 * b)
    ),
    "this still keeps a float32 constant for every block. The code takes its place.": (
        lambda budget, b, s: _left(budget, b, s) - 32
    ),
    "this takes a whole float32 of the second level from every block. second_size blocks share it.": (
        lambda budget, b, s: _left(budget, b, 1)
    ),
    "this takes off the second level's share of one weight. The constant belongs to a block, so its share of the "
    "float32 is 32 / second_size.": lambda budget, b, s: _left(budget, b, b * s),
    "this adds the float32 of the second level, which takes its share from the budget: subtract it.": _of(second=-32),
    "this gives the second level 8 bits. Its constants are float32.": _of(second=8),
    "this gives the second level 16 bits. Its constants are float32.": _of(second=16),
    "this counts the float32 in bytes, as 4. The budget is in bits: 32.": _of(second=4),
    "this gives the whole budget to the constants. The 4-bit code of the weight comes first.": _of(code=0),
    "this takes the weight's code for 8 bits. NF4 has 4.": _of(code=8),
    "block_size and second_size have each other's place here: block_size weights pay for a constant, and second_size "
    "blocks share a float32.": lambda budget, b, s: _left(budget, s, b),
    "this divides the budget's rest by block_size. All block_size weights of a block pay for its constant: multiply.": (
        lambda budget, b, s: (budget - 4) / b - 32 / (b * s)
    ),
    "this multiplies by 8, as if the budget were in bytes. It is in bits.": (lambda budget, b, s: 8 * (budget - 4) * b),
    "these are bytes. The question is about bits.": lambda budget, b, s: _left(budget, b, s) / 8,
    "this is what all blocks that share a float32 have together. Divide by second_size.": (
        lambda budget, b, s: _left(budget, b, s) * s
    ),
}


def _rounded(change, formula):
    return lambda budget, b, s: change(formula(budget, b, s))


# The last three tell apart what is taken off for the second level.
_BUDGETS = [(4.127, 64, 256), (4.25, 64, 32), (4.2, 128, 16), (4.13, 32, 256), (4.1, 256, 64), (4.125, 64, 64)]
_BUDGETS += [(4.253, 100, 16), (4.251, 100, 16), (4.2501, 100, 16)]


def _all_rounded(change, more):
    return {sentence + more: _rounded(change, formula) for sentence, formula in _FORMULAS.items()}


def _distinct(mistakes):
    """Those that give numbers of their own: rounded, several formulas are 0 for every budget."""
    found = {}
    for sentence, mistake in mistakes.items():
        found.setdefault(tuple(mistake(*case) for case in _BUDGETS), (sentence, mistake))
    return dict(found.values())


def _shares(result, budget, block_size, second_size):
    return (
        f"with a budget of {budget} and blocks of {block_size}, a block has ({budget} - 4) * {block_size} = "
        f"{_left(budget, block_size, second_size, second=0):.3f} bits beside its codes. They pay for the constant's "
        f"code, and for its share of 32 bits that {second_size} blocks have together. Yours is {describe(result)}."
    )


bits_of_constants = Exercise(
    "7.1",
    _rounded(math.floor, _left),
    _BUDGETS,
    _distinct(
        {
            "this rounds to the nearest whole number, and can exceed the budget. Round down.": _rounded(round, _left),
            "this rounds up, and exceeds the budget. Round down.": _rounded(math.ceil, _left),
            "this is not a whole number. A code has whole bits: round down.": _left,
            "this refuses a constant that costs exactly the rest of the budget. It fits.": (
                lambda budget, b, s: math.ceil(_left(budget, b, s)) - 1
            ),
            "this is 8 for every budget. Ask what the budget leaves.": lambda budget, b, s: 8,
            "this is never more than 8. A constant may have any number of bits that the budget leaves.": (
                lambda budget, b, s: min(8, math.floor(_left(budget, b, s)))
            ),
            "this leaves one bit less than there is. Round down, and no more.": (
                lambda budget, b, s: math.floor(_left(budget, b, s)) - 1
            ),
            "this is how many values the code has. The question is how many bits it takes.": (
                lambda budget, b, s: 2.0 ** math.floor(_left(budget, b, s))
            ),
            "this is the exponent of 2 of what is left. What is left are bits already.": (
                lambda budget, b, s: math.floor(math.log2(max(1.0, _left(budget, b, s))))
            ),
            "this rounds 32 / second_size up. Round once, down, at the end.": (
                lambda budget, b, s: math.floor((budget - 4) * b) - math.ceil(32 / s)
            ),
            "this is one weight's share of the budget. A block of block_size weights pays for a constant together.": (
                lambda budget, b, s: budget - 4
            ),
            **{
                f"{name} on the way. Round once, at the end.": _rounded(math.floor, formula)
                for name, formula in _EARLY.items()
            },
            **_all_rounded(math.floor, ""),
            **_all_rounded(int, " (And there is no code of fewer than 0 bits.)"),  # toward 0: another number below it
            **_all_rounded(float, " And round down."),
            **_all_rounded(round, " And round down, not to the nearest."),
        }
    ),
    explain=_shares,
)


# --- 7.2: what is alive ----------------------------------------------------------------------------------------------


# What each part of the layer is counted as, (n, block_size, second_size, packed, copy_alive) given.
CODES = {
    "right": lambda n, packed: math.ceil(n / 2) if packed else n,
    "dropped": lambda n, packed: n // 2 if packed else n,
    "fraction": lambda n, packed: n / 2 if packed else n,
    "one more": lambda n, packed: n // 2 + 1 if packed else n,
    "always packed": lambda n, packed: math.ceil(n / 2),
    "never packed": lambda n, packed: n,
    "swapped": lambda n, packed: n if packed else math.ceil(n / 2),
    "missing": lambda n, packed: 0,
    "bits": lambda n, packed: 4 * n if packed else 8 * n,
    "twice": lambda n, packed: math.ceil(n / 2) if packed else 2 * n,
    "a quarter": lambda n, packed: math.ceil(n / 4) if packed else n,
}
WHOLE = {
    "right": lambda n, size: math.ceil(n / size),
    "dropped": lambda n, size: n // size,
    "fraction": lambda n, size: n / size,
    "one more": lambda n, size: n // size + 1,
    "nearest": lambda n, size: round(n / size),
    "each": lambda n, size: n,
    "missing": lambda n, size: 0,
}
CODE_MISTAKES = {
    "always packed": "codes that are not packed are counted as 4 bits. A code in a byte of its own takes 8.",
    "never packed": "packed codes are counted as a byte each. Two of them share a byte.",
    "swapped": "`packed` is taken the wrong way round: packed codes share a byte, others have one each.",
    "dropped": "an odd code is dropped. If one is left over, it has the last byte to itself: round up.",
    "fraction": "half a byte is counted where the number of packed codes is odd: round up.",
    "one more": "this always has one byte of packed codes more than whole ones. Where they come out even, there is no "
    "other.",
    "padded": "this counts the codes of a full last block. There are n of them, wherever a block ends.",
    "missing": "the codes themselves are missing.",
    "bits": "the codes are counted in bits. Bytes are asked for.",
    "twice": "codes that are not packed take a byte each, not two.",
    "a quarter": "packed codes are counted as 2 bits. They have 4: two share a byte.",
}
BLOCK_MISTAKES = {
    "dropped": "the last block is dropped (n // block_size). A block that is not full has a constant too: round up.",
    "one more": "this always has one block more than whole ones. Where they come out even, there is no other.",
    "missing": "the constants of the blocks are missing: one byte each.",
    "fraction": "this has a fraction of a block. One that is not full counts as well: round up.",
    "nearest": "the number of blocks is rounded to the nearest. One that is not full counts as well: round up.",
    "each": "this has a constant for each weight. A block of block_size weights shares one.",
}
GROUP_MISTAKES = {
    "dropped": "the last group of blocks is dropped (blocks // second_size). A group that is not full has a constant "
    "too: round up.",
    "one more": "this always has one group of blocks more than whole ones. Where they come out even, there is "
    "no other.",
    "missing": "the second-level constants are missing: 4 bytes for each second_size blocks.",
    "fraction": "this has a fraction of a group. One that is not full counts as well: round up.",
    "nearest": "the number of groups is rounded to the nearest. One that is not full counts as well: round up.",
    "each": "this has a second-level constant for each block. second_size blocks share one.",
    "of weights": "this has a second-level constant for each second_size weights. It serves second_size blocks.",
    "of weights, dropped": "this has a second-level constant for each second_size weights (rounded down). It serves "
    "second_size blocks, and a group that is not full has one too.",
}
CONSTANT_MISTAKES = {
    4: "the constants of the blocks are counted in float32. Double quantization leaves one byte of each.",
    2: "the constants of the blocks are counted in 16 bits. Double quantization leaves one byte of each.",
    8: "the constants of the blocks are counted in bits. Each takes one byte.",
    0.5: "the constants of the blocks are counted in 4 bits. Each takes one byte.",
}
SECOND_MISTAKES = {
    1: "a second-level constant takes one byte here. It is float32: 4 bytes.",
    2: "the second-level constants are counted in 16 bits. They are float32: 4 bytes.",
    8: "a second-level constant takes 8 bytes here. It is float32: 4 bytes.",
    32: "the second-level constants are counted in bits. Each takes 4 bytes.",
}
OFFSET_MISTAKES = {
    0: "the offset is missing: one float32 for the layer.",
    1: "the offset is counted as one byte. It is a float32.",
    2: "the offset is counted in 16 bits. It is float32: 4 bytes.",
    8: "the offset is counted twice, or as 8 bytes. It is one float32.",
    32: "the offset is counted in bits. It takes 4 bytes.",
    "groups": "this has an offset for each group of blocks. There is one for the layer.",
    "blocks": "this has an offset for each block. There is one for the layer.",
}
COPY_MISTAKES = {
    "never": "the float32 copy is missing. While it is alive, it occupies 4 bytes a weight, whatever lies beside it.",
    "codes": "the copy takes the place of the codes here. Both are alive: add them.",
    "all": "where a copy is alive, this counts nothing else. The packed weight is still there.",
    "always": "the copy is counted although it is not alive. Add it where copy_alive is true.",
    "gone": "`copy_alive` is taken the wrong way round: where it is true, the copy is there.",
    "offset": "where a copy is alive, the offset is missing.",
    2: "this counts the copy in 16 bits, 2 bytes a weight. It is float32: 4 bytes.",
    8: "this counts the copy twice, or 8 bytes a weight. float32 has 4.",
    1: "this counts one byte a weight for the copy. float32 has 4.",
    32: "this counts the copy in bits, 32 a weight. Bytes are asked for.",
    0.5: "this counts the copy in 4 bits. It is float32: 4 bytes a weight.",
    "one": "this adds 4 bytes for the copy. It has 4 for each of its n weights.",
}


LAYER_TERMS = {
    "n": lambda n, b, s, *flags: n,
    "n / block_size": lambda n, b, s, *flags: n / b,
    "n / (block_size * second_size)": lambda n, b, s, *flags: n / (b * s),
    "n / second_size": lambda n, b, s, *flags: n / s,
    "block_size": lambda n, b, s, *flags: b,
    "second_size": lambda n, b, s, *flags: s,
    "1": lambda *case: 1,
}
# Everything comes out even here, so that the formula has no corners.
EVEN = [(2 * b * s * k, b, s, False, False) for b, s, k in itertools.product((16, 64, 96), (8, 32, 256), (1, 3))]


def _resident(
    n, block_size, second_size, packed, copy_alive,
    codes="right", blocks="right", groups="right", constant=1, second=4, offset=4, copy=4,
):  # fmt: skip
    """Bytes of one layer, with a mistake in one part or several."""
    n_blocks = WHOLE[blocks](n, block_size)
    counted = math.ceil(n / block_size) if blocks == "missing" else n_blocks
    if groups.startswith("of weights"):
        n_groups = WHOLE["dropped" if "dropped" in groups else "right"](n, second_size)
    else:
        n_groups = WHOLE[groups](counted, second_size)
    offset = {"groups": 4 * n_groups, "blocks": 4 * n_blocks}.get(offset, offset)
    n_codes = math.ceil(n / block_size) * block_size if codes == "padded" else n
    total = CODES.get(codes, CODES["right"])(n_codes, packed) + constant * n_blocks + second * n_groups + offset
    if copy in ("codes", "all", "offset"):
        less = {"codes": CODES.get(codes, CODES["right"])(n_codes, packed), "all": total, "offset": offset}[copy]
        return total + (4 * n - less if copy_alive else 0)
    there = {"never": False, "always": True, "gone": not copy_alive}.get(copy, copy_alive)
    return total + there * {"one": 4}.get(copy, copy * n if isinstance(copy, int | float) else 4 * n)


def _parts_of(result, n, block_size, second_size, packed, copy_alive):
    """The parts of a case, for a result that is none of the known mistakes."""
    codes, blocks = math.ceil(n / 2) if packed else n, math.ceil(n / block_size)
    copy = f", {4 * n:,} of the copy" if copy_alive else ""
    return (
        f"for {n} weights ({'' if packed else 'not '}packed) in blocks of {block_size}, {second_size} of them a group, "
        f"count {codes:,} bytes of codes, {blocks:,} of blocks, {math.ceil(blocks / second_size)} times 4 of groups, "
        f"4 of the offset{copy}. Your total is {describe(result)}: which part differs?"
    )


LAYERS = [
    (4096 * 64, 64, 256, True, False),
    (1000, 64, 256, True, False),
    (999, 32, 16, False, False),
    (999, 64, 16, True, False),  # the last code has a byte to itself
    (5000, 64, 16, True, True),
    (777, 128, 256, False, True),
]

resident_bytes = Exercise(
    "7.2",
    _resident,
    LAYERS,
    combinations(
        _resident,
        LAYERS,
        {
            "copy": (4, COPY_MISTAKES),
            "codes": ("right", CODE_MISTAKES),
            "blocks": ("right", BLOCK_MISTAKES),
            "groups": ("right", GROUP_MISTAKES),
            "constant": (1, CONSTANT_MISTAKES),
            "second": (4, SECOND_MISTAKES),
            "offset": (4, OFFSET_MISTAKES),
        },
        {
            "everything is rounded down. A byte, a block and a group that are not full count as well: round up.": (
                lambda *case: _resident(*case, codes="dropped", blocks="dropped", groups="dropped")
            ),
            "this has fractions of blocks and bytes, as a formula per weight has. Here whole ones are counted: round "
            "up.": lambda *case: _resident(*case, codes="fraction", blocks="fraction", groups="fraction"),
            "this is the formula for bits a weight, without the offset. A layer has whole bytes, blocks and groups, "
            "and one offset: round each part up.": lambda n, b, s, packed, copy: (
                round(n * (4 + 8 / b + 32 / (b * s)) / 8) + 4 * n * copy
            ),
            "the codebook does not count: all layers share it.": lambda *case: _resident(*case) + 64,
            "these are bits. Divide by 8.": lambda *case: 8 * _resident(*case),
            "these are bits a weight. The bytes of the whole layer are asked for.": (
                lambda n, *case: 8 * _resident(n, *case) / n
            ),
            "this is without double quantization: a float32 for each block.": (
                lambda *case: _resident(*case, constant=4, groups="missing", offset=0)
            ),
            "this is without double quantization, with an offset: a float32 for each block.": (
                lambda *case: _resident(*case, constant=4, groups="missing")
            ),
        },
    ),
    {
        "this is not a whole number of bytes: round up, a byte that is not full is one too.": (
            lambda got, *case: got.ndim == 0 and got != np.round(got)
        ),
    },
    formula=Formula(LAYER_TERMS, EVEN),
    otherwise=_parts_of,
)
