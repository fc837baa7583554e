"""The training program: fine-tune the course's base model, in one process or in several.

    lora-edu train --method qlora --steps 150 --checkpoint build/run
    torchrun --standalone --nproc-per-node=2 -m lora_edu train --method qlora --steps 150 --checkpoint build/run

It does what notebook 09 does: load the base, put its weights into 4 bits, add adapters, train, save the adapter in
PEFT's format. The batch is split over the processes, so that N of them compute what one does. Run the same command
again after it was stopped, and it goes on from the folder named by --checkpoint.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from lora_edu.engine import distributed
from lora_edu.files import DownloadError, staging
from lora_edu.lora import ALL_LINEAR, add_lora, lora_layers, trainable_summary
from lora_edu.models.pretrain import SIZES, load_base, pick_size
from lora_edu.peft_io import save_adapter
from lora_edu.qlora import quantize_linears
from lora_edu.texts import available_texts, load_text
from lora_edu.training import History, pick_device, train

# Learning rates for about 150 steps: adapters take larger ones than whole weights (notebook 09).
METHODS = {"full": 1e-3, "lora": 1e-2, "qlora": 1e-2}


def main(arguments: list[str] | None = None) -> None:
    """Run the program. Exit code 1 with one line on stderr if something is wrong, 130 if it was stopped."""
    if int(os.environ.get("RANK", "0")) > 0:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # process 0 speaks for all
    options = _parser().parse_args(arguments)
    try:
        with distributed.join(pick_device(options.device)) as device:
            interrupted = run(options, device).interrupted
    except (ValueError, OSError, FloatingPointError, DownloadError) as error:
        name = f" in process {os.environ['RANK']}" if "RANK" in os.environ else ""
        sys.exit(f"error{name}: {error}")
    sys.exit(130 if interrupted else 0)


def run(options: argparse.Namespace, device: torch.device) -> History:
    """Train as the options say, and let process 0 write the result."""
    distributed.check_batch(options.batch_size)
    output = options.output or Path("build") / f"{options.method}-{options.text}"
    if distributed.rank() == 0:
        _check_writable(output)  # before the training, not after it
        load_text(options.text)  # one process downloads it, if it must be
    distributed.wait_for_all()
    model = build_model(options, device)
    print(f"{options.method}: {trainable_summary(model)}", flush=True)
    history = train(
        model,
        load_text(options.text),
        options.steps,
        lr=options.lr or METHODS[options.method],
        batch_size=options.batch_size,
        seq_len=options.seq_len,
        seed=options.seed,
        device=device,
        eval_every=options.eval_every,
        on_evaluation=lambda done, loss: print(f"step {done}: validation loss {loss:.4f} nats per byte", flush=True),
        checkpoint=options.checkpoint,
        checkpoint_every=options.checkpoint_every,
        progress=sys.stderr.isatty(),
    )
    if history.interrupted:
        go_on = f"goes on from {options.checkpoint}" if options.checkpoint else "could go on with --checkpoint"
        print(f"{history.stopped}, so nothing was written to {output}: the same command {go_on}")
        return history
    print(report(model, history, options.batch_size))
    if distributed.rank() == 0:
        save(model, output)
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


def save(model: nn.Module, folder: Path) -> None:
    """Adapters in PEFT's format; a fully fine-tuned model as `model.safetensors`."""
    if lora_layers(model):
        save_adapter(model, folder)
    else:  # the whole model was trained
        with staging(folder / "model.safetensors") as path:
            save_file({name: tensor.cpu() for name, tensor in model.state_dict().items()}, path)
    print(f"written to {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lora-edu train",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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


def _check_writable(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise type(error)(f"cannot write to the folder {folder} ({error.strerror}): name another, --output") from error
