"""Assignment 4: double quantization and QLoRA. Constants of a cohort, cases and observers; no solution.

The variant: the constants of the blocks lose their minimum, maximum or midpoint (not the mean), are divided by a share
of the largest magnitude (not by all of it) and take the nearest of given levels; block sizes are no powers of two; and
an update is scaled by alpha / rank**power.
"""

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from lora_course.assignments.core import Constants, Task
from lora_course.assignments.looking import call, done, in_order, observed
from lora_course.assignments.qlora_pieces import GridRounding, StoredWeight
from lora_course.assignments.qlora_tuning import observe_fine_tune, reached
from lora_course.assignments.studies import LEAK_DECIDES, SEEDS, observe_study
from lora_course.assignments.verdict import ELSEWHERE
from lora_course.checking.comparing import is_numbers
from lora_edu.memory.peak import PeakMemory

TITLE = "Double quantization and QLoRA"

# Tasks of 4.4 in which adapters on both layers reach the goal, and training the head or one layer alone does not.
TASK_SEEDS = (3, 15, 19, 59)


class Levels(tuple):
    """Many numbers, of which a few are printed."""

    def __repr__(self) -> str:
        return f"({', '.join(map(str, self[:3]))}, ..., {', '.join(map(str, self[-3:]))}), {len(self)} values"


def draw(rng: random.Random) -> dict:
    """The constants of a cohort."""
    offset, bits = rng.choice(("minimum", "maximum", "midpoint")), rng.choice((5, 6))
    return {
        "offset": offset,  # what is taken off all constants
        "constant_bits": bits,
        "levels": Levels(_levels(offset, bits, rng.choice((1.2, 1.3, 1.5)))),  # what the code of a constant stands for
        "reach": rng.choice((0.75, 0.8, 0.85)),  # the scale, as a share of the largest magnitude
        "second_size": rng.choice((9, 10, 12)),  # constants that share a scale
        "power": rng.choice((0.25, 0.75, 1.25)),  # an update is scaled by alpha / rank**power
        "steps": 120,  # of training
        "study": rng.randrange(4),  # the log of 4.5
        "goal": 0.3,  # the loss after training, as a share of the loss before
    }


def _levels(offset: str, bits: int, power: float) -> tuple[float, ...]:
    """Sorted levels with an exact 0: on the side where constants are left after the offset was taken off.

    From -1 over 0 to 1, denser around 0 for a power above 1.
    """
    most, half = 2**bits - 1, 2 ** (bits - 1) - 1
    below, above = {"minimum": (0, most), "maximum": (most, 0), "midpoint": (half, half)}[offset]
    negative = [-round((i / below) ** power, 4) for i in range(below, 0, -1)]
    return (*negative, 0.0, *(round((i / above) ** power, 4) for i in range(1, above + 1)))


# --- cases ---------------------------------------------------------------------------------------------------------


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


def _updates(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """W, lora_A, lora_B, alpha, round_trip: an update that is lost, a small one, a large one."""
    cases, sizes = [], {1e-4: (9, 14, 2, 5.0), 0.05: (16, 11, 3, 4.0), 0.5: (10, 24, 4, 6.0)}
    for size, (d_out, d_in, rank, alpha) in sizes.items():
        W, A, B = (_tensor(rng.normal(size=shape)) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank)))
        B *= size * W.norm() / (alpha / rank**c.power * B @ A).norm()
        cases.append((W, A, B, alpha, GridRounding()))
    return cases


