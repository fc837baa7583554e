"""The checks of notebook 07, double quantization."""

import math
from dataclasses import dataclass

import numpy as np
import torch

from lora_edu.codebooks import dynamic_codebook, nf_codebook
from lora_edu.exercises.grading import Exercise, as_array, beside
from lora_edu.quantization import DoubleQuant, quantize

__all__ = ["beside", "bits_of_constants", "moved_again", "resident_bytes", "round_constants"]


def _of_constants(budget, block_size, second_size, code=4.0, second=32.0):
    """The bits that one block's constant may take, before rounding down; one part of the budget can be changed."""
    return (budget - code) * block_size - second / second_size


bits_of_constants = Exercise(
    "7.1",
    lambda budget, block_size, second_size: math.floor(_of_constants(budget, block_size, second_size)),
    [(4.127, 64, 256), (4.25, 64, 32), (4.2, 128, 16), (4.13, 32, 256), (4.1, 256, 64)],
    {
        "this leaves out 32 / (block_size * second_size): the second level has constants of its own.": (
            lambda budget, b, s: math.floor(_of_constants(budget, b, s, second=0))
        ),
        "this rounds to the nearest whole number, and can exceed the budget. Round down.": (
            lambda budget, b, s: round(_of_constants(budget, b, s))
        ),
        "this rounds up, and exceeds the budget. Round down.": (
            lambda budget, b, s: math.ceil(_of_constants(budget, b, s))
        ),
        "this is not a whole number. A code has whole bits: round down.": _of_constants,
        "this refuses a constant that costs exactly the rest of the budget. It fits.": (
            lambda budget, b, s: math.ceil(_of_constants(budget, b, s)) - 1
        ),
        "this gives one weight's share to the constant. A block of block_size weights pays for it.": (
            lambda budget, b, s: math.floor(_of_constants(budget, 1, b * s))
        ),
        "this takes a float32 constant for second_size weights. It serves second_size blocks.": (
            lambda budget, b, s: math.floor(_of_constants(budget, b, s, second=32 * b))
        ),
        "this still keeps a float32 constant for every block. The code takes its place.": (
            lambda budget, b, s: math.floor(_of_constants(budget, b, s)) - 32
        ),
        "this gives the whole budget to the constants. The 4-bit code of the weight comes first.": (
            lambda budget, b, s: math.floor(_of_constants(budget, b, s, code=0))
        ),
    },
)


def _resident(n, block_size, second_size, packed, copy_alive, keep=True):
    blocks = math.ceil(n / block_size)
    constants = blocks + 4 * math.ceil(blocks / second_size) + 4
    return (math.ceil(n / 2) if packed else n) + constants + (4 * n if copy_alive and keep else 0)


resident_bytes = Exercise(
    "7.2",
    _resident,
    [
        (4096 * 64, 64, 256, True, False),
        (1000, 64, 256, True, False),
        (999, 32, 16, False, False),
        (999, 64, 16, True, False),  # the last code has a byte to itself
        (5000, 64, 16, True, True),
        (777, 128, 256, False, True),
    ],
    {
        "the float32 copy is missing. While it is alive, it occupies 4 bytes a weight, whatever lies beside it.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, False)
        ),
        "codes that are not packed are counted as 4 bits. A code in a byte of its own takes 8.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, True, copy)
        ),
        "packed codes are counted as a byte each. Two of them share a byte.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, False, copy)
        ),
        "the second-level constants are missing: 4 bytes for each second_size blocks.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, copy) - 4 * math.ceil(math.ceil(n / b) / s)
        ),
        "the offset is missing: one float32 for the layer.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, copy) - 4
        ),
        "an odd code is dropped. If one is left over, it has the last byte to itself: round up.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, copy) - (n % 2 if packed else 0)
        ),
        "the last blocks are dropped. A block that is not full has a constant too: round up.": (
            lambda n, b, s, packed, copy: (
                (math.ceil(n / 2) if packed else n) + n // b + 4 * (n // b // s) + 4 + (4 * n if copy else 0)
            )
        ),
        "this is without double quantization: a float32 for each block.": (
            lambda n, b, s, packed, copy: (
                (math.ceil(n / 2) if packed else n) + 4 * math.ceil(n / b) + (4 * n if copy else 0)
            )
        ),
    },
)


def _round(
    absmax, code, block_size, mean=True, add_back=True, mean_of_block=False, one_scale=False, divide=True, least=1e-30
):
    """absmax (n_blocks,) after double quantization, with one mistake at a time."""
    absmax, code = np.asarray(absmax, dtype=np.float64), np.asarray(code, dtype=np.float64)
    result = np.empty_like(absmax)
    largest = np.abs(absmax - absmax.mean() * mean).max()
    for start in range(0, len(absmax), block_size):
        block = absmax[start : start + block_size]
        offset = (block.mean() if mean_of_block else absmax.mean()) if mean else 0.0
        scale = max(largest if one_scale else np.abs(block - offset).max(), least) if divide else 1.0
        nearest = code[np.abs((block - offset)[:, None] / scale - code).argmin(axis=1)]
        result[start : start + block_size] = nearest * scale + offset * add_back
    return result


