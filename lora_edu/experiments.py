"""The long experiments, whose stored results the notebooks plot.

    python -m lora_edu.experiments update-rank

An experiment is a function and a few arms, each a set of arguments for it. The result of an arm goes into
`data/results/<name>.json` as soon as it is there, beside the command, the seed, the versions and the kind of machine: a
run that was stopped goes on with the next arm. A notebook plots the stored numbers and runs one arm again (`run_arm`),
so that its reader sees that they are true.
"""

import argparse
import copy
import hashlib
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from tqdm.auto import tqdm

from lora_edu import storage
from lora_edu.analysis import block_linears
from lora_edu.double_quant_experiments import DOUBLE_QUANT_ARMS, double_quant_loss
from lora_edu.format_experiments import FORMAT_ARMS, format_loss
from lora_edu.gpt import GPT
from lora_edu.pretrain import base_path, load_base
from lora_edu.quality_experiments import QUALITY_ARMS, fine_tuned_loss
from lora_edu.texts import load_text
from lora_edu.training import evaluate, train

STORED_LAYER = "blocks.2.attention.v_proj"  # the one layer whose update is stored whole


@dataclass(frozen=True)
class Experiment:
    """A function, and the arguments of each of its arms. It returns what JSON can hold."""

    function: Callable[..., dict]
    arms: dict[str, dict]
    seed: int = 0


def run(name: str, folder: Path | None = None) -> dict:
    """Run the arms of an experiment that have no stored result yet. Returns the result, which is also stored."""
    experiment, folder = _experiment(name), folder or results_folder()
    path = folder / f"{name}.json"
    head = _head(name, experiment)
    result = json.loads(path.read_text(encoding="utf-8")) if path.exists() else head
    _check_same_run(result, head, path)
    result["settings"] = head["settings"]
    missing = [arm for arm in experiment.arms if arm not in result["arms"]]
    for arm in tqdm(missing, desc=name, unit="arm"):
        result["arms"][arm] = run_arm(name, arm, folder=folder)
        with storage.staging(path) as target:
            target.write_text(json.dumps(result) + "\n", encoding="utf-8")
    return result


def run_arm(name: str, arm: str, *, folder: Path | None = None, progress: bool = True) -> dict:
    """Run one arm and return its result. Nothing is stored without a folder."""
    experiment = _experiment(name)
    if arm not in experiment.arms:
        raise ValueError(f"unknown arm {arm!r} of {name!r}: choose one of {', '.join(experiment.arms)}")
    return experiment.function(**experiment.arms[arm], seed=experiment.seed, folder=folder, progress=progress)


def load_results(name: str) -> dict:
    """The stored result of an experiment: command, seed, versions, machine, and the arms."""
    _experiment(name)
    path = results_folder() / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"no stored result at {path}: run python -m lora_edu.experiments {name}")
    return json.loads(path.read_text(encoding="utf-8"))


def results_folder() -> Path:
    return storage.data_file("results")


# --- update-rank: of what rank is the update that full fine-tuning makes? --------------------------------------------


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
        with storage.staging(folder / "update-rank.safetensors") as target:
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
    path = results_folder() / "update-rank.safetensors"
    return _weight(load_base("laptop"), STORED_LAYER), load_file(path)[STORED_LAYER]


def _weight(model: GPT, path: str) -> np.ndarray:
    return model.get_submodule(path).weight.detach().cpu().numpy()


def _singular_values(matrix: np.ndarray) -> list[float]:
    """Largest first, to five digits."""
    return [float(f"{value:.5g}") for value in np.linalg.svd(matrix.astype(np.float64), compute_uv=False)]


EXPERIMENTS = {
    "formats": Experiment(format_loss, FORMAT_ARMS),  # notebook 06
    "update-rank": Experiment(
        update_rank,
        {
            "10 steps": {"steps": 10, "ranks": (0, 1, 8, 256), "windows": 16},  # notebook 01 runs this one again
            "150 steps": {"steps": 150, "ranks": (0, 1, 2, 4, 8, 16, 32, 64, 128, 256), "store": STORED_LAYER},
        },
    ),
    "double-quantization": Experiment(double_quant_loss, DOUBLE_QUANT_ARMS),  # notebook 07
    "qlora-quality": Experiment(fine_tuned_loss, QUALITY_ARMS),  # notebook 09
}


# --- around a run ----------------------------------------------------------------------------------------------------


def _experiment(name: str) -> Experiment:
    if name not in EXPERIMENTS:
        raise ValueError(f"unknown experiment {name!r}: choose one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[name]


def _head(name: str, experiment: Experiment) -> dict:
    """What a reader needs in order to repeat the run."""
    versions = {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__}
    return {
        "command": f"python -m lora_edu.experiments {name}",
        "seed": experiment.seed,
        "machine": f"{platform.machine()} CPU, threads: {torch.get_num_threads()}",
        "versions": versions,
        "base_sha256": hashlib.sha256(base_path("laptop").read_bytes()).hexdigest(),
        "settings": json.loads(json.dumps(experiment.arms)),
        "arms": {},
    }


def _check_same_run(stored: dict, wanted: dict, path: Path) -> None:
    """Arms of two different experiments must not end up in one file. New arms may join those that are there."""
    for key in ("seed", "base_sha256"):
        if stored[key] != wanted[key]:
            raise ValueError(f"{path} was made with another {key}: delete it to run the experiment anew")
    for arm in stored["arms"]:
        if stored["settings"][arm] != wanted["settings"].get(arm):
            raise ValueError(f"{path} was made with another settings: delete it to run the experiment anew")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m lora_edu.experiments", description="Run a long experiment.")
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("--folder", type=Path, help="where to write; default: where the notebooks look, data/results")
    arguments = parser.parse_args()
    run(arguments.name, arguments.folder)


if __name__ == "__main__":
    main()
