"""Is the update that fine-tuning makes of low rank? It depends on what is held equal. (notebook 01)

The 24 weight matrices in the blocks of the shipped base are trained in full on plays; nothing else is. Then each
update dW is replaced by something smaller, and the loss is measured again. The replacements are compared at equal norm
(`shrunk`, `remainder`), at equal numbers (`largest_entries`, `random_subspace`) and at equal bytes (`signs_times_mean`,
`rounded_part`). Other arms train adapters of low rank from the start.

All functions from `shrunk` on take one update dW (d_out, d_in), or its components U (d_out, n), S (n,), Vt (n, d_in),
and return a matrix of the shape of dW.
"""

import copy
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from lora_course.running.finetune import fine_tune, loss_on, prepared
from lora_course.running.sweeps import SEEDS, arms_of, seeded
from lora_edu import GPT, files, load_base, load_text, quantize, tensor_files
from lora_edu.calibration import one_temperature
from lora_edu.lora import lora_layers
from lora_edu.measures import low_rank
from lora_edu.observing import block_linears
from lora_edu.rounding import total_bits

STORED_LAYER = "blocks.2.attention.v_proj"  # the one layer whose update is stored whole
RANKS = (1, 2, 4, 8, 16, 32, 64, 128)
STEPS = 150
FACTOR_BITS = total_bits(64, constant_bits=8, second_size=256)  # of each number in a factor that is rounded to NF4
EXTRA_BITS = FACTOR_BITS - 4  # of a number's share in the constants
BITS = (8, 4, 3, 2)
RATES = {"blocks": 2e-3, "lora": 1e-2}  # the best of notebook 09's sweeps

Pieces = tuple[NDArray, NDArray, NDArray]  # U (d_out, n), S (n,), Vt (n, d_in): the components of an update


def update_rank(
    steps: int, *, ranks=RANKS, windows: int = 64, store: str = "", seed: int = 0, folder: Path | None, progress: bool
) -> dict:
    """Train the weights in the blocks in full, take each update apart, and measure what parts of it are worth.

    windows: of held-out plays, to measure the loss on. seed: of batches and random subspaces.
    store: the path of a layer whose whole update goes to `update-rank.safetensors` in `folder`.
    Returns the losses ("base", "whole", one list over `ranks` for each of AT_RANK, one number for each of AT_BYTES),
    the shares of the squared norm that were kept, the bytes, and for each layer the ranks that hold 90%.
    """
    base, updates, pieces = trained_in_full(steps, seed, progress)

    def loss(changes: dict[str, NDArray]) -> float:
        return loss_on(with_changes(base, changes), "shakespeare", windows)

    losses = {"base": loss({}), "whole": loss(updates)}
    result: dict = {"ranks": list(ranks), "loss": losses, "norm": {}, "bytes": {}}
    for kind, make in AT_RANK.items():
        changes = [_changed(make, updates, pieces, rank, seed) for rank in ranks]
        result["loss"][kind] = [loss(change) for change in changes]
        result["norm"][kind] = [_norm_share(change, updates) for change in changes]
    for kind, make in AT_BYTES.items():
        change = {path: make(dW, *pieces[path]) for path, dW in updates.items()}
        result["loss"][kind], result["norm"][kind] = loss(change), _norm_share(change, updates)
    rounded = [[f for three in pieces.values() for f in rounded_factors(*three, rank)] for rank in ranks]
    result["bytes"] = {
        "components": [sum(2 * numbers(dW, rank) for dW in updates.values()) for rank in ranks],
        "in 4 bits": [sum(factor.nbytes for factor in factors) for factors in rounded],
        "signs": sum(signs_bytes(dW) for dW in updates.values()),
    }
    result["rank for 90%"] = {path: [_rank90(_weight(base, path)), _rank90(dW)] for path, dW in updates.items()}
    if store and folder:
        tensor_files.write_sealed(folder / "update-rank.safetensors", {store: torch.from_numpy(updates[store])})
    return result


def trained_in_full(steps: int, seed: int, progress: bool) -> tuple[GPT, dict[str, NDArray], dict[str, Pieces]]:
    """The base, and what training the weights in the blocks adds to each: whole, and as components."""
    base, tuned = load_base("laptop", device="cpu"), prepared(load_base("laptop", device="cpu"), "blocks")
    fine_tune(tuned, steps, RATES["blocks"], seed, batch_size=8, progress=progress)
    updates = weight_updates(base, tuned)
    return base, updates, {path: np.linalg.svd(dW, full_matrices=False) for path, dW in updates.items()}


