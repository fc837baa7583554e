"""Assignment 1: low rank and LoRA in NumPy, with the backward pass.

The orientation is that of the article that writes the update as A B^T: a weight is (d_in, d_out), one input per row,

    y = x W + s * (x A) B^T      with A: (d_in, rank), B: (d_out, rank), s = alpha / rank**power
"""

import numpy as np

from lora_edu.assignments.core import Task
from lora_edu.assignments.observing import observed

TITLE = "Low rank and LoRA in NumPy"


def draw(rng) -> dict:
    return {
        "energy": rng.choice([0.8, 0.85, 0.9, 0.95]),
        "share": rng.choice([0.25, 0.6, 0.75]),
        "power": rng.choice([0.5, 0.75, 1.5]),
        "gain": rng.choice([0.5, 2.0, 3.0]),
        "ratio": rng.choice([2, 4, 8]),
    }


# --- 1.1 ------------------------------------------------------------------------------------------------------------


def _with_spectrum(rng, rows, columns, values) -> np.ndarray:
    """A random matrix with these singular values: (rows, columns)"""
    left = np.linalg.qr(rng.normal(size=(rows, len(values))))[0]
    right = np.linalg.qr(rng.normal(size=(columns, len(values))))[0]
    return left * np.array(values) @ right.T


def _rank_cases(c, rng) -> list[tuple]:
    spectra = [[9, 6, 3, 1.5, 1, 0.5], [4, 3.5, 3, 2.5, 2], [20, 1, 1, 1, 1, 1, 1], [5] * 6]
    return [(_with_spectrum(rng, 9, 7, [v * rng.uniform(0.97, 1.03) for v in values]),) for values in spectra]


def _observe_rank(answer, c, matrix) -> dict:
    seen = observed(answer, matrix)
    return {"rank": seen.value, "inputs": seen.inputs}


TASKS = [
    Task(
        number="1.1",
        name="needed_rank",
        title="How much rank does a matrix need?",
        minutes=10,
        parts={"rank": 2, "inputs": 1},
        cases=_rank_cases,
        observe=_observe_rank,
        tolerance=0,
    ),
]
