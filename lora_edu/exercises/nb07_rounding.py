"""The checks of notebook 07 about rounding: the second level in NumPy, and a second trip through a quantizer."""

from dataclasses import dataclass

import numpy as np
import torch

from lora_edu.codebooks import dynamic_codebook, nf_codebook
from lora_edu.exercises.grading import Exercise, as_array, describe
from lora_edu.quantization import DoubleQuant, quantize

# --- 7.3: round the constants ----------------------------------------------------------------------------------------


def _nearest(scaled, code):
    return code[np.abs(scaled[:, None] - code).argmin(axis=1)]


def _level_below(scaled, code):
    return code[np.clip(np.searchsorted(code, scaled, side="right") - 1, 0, len(code) - 1)]


def _level_above(scaled, code):
    return code[np.clip(np.searchsorted(code, scaled), 0, len(code) - 1)]


def _place(scaled, code):
    return np.abs(scaled[:, None] - code).argmin(axis=1)


def _largest(block):
    return np.abs(block).max()


def _round(
    absmax,
    code,
    block_size,
    offset=np.mean,
    add_back=1.0,
    mean_of_block=False,
    one_scale=False,
    scale_of=_largest,
    choose=_nearest,
    multiply=True,
    least=1e-30,
):
    """absmax (n_blocks,) after double quantization, with one mistake at a time."""
    absmax, code = np.asarray(absmax, dtype=np.float64), np.asarray(code, dtype=np.float64)
    result = np.empty_like(absmax)
    for start in range(0, len(absmax), block_size):
        block = absmax[start : start + block_size]
        mean = offset(block if mean_of_block else absmax)
        scale = max(scale_of(absmax - mean if one_scale else block - mean), least)
        levels = choose((block - mean) / scale, code)
        result[start : start + block_size] = levels * (scale if multiply else 1.0) + mean * add_back
    return result


def _changed(**changes):
    return lambda absmax, code, block_size: _round(absmax, code, block_size, **changes)


def _scales(absmax, block_size):
    """The scale of each constant's block, (n_blocks,)."""
    off = np.abs(np.asarray(absmax) - np.mean(absmax))
    return np.concatenate([np.full(len(b), max(b.max(), 1e-30)) for b in _blocks(off, block_size)])


def _blocks(values, block_size):
    return [values[start : start + block_size] for start in range(0, len(values), block_size)]


def _whole_blocks(absmax, code, block_size):
    """The last, shorter block dropped; without a whole block, everything."""
    whole = len(absmax) // block_size * block_size or len(absmax)
    return _round(absmax[:whole], code, block_size, offset=lambda part: np.mean(absmax))


def _filled_up(absmax, code, block_size):
    """Zeros added before the mean is taken off: they become the largest magnitude of the last block."""
    padded = np.append(absmax, np.zeros(-len(absmax) % block_size))
    return _round(padded, code, block_size, offset=lambda part: np.mean(absmax))[: len(absmax)]


def _constants() -> list[tuple]:
    rng, code = np.random.default_rng(0), dynamic_codebook().numpy().astype(np.float64)
    ramp = 1 + np.arange(40) / 20  # blocks of different size, so that a scale for all of them shows
    cases = [(rng.uniform(0.5, 1.5, size=40) * ramp, code, 16), (rng.uniform(2, 5, size=21) * ramp[:21], code, 8)]
    return [*cases, (1e-6 * cases[1][0], code, 8), (np.full(6, 2.0), code, 4)]  # tiny ones, and all of them equal


def _what_they_are(result, absmax, code, block_size):
    """What a result is made of that is none of the known mistakes."""
    got = as_array(result)
    if got is None or got.shape != absmax.shape:
        return ""
    levels = (got - absmax.mean()) / _scales(absmax, block_size)
    if np.abs(levels[:, None] - code).min(axis=1).max() < 1e-6:
        return (
            "each of these is a value of the code, times the largest magnitude of its block, plus the offset: but not "
            "the nearest one everywhere."
        )
    i = int(np.abs(got - absmax).argmax())
    if abs(got[i] - absmax[i]) < 0.1 * absmax[i]:
        return (
            "these are close to the constants, and not made as they must be: a value of the code, times the largest "
            "magnitude of the block, plus the mean of all. Which of the three differs?"
        )
    return (
        f"the constant {absmax[i]:.4g} has become {got[i]:.4g}. The way back undoes each step of the way there: what "
        "was divided by is multiplied by, what was taken off is added."
    )


