"""Assignment 4: double quantization and QLoRA. Constants of a cohort, cases and observers; no solution.

The variant: the constants of the blocks lose their minimum, maximum or midpoint (not the mean), are divided by a share
of the largest magnitude (not by all of it) and take the nearest of given levels; block sizes are no powers of two; a
weight is written down column by column; and an update is scaled by alpha / rank**power.
"""

import random

import numpy as np
import torch
from torch import Tensor

from lora_edu.assignments.core import Constants, Task
from lora_edu.assignments.qlora_observers import (
    LayerCase,
    observe_bytes,
    observe_constants,
    observe_decoded,
    observe_layer,
    observe_survivors,
)
from lora_edu.assignments.qlora_pieces import GridRounding
from lora_edu.assignments.qlora_tuning import TuneCase, observe_fine_tune

TITLE = "Double quantization and QLoRA"


# Tasks of 4.6 in which adapters help well, and training the head alone does not.
TASK_SEEDS = (11, 34, 37, 53, 59, 63, 74, 84, 90, 101)


class Levels(tuple):
    """Many numbers, of which a few are printed."""

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self[:3]))}, ..., {', '.join(map(str, self[-3:]))}), {len(self)} values"


def draw(rng: random.Random) -> dict:
    """The constants of a cohort."""
    offset, bits = rng.choice(("minimum", "maximum", "midpoint")), rng.choice((5, 6))
    return {
        "codebook": _two_sided(7, 8, rng.choice((1.1, 1.2, 1.3, 1.4))),  # 16 values: what a 4-bit code stands for
        "block_size": rng.choice((20, 24, 28)),  # weights that share a constant
        "first_half": rng.choice(("low", "high")),  # of a byte: where the first of its two codes lies
        "offset": offset,  # what is taken off all constants
        "constant_bits": bits,
        "levels": Levels(_levels(offset, bits, rng.choice((1.2, 1.3, 1.5)))),  # what the code of a constant stands for
        "reach": rng.choice((0.75, 0.8, 0.85)),  # the scale, as a share of the largest magnitude
        "second_size": rng.choice((9, 10, 12)),  # constants that share a scale
        "kept_bytes": rng.choice((2, 4)),  # of a number that is not quantized
        "power": rng.choice((0.25, 0.75, 1.25)),  # an update is scaled by alpha / rank**power
        "steps": 120,  # of training
        "goal": 0.4,  # the loss after training, as a share of the loss before
    }


def _levels(offset: str, bits: int, power: float) -> tuple[float, ...]:
    """Sorted levels with an exact 0: on the side where constants are left after the offset was taken off."""
    if offset == "minimum":
        return _two_sided(0, 2**bits - 1, power)
    if offset == "maximum":
        return _two_sided(2**bits - 1, 0, power)
    return _two_sided(2 ** (bits - 1) - 1, 2 ** (bits - 1) - 1, power)


def _two_sided(below: int, above: int, power: float) -> tuple[float, ...]:
    """Levels from -1 over 0 to 1, denser around 0 for a power above 1."""
    negative = [-round((i / below) ** power, 4) for i in range(below, 0, -1)]
    return (*negative, 0.0, *(round((i / above) ** power, 4) for i in range(1, above + 1)))


# --- cases ---------------------------------------------------------------------------------------------------------


def _models(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """Lists of layers: (kind, shape, whether a float32 copy of it is alive). Odd sizes, ragged blocks."""

    def layer(kind: str, *shape: int, copy: bool = False) -> tuple:
        return kind, shape, copy

    d, h, vocab = (int(rng.integers(low, low + 6)) * 2 + 1 for low in (20, 30, 50))
    small = [layer("linear", h, d), layer("linear", d, d)]
    model = [layer("embedding", vocab, d), *small, layer("norm", d), layer("linear", d, h), layer("head", vocab + 5, d)]
    copied = [*small, layer("linear", 8 * c.block_size, c.second_size, copy=True), layer("norm", h, copy=True)]
    return [(small,), (model,), (copied,)]


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(values, dtype=np.float32))


