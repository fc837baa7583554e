"""Assignment 3, blocks and NF4: the constants of a cohort, the cases of the checks, and what is observed of an answer.

The format is a relative of NF4, made for this assignment: the constant of a block keeps its sign, the codebook has an
offset of its own on each side, a tie goes up, and a code has 3 or 5 bits.
"""

import math
import random

import numpy as np
import torch
from torch import Tensor

from lora_course.assignments.core import Task
from lora_course.assignments.looking import Complaint, Observed, array, in_order, observed
from lora_course.assignments.verdict import ELSEWHERE, FOLLOWS
from lora_course.checking.comparing import equal, is_numbers, plain
from lora_edu.measures import relative_error

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


# --- the cases: sizes that fit and that do not; in each, numbers that tell the usual mistakes apart -------------------


def sides(c, rng) -> list[tuple]:
    """(below, above, offset_below, offset_above): a small codebook, this cohort's, and others of other widths."""
    offsets = [(int(rng.integers(850, 920)) / 1000, int(rng.integers(940, 990)) / 1000) for _ in range(3)]
    return [
        (2, 1, *offsets[0]),
        (c.levels_below, c.levels_above, c.offset_below, c.offset_above),
        (9, 6, *offsets[1]),
        (3, 4, *offsets[2]),
    ]


