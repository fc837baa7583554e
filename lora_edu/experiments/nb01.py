"""Of what rank is the update that full fine-tuning makes? (notebook 01)"""

import copy
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from lora_edu import files
from lora_edu.gpt import GPT
from lora_edu.measures import block_linears
from lora_edu.models.pretrain import load_base
from lora_edu.texts import load_text
from lora_edu.training import evaluate, train

STORED_LAYER = "blocks.2.attention.v_proj"  # the one layer whose update is stored whole


def update_rank(
    steps: int,
    *,
    lr: float = 1e-3,
    batch_size: int = 8,
    ranks: tuple[int, ...] = (),
    windows: int = 64,
    store: str = "",
    seed: int = 0,
    folder: Path | None = None,
    progress: bool = True,
) -> dict:
    """Fine-tune every parameter of the shipped base on `shakespeare`, and take the update of each weight apart.

    Returns the losses (on so many `windows` of held-out plays); for each linear layer of the blocks the singular values
    of its weight W and of its update dW; and the loss of the base with all updates cut down to each of the `ranks`.
    store: the path of a layer whose whole update goes to `update-rank.safetensors` in `folder`.
    """
    base, text = load_base("laptop"), load_text("shakespeare")
    tuned = load_base("laptop")
    recipe = {"lr": lr, "batch_size": batch_size, "seed": seed, "eval_windows": windows, "progress": progress}
    history = train(tuned, text, steps, **recipe)
    updates = weight_updates(base, tuned)
    result = {"validation_loss": history.validation_loss, "ranks": list(ranks)}
    for kept in ("largest", "random"):
        losses = loss_at_ranks(base, updates, text.validation, ranks, kept, seed=seed, windows=windows)
        result[f"loss_with_{kept}"] = losses
    result["singular_values"] = {
        path: {"W": _singular_values(_weight(base, path)), "dW": _singular_values(dW)} for path, dW in updates.items()
    }
    if store and folder:
        with files.staging(folder / "update-rank.safetensors") as target:
            save_file({store: updates[store]}, target)
    return result


def weight_updates(base: GPT, tuned: GPT) -> dict[str, np.ndarray]:
    """What training added to the weight of each linear layer in the blocks: path -> (d_out, d_in) float32."""
    paths = [f"blocks.{path}" for path in block_linears(base)]
    return {path: _weight(tuned, path) - _weight(base, path) for path in paths}


def loss_at_ranks(
    base: GPT,
    updates: dict[str, np.ndarray],
    tokens: torch.Tensor,
    ranks: tuple[int, ...],
    kept: str,
    *,
    seed: int = 0,
    windows: int = 64,
) -> list[float]:
    """The loss of `base` with its updates cut down to each rank. Everything that is not in `updates` stays the base's.

    kept: "largest" keeps the layers of the SVD with the largest singular values. "random" draws as many by lot and
    scales their sum to the same norm: an update of the same rank and the same size, in other directions.
    """
    pieces = {path: np.linalg.svd(dW, full_matrices=False) for path, dW in updates.items()}
    rng = np.random.default_rng(seed)
    lots = {path: rng.permutation(len(S)) for path, (_, S, _) in pieces.items()}
    model, losses = copy.deepcopy(base), []
    for rank in ranks:
        for path, (U, S, Vt) in pieces.items():
            chosen = np.arange(rank) if kept == "largest" else lots[path][:rank]
            size = np.linalg.norm(S[:rank]) / max(np.linalg.norm(S[chosen]), 1e-30)  # 1 for the largest
            cut = (U[:, chosen] * (size * S[chosen])) @ Vt[chosen]  # (d_out, d_in), of this rank
            model.get_submodule(path).weight.data.copy_(torch.from_numpy(_weight(base, path) + np.float32(cut)))
        losses.append(round(evaluate(model, tokens, max_windows=windows), 5))
    return losses


def weight_and_update() -> tuple[np.ndarray, np.ndarray]:
    """W and dW of the layer `STORED_LAYER`, each (256, 256) float32: the shipped base and the stored update."""
    path = files.data_file("results") / "update-rank.safetensors"
    return _weight(load_base("laptop"), STORED_LAYER), load_file(path)[STORED_LAYER]


def _weight(model: GPT, path: str) -> np.ndarray:
    return model.get_submodule(path).weight.detach().cpu().numpy()


def _singular_values(matrix: np.ndarray) -> list[float]:
    """Largest first, to five digits."""
    return [float(f"{value:.5g}") for value in np.linalg.svd(matrix.astype(np.float64), compute_uv=False)]
