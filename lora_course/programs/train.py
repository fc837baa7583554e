"""The training program: fine-tune the course's base model, in one process or in several.

    lora-edu train --method qlora --steps 150 --checkpoint build/run
    torchrun --standalone --nproc-per-node=2 -m lora_edu train --method qlora --steps 150 --checkpoint build/run

It does what notebook 09 does: load the base, put its weights into 4 bits, add adapters, train, save the adapter in
PEFT's format, with a log beside it. The batch is split over the processes, so that N of them compute what one does. Run
the same command again after it was stopped, and it goes on from the folder named by --checkpoint.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lora_course.programs.command import check_output, keep
from lora_course.programs.pretrain import print_loss, write_log
from lora_edu.checks import POSITIVE, SHARE, TRAINING, check, whole
from lora_edu.engine import distributed
from lora_edu.layers import ALL_LINEAR, trainable_summary
from lora_edu.lora import add_lora, lora_layers
from lora_edu.models.base import SIZES, load_base, pick_size
from lora_edu.peft_io import WEIGHTS, save_adapter
from lora_edu.qlora import quantize_linears
from lora_edu.records import staging
from lora_edu.texts import available_texts, load_text
from lora_edu.training import History, pick_device, train

# Learning rates for about 150 steps: adapters take larger ones than whole weights (notebook 09).
METHODS = {"full": 1e-3, "lora": 1e-2, "qlora": 1e-2}
ADAPTER = {"rank": whole(1), "alpha": POSITIVE, "dropout": SHARE}  # what its options must be


def main(arguments: list[str] | None = None) -> None:
    """Run the program. Exit code 130 if it was stopped."""
    parser = _parser()
    options = parser.parse_args(arguments)
    _check(options, parser)
    if int(os.environ.get("RANK", "0")) > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # process 0 speaks for all
    with distributed.join(pick_device(options.device)) as device:
        interrupted = run(options, device).interrupted
    sys.exit(130 if interrupted else 0)


def run(options: argparse.Namespace, device: torch.device) -> History:
    """Train as the options say, and let process 0 write the result."""
    distributed.check_batch(options.batch_size)
    output = options.output or Path("build") / f"{options.method}-{options.text}"
    if distributed.rank() == 0:
        check_output(output)  # before the training, not after it
        load_text(options.text)  # one process downloads it, if it must be
    distributed.total(0)  # all wait for it
    model = build_model(options, device)
    print(f"{options.method}: {trainable_summary(model)}", flush=True)
    how = {name: getattr(options, name) for name in TRAINING if name in options}
    progress: dict = {"on_evaluation": print_loss, "progress": sys.stderr.isatty()}
    history = train(model, load_text(options.text), device=device, checkpoint=options.checkpoint, **how, **progress)
    if history.interrupted:
        go_on = f"goes on from {options.checkpoint}" if options.checkpoint else "could go on with --checkpoint"
        print(f"{history.stopped}, so nothing was written to {output}: the same command {go_on}")
        return history
    if distributed.rank() == 0:
        keep(lambda folder: save(model, folder, options, history), output)
    print(f"{report(model, history, options.batch_size)}\nwritten to {output}")
    return history


def build_model(options: argparse.Namespace, device: torch.device) -> nn.Module:
    """The base model, ready for a method: everything trainable, or frozen (qlora: in 4 bits) with adapters."""
    model = load_base(options.size, device)
    torch.manual_seed(options.seed)  # lora_A is drawn at random
    if options.method == "qlora":
        quantize_linears(model, double_quant=True)
    if options.method != "full":
        targets = ALL_LINEAR if options.targets == ALL_LINEAR else options.targets.split(",")
        add_lora(model, options.rank, options.alpha, targets, options.dropout)
    return model


def report(model: nn.Module, history: History, batch_size: int) -> str:
    """Speed, and what the processes sent each other."""
    count, processes = trainable_summary(model).trainable, distributed.processes()
    speed = f"{history.tokens_per_second:,.0f} tokens/s"
    if processes == 1:
        return f"{speed} in one process: no gradients travel"
    share = f"{batch_size // processes} of the {batch_size} windows of a batch"
    return (
        f"{speed} in {processes} processes, each computes {share}\n"
        f"all-reduce of a step: {history.gradient_bytes:,} bytes of gradients per process "
        f"({history.gradient_bytes / count:g} bytes for each of {count:,} trainable parameters)"
    )


def save(model: nn.Module, folder: Path, options: argparse.Namespace, history: History) -> None:
    """Adapters in PEFT's format, a fully fine-tuned model as `model.safetensors`; and the log, `training.json`."""
    weights = folder / "model.safetensors"
    if lora_layers(model):
        weights = save_adapter(model, folder) / WEIGHTS
    else:  # the whole model was trained
        with staging(weights) as path:
            save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, path)
    recipe = {name: value for name, value in vars(options).items() if not isinstance(value, Path)}
    write_log(folder / "training.json", "lora-edu train", recipe, weights, model, history)


def _check(options: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Raise ValueError for an option that cannot be meant; put the method's rate where none was named."""
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        if not (value := os.environ.get(name, "0")).isdecimal():
            raise ValueError(f"{name} must be the number that torchrun sets, got {value!r}: unset it")
    options.lr = METHODS[options.method] if options.lr is None else options.lr
    for name, rule in (TRAINING | ADAPTER).items():
        if name in options:
            check(rule, **{name: getattr(options, name)})
    for name in (*ADAPTER, "targets"):
        if options.method == "full" and getattr(options, name) != parser.get_default(name):
            raise ValueError(f"--{name} is for adapters, and --method full trains none: leave it out")


def _parser() -> argparse.ArgumentParser:
    as_it_stands = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="lora-edu train", description=__doc__, formatter_class=as_it_stands)
    parser.add_argument("--method", choices=METHODS, default="qlora", help="default: qlora")
    parser.add_argument("--text", choices=available_texts(), default="shakespeare", help="default: shakespeare")
    parser.add_argument("--size", choices=SIZES, default=pick_size(), help="the base model; default: laptop")
    parser.add_argument("--steps", type=int, default=150, help="default: 150")
    parser.add_argument("--lr", type=float, help=f"peak learning rate; default: {METHODS}")
    parser.add_argument("--batch-size", type=int, default=8, help="windows in a batch, of all processes together")
    parser.add_argument("--seq-len", type=int, default=256, help="tokens in a window; default: 256")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rank", type=int, default=8, help="rank of the adapters; default: 8")
    parser.add_argument("--alpha", type=float, default=16, help="the update is scaled by alpha / rank; default: 16")
    parser.add_argument("--targets", default=ALL_LINEAR, help="such as q_proj,v_proj; default: all-linear")
    parser.add_argument("--dropout", type=float, default=0.0, help="on the adapters' input; default: 0")
    parser.add_argument("--device", help="cpu or cuda; default: the GPU if there is one")
    parser.add_argument("--eval-every", type=int, help="steps between two validation losses")
    parser.add_argument("--checkpoint", type=Path, help="a folder to go on from, if the run is stopped")
    parser.add_argument("--checkpoint-every", type=int, default=100, help="steps between two checkpoints; default: 100")
    parser.add_argument("--output", type=Path, help="where the result goes; default: build/<method>-<text>")
    return parser