def to_encode(c, rng) -> list[tuple]:
    """(values, constants, codebook, block_size, kind): only in cases of the kind "ties" a value is near a mid-point."""
    small, large = (4, 4), (2**c.bits, c.block_size)
    rows = {small: [(2, 3), (2, 4), (2, 6)], large: [(6, 31), (3, 2 * c.block_size), (2, 3 * c.block_size // 2)]}
    kinds = ("plain", "ties", "zeros")
    chosen = [(shape, *size, kind) for size in rows for shape, kind in zip(rows[size], kinds, strict=True)]
    return [_encode_case(*how, rng) for how in chosen]


def _encode_case(shape, n_levels, block_size, kind, rng) -> tuple:
    codebook, size = _levels(n_levels, rng), math.prod(shape)
    n_blocks = math.ceil(size / block_size)
    scaled = rng.integers(-240, 255, size=size) * 2 + 1  # in units of 1/512: odd, so never at a mid-point
    constants = rng.uniform(0.1, 3, size=n_blocks)
    if kind == "plain":  # alone here: a mistake with negative constants costs no ties and no zeros
        constants *= [-1, *rng.choice((-1, 1), size=n_blocks - 1)]
    if kind == "ties":
        constants = 2.0 ** rng.integers(-2, 3, size=n_blocks)  # a power of two: exact products
        middles = 256 * (codebook[:-1] + codebook[1:])
        scaled[1::2] = np.resize(rng.permutation(middles.numpy()), size // 2)  # each of them, again and again
    if kind == "zeros":
        constants[-1] = 0
    scaled[::block_size] = 512  # the value that the constant of its block is
    constants, scaled = torch.from_numpy(constants).float(), torch.from_numpy(scaled).float() / 512
    values = (scaled * _each(constants, block_size, size)).view(shape)
    return values, constants, codebook, block_size, kind


def to_refit(c, rng) -> list[tuple]:
    """(values, codes, codebook, block_size): codes of some quantizer; in the last case a block has no level but 0."""
    cases = []
    large = (2**c.bits, c.block_size)
    for shape, n_levels, block_size in (((2, 3), 4, 3), ((3, 5), 4, 4), ((6, 35), *large), ((5, 35), *large)):
        size, codebook = math.prod(shape), _levels(n_levels, rng)
        codes = torch.from_numpy(rng.integers(0, n_levels, size=size)).to(torch.uint8)
        codes[::block_size] = n_levels - 1  # the level 1, so that every block has a constant
        if shape == (5, 35):
            codes[block_size : 2 * block_size] = int((codebook == 0).nonzero())
        scale = _each(_floats(rng, math.ceil(size / block_size)), block_size, size)
        values = (codebook[codes.long()] + 0.2 * _floats(rng, size)) * scale
        cases.append((values.view(shape), codes, codebook, block_size))
    return cases


def _floats(rng: np.random.Generator, *shape: int) -> Tensor:
    return torch.from_numpy(rng.normal(size=shape)).float()


def _each(constants: Tensor, block_size: int, size: int) -> Tensor:
    """The constant of each of `size` values."""
    return torch.cat([constant.expand(block_size) for constant in constants])[:size]


def _levels(n_levels: int, rng: np.random.Generator) -> Tensor:
    """A sorted codebook from below 0 to 1, with 0. Levels are multiples of 1/64: mid-points are exact in float32."""
    lowest = rng.integers(-60, -10)
    inner = rng.choice(np.setdiff1d(np.arange(lowest + 1, 64), [0]), n_levels - 3, replace=False)
    return torch.from_numpy(np.sort([lowest, *inner, 0, 64])).float() / 64


# --- what is observed -------------------------------------------------------------------------------------------------


def _stored(seen: Observed) -> str:
    """How the result is stored, such as "uint8", where the answer treats its inputs well; else what is not well."""
    return seen.manners if seen.manners != "good" else seen.dtype or type(seen.value).__name__


# --- 3.1: the codebook -----------------------------------------------------------------------------------------------


def _observe_codebook(answer, c, below, above, offset_below, offset_above) -> dict:
    levels = observed(answer, below, above, offset_below, offset_above).value
    return {"levels": levels, "zero": None}


def _zero(c, case, seen: dict) -> dict:
    """How many levels there are, and which of them is exactly 0."""
    if not is_numbers(seen["levels"]):
        return {"zero": seen["levels"]}
    levels = seen["levels"]["values"]
    found = [i for i, level in enumerate(levels) if level == 0]
    if len(found) != 1:
        said = f"{len(found) or 'none'} of the levels {'are' if found else 'is'} exactly 0, and one should be"
        return {"zero": said}
    return {"zero": [len(levels), *found]}


# --- 3.2: codes ------------------------------------------------------------------------------------------------------


def _observe_codes(answer, c, values, constants, codebook, block_size, kind) -> dict:
    mine = {"plain": "codes", "ties": "ties", "zeros": "zeros"}[kind]
    parts = dict.fromkeys(("codes", "ties", "zeros"), ELSEWHERE)
    seen = observed(answer, values, constants, codebook, block_size)
    return parts | {mine: seen.value, "stored": _stored(seen) if kind == "ties" else ELSEWHERE}  # there all blocks fit


# --- 3.3: better constants -------------------------------------------------------------------------------------------


def _observe_refit(answer, c, values, *case) -> dict:
    seen = observed(answer, values, *case)
    constants, error = _constants_and_error(seen.value)
    parts = dict.fromkeys(("constants", "zeros", "relative error"), ELSEWHERE) | {"safe": seen.manners}
    empty = values.shape == (5, 35)
    return parts | ({"zeros": constants} if empty else {"constants": constants, "relative error": error})


def _constants_and_error(value) -> list:
    """Both results. Where only constants came back, the second one is a function that says so."""
    items = list(value) if hasattr(value, "__len__") and not isinstance(value, dict | str) else []
    if not items or any(np.ndim(array(item)) for item in items):
        return in_order(value, "constants", "relative error")

    def missing():
        raise Complaint("only the constants came back. The relative error is asked for as a second result")

    return [value, missing]


def _follows(c, case, seen: dict) -> dict:
    """Whether the relative error is that of the answer's own constants, right or wrong: it counts then."""
    values, codes, codebook, block_size = case
    error, constants = seen["relative error"], seen["constants"]
    blocks = math.ceil(len(codes) / block_size)
    if not (is_numbers(error) and is_numbers(constants) and len(constants["values"]) == blocks):
        return {}
    each = _each(torch.tensor(constants["values"]), block_size, len(codes))
    own = relative_error(values.flatten().double(), codebook[codes.long()].double() * each)
    computed = math.isfinite(own) and abs(own - 1) > 1e-3  # constants of 0 leave an error of 1: everybody knows that
    fits = computed and equal(plain(error["values"]), plain([own]))
    return {FOLLOWS: "relative error"} if fits else {}


TASKS = [
    Task(
        "3.1", "quantile_codebook", "a codebook with two offsets", 25, {"levels": 5, "zero": 1},
        sides, _observe_codebook, names="below above offset_below offset_above", edition=2,
        computed=("levels",), concluded=_zero,
        base=lambda c, below, above, *offsets: {"levels": np.zeros(below + above + 1)},
    ),
    Task(
        "3.2", "encode", "the nearest level, and ties go up", 30, {"codes": 4, "ties": 2, "zeros": 1, "stored": 1},
        to_encode, _observe_codes, tolerance=0, names="values constants codebook block_size kind", edition=2,
    ),
    Task(
        "3.3", "refit", "better constants for the same codes", 35,
        {"constants": 4, "zeros": 1, "relative error": 3, "safe": 1},
        to_refit, _observe_refit, names="values codes codebook block_size", edition=4, concluded=_follows,
    ),
]  # fmt: skip
