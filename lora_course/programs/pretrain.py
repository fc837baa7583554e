"""How the base model of the course was trained; `lora_edu.models.base` loads it.

    lora-edu pretrain --size laptop

trains a GPT from random weights on `speeches` and writes two files: the weights in bfloat16 (safetensors) and a log
with the command, the settings, the versions, the loss curve and the sha256 of the weights. The laptop model ships with
the course in `data/`; the GPU model is trained on first use and kept in the cache. A run that is stopped writes nothing
but its checkpoint, from which the same command goes on.
"""

import argparse
import platform
import shutil
from dataclasses import asdict
from pathlib import Path
from statistics import fmean

import torch
from safetensors.torch import save_file
from torch import nn

from lora_course.programs.command import check_output
from lora_edu import files
from lora_edu.checks import TRAINING, check
from lora_edu.gpt import GPT
from lora_edu.models.base import SIZES, base_path, check_size
from lora_edu.records import sha256, staging, write_record
from lora_edu.texts import load_text
from lora_edu.training import History, train


def pretrain(
    size: str = "laptop",
    *,
    steps: int | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    autocast: bool | None = None,
    eval_every: int = 500,
    checkpoint: Path | None = None,
    verbose: bool = False,
) -> GPT:
    """Train the base model of a size on `speeches`; write `base-<size>.safetensors` and its log beside it.

    checkpoint: a folder from which a run that was stopped goes on. Raises KeyboardInterrupt for the stop button, with
    nothing written but the checkpoint.
    """
    recipe = SIZES[check_size(size)]
    steps = recipe.steps if steps is None else steps
    path = folder / base_path(size).name if folder else base_path(size)
    torch.manual_seed(seed)
    model = GPT(recipe.config)
    history = train(
        model,
        load_text("speeches"),
        steps,
        lr=recipe.lr,
        batch_size=recipe.batch_size,
        seq_len=recipe.config.context,
        seed=seed,
        device=device,
        warmup_steps=min(recipe.warmup_steps, steps // 10),
        final_lr_factor=0.02,
        weight_decay=0.1,
        autocast=autocast,
        compile=recipe.compile,
        eval_every=eval_every,
        eval_windows=256,
        on_evaluation=print_loss if verbose else None,
        checkpoint=checkpoint,
        checkpoint_every=eval_every,
    )
    if history.interrupted:
        go_on = f"the same call goes on from {checkpoint}" if checkpoint else "with checkpoint= it could go on"
        raise KeyboardInterrupt(f"{history.stopped}, so no weights were written: {go_on}")
    path.with_suffix(".json").unlink(missing_ok=True)  # at no moment do new weights lie beside an old log
    with staging(path) as target:
        save_file({name: tensor.to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}, target)
    command = f"lora-edu pretrain --size {size} --steps {steps} --seed {seed}"
    command += " --autocast" if autocast else ""
    write_log(path.with_suffix(".json"), command, asdict(recipe) | {"steps": steps}, path, model, history)
    return model


def write_log(path: Path, command: str, recipe: dict, weights: Path, model: nn.Module, history: History) -> None:
    """What a reader needs to judge the weights in a file, and to make them again."""
    hundreds = (history.train_loss[start : start + 100] for start in range(0, len(history.train_loss), 100))
    log = {
        "command": command,
        "recipe": recipe,
        "machine": f"{next(model.parameters()).device.type}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "validation_loss": history.validation_loss,
        "train_loss_mean_of_100_steps": [round(fmean(hundred), 4) for hundred in hundreds],
        "tokens_per_second": round(history.tokens_per_second),
        "sha256": sha256(weights),
    }
    write_record(path, log)


def print_loss(done: int, loss: float) -> None:
    """What `on_evaluation` may be."""
    print(f"step {done}: validation loss {loss:.4f} nats per byte", flush=True)


def main(given: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="lora-edu pretrain", description="Train the course's base model.")
    parser.add_argument("--size", choices=SIZES, default="laptop", help="default: laptop")
    parser.add_argument("--steps", type=int, help="instead of the recipe's number of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    parser.add_argument("--folder", type=Path, help="where to write; default: where load_base looks")
    parser.add_argument("--autocast", action="store_true", default=None, help="compute in bfloat16 on the CPU too")
    parser.add_argument("--checkpoint", type=Path, help="the folder to go on from, if stopped; default: in the cache")
    parser.add_argument("--replace", action="store_true", help="overwrite the weights that are there")
    arguments = parser.parse_args(given)
    size, seed, target = arguments.size, arguments.seed, base_path(arguments.size)
    steps = SIZES[size].steps if arguments.steps is None else arguments.steps
    check(TRAINING["steps"], steps=steps)
    target = arguments.folder / target.name if arguments.folder else target
    if target.exists() and not arguments.replace:
        raise FileExistsError(f"{target} is there already: --folder writes elsewhere, --replace overwrites it")
    check_output(target.parent, "name another, --folder")
    checkpoint = arguments.checkpoint or files.cache_dir() / "runs" / f"{size}-{steps}-{seed}"
    how = {"seed": seed, "device": arguments.device, "autocast": arguments.autocast, "checkpoint": checkpoint}
    pretrain(size, steps=steps, folder=arguments.folder, verbose=True, **how)
    if not arguments.checkpoint:
        shutil.rmtree(checkpoint, ignore_errors=True)  # the result is written: nobody needs it any more
