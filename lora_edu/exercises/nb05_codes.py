"""The checks of exercises 5.2 and 5.3: the error of given codes, and rounding from the smallest to the largest."""

import numpy as np
import torch

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.measuring import measures, relative
from lora_edu.exercises.mistakes import combinations

# --- 5.2: the error of a tensor of codes -----------------------------------------------------------------------------


def _coded() -> list[tuple]:
    """Values, their integer codes, the absmax and the number of bits; no tensor is square.

    One has codes that are cut off, one has none of the largest.
    """
    rng = np.random.default_rng(1)
    cases = []
    kinds = (((5, 8), 4, torch.round), ((3, 7), 3, torch.trunc), ((9, 4), 8, torch.round), ((4, 6), 4, _below_7))
    for shape, bits, turn in kinds:
        values = torch.from_numpy(rng.normal(0, 2, size=shape)).float()
        absmax = values.abs().max().item()
        codes = turn(values / absmax * (2 ** (bits - 1) - 1)).to(torch.int8)
        cases.append((values, codes, absmax, bits))
    return cases


def _below_7(steps: torch.Tensor) -> torch.Tensor:
    return steps.round().clamp(-6, 6)


def _decoded(values, codes, absmax, bits, turn):
    """The values that the codes stand for, with one of the mistakes of `DECODED`."""
    largest, codes = 2 ** (bits - 1) - 1, codes.double().numpy()
    return {
        "right": codes * absmax / largest,
        "codes": codes,
        "half": codes * absmax / 2 ** (bits - 1),
        "whole ruler": codes * absmax / (2**bits - 1),
        "patterns": codes * absmax / 2**bits,
        "4 bits": codes * absmax / 7,
        "no absmax": codes / largest,
        "no steps": codes * absmax,
        "upside down": codes * largest / absmax,
        "again": np.round(values / absmax * largest) * absmax / largest,
        "whole steps": codes * (absmax // largest),
        "whole codes": codes // largest * absmax,
        "cut codes": np.trunc(codes / largest) * absmax,
        "by row": codes * np.abs(values).max(axis=1, keepdims=True) / largest,
        "by the code": codes * absmax / np.abs(codes).max(),
        "scaled": codes * np.abs(values).max() / np.abs(codes).max(),
    }[turn]


DECODED = {
    "half": "this turns codes back with 2**(bits - 1) steps. The largest code is 2**(bits - 1) - 1, and it stands for "
    "the absmax.",
    "codes": "this compares the values with the codes themselves. A code is a number of steps: turn it back into a "
    "value first.",
    "again": "this rounds the values again. The tensor was rounded by somebody else, and not always to the nearest "
    "mark: decode the codes that are given.",
    "whole ruler": "this turns codes back with 2**bits - 1 steps, as if they ran on one side of 0. The largest code is "
    "2**(bits - 1) - 1.",
    "patterns": "this turns codes back with 2**bits steps. The largest code is 2**(bits - 1) - 1.",
    "4 bits": "this takes 7 for the largest code, as with 4 bits. It is 2**(bits - 1) - 1.",
    "no absmax": "the absmax is missing: the largest code stands for it.",
    "no steps": "this takes a code for so many times the absmax. A step is the absmax divided by the largest code.",
    "upside down": "the step is upside down: it is the absmax divided by the largest code.",
    "whole steps": "`absmax // largest` rounds the step down to a whole number: use `/`.",
    "whole codes": "`codes // largest` rounds to whole numbers before the absmax comes: use `/`.",
    "cut codes": "codes / largest is cut to a whole number before the absmax comes: keep the fraction.",
    "by row": "this finds an absmax for each row. The tensor was rounded with the one that is given.",
    "by the code": "this divides by the largest code that occurs. The absmax belongs to the code 2**(bits - 1) - 1.",
}


def _code_error(values, codes, absmax, bits, decoded="right", measure=relative):
    values = values.double().numpy()
    return float(measure(values, _decoded(values, codes, absmax, bits, decoded)))


CODED = _coded()

code_error = Exercise(
    "5.2",
    _code_error,
    CODED,
    combinations(
        _code_error,
        CODED,
        {
            "decoded": ("right", DECODED),
            "measure": (relative, measures("the difference", "the values", "the rounded tensor")),
        },
        {
            "this is the error in steps: the norm of values / step - codes. In units of the values, divide by their "
            "norm.": lambda v, c, absmax, bits: float((v / absmax * (2 ** (bits - 1) - 1) - c).norm()),
            "these are the errors of all values. One number is asked for: their norm over that of the values.": (
                lambda v, c, absmax, bits: v.double().numpy() - _decoded(v.numpy(), c, absmax, bits, "right")
            ),
            "this is the rounded tensor. How far is it from the values?": (
                lambda v, c, absmax, bits: _decoded(v.numpy(), c, absmax, bits, "right")
            ),
        },
        in_pairs=8,
    ),
    symptoms={
        "one number is asked for: the norm of all differences over the norm of the values.": (
            lambda got, *case: got.ndim > 0
        ),
        "an error is never below zero: take the norm, or squares, before anything is added up.": (
            lambda got, *case: got < 0
        ),
    },
    broadly={
        "this is as large as if nothing had been decoded: an error of 1 means a rounded tensor of zeros.": (
            lambda got, *case: abs(got - 1) < 1e-6
        ),
    },
)


# --- 5.3: the sixteenth pattern ---------------------------------------------------------------------------------------


def _blocks() -> list[tuple]:
    """Blocks away from zero on both sides, a tiny one, and one whose values are all equal."""
    rng = np.random.default_rng(2)
    middles = ((7, 4, 0.5), (16, 3, -2.0), (10, 8, 4.0), (5, 2, 0.0))
    cases = [(torch.from_numpy(rng.normal(middle, size=n)).float(), bits) for n, bits, middle in middles]
    return [*cases, (1e-6 * cases[0][0], 4), (torch.full((6,), 0.7), 4)]


def _between(block, bits, steps="right", turn=torch.round, anchor="low", back="right", least=1e-30):
    """The rounded block, with a mistake in one part or several."""
    low, high, absmax = block.min(), block.max(), block.abs().max()
    if anchor == "absmax":
        low, high = -absmax, absmax
    steps = {
        "right": 2**bits - 1,
        "patterns": 2**bits,
        "without two": 2**bits - 2,
        "half": 2 ** (bits - 1) - 1,
        "half and one": 2 ** (bits - 1),
        "4 bits": 15,
    }[steps]
    step = ((high - low) / steps).clamp(min=least)
    start = {"low": low, "absmax": low, "zero": 0.0, "mark of zero": (low / step).round() * step, "high": high,
             "middle": (low + high) / 2, "mean": block.mean()}[anchor]  # fmt: skip
    codes = turn((block - start) / step)
    return {"right": codes * step + start, "codes": codes, "no start": codes * step, "no step": codes + start,
            "fraction": codes / steps, "twice": codes * step + 2 * start}[back]  # fmt: skip


STEPS = {
    "patterns": "this has 2**bits steps, and so one mark more than the bits can number. Between 2**bits marks there "
    "are 2**bits - 1 steps.",
    "without two": "this has 2**bits - 2 steps, as a symmetric ruler has on both sides. Here 2**bits marks have "
    "2**bits - 1 steps between them.",
    "half": "this has 2**(bits - 1) - 1 steps, as on each side of a symmetric ruler. Here 2**bits marks share one "
    "side.",
    "half and one": "this has 2**(bits - 1) steps. Here 2**bits marks lie between the smallest value and the largest.",
    "4 bits": "this has 15 steps, as with 4 bits. There are 2**bits - 1.",
}
ANCHORS = {
    "absmax": "this is a ruler from -absmax to absmax. This one lies between the smallest and the largest value of the "
    "block.",
    "zero": "the marks are multiples of the step here, counted from 0. They begin at the smallest value: take it off "
    "before you divide, and add it again.",
    "mark of zero": "the marks are shifted so that 0 is one of them. Here they begin exactly at the smallest value.",
    "high": "the steps are counted from the largest value here. Count them from the smallest one.",
    "middle": "the steps are counted from the middle here. Count them from the smallest value.",
    "mean": "the steps are counted from the mean here. Count them from the smallest value.",
}
TURNS = {
    torch.floor: "this rounds down instead of to the nearest: 2.9 steps become 2. The nearest code is 3.",
    torch.trunc: "this cuts off instead of rounding: 2.9 steps become 2. The nearest code is 3.",
    torch.ceil: "this rounds up: 2.1 steps become 3. The nearest code is 2.",
    (lambda steps: steps): "nothing is rounded here: the values come back as they were.",
}
BACK = {
    "codes": "these are the codes. Multiply them by the step, and add the smallest value.",
    "no start": "the smallest value is not added back: the ruler begins there, not at 0.",
    "no step": "the codes are not multiplied by the step again.",
    "fraction": "these are places on the ruler, between 0 and 1. Multiply by its length, and add the smallest value.",
    "twice": "the smallest value is added twice.",
}


def _symmetric(block, bits):
    largest, absmax = 2 ** (bits - 1) - 1, block.abs().max()
    return (block / absmax * largest).round() * absmax / largest


def _middles(block, bits, part=0.5):
    low = block.min()
    width = ((block.max() - low) / 2**bits).clamp(min=1e-30)
    return low + (((block - low) / width).floor().clamp(max=2**bits - 1) + part) * width


def _is_mark(got, block, bits):
    """Of each value whether it is one of the marks."""
    block = block.double().numpy()
    marks = np.linspace(block.min(), block.max(), 2**bits)
    return np.abs(got[:, None] - marks).min(axis=1) <= 1e-5 * np.abs(block).max()


BLOCKS = _blocks()

_round_between = Exercise(
    "5.3",
    _between,
    BLOCKS,
    combinations(
        _between,
        BLOCKS,
        {
            "steps": ("right", STEPS),
            "anchor": ("low", ANCHORS),
            "turn": (torch.round, TURNS),
            "back": ("right", BACK),
        },
        {
            "this is the ruler of section 2, from -absmax to absmax. This one lies between the smallest and the "
            "largest value of the block.": _symmetric,
            "these are the middles of 2**bits bins. The marks are the ends of 2**bits - 1 steps: the smallest and the "
            "largest value are marks.": lambda block, bits: _middles(block, bits),
            "these are the lower ends of 2**bits bins. Between 2**bits marks there are 2**bits - 1 steps: round to the "
            "nearest mark.": lambda block, bits: _middles(block, bits, 0.0),
            "a step is kept above a bound that a block of small weights needs to go below. Nothing but 0 must be kept "
            "away: 1e-30 is enough.": lambda block, bits: _between(block, bits, least=1e-3),
        },
    ),
    symptoms={
        "each value of the block comes back rounded: as many as there were.": (
            lambda got, block, bits: got.shape != tuple(block.shape)
        ),
        "some values come back below the smallest of the block or above the largest. The marks run from one to the "
        "other.": lambda got, block, bits: bool(
            block.max() > block.min()
            and (got.max() > block.max().item() + 1e-4 or got.min() < block.min().item() - 1e-4)
        ),
    },
    broadly={
        "a block of equal values comes back as it is: all its marks are that value.": (
            lambda got, block, bits: block.max() == block.min()
        ),
        "a step is kept above a bound, or something is added to it: a block of small weights comes back wrong, the "
        "same block in larger units right.": lambda got, block, bits: (
            block.abs().max() < 1e-3 or block.max() == block.min()
        ),
        "these are marks, but not for every value the nearest one.": (
            lambda got, block, bits: _is_mark(got, block, bits).all()
        ),
        "the smallest or the largest value of the block has changed. Both are marks.": (
            lambda got, block, bits: abs(got.min() - block.min().item()) + abs(got.max() - block.max().item()) > 1e-4
        ),
        "these are not the marks: 2**bits of them, equally far apart, the first at the smallest value, the last at the "
        "largest.": lambda got, block, bits: True,
    },
)


def round_between(attempt) -> None:
    """Check a function (block, bits) -> the rounded block; a block of equal values is tried first."""
    try:
        with np.errstate(all="ignore"):
            equal = as_array(attempt(torch.full((6,), 0.7), 4))
    except Exception:
        equal = None  # the exercise says what stopped, and for which input
    if equal is not None and np.isnan(equal).any():
        raise AssertionError(
            "Exercise 5.3: a block of equal values comes back as NaN (not a number): its step is 0, and 0 / 0 has no "
            "value. Divide by something that is never 0, for example step.clamp(min=1e-30)."
        )
    _round_between(attempt)