def _constants() -> list[tuple]:
    rng, code = np.random.default_rng(0), dynamic_codebook().numpy().astype(np.float64)
    ramp = 1 + np.arange(40) / 20  # blocks of different size, so that a scale for all of them shows
    cases = [(rng.uniform(0.5, 1.5, size=40) * ramp, code, 16), (rng.uniform(2, 5, size=21) * ramp[:21], code, 8)]
    return [*cases, (1e-6 * cases[1][0], code, 8), (np.full(6, 2.0), code, 4)]  # tiny ones, and all of them equal


_round_constants = Exercise(
    "7.3",
    _round,
    _constants(),
    {
        "the mean is not subtracted. All constants are positive, so half of a signed code lies idle.": (
            lambda a, c, b: _round(a, c, b, mean=False)
        ),
        "the offset is not added back. The mean that was taken off belongs to every constant again.": (
            lambda a, c, b: _round(a, c, b, add_back=False)
        ),
        "this takes the mean of each block. There is one mean, of the whole layer; nothing else is stored.": (
            lambda a, c, b: _round(a, c, b, mean_of_block=True)
        ),
        "this has one scale for the whole layer. Each block of block_size constants has its own.": (
            lambda a, c, b: _round(a, c, b, one_scale=True)
        ),
        "this does not divide by the block's largest magnitude, so values leave the range of the code.": (
            lambda a, c, b: _round(a, c, b, divide=False)
        ),
        "the scale is kept above a bound that small constants need to go below. Nothing but 0 must be kept away: 1e-30 "
        "is enough.": lambda a, c, b: _round(a, c, b, least=1e-3),
        "this returns the constants unrounded.": lambda a, c, b: np.asarray(a, dtype=np.float64),
    },
)


_ZERO_BY_ZERO = (
    "Exercise 7.3: equal constants are divided by 0. Without their mean all of them are 0, so is the scale, and 0 / 0 "
    "has no value (NaN, not a number). Divide by something that is never 0, for example max(scale, 1e-30)."
)


def round_constants(attempt) -> None:
    """Check a function (absmax, code, block_size) -> the rounded constants; equal constants are tried first."""
    *_, (equal, code, block_size) = _round_constants.cases
    try:
        with np.errstate(invalid="raise"):  # the nearest code to NaN is some code, and would hide it
            result = as_array(attempt(equal.copy(), code.copy(), block_size))
    except FloatingPointError as error:
        raise AssertionError(_ZERO_BY_ZERO) from error
    except Exception:
        result = None  # the exercise says what stopped, and for which input
    if result is not None and np.isnan(result).any():
        raise AssertionError(_ZERO_BY_ZERO)
    _round_constants(attempt)


# --- 7.4: quantizing twice -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RoundTrip:
    """A weight to bytes and back, by name: NF4 in blocks of 16, right or with a mistake. float64 in and out."""

    name: str

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        codebook, how = TRIPS[self.name]
        values = torch.from_numpy(np.array(weight, dtype=np.float32))
        return quantize(values, codebook, 16, how).dequantize().double().numpy()

    def __repr__(self) -> str:
        return self.name


NF4 = nf_codebook(4)
TRIPS = {
    "NF4": (NF4, False),  # the second trip changes nothing
    "double quantization": (NF4, DoubleQuant(block_size=8)),  # the constants creep
    "a codebook that ends at 0.9": (0.9 * NF4, False),  # each trip shrinks all weights
    "E5M2 without the mean": (NF4, DoubleQuant("e5m2", 8, False)),
}


def _trips() -> list[tuple]:
    rng = np.random.default_rng(5)
    return [(RoundTrip(name), rng.normal(size=(12, 2 * 16 + 16 * i))) for i, name in enumerate(TRIPS)]


def _norm(original, changed):
    return np.linalg.norm(original - changed) / np.linalg.norm(original)


moved_again = Exercise(
    "7.4",
    lambda trip, W: _norm(trip(W), trip(trip(W))),
    _trips(),
    {
        "this compares with W, and so measures the error of rounding. What the second trip adds is the question: "
        "compare it with what the first one left.": lambda trip, W: _norm(W, trip(trip(W))),
        "this is the error of the first trip. The question is what the second one adds.": lambda trip, W: _norm(
            W, trip(W)
        ),
        "this is 0 for every round trip, as if the first one were made twice. Give the second one what the first one "
        "left.": lambda trip, W: _norm(trip(W), trip(W)),
        "this subtracts the errors of the two trips. A second trip can move the weights without moving them farther "
        "from W.": lambda trip, W: _norm(W, trip(trip(W))) - _norm(W, trip(W)),
        "this divides by the norm of W. What moves here is the result of the first trip: divide by its norm.": (
            lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W))) / np.linalg.norm(W)
        ),
        "this is not divided by a norm. In other units the answer would be another one.": (
            lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W)))
        ),
        "this is the largest single move. One weight says little of the others: take Frobenius norms.": (
            lambda trip, W: np.abs(trip(W) - trip(trip(W))).max()
        ),
        "this is the largest move over the largest weight. Take Frobenius norms.": (
            lambda trip, W: np.abs(trip(W) - trip(trip(W))).max() / np.abs(trip(W)).max()
        ),
        "this is the square of the relative move. Take its root.": lambda trip, W: _norm(trip(W), trip(trip(W))) ** 2,
        "this is the share of the weights that moved. How far they moved is the question.": (
            lambda trip, W: np.mean(trip(W) != trip(trip(W)))
        ),
    },
)
