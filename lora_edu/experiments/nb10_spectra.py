"""What lies in the updates that notebook 10 looks at: subspaces, spectra, intruders.

A run trains the base as `nb10` does, at the best rate of its way, and takes every update dW = W' - W apart. Arms
`alike` compare the updates of two seeds; the others look at one run:

    spectrum        how the squared norm of dW spreads over its components
    intruders       strong directions of W' that W does not have (Shuttleworth et al. 2024, arXiv 2410.21228): how many
                    there are, and what both losses do when they are scaled down, beside other cuts of the same norm

Two controls have arms of their own. `random beside` counts the intruders of random matrices as large as the updates,
their norm spread over few components or many; `alike, no start` compares what two runs read once the random start of A
is taken out.
"""

import functools
from pathlib import Path

import torch
from torch import Tensor

from lora_edu import tensor_files
from lora_edu.experiments.finetune import fine_tune, loss_on, prepared
from lora_edu.experiments.nb10 import block_weights
from lora_edu.experiments.sweeps import SEEDS
from lora_edu.gpt import GPT
from lora_edu.lora import adapter_state
from lora_edu.models.pretrain import load_base

# way -> method, rank, learning rate: the best of the sweeps
WAYS = {
    "lora r8": ("lora", 8, 1e-2),
    "lora r64": ("lora", 64, 3e-3),
    "blocks": ("blocks", 0, 2e-3),
}
STORED_LAYER = "blocks.2.attention.q_proj"  # the paper looks at the queries of a middle layer
STRONGEST, OLD = 10, 0.5  # an intruder: one of the 10 strongest directions of W', with no cosine of 0.5 to any of W
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


# --- one run -------------------------------------------------------------------------------------------------------


def anatomy(way: str, cuts: bool = False, *, seed: int = 0) -> dict:
    """Take the updates of one run apart. cuts: measure what cutting the intruders down does to both losses."""
    base, updates = load_base("laptop", device="cpu"), trained(way, seed)[0]
    weights = block_weights(base)
    generator = torch.Generator().manual_seed(seed)
    turned = {path: turned_at_random(dW, generator) for path, dW in updates.items()}
    result = {"losses": losses(base, updates), "norm": _norm(updates, weights)}
    result["rank for 90%"] = {path: rank_for(torch.linalg.svdvals(dW)) for path, dW in updates.items()}
    result["intruders"] = {
        str(times): [count(weights, {path: times * dW for path, dW in side.items()}) for side in (updates, turned)]
        for times in TIMES
    }  # of the updates, and of the same updates turned at random
    if cuts:
        result["cuts"] = cut_losses(base, weights, updates)
    return result


def losses(base: GPT, updates: Updates) -> list[float]:
    """The loss on plays and on addresses of the base with these updates."""
    model = load_base("laptop", device="cpu")
    with torch.no_grad():
        for path, dW in updates.items():
            model.get_submodule(path).weight.add_(dW)
    return [loss_on(model, text) for text in ("shakespeare", "speeches")]


def turned_at_random(dW: Tensor, generator: torch.Generator) -> Tensor:
    """A matrix with the singular values of dW, and so its norm, in directions drawn at random."""
    strengths = torch.linalg.svdvals(dW)
    left, right = (random_directions(side, len(strengths), generator) for side in dW.shape)
    return (left * strengths) @ right.T


def random_directions(size: int, count: int, generator: torch.Generator) -> Tensor:
    """(size, count): columns of length 1, at right angles."""
    return torch.linalg.qr(torch.randn(size, count, generator=generator))[0]


def rank_for(strengths: Tensor, share: float = 0.9) -> int:
    """How many components hold this share of the squared norm."""
    kept = strengths.double().square().cumsum(0)
    return int(torch.searchsorted(kept, share * kept[-1])) + 1


# --- intruders -----------------------------------------------------------------------------------------------------


def intruders(W: Tensor, dW: Tensor, strongest: int = STRONGEST, old: float = OLD) -> tuple[Tensor, Tensor]:
    """The components of W' = W + dW that are new, and those that are not, among its strongest: two (d_out, d_in)."""
    own = torch.linalg.svd(W, full_matrices=False)[0]
    U, S, Vt = torch.linalg.svd(W + dW, full_matrices=False)
    new = (U[:, :strongest].T @ own).abs().amax(dim=1) < old
    pick = lambda which: (U[:, :strongest][:, which] * S[:strongest][which]) @ Vt[:strongest][which]  # noqa: E731
    return pick(new), pick(~new)


def count(weights: Updates, updates: Updates) -> int:
    """The intruders in all matrices together, of ten candidates each."""
    return sum(new_directions(weights[path], dW) for path, dW in updates.items())


