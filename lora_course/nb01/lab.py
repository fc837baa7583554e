"""Is the update that fine-tuning makes of low rank? It depends on what is held equal. (notebook 01)

The 24 weight matrices in the blocks of the shipped base are trained in full on plays; nothing else is. Then each
update dW is replaced by something smaller, and the loss is measured again. The replacements are compared at equal norm
(`shrunk`, `remainder`) and at equal numbers (`largest_entries`, `random_subspace`). Other arms train adapters of low
rank from the start.

All functions from `shrunk` on take one update dW (d_out, d_in), or its components U (d_out, n), S (n,), Vt (n, d_in),
and return a matrix of the shape of dW.
"""

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import SEEDS, arms_of, seeded
from lora_edu import GPT, files, load_base, load_text, tensor_files
from lora_edu.calibration import one_temperature
from lora_edu.measures import low_rank
from lora_edu.observing import block_linears

STORED_LAYER = "blocks.2.attention.v_proj"  # the one layer whose update is stored whole
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = 150
CALIBRATED = ("components", "shrunk", "remainder")  # what is compared at equal norm
RATES = {"blocks": 2e-3, "lora": 1e-2}  # the best of notebook 09's sweeps

Pieces = tuple[NDArray, NDArray, NDArray]  # U (d_out, n), S (n,), Vt (n, d_in): the components of an update


def update_rank(
    steps: int, *, ranks=RANKS, windows: int = 64, store: str = "", seed: int = 0, folder: Path | None, progress: bool
) -> dict:
    """Train the weights in the blocks in full, take each update apart, and measure what parts of it are worth.

    windows: of held-out plays, to measure the loss on. seed: of batches and random subspaces.
    store: the path of a layer whose whole update goes to `update-rank.safetensors` in `folder`.
    Returns the losses ("base", "whole", one list over `ranks` for each of AT_RANK), the shares of the squared norm that
    were kept, and for each layer the ranks that hold 90%.
    """
    base, updates, pieces = trained_in_full(steps, seed, progress)

    def loss(changes: dict[str, NDArray]) -> float:
        return loss_on(with_changes(base, changes), "shakespeare", windows)

    losses = {"base": loss({}), "whole": loss(updates)}
    result: dict = {"ranks": list(ranks), "loss": losses, "norm": {}}
    for kind, make in AT_RANK.items():
        changes = [_changed(make, updates, pieces, rank, seed) for rank in ranks]
        result["loss"][kind] = [loss(change) for change in changes]
        result["norm"][kind] = [_norm_share(change, updates) for change in changes]
    result["rank for 90%"] = {path: [_rank90(_weight(base, path)), _rank90(dW)] for path, dW in updates.items()}
    if store and folder:
        tensor_files.write_sealed(folder / "update-rank.safetensors", {store: torch.from_numpy(updates[store])})
    return result


def trained_in_full(steps: int, seed: int, progress: bool) -> tuple[GPT, dict[str, NDArray], dict[str, Pieces]]:
    """The base, and what training the weights in the blocks adds to each: whole, and as components."""
    base, tuned = load_base("laptop", device="cpu"), prepared(load_base("laptop", device="cpu"), "blocks")
    fine_tune(tuned, steps, RATES["blocks"], seed, batch_size=8, progress=progress)
    paths = [f"blocks.{path}" for path in block_linears(base)]
    updates = {path: _weight(tuned, path) - _weight(base, path) for path in paths}  # (d_out, d_in) float32 each
    return base, updates, {path: np.linalg.svd(dW, full_matrices=False) for path, dW in updates.items()}


def calibrated(ranks: tuple[int, ...] = (1, 8), *, seed: int = 0, progress: bool = True) -> dict:
    """The cuts of equal norm once more, each model at the temperature that suits it best, the base too.

    Returns for "base", "whole" and each of CALIBRATED a list (over `ranks`) of [temperature, loss without it, loss with
    it], all on the second half of the held-out plays, 64 windows of each half.
    """
    base, updates, pieces = trained_in_full(STEPS, seed, progress)
    plays = load_text("shakespeare").validation

    def measured(changes: dict[str, NDArray]) -> list[float]:
        found = one_temperature(with_changes(base, changes), plays, max_windows=64)
        return [round(value, 5) for value in found]

    result = {"ranks": list(ranks), "base": [measured({})], "whole": [measured(updates)]}
    for kind in CALIBRATED:
        result[kind] = [measured(_changed(AT_RANK[kind], updates, pieces, rank, seed)) for rank in ranks]
    return result


def calibrated_shares(arm: dict, kind: str) -> NDArray:
    """(ranks, 2): the share of the improvement that a kind keeps, without temperatures and with them."""
    (_, *base), (_, *whole) = arm["base"][0], arm["whole"][0]  # losses without and with its temperature
    kept = np.array(arm[kind])[:, 1:]
    return (np.array(base) - kept) / (np.array(base) - whole)


def trained_entries(lr: float, rank: int = 8, *, seed: int = 0, progress: bool = True) -> dict:
    """The rival of A and B that is trained, too: as many single entries of each weight, at places drawn by lot."""
    model, generator = prepared(load_base("laptop", device="cpu"), "blocks"), torch.Generator().manual_seed(seed)
    for layer in block_linears(model).values():
        count = numbers(layer.weight.detach().numpy(), rank)
        places = torch.randperm(layer.weight.numel(), generator=generator)[:count]
        chosen = torch.zeros(layer.weight.numel()).index_fill_(0, places, 1).view_as(layer.weight)
        layer.weight.register_hook(lambda gradient, chosen=chosen: gradient * chosen)  # the others get none, and stay
    fine_tune(model, STEPS, lr, seed, batch_size=8, progress=progress)
    return {"loss": loss_on(model, "shakespeare")}