_round_constants = Exercise(
    "7.3",
    _round,
    _constants(),
    {
        "the mean is not subtracted. All constants are positive, so half of a signed code lies idle.": (
            _changed(offset=lambda part: 0.0)
        ),
        "the offset is not added back. The mean that was taken off belongs to every constant again.": (
            _changed(add_back=0.0)
        ),
        "the offset is subtracted a second time on the way back. Add it.": _changed(add_back=-1.0),
        "the offset is added twice.": _changed(add_back=2.0),
        "this takes the mean of each block. There is one mean, of the whole layer; nothing else is stored.": (
            _changed(mean_of_block=True)
        ),
        "this takes the median off. The offset is the mean.": _changed(offset=np.median),
        "this takes the smallest constant off, and leaves the negative half of the code idle. Take the mean off.": (
            _changed(offset=np.min)
        ),
        "this takes the largest constant off, and leaves the positive half of the code idle. Take the mean off.": (
            _changed(offset=np.max)
        ),
        "this takes the root mean square off. The offset is the plain mean.": (
            _changed(offset=lambda part: np.sqrt(np.mean(part**2)))
        ),
        "this takes the middle between the smallest and the largest constant off. The offset is the mean.": (
            _changed(offset=lambda part: (np.min(part) + np.max(part)) / 2)
        ),
        "this has one scale for the whole layer. Each block of block_size constants has its own.": (
            _changed(one_scale=True)
        ),
        "this does not divide by the block's largest magnitude, so values leave the range of the code.": (
            _changed(scale_of=lambda block: 1.0)
        ),
        "this divides by the largest value and not by the largest magnitude: without their mean, some constants are "
        "far below 0.": _changed(scale_of=np.max),
        "this divides by the standard deviation of a block, so the largest leave the range of the code. Divide by the "
        "largest magnitude.": _changed(scale_of=np.std),
        "this divides by the range, from the smallest to the largest. The code goes from -1 to 1: divide by the "
        "largest magnitude.": _changed(scale_of=np.ptp),
        "this divides by the mean magnitude of a block, so the largest leave the range of the code. Divide by the "
        "largest magnitude.": _changed(scale_of=lambda block: np.abs(block).mean()),
        "this divides by the norm of a block. Divide by its largest magnitude.": _changed(scale_of=np.linalg.norm),
        "this does not multiply by the scale on the way back.": _changed(multiply=False),
        "this takes the next value of the code below each constant. The nearest one may lie above it.": (
            _changed(choose=_level_below)
        ),
        "this takes the next value of the code above each constant. The nearest one may lie below it. Mid-points "
        "between the values decide, or the smallest distance.": _changed(choose=_level_above),
        "this multiplies the places in the code, 0 to 255, by the scale. Look the values up: code[place].": (
            _changed(choose=_place)
        ),
        "this rounds to equal steps of 1/127, and leaves the code that you are given unused.": (
            _changed(choose=lambda scaled, code: np.round(127 * scaled) / 127)
        ),
        "the scale is kept above a bound that small constants need to go below. Nothing but 0 must be kept away: 1e-30 "
        "is enough.": _changed(least=1e-3),
        "these are values of the code, between -1 and 1. Go the way back: multiply by the scale, add the offset.": (
            _changed(multiply=False, add_back=0.0)
        ),
        "this multiplies the offset by the scale as well. On the way back, first multiply, then add.": (
            lambda a, c, b: _round(a, c, b, add_back=0.0) + np.mean(a) * _scales(a, b)
        ),
        "this looks the constants up as they are. Take the mean off and divide by the largest magnitude first.": (
            lambda a, c, b: _nearest(np.asarray(a), c)
        ),
        "these are constants in units of the largest. Nothing divides them all: hand them over as they are.": (
            lambda a, c, b: _round(np.asarray(a) / np.max(a), c, b)
        ),
        "this is the error of the rounded constants. Hand over the constants.": (
            lambda a, c, b: _round(a, c, b) - np.asarray(a)
        ),
        "this is the error of the rounded constants, with its sign turned. Hand over the constants.": (
            lambda a, c, b: np.asarray(a) - _round(a, c, b)
        ),
        "the constants are sorted here. Each belongs to its block: keep their order.": (
            lambda a, c, b: _round(np.sort(a), c, b)
        ),
        "this returns the constants unrounded.": lambda a, c, b: np.asarray(a, dtype=np.float64),
        "these are the places in the code, 0 to 255, of all constants. Go the way back as well: look up, multiply, add "
        "the offset.": _changed(choose=_place, multiply=False, add_back=0.0),
        "the last block is dropped where it is shorter. It is rounded like the others.": _whole_blocks,
        "the last block is dropped where it is shorter, from the mean as well. It is rounded like the others.": (
            lambda a, c, b: _round(a[: len(a) // b * b or len(a)], c, b)
        ),
        "the last block is filled up with zeros before the mean is taken off, so that the filling becomes its largest "
        "magnitude. Take the mean off first.": _filled_up,
    },
    explain=_what_they_are,
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


def _about_the_move(result, trip, W):
    got = as_array(result)
    if got is not None and got.shape != ():
        return "one number is asked for: the norm of all moves over that of what the first trip left."
    if trip.name == "NF4":
        return (
            f"{trip.name} leaves on the second trip what the first one left: its answer is 0, and yours "
            f"{describe(result)}. W itself has no part in the move."
        )
    return (
        "this is 0 where nothing moves, as it must be, and another measure elsewhere. Divide the Frobenius norm of the "
        "move by that of what the first trip left."
    )


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
        "this is the move of a third trip. Ask what the second one does to what the first one left.": (
            lambda trip, W: _norm(trip(trip(W)), trip(trip(trip(W))))
        ),
        "this divides by the norm after the second trip. Divide by that of what the first one left.": (
            lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W))) / np.linalg.norm(trip(trip(W)))
        ),
        "this compares the two norms. Weights can move while their norm stays.": (
            lambda trip, W: abs(1 - np.linalg.norm(trip(trip(W))) / np.linalg.norm(trip(W)))
        ),
        "this is the spectral norm, np.linalg.norm(..., 2). The Frobenius norm is the default.": (
            lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W)), 2) / np.linalg.norm(trip(W), 2)
        ),
        "this divides one norm by the other, and is 1 where nothing moves. Take the norm of the difference.": (
            lambda trip, W: np.linalg.norm(trip(trip(W))) / np.linalg.norm(trip(W))
        ),
        "this is the weight after the second trip. How far is it from the one after the first?": (
            lambda trip, W: trip(trip(W))
        ),
        "this takes mean magnitudes. Take Frobenius norms: the root of the sum of squares.": (
            lambda trip, W: np.abs(trip(W) - trip(trip(W))).mean() / np.abs(trip(W)).mean()
        ),
        "this is a mean over the rows of their relative moves. One norm goes over the whole weight.": (
            lambda trip, W: np.mean(np.linalg.norm(trip(W) - trip(trip(W)), axis=1) / np.linalg.norm(trip(W), axis=1))
        ),
        "this is the mean squared move. Divide norms.": lambda trip, W: np.mean((trip(W) - trip(trip(W))) ** 2),
        "this is a mean magnitude, not divided by that of the weights. Divide Frobenius norms.": (
            lambda trip, W: np.abs(trip(W) - trip(trip(W))).mean()
        ),
        "this divides by the number of weights. Divide by the norm of what the first trip left.": (
            lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W))) / W.size
        ),
        "these are the moves of all weights. One number is asked for: their norm over that of the weights.": (
            lambda trip, W: trip(W) - trip(trip(W))
        ),
        "this says whether anything moved. How far is the question.": (
            lambda trip, W: float(np.any(trip(W) != trip(trip(W))))
        ),
        "this is the share of the weights that moved. How far they moved is the question.": (
            lambda trip, W: np.mean(trip(W) != trip(trip(W)))
        ),
    },
    explain=_about_the_move,
)
