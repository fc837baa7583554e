"""The check of exercise 7.3: the second level of double quantization in NumPy."""

import numpy as np

from lora_edu.codebooks import dynamic_codebook
from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations

# --- 7.3: round the constants ----------------------------------------------------------------------------------------


# The options of each part, by what goes wrong with it; the right one is "right".
OFFSETS = {
    "right": np.mean,
    "none": lambda part: 0.0,
    "median": np.median,
    "smallest": np.min,
    "largest": np.max,
    "rms": lambda part: np.sqrt(np.mean(part**2)),
    "middle": lambda part: (np.min(part) + np.max(part)) / 2,
    "geometric": lambda part: np.exp(np.mean(np.log(part))),
    "first": lambda part: part[0],
}
SCALES = {
    "right": lambda block: np.abs(block).max(),
    "one": lambda block: 1.0,
    "largest": np.max,
    "spread": np.std,
    "range": np.ptp,
    "half range": lambda block: np.ptp(block) / 2,
    "mean magnitude": lambda block: np.abs(block).mean(),
    "norm": np.linalg.norm,
}
CHOICES = {
    "right": lambda scaled, code: code[_place(scaled, code)],
    "below": lambda scaled, code: code[np.clip(np.searchsorted(code, scaled, side="right") - 1, 0, len(code) - 1)],
    "above": lambda scaled, code: code[np.clip(np.searchsorted(code, scaled), 0, len(code) - 1)],
    "place": lambda scaled, code: _place(scaled, code),
    "even": lambda scaled, code: np.round(127 * scaled) / 127,
    "none": lambda scaled, code: scaled,
    "magnitude": lambda scaled, code: np.abs(code[_place(scaled, code)]),
    "of magnitudes": lambda scaled, code: code[_place(np.abs(scaled), code)],
}


def _place(scaled, code):
    return np.abs(scaled[:, None] - code).argmin(axis=1)


def _blocks(values, block_size):
    return [values[start : start + block_size] for start in range(0, len(values), block_size)]


