"""The check of exercise 12.4: the rounding of Q4_1."""

import math

import numpy as np

from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations


def _weights(n_blocks, seed, shift):
    rng = np.random.default_rng(seed)
    return rng.normal(size=32 * n_blocks) * np.repeat(rng.uniform(0.5, 2, n_blocks), 32) + shift


# How the places 0, 1, 2, ... of all weights are cut into blocks.
RUNS = {
    "right": lambda places: places.reshape(-1, 32),
    "columns": lambda places: places.reshape(-1, 32).T,
    "interleaved": lambda places: places.reshape(32, -1).T,
    "all": lambda places: places[None],
    "64": lambda places: [places[i : i + 64] for i in range(0, len(places), 64)],
    "16": lambda places: places.reshape(-1, 16),
}
RUN_MISTAKES = {
    "columns": "a block is a column here. Each run of 32 weights is a row of weights.reshape(-1, 32): take axis=1.",
    "interleaved": "weights of different runs share a step here. The runs of 32 are the rows of weights.reshape(-1, "
    "32).",
    "all": "one minimum and one step for all weights here. Each block of 32 has its own.",
    "64": "these are blocks of 64, as in NF4. Q4_1 has blocks of 32.",
    "16": "these are blocks of 16. Q4_1 has blocks of 32, and 16 levels.",
}
SPANS = {
    "right": lambda block: (block.min(), block.max()),
    "absmax": lambda block: (-np.abs(block).max(), np.abs(block).max()),
    "from zero": lambda block: (0.0, block.max()),
    "magnitude": lambda block: (0.0, np.abs(block).max()),
    "mean": lambda block: (block.mean(), block.max()),
}
SPAN_MISTAKES = {
    "absmax": "this divides by the largest magnitude, as NF4 does. Q4_1 keeps a minimum and a step for each block.",
    "from zero": "the values begin at 0 here. They begin at the smallest weight of the block: take it off first.",
    "magnitude": "the values go from 0 to the largest magnitude here. They go from the smallest weight to the largest.",
    "mean": "the mean is taken for the smallest weight here.",
}
Q4_STEPS = {
    16: "there are 16 levels here, but 15 steps between them. Divide the range by 15.",
    14: "there are 15 levels here, and so 14 steps between them. 16 levels have 15 steps.",
    7: "there are 7 steps here. 16 levels have 15 steps between them.",
    8: "there are 8 steps here. 16 levels have 15 steps between them.",
    17: "there are 17 steps here. 16 levels have 15 steps between them.",
    255: "there are 255 steps here, as with 8 bits. 16 levels have 15 steps between them.",
}
Q4_TURNS = {
    np.floor: "this cuts off instead of rounding to the nearest level.",
    np.ceil: "this rounds up instead of to the nearest level.",
    (lambda codes: np.minimum(np.round(codes), 14)): "the largest code is 14 here. 16 levels have the codes 0 to 15.",
    (lambda codes: np.clip(np.round(codes), -8, 7)): "the codes are cut to -8 to 7 here. They go from 0 to 15.",
    (lambda codes: codes): "these are the weights as they were. Round them.",
}
Q4_BACK = {
    "no low": "the minimum was taken off and not put back.",
    "codes": "these are the codes, 0 to 15. Turn them back into weights.",
    "no step": "the codes are not multiplied by the step again.",
    "error": "this is the error of the rounded weights. Hand over the weights.",
}


def _q4_1(weights, runs="right", span="right", steps=15, turn=np.round, back="right", clip=math.inf):
    """Round to so many steps between each block's smallest and largest value; weights (n,) -> (n,)."""
    weights = np.asarray(weights, dtype=np.float64)
    result = np.empty_like(weights)
    for places in RUNS[runs](np.arange(len(weights))):
        block = weights[places]
        low, high = SPANS[span](block)
        step = (high - low if high > low else 1.0) / steps
        codes = np.minimum(turn((block - low) / step), clip)
        made = codes * step + low
        result[places] = {"right": made, "no low": made - low, "codes": codes, "no step": codes + low,
                          "error": block - made}[back]  # fmt: skip
    return result


def _int4(weights, half=7):
    blocks = weights.reshape(-1, 32)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    return (np.round(blocks / absmax * half) * absmax / half).reshape(-1)


def _is_level(got, weights):
    """Of each weight whether it is one of the 16 values of its block."""
    blocks = weights.reshape(-1, 32)
    levels = np.linspace(blocks.min(axis=1), blocks.max(axis=1), 16, axis=1)[:, None]
    return np.abs(got.reshape(-1, 32, 1) - levels).min(axis=2) < 1e-5


Q4_CASES = [(_weights(3, 0, 0.3),), (_weights(5, 1, -1.0),)]

q4_1 = Exercise(
    "12.4",
    _q4_1,
    Q4_CASES,
    combinations(
        _q4_1,
        Q4_CASES,
        {
            "steps": (15, Q4_STEPS),
            "runs": ("right", RUN_MISTAKES),
            "span": ("right", SPAN_MISTAKES),
            "turn": (np.round, Q4_TURNS),
            "back": ("right", Q4_BACK),
        },
        {
            "there are 16 levels here, and 16 steps between them, the last one cut off. Divide the range by 15.": (
                lambda weights: _q4_1(weights, steps=16, clip=15)
            ),
            "zero lies in the middle of the levels here, as in int4. Q4_1 keeps a minimum and a step for each block.": (
                _int4
            ),
            "zero lies in the middle of the levels here, with 8 steps on each side. Q4_1 keeps a minimum and a step "
            "for each block.": lambda weights: _int4(weights, 8),
        },
        in_pairs=5,
    ),
    symptoms={
        "as many weights come back as were given, in one row.": lambda got, weights: got.size != weights.size,
        "the numbers come back in blocks. One row of `n` is asked for: `.reshape(-1)`.": (
            lambda got, weights: got.ndim > 1
        ),
    },
    broadly={
        "these are levels of their blocks, but not for every weight the nearest one.": (
            lambda got, weights: _is_level(got, weights).all()
        ),
        "the smallest and the largest weight of each block are levels: both come back as they are. Here one has "
        "changed.": lambda got, weights: (
            np.abs(np.ptp(got.reshape(-1, 32), 1) - np.ptp(weights.reshape(-1, 32), 1)).max() > 1e-5
        ),
        "these are not the levels: 16 of them in each block, equally far apart, the first at its smallest weight, the "
        "last at its largest.": lambda got, weights: True,
    },
)
