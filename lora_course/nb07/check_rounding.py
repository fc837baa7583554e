"""The checks of exercises 7.2 and 7.4: the second level of double quantization, and a second trip."""

from typing import ClassVar

import numpy as np
import torch

from lora_course.checking.exercise import exercise
from lora_edu.codebooks import dynamic_codebook, nf_codebook
from lora_edu.quantization import DoubleQuant, quantize

# --- 7.2: round the constants ----------------------------------------------------------------------------------------


def _constants():
    rng, code = np.random.default_rng(0), dynamic_codebook().numpy().astype(np.float64)
    ramp = 1 + np.arange(40) / 20  # blocks of different size, so that a scale for all of them shows
    cases = [(rng.uniform(0.5, 1.5, size=40) * ramp, code, 16), (rng.uniform(2, 5, size=21) * ramp[:21], code, 8)]
    return [*cases, (1e-6 * cases[1][0], code, 8), (np.full(6, 2.0), code, 4)]  # tiny ones, and all of them equal


def _without_nan(solution, absmax, code, block_size):
    """The result; the nearest code to NaN is some code, which would hide a division of 0 by 0."""
    try:
        with np.errstate(invalid="raise"):
            result = solution(absmax, code, block_size)
        numbers = np.asarray(result.detach() if hasattr(result, "detach") else result)
        if numbers.dtype.kind != "f" or not np.isnan(numbers).any():
            return result
    except FloatingPointError:
        pass
    return (
        "your function divides 0 by 0, or returns NaN (not a number) in another way. Where all constants are equal, "
        "nothing is left without their mean: the scale is 0, too."
    )


@exercise(
    "7.2",
    _constants(),
    taught={
        "offset = absmax.mean() -> offset = 0.0": "Your answer subtracts no mean. All constants are positive, around "
        "{offset:.3g}, so half of a signed code lies idle.",
        "offset = absmax.mean() -> offset = absmax.min()": "Your answer takes the smallest constant off, and leaves "
        "the negative half of the code idle. Take the mean off, {offset:.3g}.",
        "absmax - offset -> absmax - (offset := np.concatenate([np.full(len(part), part.mean()) for part in "
        "np.split(absmax, range(block_size, len(absmax), block_size))]))": "Your answer takes the mean of each block. "
        "One mean is stored for the whole layer, {offset:.3g}.",
        "np.abs(block).max() -> np.abs(centered).max()": "Your answer has one scale for the whole layer. Each block of "
        "{block_size} constants has its own.",
        "levels * scales + offset -> (levels + offset) * scales": "Your answer multiplies the offset by the scale as "
        "well. What was done last is undone first: multiply, then add {offset:.3g}.",
        "code[places] -> np.round(127 * scaled) / 127": "Your answer rounds to equal steps of 1/127, and leaves the "
        "code that you are given unused.",
        ", 1e-30) -> , 1e-3)": "Your answer keeps the scale above a bound that small constants go below. Nothing but 0 "
        "must be kept away: 1e-30 is enough.",
    },
    noticed={"as many constants come back as were given.": lambda got, a, c, b: got.shape != a.shape},
    observe=_without_nan,
)
def round_constants(absmax, code, block_size):
    offset = absmax.mean()  # the offset
    centered = absmax - offset  # the constants without the offset
    blocks = [centered[start : start + block_size] for start in range(0, len(centered), block_size)]  # the blocks
    sizes = [np.full(len(block), max(np.abs(block).max(), 1e-30)) for block in blocks]  # the scale of each block
    scales = np.concatenate(sizes)
    scaled = centered / scales  # the constants in units of their scale
    places = np.abs(scaled[:, None] - code).argmin(axis=1)  # which value of the code is the nearest
    levels = code[places]  # the value of the code for each constant
    return levels * scales + offset  # the way back from the code


# --- 7.4: the second trip --------------------------------------------------------------------------------------------

NF4 = nf_codebook(4)


class RoundTrip:
    """A weight to bytes and back, by name: NF4 in blocks of 16, right or with a mistake. float64 in and out."""

    known: ClassVar = {
        "NF4": (NF4, False),  # the second trip changes nothing
        "double quantization": (NF4, DoubleQuant(block_size=8)),  # the constants creep
        "a codebook that ends at 0.9": (0.9 * NF4, False),  # each trip shrinks all weights
        "E5M2 without the mean": (NF4, DoubleQuant("e5m2", 8, False)),
    }

    def __init__(self, name):
        self.name, self.made = name, {}

    def __call__(self, weight):
        values = np.array(weight, dtype=np.float32)
        if values.tobytes() not in self.made:  # changed answers send the same weights through, hundreds of times
            codebook, how = self.known[self.name]
            trip = quantize(torch.from_numpy(values), codebook, 16, how).dequantize()
            self.made[values.tobytes()] = trip.double().numpy()
        return self.made[values.tobytes()].copy()

    def __deepcopy__(self, memo):
        return self

    def __repr__(self):
        return self.name


def _trips():
    """One weight for each round trip; those of the second are as small as in a model, so that its moves are tiny."""
    rng = np.random.default_rng(5)
    sizes = (1.0, 0.01, 1.0, 1.0)
    return [
        (RoundTrip(name), size * rng.normal(size=(12, 2 * 16 + 16 * i)))
        for i, (name, size) in enumerate(zip(RoundTrip.known, sizes, strict=True))
    ]


@exercise(
    "7.4",
    _trips(),
    taught={
        "move = twice - once -> move = once - W": "Your answer is the error of the first trip. The question is what "
        "the second one adds to what the first one left.",
        "move = twice - once -> move = twice - W": "Your answer compares with W, and so measures rounding. Compare the "
        "second trip with what the first one left.",
        "whole = np.linalg.norm(once) -> whole = np.linalg.norm(W)": "Your answer divides by the norm of W. What moves "
        "is the result of the first trip: divide by its norm.",
        "return off / whole -> return (np.linalg.norm(W - twice) - np.linalg.norm(W - once)) / np.linalg.norm(W)": (
            "Your answer subtracts the errors of two trips. A second trip can move the weights without moving them "
            "farther from W."
        ),
        "return off / whole -> return float(np.any(move))": "Your answer says whether anything moved. How far is "
        "the question.",
    },
    noticed={
        "one number is asked for: the norm of all moves over that of what the first trip left.": (
            lambda got, *case: got.shape != ()
        ),
        "NF4 leaves on the second trip exactly what the first one left: its answer is 0. W itself has no part in it.": (
            lambda got, trip, W: trip.name == "NF4" and got != 0
        ),
        "0 for every round trip is what the first one made twice gives. Hand the second one what the first one left.": (
            lambda got, trip, W: got == 0
        ),
    },
)
def moved_again(trip, W):
    once = trip(W)  # what the first trip leaves
    twice = trip(once)  # what the second one makes of it
    move = twice - once  # the move
    off = np.linalg.norm(move)  # the size of the move, as one number
    whole = np.linalg.norm(once)  # what it is divided by
    return off / whole  # the quotient
