"""Assignment 2: LoRA in torch, with another scaling, another layout, other names; and a run that is wrong.

Here are the constants of a cohort, the tasks and their cases; what is looked at is in `torch_observers` and its
neighbors. No solution.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_course.assignments.core import Task
from lora_course.assignments.plain_tensors import numbers
from lora_course.assignments.torch_model_observers import adapter_file, all_layers, dial, inject
from lora_course.assignments.torch_observers import base_alone, layer
from lora_course.assignments.verdict import ELSEWHERE, numbers_of
from lora_course.assignments.wrong_runs import FAULTS, diagnosis
from lora_course.checking.comparing import is_numbers

TITLE = "LoRA in torch: wrap, inject, merge, load, diagnose"


def draw(rng: random.Random) -> dict:
    """The numbers and names of a cohort. None of them is what the package or PEFT uses."""
    every = rng.choice([2, 3])
    return {
        "exponent": rng.choice([0.25, 0.75, 1.25, 1.5]),  # s = alpha / rank ** exponent
        "std": rng.choice([0.02, 0.03, 0.04]),  # of the numbers that `down` starts with
        "dropout_after": rng.choice(["down", "up"]),  # the factor whose output dropout acts on
        "part": rng.choice(["attention", "mlp"]),  # the part of a block that is adapted ...
        "every": every,  # ... in the blocks number i with i % every == first
        "first": rng.randrange(every),
        "key": rng.choice(["{path}/{factor}", "adapter:{factor}:{path}", "{factor}@{path}", "delta.{path}.{factor}"]),
        "file_dtype": rng.choice(["float16", "bfloat16"]),  # of the tensors in a file
        "run": rng.randrange(len(FAULTS)),  # the log of 2.5
    }


def layer_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(in_features, out_features, rank, alpha, dropout, seed, rows); the input is (*rows, in_features)"""
    sizes = [(5, 7, 2, 8.0, 0.5, (4,)), (8, 6, 3, 1.5, 0.2, (2, 3))]
    return [(*size, alpha, p, int(rng.integers(1, 10**6)), rows) for *size, alpha, p, rows in sizes]


def inject_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(number of blocks, width, hidden width, inside another model, training, rank, alpha, seed)"""
    sizes = [(4, 3, 4, False, True, 2), (13, 4, 3, False, False, 3), (6, 3, 5, True, True, 2)]
    alphas = (rng.integers(9, 99, size=len(sizes)) + 0.5) / 8  # never a rank, and nobody guesses it
    drawn = [(float(alpha), int(rng.integers(1, 10**6))) for alpha in alphas]
    return [(n + int(rng.integers(2)), *rest, *ours) for (n, *rest), ours in zip(sizes, drawn, strict=True)]


def dial_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(weight, down, up, scaling, strength, another strength): numbers with few digits, so that fp32 rounds nothing."""

    def small(*shape: int) -> Tensor:
        return torch.tensor(rng.integers(-127, 128, size=shape) / 64).float()

    def weight(*shape: int) -> Tensor:
        return (numbers(rng, *shape) * 128).round().div(256).bfloat16().float()

    sizes = [(5, 7, 2, 0.375, 0.5, -1.25), (8, 6, 3, 0.15625, 1.0, 0.75)]
    return [(weight(n_out, n_in), small(n_in, r), small(r, n_out), *rest) for n_in, n_out, r, *rest in sizes]


def added(c: Any, case: tuple, seen: dict) -> dict[str, Any]:
    """What the dial put into the weight, if it has the rank of the factors: a sign that an answer is at work. Their
    product alone, which everybody can compute, is no sum with the weight."""
    weight, rank, found = case[0].numpy(), case[1].shape[1], numbers_of(seen["weight"])
    if not is_numbers(found) or found["shape"] != list(weight.shape) or not np.isfinite(found["values"]).all():
        return {"update": ELSEWHERE}
    update = np.reshape(found["values"], weight.shape) - weight
    rest = np.linalg.svd(update, compute_uv=False)[rank:]
    return {"update": update if rest.sum() < np.linalg.norm(weight) / 4 else ELSEWHERE}


def file_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(rank, alpha, paths of the adapters, seed)"""
    return [
        (2, 8.0, ["blocks.0.mlp.up_proj", "blocks.2.attention.v_proj"], int(rng.integers(1, 10**6))),
        (3, 1.5, ["blocks.1.mlp.down_proj"], int(rng.integers(1, 10**6))),
    ]


def run_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(seed, faults, number of blocks): a run that is right, and one with each fault."""
    seeds = [int(seed) for seed in rng.choice(10**6, size=5, replace=False)]
    return [(seed, faults, 3 + seed % 2) for seed, faults in zip(seeds, ((), *FAULTS), strict=True)]


TASKS = [
    Task(
        "2.1", "layer", "the layer", 40,
        {"start": 1, "alive": 1, "init": 1, "output": 2, "frozen": 1, "dropout": 1, "operations": 1},
        layer_cases, layer,
        names="in_features out_features rank alpha dropout seed leading_dimensions", edition=3,
        computed=("output",), base=base_alone,
    ),
    Task(
        "2.2", "inject", "into a model, by a rule", 25,
        {"chosen": 2, "inside": 1, "intact": 1, "refused": 1}, inject_cases, inject,
        names="blocks width hidden inside_another_model training rank alpha seed", edition=2,
        computed=("chosen", "inside"), base=all_layers,
    ),
    Task(
        "2.3", "dial", "merging with a dial", 20,
        {"weight": 1, "again": 1, "back": 1, "rounding": 1}, dial_cases, dial,
        names="weight down up scaling strength another_strength",
        computed=("weight", "rounding", "update"), concluded=added,
        base=lambda c, weight, *others: {"update": torch.zeros_like(weight)},
    ),
    Task(
        "2.4", "adapter_file", "all of a file, or nothing", 15,
        {"loads": 1, "refuses": 2}, file_cases, adapter_file,
        names="rank alpha layers seed", edition=3, computed=("loads", "refuses"),
        base=lambda *case: {"refuses": [0.0] * 12},
    ),
    Task(
        "2.5", "diagnosis", "a run that trains, and is wrong", 45,
        {"tensors": 1, "layers": 1, "verdict": 2, "untouched": 1, "base repaired": 1, "adapters repaired": 2},
        run_cases, diagnosis, tolerance=1e-3, seconds=20, names="_ _ blocks", edition=2,
        computed=("tensors", "layers", "adapters repaired"),
    ),
]  # fmt: skip
