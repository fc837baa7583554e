"""Assignment 3, blocks and NF4: the constants of a cohort, the cases of the checks, and what is observed of an answer.

The format is a relative of NF4, made for this assignment: the constant of a block keeps its sign, the codebook has an
offset of its own on each side, a tie goes up, and a code has 3 or 5 bits.
"""

import random

from lora_edu.assignments import nf4_cases
from lora_edu.assignments.core import Task
from lora_edu.assignments.observing import Observed, observed
from lora_edu.assignments.results import in_order
from lora_edu.assignments.verdict import ELSEWHERE

TITLE = "Blocks and a relative of NF4"


def draw(rng: random.Random) -> dict:
    """The constants of a cohort. None of them is a constant of NF4 or of the package.

    The offsets are such that on bell-shaped weights the format has a smaller error than NF3 or NF5 at the same size.
    """
    bits = rng.choice((3, 5))
    below = 4 if bits == 3 else rng.choice((16, 17))
    return {
        "bits": bits,
        "levels_below": below,
        "levels_above": 2**bits - 1 - below,
        "offset_below": rng.choice((0.905, 0.91, 0.915, 0.92) if bits == 3 else (0.964, 0.966, 0.968, 0.97)),
        "offset_above": rng.choice((0.94, 0.945, 0.95, 0.955) if bits == 3 else (0.974, 0.976, 0.978, 0.98)),
        "block_size": rng.choice((24, 40, 48, 56, 80)),
    }


def _stored(seen: Observed) -> str:
    """How the result is stored, such as "uint8", where the answer treats its inputs well; else what is not well."""
    return seen.manners if seen.manners != "good" else seen.dtype or type(seen.value).__name__


# --- 3.1: the codebook -----------------------------------------------------------------------------------------------


def _observe_codebook(answer, c, below, above, offset_below, offset_above) -> dict:
    levels = observed(answer, below, above, offset_below, offset_above).value

    def zeros():  # how many levels there are, and which of them is exactly 0
        found = [i for i, level in enumerate(levels) if float(level) == 0]
        if len(found) != 1:
            return f"{len(found) or 'none'} of the levels {'are' if found else 'is'} exactly 0, and one should be"
        return [len(levels), *found]

    return {"levels": levels, "zero": zeros}


# --- 3.2: codes ------------------------------------------------------------------------------------------------------


def _observe_codes(answer, c, values, constants, codebook, block_size, kind) -> dict:
    mine = {"plain": "codes", "ties": "ties", "zeros": "zeros"}[kind]
    parts = dict.fromkeys(("codes", "ties", "zeros"), ELSEWHERE)
    seen = observed(answer, values, constants, codebook, block_size)
    return parts | {mine: seen.value, "stored": _stored(seen) if kind == "ties" else ELSEWHERE}  # there all blocks fit


# --- 3.3: better constants -------------------------------------------------------------------------------------------


def _observe_refit(answer, c, *case) -> dict:
    seen = observed(answer, *case)
    constants, error = in_order(seen.value, "constants", "relative error")
    return {"constants": constants, "relative error": error, "safe": seen.manners}


TASKS = [
    Task(
        "3.1", "quantile_codebook", "a codebook with two offsets", 25, {"levels": 5, "zero": 1},
        nf4_cases.sides, _observe_codebook, names="below above offset_below offset_above",
    ),
    Task(
        "3.2", "encode", "the nearest level, and ties go up", 30, {"codes": 4, "ties": 2, "zeros": 1, "stored": 1},
        nf4_cases.to_encode, _observe_codes, tolerance=0, names="values constants codebook block_size kind", edition=2,
    ),
    Task(
        "3.3", "refit", "better constants for the same codes", 35, {"constants": 5, "relative error": 3, "safe": 1},
        nf4_cases.to_refit, _observe_refit, names="values codes codebook block_size", edition=2,
    ),
]  # fmt: skip