def calibrated(ranks: tuple[int, ...] = (1, 8), *, seed: int = 0, progress: bool = True) -> dict:
    """The cuts of equal norm once more, each model at the temperature that suits it best, the base too.

    Returns for "base", "whole" and each kind a list (over `ranks`) of [temperature, loss without it, loss with it], all
    on the second half of the held-out plays, 64 windows of each half.
    """
    base, updates, pieces = trained_in_full(STEPS, seed, progress)
    plays = load_text("shakespeare").validation

    def measured(changes: dict[str, NDArray]) -> list[float]:
        return [round(value, 5) for value in one_temperature(with_changes(base, changes), plays, max_windows=64)]

    result = {"ranks": list(ranks), "base": [measured({})], "whole": [measured(updates)]}
    for kind in ("components", "shrunk", "remainder"):
        result[kind] = [measured(_changed(AT_RANK[kind], updates, pieces, rank, seed)) for rank in ranks]
    return result


def calibrated_shares(arm: dict, kind: str) -> list[list[float]]:
    """For each rank the share of the improvement that a kind keeps: without temperatures, and with them."""
    (base,), (whole,) = arm["base"], arm["whole"]
    return [[(base[i] - cut[i]) / (base[i] - whole[i]) for i in (1, 2)] for cut in arm[kind]]


def coarse_factors(rank: int = 8, *, seed: int = 0, progress: bool = True) -> dict:
    """How coarse should the numbers of A and B be, at the bytes of the signs? And may trained factors be rounded?

    Returns the losses: "base", "whole", one for each number of bits (fewer bits a number are more components), and
    of adapters trained at this rank: "trained" in 32 bits, "trained, 4 bits" rounded to NF4 afterwards.
    """
    base, updates, pieces = trained_in_full(STEPS, seed, progress)
    result = {"base": loss_on(base, "shakespeare"), "whole": loss_on(with_changes(base, updates), "shakespeare")}
    for bits in BITS:
        ranks = {path: affordable(dW, (bits + EXTRA_BITS) * sum(dW.shape)) for path, dW in updates.items()}
        cut = {path: rounded_part(*pieces[path], min(ranks[path], len(pieces[path][1])), f"nf{bits}") for path in ranks}
        result[str(bits)] = loss_on(with_changes(base, cut), "shakespeare")
    model = adapters_trained(rank, RATES["lora"], seed, progress)
    result["trained"] = loss_on(model, "shakespeare")
    for layer in lora_layers(model).values():
        for factor in (layer.lora_A, layer.lora_B):
            factor.data = quantize(factor.data, "nf4", 64, double_quant=True).dequantize()
    result["trained, 4 bits"] = loss_on(model, "shakespeare")
    return result


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
    """The share of a full update's gain that A and B, then entries by lot, win: with rank 8's numbers, one a seed;
    then with rank 1's, seed 0 at its best rate."""

    def share(loss: float, seed: int = 0) -> float:
        full = update[f"150 steps, seed {seed}"]["loss"]
        return (full["base"] - loss) / (full["base"] - full["whole"])

    own = [share(update[f"rank 8 trained, seed {seed}"]["loss"], seed) for seed in SEEDS]
    lot = [share(entries[f"entries, lr 0.03, seed {seed}"]["loss"], seed) for seed in SEEDS]
    few = [share(min(arm["loss"] for name, arm in arms.items() if "rank 1" in name)) for arms in (update, entries)]
    return [*map(np.array, (own, lot, *few))]


def adapters_trained(rank: int, lr: float, seed: int, progress: bool) -> GPT:
    """The base with adapters of this rank, trained from the start with the batches of `update_rank`."""
    model = prepared(load_base("laptop", device="cpu"), "lora", rank, seed)
    fine_tune(model, STEPS, lr, seed, batch_size=8, progress=progress)
    return model


def update_arm(rank: int = 0, lr: float = RATES["lora"], *, seed=0, folder=None, progress=True, **options) -> dict:
    """An arm of the experiment: a full update taken apart, or, with a rank, the loss of adapters of that rank."""
    if rank:
        return {"rank": rank, "loss": loss_on(adapters_trained(rank, lr, seed, progress), "shakespeare")}
    return update_rank(seed=seed, folder=folder, progress=progress, **options)


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


