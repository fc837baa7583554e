"""Do two runs write and read in the same directions? The updates of notebook 10, compared seed by seed.

A run trains the base as `nb10` does, at the best rate of its way, and takes every update dW = W' - W apart: its left
singular vectors say where it writes, its right ones what it reads. An arm compares two runs that read other batches.
Adapters have another random A, too, unless an arm gives both the same one: what does the start alone do?
"""

import functools

import torch
from torch import Tensor

from lora_course.nb10.lab import block_weights
from lora_course.running.finetune import fine_tune, prepared
from lora_course.running.sweeps import SEEDS
from lora_edu import load_base

# way -> method, rank, learning rate: the best of the sweeps, of full's two the gentler
WAYS = {"lora r8": ("lora", 8, 1e-2), "full": ("full", 0, 1e-3)}
COUNTS = (1, 2, 4, 8)  # how many directions of each run are compared
Updates = dict[str, Tensor]  # path of a layer -> dW (d_out, d_in)


@functools.lru_cache(maxsize=16)  # 13 MB each
def trained(way: str, seed: int, start: int | None = None, steps: int = 100) -> Updates:
    """The updates of one run on plays. The seed draws the batches, and A unless `start` does."""
    method, rank, lr = WAYS[way]
    model = prepared(load_base("laptop", device="cpu"), method, rank, seed if start is None else start)
    before = block_weights(model)
    fine_tune(model, steps, lr, seed, progress=False)
    return {path: weight.detach() - before[path] for path, weight in block_weights(model).items()}


def similarity(one: Tensor, other: Tensor) -> float:
    """How much two subspaces share, 0 to 1: columns (d, i) and (d, j) of length 1, each set at right angles."""
    return ((one.T @ other).square().sum() / min(one.shape[1], other.shape[1])).item()


def alike(way: str, one_start: bool = False, *, seed: int = 0) -> dict[str, list[float]]:
    """phi(i, i) of two runs for each of COUNTS, where they write and what they read.

    Means over the 16 attention matrices, all 256 x 256. one_start: both begin with the same A.
    """
    there = (seed + 1) % len(SEEDS)
    pair = trained(way, seed, seed), trained(way, there, seed if one_start else there)
    return {"writes": _mean_shared(*pair, 0), "reads": _mean_shared(*pair, 2)}


def _mean_shared(one: Updates, other: Updates, side: int) -> list[float]:
    """side: 0 for the left singular vectors of each matrix, 2 for the right ones."""
    found = []
    for path in one:
        if "attention" in path:
            parts = (torch.linalg.svd(updates[path], full_matrices=False) for updates in (one, other))
            u, v = (U if side == 0 else Vt.T for U, _, Vt in parts)
            found.append(torch.tensor([similarity(u[:, :i], v[:, :i]) for i in COUNTS]))
    return [round(value, 4) for value in torch.stack(found).mean(dim=0).tolist()]


PAIRS: dict[str, dict] = {  # what is compared -> its arms, one a pair of seeds
    "adapters": {"way": "lora r8"},
    "adapters, one start": {"way": "lora r8", "one_start": True},
}
SPECTRA_ARMS = {f"{name}, seed {seed}": how | {"repeat": seed} for name, how in PAIRS.items() for seed in SEEDS}