def _absmax(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """Constants of a layer: ragged, rising from block to block; tiny ones; all of them equal; a single block."""
    n = 3 * c.second_size + int(rng.integers(2, c.second_size - 1))
    rising = rng.uniform(0.5, 1.5, size=n) * np.linspace(1, 3, n)
    return [
        (_tensor(rising),),
        (_tensor(1e-9 * rng.uniform(2, 5, size=2 * c.second_size)),),
        (_tensor(np.full(c.second_size + 2, 0.5)),),
        (_tensor(rng.uniform(1, 2, size=c.second_size - 3)),),
    ]


def _stored(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """packed, codes, scales, offset, (d_out, d_in): an odd number of weights; and an even one. Both levels ragged."""
    cases = []
    for d_out, d_in in ((17, 2 * int(rng.integers(9, 13)) + 1), (7, 2 * c.block_size + 2)):
        n = d_out * d_in
        blocks = -(-n // c.block_size)
        packed = torch.from_numpy(rng.integers(0, 256, size=-(-n // 2)).astype(np.uint8))
        codes = torch.from_numpy(rng.integers(0, len(c.levels), size=blocks).astype(np.uint8))
        scales = _tensor(rng.uniform(0.2, 0.9, size=-(-blocks // c.second_size)))
        cases.append((packed, codes, scales, _tensor(rng.uniform(2, 3)), (d_out, d_in)))
    return cases


def _updates(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """W, lora_A, lora_B, alpha, round_trip: an update that is lost, a small one, a large one."""
    cases = []
    for size, (d_out, d_in, rank, alpha) in {
        1e-4: (9, 14, 2, 5.0),
        0.05: (16, 11, 3, 4.0),
        0.5: (10, 24, 4, 6.0),
    }.items():
        W, A, B = (_tensor(rng.normal(size=shape)) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
        B *= size * W.norm() / (alpha / rank**c.power * B @ A).norm()
        cases.append((W, A, B, alpha, GridRounding()))
    return cases


def _layers(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """No side equals another, alpha is never the rank; three dimensions; an x that needs no gradient."""
    d_in, d_out = int(rng.integers(18, 24)), int(rng.integers(26, 32))
    return [
        (LayerCase((5, d_in), d_out, 2, 5.0),),
        (LayerCase((2, 3, d_out), d_in, 3, 7.0),),
        (LayerCase((4, d_in), d_out + 1, 3, 1.5, x_learns=False),),
    ]


def _tunes(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """One case: training takes time."""
    return [(TuneCase(int(rng.choice(TASK_SEEDS)), 4, 3.0),)]


TASKS = [
    Task(
        "4.1", "stored_bytes", "where the bytes are", 10,
        {"codes": 1, "constants": 1, "rest": 1}, _models, observe_bytes, tolerance=1e-9,
        names="layers",
    ),
    Task(
        "4.2", "quantize_constants", "the second level", 15,
        {"codes": 2, "scales": 1, "offset": 1, "storage": 1}, _absmax, observe_constants,
        names="absmax",
    ),
    Task(
        "4.3", "decode", "from bytes to a weight", 20,
        {"constants": 1, "weight": 2, "odd": 1, "storage": 1}, _stored, observe_decoded,
        names="packed codes scales offset shape",
    ),
    Task(
        "4.4", "surviving_update", "merge and round again", 15,
        {"cosine": 1, "stray": 1, "moved": 1}, _updates, observe_survivors, tolerance=1e-4,
        names="W lora_A lora_B alpha round_trip",
    ),
    Task(
        "4.5", "qlora_layer", "a layer that keeps its packed weight alone", 30,
        {"output": 1, "x's gradient": 1, "A's and B's gradients": 1, "products": 1, "bytes of W kept": 2,
         "bytes kept": 1},
        _layers, observe_layer,
    ),
    Task(
        "4.6", "fine_tune", "a 4-bit model learns", 30,
        {"start": 1, "frozen": 1, "trained": 1, "scaling": 1, "goal": 2, "seed": 1}, _tunes, observe_fine_tune,
        tolerance=2e-3, seconds=60,
    ),
]  # fmt: skip