def trained_shares(update: dict, entries: dict) -> list[NDArray]:
    """The share of a full update's gain that A and B, then entries by lot, win with rank 8's numbers, one a seed."""

    def shares(arms: dict, name: str) -> NDArray:
        full = [update[f"150 steps, seed {seed}"]["loss"] for seed in SEEDS]
        won = [loss["base"] - arms[f"{name}, seed {seed}"]["loss"] for loss, seed in zip(full, SEEDS, strict=True)]
        return np.array(won) / [loss["base"] - loss["whole"] for loss in full]

    return [shares(update, "rank 8 trained"), shares(entries, "entries, lr 0.03")]


def update_arm(rank: int = 0, lr: float = RATES["lora"], *, seed=0, folder=None, progress=True, **options) -> dict:
    """An arm of the experiment: a full update taken apart, or, with a rank, the loss of adapters of that rank.

    The adapters are trained from the start, with the batches of `update_rank`.
    """
    if not rank:
        return update_rank(seed=seed, folder=folder, progress=progress, **options)
    model = prepared(load_base("laptop", device="cpu"), "lora", rank, seed)
    fine_tune(model, STEPS, lr, seed, batch_size=8, progress=progress)
    return {"rank": rank, "loss": loss_on(model, "shakespeare")}


# --- what replaces an update -----------------------------------------------------------------------------------------


def shrunk(dW, S, rank):
    """The whole update, as small as its part of this rank: its directions, all of them, at that norm."""
    return dW * (np.linalg.norm(S[:rank]) / np.linalg.norm(S))


def remainder(U, S, Vt, rank):
    """All but the `rank` strongest components, scaled to the norm of these."""
    rest = (U[:, rank:] * S[rank:]) @ Vt[rank:]
    return rest * (np.linalg.norm(S[:rank]) / np.linalg.norm(S[rank:]))


def largest_entries(dW, count):
    """The `count` entries that are largest in magnitude; all others are 0."""
    least = np.sort(np.abs(dW), axis=None)[-count]
    return np.where(np.abs(dW) >= least, dW, 0)


def random_subspace(dW, rank, rng):
    """The best B A for a random B: all that lies in `rank` directions of the output that were drawn at random."""
    Q, _ = np.linalg.qr(rng.normal(size=(len(dW), rank)))  # (d_out, rank), at right angles
    return Q @ (Q.T @ dW)


# Each takes dW, its components, a rank and a random generator. "components" is what low rank means.
AT_RANK: dict[str, Callable] = {
    "components": lambda dW, U, S, Vt, rank, rng: low_rank(U, S, Vt, rank),
    "shrunk": lambda dW, U, S, Vt, rank, rng: shrunk(dW, S, rank),
    "remainder": lambda dW, U, S, Vt, rank, rng: remainder(U, S, Vt, rank),
    "entries": lambda dW, U, S, Vt, rank, rng: largest_entries(dW, numbers(dW, rank)),
    "subspace": lambda dW, U, S, Vt, rank, rng: random_subspace(dW, rank, rng),
}


def numbers(dW, rank):
    """How many numbers the two factors of this rank hold; never more than dW itself."""
    return min(rank * sum(dW.shape), dW.size)


# --- around it -------------------------------------------------------------------------------------------------------


def with_changes(base: GPT, changes: dict[str, NDArray]) -> GPT:
    """A copy of the base with each change added to its weight."""
    model = copy.deepcopy(base)
    for path, change in changes.items():
        model.get_submodule(path).weight.data += torch.from_numpy(np.float32(change))
    return model


def weight_and_update() -> tuple[NDArray, NDArray]:
    """W and dW of the layer `STORED_LAYER`, each (256, 256) float32: the shipped base and the stored update."""
    path = files.data_file("results") / "update-rank.safetensors"
    update = tensor_files.read_sealed(path, "put the right file back")[STORED_LAYER]
    return _weight(load_base("laptop", device="cpu"), STORED_LAYER), update.numpy()


def _weight(model: GPT, path: str) -> NDArray:
    return model.get_submodule(path).weight.detach().cpu().numpy()


def _changed(make, updates, pieces: dict[str, Pieces], rank: int, seed: int) -> dict[str, NDArray]:
    rng = np.random.default_rng(seed)
    return {path: make(dW, *pieces[path], rank, rng) for path, dW in updates.items()}


def _norm_share(changes, updates) -> float:
    """The squared norm of all changes, as a share of that of all updates."""
    kept, whole = (sum(float((m.astype(np.float64) ** 2).sum()) for m in part.values()) for part in (changes, updates))
    return round(kept / whole, 5)


def _rank90(matrix: NDArray) -> int:
    """How many components hold 90% of the squared norm."""
    kept = np.cumsum(np.linalg.svd(matrix.astype(np.float64), compute_uv=False) ** 2)
    return int(np.searchsorted(kept, 0.9 * kept[-1])) + 1


UPDATE_ARMS = {
    "10 steps": {"steps": 10, "ranks": (8,), "windows": 16},  # notebook 01 runs this one again
    "150 steps, seed 0": {"steps": STEPS, "store": STORED_LAYER},
    **seeded("150 steps", (1, 2), steps=STEPS),
    **seeded("rank 8 trained", rank=8),
}
CALIBRATED_ARMS = seeded("150 steps", SEEDS)
ENTRY_ARMS = arms_of("entries", (0.03,), SEEDS) | arms_of("entries", (0.015, 0.06), (0,))