def _layers(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """(shape of x, d_out, rank, alpha, x_learns): no side equals another, alpha is never the rank; three dimensions;
    an x that needs no gradient."""
    d_in, d_out = int(rng.integers(18, 24)), int(rng.integers(26, 32))
    return [
        ((4, d_in), d_out, 2, 5.0, True),
        ((2, 3, d_out), d_in, 3, 7.0, True),
        ((4, d_in), d_out + 1, 3, 1.5, False),
    ]


def _tunes(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """One case: training takes time. Its alpha is that of no other case, so that no answer is right by heart."""
    seed, alpha = int(rng.choice(TASK_SEEDS)), round(rng.uniform(2.7, 3.3), 3)
    return [(seed, 4, alpha, tuple(int(rank) for rank in rng.choice(range(5, 20), 2, replace=False)))]


def _studies(c: Constants, rng: np.random.Generator) -> list[tuple]:
    """(seed, faults): a study with one fault, with the other, with both; and one that is fair."""
    faults = (("leak",), ("rate",), ("leak", "rate"), ())
    seeds = [*rng.choice(SEEDS, size=3, replace=False), rng.choice(LEAK_DECIDES)]
    seeds.insert(2, seeds.pop())  # of the one with both
    return [(int(seed), fault) for seed, fault in zip(seeds, faults, strict=True)]


# --- what is observed: values and types, bytes that stay alive, products ---------------------------------------------


def short(values: Any) -> Tensor:
    """Numbers with six digits: enough to compare, and short in a file."""
    tensor = torch.as_tensor(values).detach().double()
    return torch.tensor([float(f"{v:.6g}") for v in tensor.flatten().tolist()], dtype=torch.float64).view(tensor.shape)


def _storage(seen: Any) -> str:
    """The types of the results, and what became of the inputs, in words."""
    types = [str(getattr(part, "dtype", type(part).__name__)).removeprefix("torch.") for part in seen.value]
    return " ".join(types) + ", inputs " + seen.inputs


def observe_constants(answer: Callable, c: Any, absmax: Tensor) -> dict[str, Any]:
    seen = observed(answer, absmax)
    names = ("codes", "scales", "offset")
    found = dict(zip(names, in_order(seen.value, *names), strict=True))

    def look(value: Any) -> Tensor:
        value = short(value)
        return value * (value.abs() > 1e-10)  # a scale of 0 may be kept from 0 by a tiny bound

    return {name: (lambda v=value: look(v)) for name, value in found.items()} | {"storage": lambda: _storage(seen)}


def restored(c: Constants, case: tuple, seen: dict) -> dict[str, Any]:
    """What was stored, decoded: it shows an answer at work, however its scales are wrong. Not where all are equal."""
    (absmax,) = case
    if not (absmax.min() < absmax.max() and all(map(is_numbers, (seen["codes"], seen["scales"], seen["offset"])))):
        return {"restored": ELSEWHERE}
    codes, scales, offset = (np.array(seen[part]["values"]) for part in ("codes", "scales", "offset"))
    if codes.shape != absmax.shape or not len(scales) or len(offset) != 1:
        return {"restored": ELSEWHERE}
    levels = np.array(c.levels)[np.clip(np.nan_to_num(codes), 0, len(c.levels) - 1).astype(int)]
    return {"restored": levels * np.resize(scales.repeat(c.second_size), len(codes)) + offset}


def observe_survivors(answer: Callable, c: Any, *case: Any) -> dict[str, Any]:
    names = ("cosine", "stray", "moved")
    return dict(zip(names, in_order(call(answer, *case), *names), strict=True))


# --- a layer and what it keeps -------------------------------------------------------------------------------------


OUTSIDE = "a matrix as large as W is made outside of torch, in NumPy or a list: nobody counts the products that form it"
LAYER_PARTS = ("output", "x's gradient", "A's and B's gradients", "products", "bytes of W kept", "bytes kept")


def given(shape: tuple[int, ...], d_out: int, rank: int) -> tuple[StoredWeight, list[Tensor]]:
    """The stored weight of a case, and x (..., d_in), lora_A, lora_B."""
    (*_, d_in), generator = shape, torch.Generator().manual_seed(d_out)
    weight = StoredWeight(d_in, d_out, generator)
    shapes = (shape, (rank, d_in), (d_out, rank))
    return weight, [torch.randn(each, generator=generator) for each in shapes]


def base_alone(c: Any, shape: tuple[int, ...], d_out: int, rank: int, *others: Any) -> dict:
    weight, (x, *_) = given(shape, d_out, rank)
    return {"output": x @ weight.decode(weight.stored)}


def observe_layer(answer: Callable, c: Any, shape: tuple, d_out: int, rank: int, alpha: float, x_learns: bool) -> dict:
    weight, (x, A, B) = given(shape, d_out, rank)
    learning = [tensor.requires_grad_() for tensor in ([x, A, B] if x_learns else [A, B])]
    decoded, other = [], [0.0]

    def decode(stored: Tensor) -> Tensor:
        decoded.append(True)
        return weight.decode(stored) + other[0]

    def forward() -> Tensor:
        return answer(x, weight.stored, decode, A, B, alpha)

    if done(forward()) is None:
        return dict.fromkeys(LAYER_PARTS)
    with FlopCounterMode(display=False) as counter:
        forward()
    with PeakMemory([x, A, B, weight.stored]) as memory:
        y = forward()
        kept = memory.now - y.untyped_storage().nbytes()

    size = shape[-1] * d_out

    def through(before: float, after: float) -> list:
        """The gradient of x where `decode` gives another weight before or after the forward pass; [] where it fails."""
        x.grad, other[0] = None, before
        with contextlib.suppress(Exception):
            y = forward()
            other[0] = after
            y.sum().backward()
        other[0] = 0.0
        return [] if x.grad is None else x.grad.tolist()

    def kept_bytes(least: int = 0) -> int | str:
        """What is alive, if it is as much as `least`, else 0. What computes nothing keeps nothing: that is no merit."""
        if not decoded or not y.requires_grad:
            return "the weight was not decoded" if not decoded else "the output needs no gradient"
        if least and kept < least and x_learns and through(0, 0) == through(0, 1) != through(1, 1):
            return "the gradient of x needs the weight, and it was not decoded again: it is kept, out of torch's sight"
        return kept if kept >= least else 0

    def products() -> str:
        """How many, by torch's count. Those of NumPy or a loop it does not see: the memory of their result shows."""
        if used > needed:
            return f"{used / needed:.2f} times as many as needed"
        wide, inputs = given((2, 300), 400, rank)
        tracemalloc.start()
        try:
            answer(inputs[0], wide.stored, wide.decode, *inputs[1:], alpha)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        return OUTSIDE if peak > 2 * 300 * 400 else "as many as needed"

    @cache
    def gradients() -> list:
        y.backward(torch.randn(y.shape, generator=torch.Generator().manual_seed(0)))
        return [torch.zeros_like(tensor) if tensor.grad is None else tensor.grad for tensor in learning]

    used = counter.get_total_flops()
    needed = 2 * (x.numel() // shape[-1]) * (size + rank * (shape[-1] + d_out))
    looks = (
        lambda: short(y),
        lambda: short(gradients()[0] if x_learns else torch.zeros(())),
        lambda: short(torch.cat([g.flatten() for g in gradients()[-2:]])),
        products,
        lambda: kept_bytes(2 * size),  # a decoded weight has 4 bytes a number, or 2 in 16 bits
        kept_bytes,
    )
    return dict(zip(LAYER_PARTS, looks, strict=True))


TASKS = [
    Task(
        "4.1", "surviving_update", "merge and round again", 15,
        {"cosine": 1, "stray": 1, "moved": 1}, _updates, observe_survivors, tolerance=1e-4,
        names="W lora_A lora_B alpha _",
    ),
    Task(
        "4.2", "quantize_constants", "the second level", 30,
        {"codes": 2, "scales": 1, "offset": 1, "storage": 1}, _absmax, observe_constants,
        names="absmax", computed=("codes", "scales", "restored"), concluded=restored,
        base=lambda c, absmax: {"restored": np.zeros(len(absmax))},
    ),
    Task(
        "4.3", "qlora_layer", "a layer that keeps its packed weight alone", 45,
        {"output": 1, "x's gradient": 1, "A's and B's gradients": 1, "products": 1, "bytes of W kept": 2,
         "bytes kept": 1},
        _layers, observe_layer, names="x d_out rank alpha x_learns", edition=3, computed=LAYER_PARTS[:3],
        base=base_alone,
    ),
    Task(
        "4.4", "fine_tune", "a 4-bit model learns", 40,
        {"start": 1, "frozen": 1, "trained": 1, "scaling": 1, "goal": 2, "seed": 1}, _tunes, observe_fine_tune,
        tolerance=2e-3, seconds=60, names="_ rank alpha _", edition=3, computed=("scaling", "goal"), concluded=reached,
    ),
    Task(
        "4.5", "study", "more rank hurts?", 30,
        {"leaked": 1, "clean": 1, "best rates": 1, "split repaired": 1, "rates repaired": 1},
        _studies, observe_study, tolerance=1e-3, names="study_seed _", edition=3,
        computed=("leaked", "clean", "split repaired"),
    ),
]  # fmt: skip