def signs_times_mean(dW):
    """One bit for each entry, and one number for all: the mean magnitude (BitDelta, arXiv 2402.10193)."""
    return np.abs(dW).mean() * np.sign(dW)


def rounded_part(U, S, Vt, rank, codebook="nf4"):
    """The part of this rank, with both factors rounded. A block lies within one component."""
    columns, rows = rounded_factors(U, S, Vt, rank, codebook)
    return columns.dequantize().numpy().T @ rows.dequantize().numpy()


def rounded_factors(U, S, Vt, rank, codebook="nf4"):
    """The columns (rank, d_out) and the rows (rank, d_in), each with the root of its strength, rounded."""
    root = np.sqrt(S[:rank, None])
    factors = (root * U[:, :rank].T, root * Vt[:rank])
    return [quantize(torch.from_numpy(np.ascontiguousarray(f)), codebook, 64, double_quant=True) for f in factors]


def to_norm(matrix, norm):
    """A matrix scaled to a norm."""
    return matrix * (norm / max(np.linalg.norm(matrix), 1e-30))


# Each takes dW, its components, a rank and a random generator. "components" is what low rank means.
AT_RANK: dict[str, Callable] = {
    "components": lambda dW, U, S, Vt, rank, rng: low_rank(U, S, Vt, rank),
    "shrunk": lambda dW, U, S, Vt, rank, rng: shrunk(dW, S, rank),
    "remainder": lambda dW, U, S, Vt, rank, rng: remainder(U, S, Vt, rank),
    "entries": lambda dW, U, S, Vt, rank, rng: largest_entries(dW, numbers(dW, rank)),
    "subspace": lambda dW, U, S, Vt, rank, rng: random_subspace(dW, rank, rng),
    "in 4 bits": lambda dW, U, S, Vt, rank, rng: rounded_part(U, S, Vt, rank),
    "entries, same norm": lambda dW, U, S, Vt, rank, rng: to_norm(
        largest_entries(dW, numbers(dW, rank)), np.linalg.norm(S[:rank])
    ),
    "subspace, same norm": lambda dW, U, S, Vt, rank, rng: to_norm(
        random_subspace(dW, rank, rng), np.linalg.norm(S[:rank])
    ),
}

# Each takes dW and its components, and needs as many bytes as the signs: within 0.2%, or fewer; "components" get more.
AT_BYTES: dict[str, Callable] = {
    "signs": lambda dW, U, S, Vt: signs_times_mean(dW),
    "components, same bytes": lambda dW, U, S, Vt: low_rank(U, S, Vt, rank_for_bytes(dW)),
    "in 4 bits, same bytes": lambda dW, U, S, Vt: rounded_part(U, S, Vt, affordable(dW, FACTOR_BITS * sum(dW.shape))),
    "entries, same bytes": lambda dW, U, S, Vt: largest_entries(dW, affordable(dW, 16 + math.log2(dW.size))),
}


def numbers(dW, rank):
    """How many numbers the two factors of this rank hold; never more than dW itself."""
    return min(rank * sum(dW.shape), dW.size)


def signs_bytes(dW):
    """The bytes of one bit for each entry and a 16-bit mean."""
    return math.ceil(dW.size / 8) + 2


def rank_for_bytes(dW):
    """The least rank whose factors, in 16 bits, take at least the bytes of the signs."""
    return math.ceil(signs_bytes(dW) / (2 * sum(dW.shape)) - 0.01)  # 2 bytes more or less decide nothing


def affordable(dW, bits):
    """How many components, or entries with their places, of so many bits each the bytes of the signs pay for."""
    return int(8 * signs_bytes(dW) / bits)


# --- around it -------------------------------------------------------------------------------------------------------


def weight_updates(base: GPT, tuned: GPT) -> dict[str, NDArray]:
    """What training added to the weight of each linear layer in the blocks: path -> (d_out, d_in) float32."""
    paths = [f"blocks.{path}" for path in block_linears(base)]
    return {path: _weight(tuned, path) - _weight(base, path) for path in paths}


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
    **{f"rank 1 trained, lr {lr:g}": {"rank": 1, "lr": lr} for lr in (0.01, 0.02, 0.03)},
}
CALIBRATED_ARMS = COARSE_ARMS = seeded("150 steps")
ENTRY_ARMS = arms_of("entries", (0.03,), SEEDS) | arms_of("entries", (0.015, 0.06), (0,))
ENTRY_ARMS |= arms_of("as many as rank 1", (0.03, 0.06, 0.1, 0.17, 0.3), (0,), rank=1)
