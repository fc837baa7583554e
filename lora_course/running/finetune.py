"""One fine-tuning on plays, as the comparisons of notebooks 01, 09 and 10 run it: made ready, trained, measured.

The same seed means the same batches and, for adapters, the same A: runs of two ways can be compared pair by pair.
"blocks" trains the weight matrices that adapters are given, in full, and nothing else: what is left between it and LoRA
is the rank.
"""

import functools

import torch

from lora_edu import GPT, add_lora, evaluate, load_base, quantize_linears, train
from lora_edu.observing import block_linears
from lora_edu.texts import Text, load_text

BLOCK_SIZE = 64
METHODS = ("full", "lora", "qlora", "blocks")


@functools.cache
def shipped() -> GPT:
    """The base as it ships, loaded once. Nobody changes it: what changes a model copies it first."""
    return load_base("laptop", device="cpu").requires_grad_(False)


def prepared(model: GPT, method: str, rank: int = 8, seed: int = 0, *, scaling=2.0, targets="all-linear") -> GPT:
    """The model in the state in which this method, one of METHODS, begins to train it: in place, and returned.

    scaling: s = alpha / rank. targets: the matrices with adapters.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    if method == "blocks":
        model.requires_grad_(False)
        for layer in block_linears(model).values():
            layer.weight.requires_grad_(True)
    if method in ("full", "blocks"):
        return model
    if method == "qlora":
        quantize_linears(model, block_size=BLOCK_SIZE, double_quant=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # A is drawn at random
        add_lora(model, rank=rank, alpha=scaling * rank, targets=targets)
    return model


def fine_tune(
    model: GPT, steps: int, lr: float, seed: int, data: Text | None = None, *, batch_size=4, progress=True, **more
) -> list[float]:
    """Train what asks for a gradient, on all plays unless another text is given. Returns the loss of each batch.

    On the CPU: a GPU computes in bfloat16 and gives other numbers than the stored ones. more: as for `train`.
    """
    how = {"batch_size": batch_size, "eval_windows": 1, "device": "cpu", "progress": progress} | more
    return train(model, data or load_text("shakespeare"), steps, lr=lr, seed=seed, **how).train_loss


def both_losses(model: GPT, windows: int = 64) -> dict[str, float]:
    """The loss on held-out plays and on addresses, in nats per byte."""
    return {name: loss_on(model, text, windows) for name, text in (("plays", "shakespeare"), ("addresses", "speeches"))}


def loss_on(model: GPT, text: str, windows: int = 64) -> float:
    """The loss on so many windows of a held-out text, in nats per byte. text: "shakespeare" or "speeches"."""
    return round(evaluate(model, load_text(text).validation, max_windows=windows), 5)
