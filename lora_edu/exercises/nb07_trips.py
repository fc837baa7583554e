"""The check of exercise 7.4: a second trip through a quantizer."""

import functools
from dataclasses import dataclass

import numpy as np
import torch

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.describing import as_array, describe
from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.measuring import measures, relative
from lora_edu.exercises.mistakes import combinations
from lora_edu.quantization import DoubleQuant, quantize


@dataclass(frozen=True)
class RoundTrip:
    """A weight to bytes and back, by name: NF4 in blocks of 16, right or with a mistake. float64 in and out."""

    name: str

    def __call__(self, weight: np.ndarray) -> np.ndarray:
        values = np.array(weight, dtype=np.float32)
        return _trip(self.name, values.tobytes(), values.shape).copy()

    def __repr__(self) -> str:
        return self.name


@functools.lru_cache(maxsize=64)  # the known mistakes send the same weights through
def _trip(name: str, values: bytes, shape: tuple[int, ...]) -> np.ndarray:
    codebook, how = TRIPS[name]
    weight = torch.from_numpy(np.frombuffer(values, dtype=np.float32).reshape(shape).copy())
    return quantize(weight, codebook, 16, how).dequantize().double().numpy()


NF4 = nf_codebook(4)
TRIPS = {
    "NF4": (NF4, False),  # the second trip changes nothing
    "double quantization": (NF4, DoubleQuant(block_size=8)),  # the constants creep
    "a codebook that ends at 0.9": (0.9 * NF4, False),  # each trip shrinks all weights
    "E5M2 without the mean": (NF4, DoubleQuant("e5m2", 8, False)),
}


def _trips() -> list[tuple]:
    """One weight for each round trip; those of the second are as small as in a model, so that its moves are tiny."""
    rng = np.random.default_rng(5)
    sizes = (1.0, 0.01, 1.0, 1.0)
    return [
        (RoundTrip(name), size * rng.normal(size=(12, 2 * 16 + 16 * i)))
        for i, (name, size) in enumerate(zip(TRIPS, sizes, strict=True))
    ]


def _after(trip, W, trips):
    """The weight, and what each of so many trips leaves of it."""
    weights = [W]
    for _ in range(trips):
        weights.append(trip(weights[-1]))
    return weights


WHICH = {
    (0, 1): "this is the error of the first trip. The question is what the second one adds.",
    (0, 2): "this compares with W, and so measures the error of rounding. What the second trip adds is the question: "
    "compare it with what the first one left.",
    (1, 1): "this is 0 for every round trip, as if the first one were made twice. Give the second one what the first "
    "one left.",
    (2, 3): "this is the move of a third trip. Ask what the second one does to what the first one left.",
    (1, 3): "these are two trips beyond the first. Ask what the second one does to what the first one left.",
}
BELOW = {
    0: "this divides by the norm of W. What moves here is the result of the first trip: divide by its norm.",
}


def _moved(trip, W, which=(1, 2), measure=relative, below=None):
    weights = _after(trip, W, max(which))
    a, b = (weights[k] for k in which)
    return float(measure(a, b) * (1 if below is None else np.linalg.norm(a) / np.linalg.norm(weights[below])))


def _about_the_move(result, trip, W):
    got = as_array(result)
    if got is not None and got.shape != ():
        return "one number is asked for: the norm of all moves over that of what the first trip left."
    if trip.name == "NF4" and got is not None and 0 < abs(got) < 1e-2:
        return (
            f"{trip.name} leaves on the second trip exactly what the first one left, and yours is {describe(result)}: "
            "something is rounded between the trips, or this is not the norm of the move."
        )
    if trip.name == "NF4":
        return (
            f"{trip.name} leaves on the second trip what the first one left: its answer is 0, and yours "
            f"{describe(result)}. W itself has no part in the move."
        )
    if got is not None and got == 0:
        return (
            f"{trip.name} moves the weights a little on the second trip, and your answer is 0: something drops small "
            "moves, as `np.allclose` and `round` do."
        )
    return (
        "this is 0 where nothing moves, as it must be, and another measure elsewhere. Divide the Frobenius norm of the "
        "move by that of what the first trip left."
    )


TRIP_CASES = _trips()

moved_again = Exercise(
    "7.4",
    _moved,
    TRIP_CASES,
    combinations(
        _moved,
        TRIP_CASES,
        {
            "which": ((1, 2), WHICH),
            "below": (None, BELOW),
            "measure": (relative, measures("the move", "what the first trip left", "what the second trip left")),
        },
        {
            "this subtracts the errors of the two trips. A second trip can move the weights without moving them "
            "farther from W.": lambda trip, W: relative(W, trip(trip(W))) - relative(W, trip(W)),
            "this is the weight after the second trip. How far is it from the one after the first?": (
                lambda trip, W: trip(trip(W))
            ),
            "these are the moves of all weights. One number is asked for: their norm over that of the weights.": (
                lambda trip, W: trip(W) - trip(trip(W))
            ),
            "this says whether anything moved. How far is the question.": (
                lambda trip, W: float(np.any(trip(W) != trip(trip(W))))
            ),
            "this divides the move by the error of the first trip. Divide by the norm of what the first one left.": (
                lambda trip, W: np.linalg.norm(trip(W) - trip(trip(W))) / np.linalg.norm(W - trip(W))
            ),
        },
        in_pairs=3,
    ),
    explain=_about_the_move,
)