def new_directions(W: Tensor, dW: Tensor, strongest: int = 10, old: float = 0.5) -> int:
    """How many of the strongest left singular vectors of W + dW have no cosine of `old` to any of W."""
    own, U = (torch.linalg.svd(M, full_matrices=False)[0] for M in (W, W + dW))
    return int(((U[:, :strongest].T @ own).abs().amax(dim=1) < old).sum())


TIMES = (0.5, 1, 2)  # the sizes of an update at which intruders are counted
SPREADS = (1, 8, 64, 256)  # over how many components of equal strength a random matrix spreads its norm


def beside_random(way: str, *, seed: int = 0) -> dict:
    """The intruders of random matrices with the norm of each update of a run, by how many components they have."""
    weights, updates = block_weights(load_base("laptop", device="cpu")), trained(way, seed)[0]
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, dict] = {"norm": _norm(updates, weights), "intruders": {}}
    for count_of in SPREADS:
        drawn = {path: spread(dW, count_of, generator) for path, dW in updates.items()}
        found["intruders"][str(count_of)] = {
            str(times): count(weights, {path: times * matrix for path, matrix in drawn.items()}) for times in TIMES
        }
    return found


def spread(like: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """A matrix of the norm of another one, in random directions, with so many components of equal strength."""
    left, right = (random_directions(side, min(components, *like.shape), generator) for side in like.shape)
    return like.norm() * left @ right.T / left.shape[1] ** 0.5


CUTS = (0.1, 0.25, 0.5)  # shares of an intruder that are taken away
PARTS = (0.5, 1.0)  # shares of what dW wrote into the directions of the intruders
DIAL = (0.9, 0.75, 0.5)  # what is left of the whole of dW


def cut_losses(base: GPT, weights: Updates, updates: Updates) -> dict[str, list[float]]:
    """[plays, addresses, norm taken away as a share of that of dW] after each cut, by its name and size.

    "intruders": they are scaled down, as in the paper. "rest of dW": by the same norm, what of dW lies outside their
    directions. "old directions": by the same norm, the other strong components of W'. "dW in intruders": what dW wrote
    into their directions, and nothing of W. "dial": the whole of dW.
    """
    parts = {path: intruders(weights[path], dW) for path, dW in updates.items()}
    inside = {path: _inside(parts[path][0], dW) for path, dW in updates.items()}
    cuts: dict[str, Updates] = {}
    for share in CUTS:
        new = {path: share * part[0] for path, part in parts.items()}
        rest = {path: to_norm(dW - inside[path], new[path]) for path, dW in updates.items()}
        cuts |= {f"intruders, {share:g}": new, f"rest of dW, {share:g}": rest}
    cuts["old directions, 0.25"] = {path: to_norm(part[1], 0.25 * part[0]) for path, part in parts.items()}
    cuts |= {f"dW in intruders, {share:g}": {path: share * dW for path, dW in inside.items()} for share in PARTS}
    cuts |= {f"dial, {kept:g}": {path: (1 - kept) * dW for path, dW in updates.items()} for kept in DIAL}
    return {name: _after(base, updates, cut) for name, cut in cuts.items()}


def to_norm(matrix: Tensor, like: Tensor) -> Tensor:
    """The matrix, scaled down to the norm of another one; never scaled up."""
    return matrix * min(1.0, like.norm().item() / max(matrix.norm().item(), 1e-12))


def _inside(new: Tensor, dW: Tensor) -> Tensor:
    """What of dW lies in the output directions of the intruders."""
    directions = torch.linalg.svd(new, full_matrices=False)[0][:, : _rank(new)]
    return directions @ (directions.T @ dW)


def _rank(matrix: Tensor) -> int:
    return int(torch.linalg.matrix_rank(matrix, tol=1e-4))


def _after(base: GPT, updates: Updates, cut: Updates) -> list[float]:
    left = {path: dW - cut[path] for path, dW in updates.items()}
    return [*losses(base, left), round(_norm(cut, updates), 4)]


def _norm(changes: Updates, of: Updates) -> float:
    """The norm of all matrices together, as a share of that of others."""
    one, other = (sum(float(m.square().sum()) for m in side.values()) for side in (changes, of))
    return round((one / other) ** 0.5, 5)


# --- two runs ------------------------------------------------------------------------------------------------------

FIRST, SECOND = (1, 2, 4, 8), (1, 2, 4, 8, 16, 32, 64)


def similarity(one: Tensor, other: Tensor) -> float:
    """How much two subspaces share, 0 to 1: columns (d, i) and (d, j) of length 1, each set at right angles."""
    return ((one.T @ other).square().sum() / min(one.shape[1], other.shape[1])).item()


def alike(store: str = "", *, seed: int = 0, folder: Path | None = None) -> dict:
    """The similarity of the updates of different runs, the mean over the 16 attention matrices, all 256 x 256.

    Pair -> side -> rows for 1, 2, 4, 8 directions of the first, columns for 1 to 64 of the second. Sides: "A": of the
    factor; "A, untrained": as it was drawn; "output" and "input": the singular vectors of dW.
    store: the path of a layer whose factors go to `lora-spectra.safetensors` in `folder`, in 16 bits.
    """
    here, there = seed, (seed + 1) % len(SEEDS)
    r8, r64, r64_there, blocks = (
        trained(way, s) for way, s in (("lora r8", here), ("lora r64", here), ("lora r64", there), ("blocks", there))
    )
    if store and folder:
        _store(store, {"r8": r8, "r64": r64, "r64 again": r64_there, "blocks": blocks}, folder)
    starts = untrained_factors("lora r8", here), untrained_factors("lora r64", there)
    W = block_weights(load_base("laptop", device="cpu"))
    pairs = {
        "r8, r64": (r8, r64_there),
        "r8, r64, same seed": (r8, r64),
        "r64, r64": (r64, r64_there),
        "r8, blocks": (r8, blocks),
        "r8, W": (r8, (W, {})),
        "r64, W": (r64, (W, {})),
    }
    found: dict[str, dict] = {}
    for name, (one, other) in pairs.items():
        found[name] = {side: _mean_grid(one[0], other[0], k) for k, side in ((0, "output"), (2, "input"))}
        if one[1] and other[1]:
            found[name]["A"] = _mean_grid(factors_A(one[1]), factors_A(other[1]), 2)
    found["r8, r64"]["A, untrained"] = _mean_grid(*starts, 2)
    return found


def alike_without_start(*, seed: int = 0) -> dict:
    """As `alike`, with no random start on either side: of A minus its start, and of the block matrices in full."""
    here, there = seed, (seed + 1) % len(SEEDS)
    moved = []
    for way, of in (("lora r8", here), ("lora r64", there)):
        starts, ends = untrained_factors(way, of), factors_A(trained(way, of)[1])
        moved.append({path: ends[path] - starts[path] for path in starts})
    one, other = (trained("blocks", of)[0] for of in (here, there))
    in_full = {side: _mean_grid(one, other, k) for k, side in ((0, "output"), (2, "input"))}
    return {"r8, r64": {"A minus its start": _mean_grid(*moved, 2)}, "blocks, blocks": in_full}


def _store(path: str, runs: dict[str, tuple[Updates, Updates]], folder: Path) -> None:
    kept = {}
    for name, (updates, factors) in runs.items():
        tensors = {key: factors[f"{path}.lora_{key}"] for key in "AB"} if factors else {"dW": updates[path]}
        kept |= {f"{name}, {key}": tensor.half().contiguous() for key, tensor in tensors.items()}
    tensor_files.write_sealed(folder / "lora-spectra.safetensors", kept)


def _mean_grid(one: Updates, other: Updates, side: int) -> list[list[float]]:
    """side: 0 for the left singular vectors of each matrix, 2 for the right ones."""
    grids = []
    for path in one:
        if "attention" not in path:
            continue
        u, v = (_directions(m[path], side) for m in (one, other))
        grids.append(torch.tensor([[similarity(u[:, :i], v[:, :j]) for j in SECOND] for i in FIRST]))
    return [[round(value, 4) for value in row] for row in torch.stack(grids).mean(dim=0).tolist()]


def _directions(matrix: Tensor, side: int) -> Tensor:
    U, _, Vt = torch.linalg.svd(matrix, full_matrices=False)
    return U if side == 0 else Vt.T


def spectra_arm(
    way: str = "", control: bool = False, repeat: int = 0, *, cuts=False, store="", seed: int = 0, folder=None
) -> dict:
    """An arm of the experiment: one run taken apart, or, without a way, two seeds compared; or its control."""
    seed += repeat
    if control:
        return beside_random(way, seed=seed) if way else alike_without_start(seed=seed)
    return anatomy(way, cuts, seed=seed) if way else alike(store, seed=seed, folder=folder)


SPECTRA_ARMS = {
    **{f"{way}, seed {seed}": {"way": way, "repeat": seed, "cuts": way == "lora r8"} for way in WAYS for seed in SEEDS},
    **{f"alike, seed {seed}": {"repeat": seed} | ({"store": STORED_LAYER} if seed == 0 else {}) for seed in SEEDS},
    **{
        f"random beside {way}, seed {seed}": {"way": way, "repeat": seed, "control": True}
        for way in WAYS
        for seed in SEEDS
    },
    **{f"alike, no start, seed {seed}": {"repeat": seed, "control": True} for seed in SEEDS},
}
