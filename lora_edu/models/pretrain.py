"""How the base model of the course was trained, and how to load it.

    lora-edu pretrain --size laptop
    lora-edu pretrain --adapter

The first trains a GPT from random weights on `speeches` and writes two files: the weights in bfloat16 (safetensors) and
a log with the command, the settings, the versions and the loss curve. The laptop model ships with the course in
`data/`; the GPU model is trained on first use and kept in the cache. The second trains the adapter that ships.
"""

import argparse
import json
import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from lora_edu import files
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.peft_io import save_adapter
from lora_edu.qlora import quantize_linears
from lora_edu.texts import load_text
from lora_edu.training import History, pick_device, train


@dataclass(frozen=True)
class Recipe:
    """A model's shape and how long it is trained."""

    config: GPTConfig
    steps: int
    batch_size: int
    lr: float
    warmup_steps: int = 200
    compile: bool = False  # with torch.compile, where that works


SIZES = {
    "laptop": Recipe(GPTConfig(), steps=12_000, batch_size=16, lr=2e-3),
    "gpu": Recipe(
        GPTConfig(context=512, n_layers=8, n_heads=8, d_model=512), steps=3_000, batch_size=64, lr=1e-3, compile=True
    ),
}


def pick_size(size: str = "laptop") -> str:
    """The size that a notebook asks for, unless `LORA_EDU_SIZE` overrides it. Raises ValueError for an unknown one."""
    return _check_size(os.environ.get("LORA_EDU_SIZE") or size)


def base_path(size: str) -> Path:
    """Where the weights of a base model lie: shipped for the laptop, in the cache for the GPU."""
    name = f"base-{_check_size(size)}.safetensors"
    return files.data_file(name) if size == "laptop" else files.cache_dir() / name


def load_base(size: str | None = None, device: str | torch.device | None = None) -> GPT:
    """The pre-trained GPT, float32, in evaluation mode.

    size: "laptop" (ships with the course) or "gpu" (25 million parameters; `pretrain("gpu")` makes it once).
    Raises FileNotFoundError if it has not been made yet.
    """
    size = size or pick_size()
    path = base_path(size)
    if not path.exists():
        raise FileNotFoundError(
            f"the {size!r} base model is not at {path} yet. Train it (minutes on a GPU): "
            f"lora-edu pretrain --size {size}"
        )
    model = GPT(SIZES[size].config)
    model.load_state_dict({name: tensor.float() for name, tensor in load_file(path).items()})
    return model.eval().to(pick_device(device))


def pretrain(
    size: str = "laptop",
    *,
    steps: int | None = None,
    folder: Path | None = None,
    seed: int = 0,
    device: str | torch.device | None = None,
    autocast: bool | None = None,
    eval_every: int = 500,
    verbose: bool = False,
) -> GPT:
    """Train the base model of a size on `speeches`; write `base-<size>.safetensors` and its log beside it."""
    recipe = SIZES[_check_size(size)]
    steps = steps or recipe.steps
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
        on_evaluation=_print_loss if verbose else None,
    )
    with files.staging(path) as target:
        save_file({name: tensor.to("cpu", torch.bfloat16) for name, tensor in model.state_dict().items()}, target)
    command = f"lora-edu pretrain --size {size} --steps {steps} --seed {seed}"
    recipe_used = asdict(recipe) | {"steps": steps}
    _write_log(path.with_suffix(".json"), command + (" --autocast" if autocast else ""), recipe_used, model, history)
    return model


def train_adapter(*, folder: Path | None = None, seed: int = 0, steps: int = 600, verbose: bool = False) -> GPT:
    """Train the Shakespeare adapter that ships with the course: QLoRA on the laptop base. Writes it and its log."""
    recipe = {"rank": 8, "alpha": 16, "targets": "all-linear", "steps": steps, "batch_size": 8, "lr": 5e-3}
    model = quantize_linears(load_base("laptop", device="cpu"), double_quant=True)
    torch.manual_seed(seed)  # A is drawn at random
    add_lora(model, recipe["rank"], recipe["alpha"], recipe["targets"])
    history = train(
        model,
        load_text("shakespeare"),
        steps,
        lr=recipe["lr"],
        batch_size=recipe["batch_size"],
        seed=seed,
        device="cpu",
        eval_every=100,
        on_evaluation=_print_loss if verbose else None,
    )
    folder = save_adapter(model, folder or files.data_file("shakespeare-adapter"))
    _write_log(folder / "training.json", "lora-edu pretrain --adapter", recipe, model, history)
    return model


def _write_log(path: Path, command: str, recipe: dict, model: GPT, history: History) -> None:
    """What a reader needs to judge the weights, and to make them again."""
    log = {
        "command": command,
        "recipe": recipe,
        "machine": f"{model.token_embedding.weight.device.type}, {torch.get_num_threads()} threads",
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "validation_loss": history.validation_loss,
        "train_loss_mean_of_100_steps": _means(history.train_loss, 100),
        "tokens_per_second": round(history.tokens_per_second),
        "interrupted": history.interrupted,
    }
    with files.staging(path) as target:
        target.write_text(json.dumps(log, indent=1) + "\n", encoding="utf-8")


def _check_size(size: str) -> str:
    if size not in SIZES:
        raise ValueError(f"unknown size {size!r}: choose one of {', '.join(SIZES)}")
    return size


def _means(values: list[float], width: int) -> list[float]:
    chunks = [values[start : start + width] for start in range(0, len(values), width)]
    return [round(sum(chunk) / len(chunk), 4) for chunk in chunks]


def _print_loss(done: int, loss: float) -> None:
    print(f"step {done}: validation loss {loss:.4f} nats per byte", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="lora-edu pretrain", description="Train the course's base model.")
    parser.add_argument("--size", choices=SIZES, default="laptop")
    parser.add_argument("--steps", type=int, help="instead of the recipe's number of steps")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    parser.add_argument("--folder", type=Path, help="where to write; default: where load_base looks")
    parser.add_argument("--autocast", action="store_true", default=None, help="compute in bfloat16 on the CPU too")
    parser.add_argument("--adapter", action="store_true", help="train the Shakespeare adapter instead of a base")
    arguments = parser.parse_args()
    if arguments.adapter:
        train_adapter(folder=arguments.folder, seed=arguments.seed, verbose=True)
    else:
        pretrain(
            arguments.size,
            steps=arguments.steps,
            folder=arguments.folder,
            seed=arguments.seed,
            device=arguments.device,
            autocast=arguments.autocast,
            verbose=True,
        )


if __name__ == "__main__":
    main()
