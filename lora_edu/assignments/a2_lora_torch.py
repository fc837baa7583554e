"""Assignment 2: LoRA in torch. Wrap, inject, merge, audit, save: with another scaling, another layout, other names.

Here are the constants of a cohort, the tasks and their cases; what is looked at is in `torch_observers` and its
neighbors. No solution.
"""

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_edu.assignments.core import Task
from lora_edu.assignments.plain_tensors import numbers
from lora_edu.assignments.torch_file_observers import adapter_file, audit
from lora_edu.assignments.torch_model_observers import dial, inject
from lora_edu.assignments.torch_observers import layer, update

TITLE = "LoRA in torch: wrap, inject, merge, save"


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
    }


def update_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(down, up, alpha): other sizes each time, rank and alpha never equal, one case in float64."""
    sizes = [(5, 7, 2, 8.0, torch.float32), (9, 4, 3, 1.5, torch.float32), (6, 8, 5, 12.0, torch.float64)]
    return [
        (
            numbers(rng, n_in, rank).to(dtype),
            numbers(rng, rank, n_out).to(dtype),
            float(alpha + rng.integers(4) / 4),
        )
        for n_in, n_out, rank, alpha, dtype in sizes
    ]


def layer_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(in_features, out_features, rank, alpha, dropout, seed, rows); the input is (*rows, in_features)"""
    sizes = [(5, 7, 2, 8.0, 0.5, (4,)), (8, 6, 3, 1.5, 0.2, (2, 3))]
    return [(*size, alpha, p, int(rng.integers(1, 10**6)), rows) for *size, alpha, p, rows in sizes]


def inject_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(number of blocks, width, hidden width, inside another model, training, rank, alpha, seed)"""
    sizes = [(4, 3, 4, False, True, 2, 8.0), (13, 4, 3, False, False, 3, 1.5), (6, 3, 5, True, True, 2, 3.0)]
    return [(n + int(rng.integers(2)), *rest, int(rng.integers(1, 10**6))) for n, *rest in sizes]


def dial_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(weight, down, up, scaling, strength, another strength): numbers with few digits, so that fp32 rounds nothing."""

    def small(*shape: int) -> Tensor:
        return torch.tensor(rng.integers(-127, 128, size=shape) / 64).float()

    def weight(*shape: int) -> Tensor:
        return (numbers(rng, *shape) * 128).round().div(256).bfloat16().float()

    sizes = [(5, 7, 2, 0.375, 0.5, -1.25), (8, 6, 3, 0.15625, 1.0, 0.75)]
    return [(weight(n_out, n_in), small(n_in, r), small(r, n_out), *rest) for n_in, n_out, r, *rest in sizes]


PATHS = ("blocks.0.attention.v_proj", "blocks.1.mlp.up", "blocks.10.mlp.up", "blocks.2.down.o_proj")


def audit_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(before, after): the tensors of a model before and after training, each pair with other things gone wrong."""
    first, second, third, fourth = rng.permutation(PATHS).tolist()
    return [
        _story(rng),
        _story(rng, jumps=[first], silent=[second]),
        _story(rng, ulp=[f"{third}.base.weight"], down_is_zero=[fourth]),
        _story(rng, ulp=[f"{first}.base.bias", "norm.weight"], silent=[second, third, fourth], jumps=[second]),
        _story(rng, silent=PATHS),
        _story(rng, no_down=[first], tiny=[second]),
    ]


def _story(rng: np.random.Generator, jumps=(), silent=(), ulp=(), down_is_zero=(), no_down=(), tiny=()):
    """The tensors before and after.

    jumps: both factors start with numbers; silent: `up` stays zero; ulp: tensors that move by one bit; no_down: `down`
    is zero before and after, whatever `up` learned; tiny: an update that starts and ends near 1e-12, and is not zero.
    """
    before = {"token_embedding.weight": numbers(rng, 4, 3), "norm.weight": numbers(rng, 5)}
    for path in PATHS:
        n_in, n_out, rank = (int(n) for n in rng.permutation([3, 4, 2]))
        down, up = numbers(rng, n_in, rank), numbers(rng, rank, n_out)
        before[f"{path}.base.weight"], before[f"{path}.base.bias"] = numbers(rng, n_out, n_in), torch.ones(n_out)
        before[f"{path}.down"] = down * (path not in down_is_zero)
        before[f"{path}.up"] = up * (path in jumps or path in down_is_zero)
    after = {name: tensor.clone() for name, tensor in before.items()}
    for path in PATHS:
        after[f"{path}.down"] += 0.1 * numbers(rng, *after[f"{path}.down"].shape)
        if path not in silent:
            after[f"{path}.up"] += 0.1 * numbers(rng, *after[f"{path}.up"].shape)
    for path in no_down:
        before[f"{path}.down"] *= 0
        after[f"{path}.down"] *= 0
    for path in tiny:
        before[f"{path}.up"] = 1e-12 * numbers(rng, *before[f"{path}.up"].shape)
        after[f"{path}.up"] = 1e-12 * numbers(rng, *after[f"{path}.up"].shape)
    for name in ulp:
        last = after[name].view(-1)[-1:]
        last.copy_(torch.nextafter(last, last + 1))
    return before, after


def file_cases(c: Any, rng: np.random.Generator) -> list[tuple]:
    """(rank, alpha, paths of the adapters, seed)"""
    return [
        (2, 8.0, ["blocks.0.mlp.up_proj", "blocks.2.attention.v_proj"], int(rng.integers(1, 10**6))),
        (3, 1.5, ["blocks.1.mlp.down_proj"], int(rng.integers(1, 10**6))),
    ]


TASKS = [
    Task(
        "2.1",
        "delta_weight",
        "the update of a weight",
        10,
        {"values": 2, "manners": 1},
        update_cases,
        update,
        names="down up alpha",
    ),
    Task(
        "2.2",
        "layer",
        "the layer",
        25,
        {"start": 1, "alive": 1, "init": 1, "output": 2, "frozen": 1, "dropout": 1, "operations": 1},
        layer_cases,
        layer,
        names="in_features out_features rank alpha dropout seed leading_dimensions",
    ),
    Task(
        "2.3",
        "inject",
        "into a model, by a rule",
        15,
        {"chosen": 1, "inside": 1, "frozen": 1, "intact": 1, "refused": 1},
        inject_cases,
        inject,
        names="blocks width hidden inside_another_model training rank alpha seed",
    ),
    Task(
        "2.4",
        "dial",
        "merging with a dial",
        15,
        {"weight": 2, "again": 1, "back": 1, "rounding": 1},
        dial_cases,
        dial,
        names="weight down up scaling strength another_strength",
    ),
    Task(
        "2.5",
        "audit",
        "the auditor",
        15,
        {"jumps": 1, "moved": 1, "silent": 1},
        audit_cases,
        audit,
        names="before after",
    ),
    Task(
        "2.6",
        "adapter_file",
        "a file of your own",
        20,
        {"keys": 1, "values": 1, "loads": 1, "refuses": 1},
        file_cases,
        adapter_file,
        names="rank alpha layers seed",
    ),
]
