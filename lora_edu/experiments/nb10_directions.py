"""Do two runs write and read in the same directions? The updates of notebook 10, compared with other seeds and chance.

A run trains the base as `nb10` does, at the best rate of its way, and takes every update dW = W' - W apart. Arms
`alike` compare the updates of two seeds. Their control, `alike, no start`, compares what two runs read once the random
start of A is taken out, and runs that had none. In `alike` one run has rank 8 and the other rank 64, each at its own
best rate; `alike, one rank` compares two of rank 8, which differ in their seeds alone.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

from lora_edu import tensor_files
from lora_edu.experiments.finetune import fine_tune, prepared
from lora_edu.experiments.nb10 import block_weights
from lora_edu.experiments.sweeps import SEEDS
from lora_edu.lora import adapter_state
from lora_edu.models.pretrain import load_base

# way -> method, rank, learning rate: the best of the sweeps
WAYS = {
    "lora r8": ("lora", 8, 1e-2),
    "lora r64": ("lora", 64, 3e-3),
    "blocks": ("blocks", 0, 2e-3),
}
STORED_LAYER = "blocks.2.attention.q_proj"  # the paper looks at the queries of a middle layer
Updates = dict[str, Tensor]  # path of a layer -> dW (d_out, d_in)


@functools.lru_cache(maxsize=16)  # 13 MB each
def trained(way: str, seed: int, steps: int = 100) -> tuple[Updates, Updates]:
    """The updates of one run, and its adapter tensors by name (none where there are none)."""
    method, rank, lr = WAYS[way]
    model = prepared(load_base("laptop", device="cpu"), method, rank, seed)
    before = block_weights(model)
    fine_tune(model, steps, lr, seed, progress=False)
    factors = adapter_state(model) if rank else {}
    return {path: weight.detach() - before[path] for path, weight in block_weights(model).items()}, factors


def factors_A(factors: Updates) -> Updates:
    """path -> A, of the adapter tensors of a run."""
    return {name.removesuffix(".lora_A"): A for name, A in factors.items() if name.endswith(".lora_A")}


def untrained_factors(way: str, seed: int) -> Updates:
    """A as it is drawn at the start of a run."""
    method, rank, _ = WAYS[way]
    model = prepared(load_base("laptop", device="cpu"), method, rank, seed)
    return factors_A(adapter_state(model))


# --- two runs ------------------------------------------------------------------------------------------------------

COUNTS = (1, 2, 4, 8)  # how many directions of each run are compared


def similarity(one: Tensor, other: Tensor) -> float:
    """How much two subspaces share, 0 to 1: columns (d, i) and (d, j) of length 1, each set at right angles."""
    return ((one.T @ other).square().sum() / min(one.shape[1], other.shape[1])).item()


def alike(store: str = "", *, seed: int = 0, folder: Path | None = None) -> dict:
    """phi(i, i) of the updates of two runs for i = 1, 2, 4, 8: the mean over the 16 attention matrices, all 256 x 256.

    Pair -> side -> four numbers. Sides: "output" and "input": the singular vectors of dW; "A": of the factor; "A,
    untrained": as it was drawn.
    store: the path of a layer whose factors go to `lora-spectra.safetensors` in `folder`, in 16 bits.
    """
    here, there = seed, (seed + 1) % len(SEEDS)
    r8, r64, other = trained("lora r8", here), trained("lora r64", here), trained("lora r64", there)
    if store and folder:
        _store(store, {"r8": r8, "r64 again": other}, folder)
    W = block_weights(load_base("laptop", device="cpu"))
    starts = untrained_factors("lora r8", here), untrained_factors("lora r64", there)
    factors = factors_A(r8[1]), factors_A(other[1])
    return {
        "r8, r64": _sides(r8[0], other[0]) | {"A": _mean_shared(*factors, 2), "A, untrained": _mean_shared(*starts, 2)},
        "r8, r64, same seed": _sides(r8[0], r64[0]),
        "r8, W": _sides(r8[0], W),
    }


def alike_without_start(*, seed: int = 0) -> dict:
    """As `alike`, with no random start on either side: of A minus its start, and of the block matrices in full."""
    here, there = seed, (seed + 1) % len(SEEDS)
    moved = []
    for way, of in (("lora r8", here), ("lora r64", there)):
        starts, ends = untrained_factors(way, of), factors_A(trained(way, of)[1])
        moved.append({path: ends[path] - starts[path] for path in starts})
    one, other = (trained("blocks", of)[0] for of in (here, there))
    return {"r8, r64": {"A minus its start": _mean_shared(*moved, 2)}, "blocks, blocks": _sides(one, other)}


def alike_at_one_rank(*, seed: int = 0) -> dict:
    """As `alike`, with one recipe for both runs: rank 8, at its best rate."""
    one, other = (trained("lora r8", of) for of in (seed, (seed + 1) % len(SEEDS)))
    return {"r8, r8": _sides(one[0], other[0]) | {"A": _mean_shared(factors_A(one[1]), factors_A(other[1]), 2)}}


def _store(path: str, runs: dict[str, tuple[Updates, Updates]], folder: Path) -> None:
    kept = {f"{name}, {key}": runs[name][1][f"{path}.lora_{key}"].half().contiguous() for name in runs for key in "AB"}
    tensor_files.write_sealed(folder / "lora-spectra.safetensors", kept)


def _sides(one: Updates, other: Updates) -> dict[str, list[float]]:
    return {name: _mean_shared(one, other, side) for name, side in (("output", 0), ("input", 2))}


def _mean_shared(one: Updates, other: Updates, side: int) -> list[float]:
    """side: 0 for the left singular vectors of each matrix, 2 for the right ones."""
    found = []
    for path in one:
        if "attention" in path:
            u, v = (_directions(m[path], side) for m in (one, other))
            found.append(torch.tensor([similarity(u[:, :i], v[:, :i]) for i in COUNTS]))
    return [round(value, 4) for value in torch.stack(found).mean(dim=0).tolist()]


def _directions(matrix: Tensor, side: int) -> Tensor:
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U if side == 0 else Vt.T


def spectra_arm(
    control: bool = False,
    repeat: int = 0,
    one_rank: bool = False,
    *,
    store: str = "",
    seed: int = 0,
    folder: Path | None = None,
) -> dict:
    """An arm of the experiment: two seeds compared, with two ranks or with one, or its control."""
    seed += repeat
    if one_rank:
        return alike_at_one_rank(seed=seed)
    return alike_without_start(seed=seed) if control else alike(store, seed=seed, folder=folder)


SPECTRA_ARMS = {
    **{f"alike, seed {seed}": {"repeat": seed} | ({"store": STORED_LAYER} if seed == 0 else {}) for seed in SEEDS},
    **{f"alike, no start, seed {seed}": {"repeat": seed, "control": True} for seed in SEEDS},
    **{f"alike, one rank, seed {seed}": {"repeat": seed, "one_rank": True} for seed in SEEDS},
}