def _round(
    absmax, code, block_size, offset="right", back="right", means="all", scale="right", scales="block",
    choose="right", filling="none", least=1e-30, units="right",
):  # fmt: skip
    """absmax (n_blocks,) after double quantization, with a mistake in one part or several."""
    absmax, code = np.asarray(absmax, dtype=np.float64), np.asarray(code, dtype=np.float64)
    total = len(absmax)
    absmax = {"right": absmax, "largest": absmax / np.max(absmax), "sorted": np.sort(absmax)}[units]
    if filling == "in the mean":  # zeros before everything
        absmax = np.append(absmax, np.zeros(-total % block_size))
    if filling == "dropped":
        absmax = absmax[: total // block_size * block_size or total]
    result = []
    for block in _blocks(absmax, block_size):
        mean = OFFSETS[offset](block if means == "block" else absmax)
        centered = block - mean
        if filling == "after":  # zeros after the mean was found, and before it is taken off
            centered = np.append(centered, np.full(block_size - len(block), -mean))
        size = max(SCALES[scale](absmax - mean if scales == "layer" else centered), least)
        levels = CHOICES[choose]((block - mean) / size, code)
        result.append(_back(levels, size, mean, back))
    return np.concatenate(result)[:total]


def _back(levels, size, mean, how):
    return {
        "right": levels * size + mean,
        "no offset": levels * size,
        "subtracted": levels * size - mean,
        "twice": levels * size + 2 * mean,
        "no scale": levels + mean,
        "neither": levels,
        "scaled": (levels + mean) * size,
        "divided": levels / size + mean,
    }[how]


OFFSET_MISTAKES = {
    "none": "the mean is not subtracted. All constants are positive, so half of a signed code lies idle.",
    "smallest": "this takes the smallest constant off, and leaves the negative half of the code idle. Take the "
    "mean off.",
    "largest": "this takes the largest constant off, and leaves the positive half of the code idle. Take the mean off.",
    "median": "this takes the median off. The offset is the mean.",
    "rms": "this takes the root mean square off. The offset is the plain mean.",
    "middle": "this takes the middle between the smallest and the largest constant off. The offset is the mean.",
    "geometric": "this takes the geometric mean off. The offset is the plain mean.",
    "first": "this takes the first constant off. The offset is the mean.",
}
BACK_MISTAKES = {
    "no offset": "the offset is not added back. The mean that was taken off belongs to every constant again.",
    "no scale": "this does not multiply by the scale on the way back.",
    "neither": "these are values of the code, between -1 and 1. Go the way back: multiply by the scale, add "
    "the offset.",
    "scaled": "this multiplies the offset by the scale as well. On the way back, first multiply, then add.",
    "subtracted": "the offset is subtracted a second time on the way back. Add it.",
    "twice": "the offset is added twice.",
    "divided": "the scale divides on the way back, too. Multiply by it.",
}
SCALE_MISTAKES = {
    "largest": "this divides by the largest value and not by the largest magnitude: without their mean, some constants "
    "are far below 0.",
    "one": "this does not divide by the block's largest magnitude, so values leave the range of the code.",
    "range": "this divides by the range, from the smallest to the largest. The code goes from -1 to 1: divide by the "
    "largest magnitude.",
    "spread": "this divides by the standard deviation of a block, so the largest leave the range of the code. Divide "
    "by the largest magnitude.",
    "half range": "this divides by half the range. Divide by the largest magnitude.",
    "mean magnitude": "this divides by the mean magnitude of a block, so the largest leave the range of the code. "
    "Divide by the largest magnitude.",
    "norm": "this divides by the norm of a block. Divide by its largest magnitude.",
}
CHOICE_MISTAKES = {
    "below": "this takes the next value of the code below each constant. The nearest one may lie above it.",
    "above": "this takes the next value of the code above each constant. The nearest one may lie below it. Mid-points "
    "between the values decide, or the smallest distance.",
    "place": "these are places in the code, 0 to 255, where its values belong. Look them up: code[place].",
    "even": "this rounds to equal steps of 1/127, and leaves the code that you are given unused.",
    "none": "this returns the constants unrounded.",
    "magnitude": "the signs of the code's values are lost: without their mean, constants lie on both sides of 0.",
    "of magnitudes": "the signs are lost before the code is looked up: constants lie on both sides of their mean.",
}
FILLING_MISTAKES = {
    "in the mean": "the last block is filled up with zeros, and they count in the mean. Take the mean of the constants "
    "alone.",
    "after": "the last block is filled up with zeros before the mean is taken off, so that the filling becomes its "
    "largest magnitude. Take the mean off first.",
    "dropped": "the last block is dropped where it is shorter. It is rounded like the others.",
}


def _constants() -> list[tuple]:
    rng, code = np.random.default_rng(0), dynamic_codebook().numpy().astype(np.float64)
    ramp = 1 + np.arange(40) / 20  # blocks of different size, so that a scale for all of them shows
    cases = [(rng.uniform(0.5, 1.5, size=40) * ramp, code, 16), (rng.uniform(2, 5, size=21) * ramp[:21], code, 8)]
    return [*cases, (1e-6 * cases[1][0], code, 8), (np.full(6, 2.0), code, 4)]  # tiny ones, and all of them equal


def _scales(absmax, block_size):
    """The scale of each constant's block, (n_blocks,)."""
    off = np.abs(np.asarray(absmax) - np.mean(absmax))
    return np.concatenate([np.full(len(b), max(b.max(), 1e-30)) for b in _blocks(off, block_size)])


def _levels(got, absmax, block_size):
    """Which value of the code each number would stand for, if offset and scale are right."""
    return (got - absmax.mean()) / _scales(absmax, block_size)


def _equal_blocks(absmax, code, block_size):
    centered = absmax - np.mean(absmax)
    parts = np.array_split(centered, -(-len(absmax) // block_size))
    return np.concatenate([_round(part, code, len(part), offset="none") for part in parts]) + np.mean(absmax)


CONSTANTS = _constants()

_round_constants = Exercise(
    "7.3",
    _round,
    CONSTANTS,
    combinations(
        _round,
        CONSTANTS,
        {
            "offset": ("right", OFFSET_MISTAKES),
            "means": (
                "all",
                {
                    "block": "this takes the mean of each block. There is one mean, of the whole layer; nothing else "
                    "is stored."
                },
            ),
            "scale": ("right", SCALE_MISTAKES),
            "scales": (
                "block",
                {"layer": "this has one scale for the whole layer. Each block of block_size constants has its own."},
            ),
            "choose": ("right", CHOICE_MISTAKES),
            "filling": ("none", FILLING_MISTAKES),
            "back": ("right", BACK_MISTAKES),
            "units": (
                "right",
                {
                    "largest": "these are constants in units of the largest. Nothing divides them all: hand them over "
                    "as they are.",
                    "sorted": "the constants are sorted here. Each belongs to its block: keep their order.",
                },
            ),
        },
        {
            "the scale is kept above a bound that small constants need to go below. Nothing but 0 must be kept away: "
            "1e-30 is enough.": lambda a, c, b: _round(a, c, b, least=1e-3),
            "this looks the constants up as they are. Take the mean off and divide by the largest magnitude first.": (
                lambda a, c, b: CHOICES["right"](np.asarray(a), c)
            ),
            "this is the error of the rounded constants. Hand over the constants.": (
                lambda a, c, b: _round(a, c, b) - np.asarray(a)
            ),
            "this is the error of the rounded constants, with its sign turned. Hand over the constants.": (
                lambda a, c, b: np.asarray(a) - _round(a, c, b)
            ),
            "these blocks are equally long (`array_split`). Each has block_size constants, the last one the rest.": (
                _equal_blocks
            ),
            "the last block is dropped where it is shorter, but not from the mean. It is rounded like the others.": (
                lambda a, c, b: _round(a, c, b)[: len(a) // b * b or len(a)]
            ),
            "the scale is the largest of the constants before their mean is taken off. Take it off first.": (
                lambda a, c, b: np.concatenate(
                    [np.max(k) * CHOICES["right"]((k - np.mean(a)) / np.max(k), c) + np.mean(a) for k in _blocks(a, b)]
                )
            ),
        },
    ),
    symptoms={
        "as many constants come back as were given.": lambda got, a, c, b: got.shape != a.shape,
    },
    broadly={
        "equal constants come back as they are: without their mean they are 0, and so is what is added to it.": (
            lambda got, a, c, b: np.ptp(a) == 0
        ),
        "the scale is kept above a bound, or something is added to it: small constants come back wrong.": (
            lambda got, a, c, b: a.max() < 1e-3 or np.ptp(a) == 0
        ),
        "each of these is a value of the code, times the largest magnitude of its block, plus the offset: but not the "
        "nearest one everywhere.": (
            lambda got, a, c, b: np.abs(_levels(got, a, b)[:, None] - c).min(axis=1).max() < 1e-6
        ),
        "the first block is right, others are not.": (
            lambda got, a, c, b: np.abs(got - _round(a, c, b))[:b].max() < 1e-6 and len(a) > b
        ),
        "these are close to the constants, and not made as they must be: a value of the code, times the largest "
        "magnitude of the block, plus the mean of all. Which of the three differs?": (
            lambda got, a, c, b: np.abs(got - a).max() < 0.1 * a.min()
        ),
        "these are far from the constants. The way back undoes each step of the way there: what was divided by is "
        "multiplied by, what was taken off is added.": lambda got, *case: True,
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
