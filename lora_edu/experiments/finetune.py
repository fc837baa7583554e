"""One fine-tuning on plays, as the comparisons of notebooks 01, 09 and 10 run it: made ready, trained, measured.

The same seed means the same batches and, for adapters, the same A: runs of two ways can be compared pair by pair.
"blocks" trains the weight matrices that adapters are given, in full, and nothing else: what is left between it and LoRA
is the rank. Two more ways ask what the error of NF4 does. "noise" adds to each block of 64 weights random numbers with
the norm that NF4's error has there; "nf2" rounds to four values instead of sixteen. Both train adapters, as QLoRA does.
"""

import torch
from torch import Tensor

from lora_edu.gpt import GPT
from lora_edu.lora import add_lora
from lora_edu.observing import block_linears
from lora_edu.qlora import quantize_linears
from lora_edu.quantization import quantize
from lora_edu.texts import Text, load_text
from lora_edu.training import evaluate, train

BLOCK_SIZE = 64
METHODS = ("full", "lora", "qlora", "blocks", "noise", "nf2")


def prepared(
    model: GPT, method: str, rank: int = 8, seed: int = 0, *, noise=1.0, scaling=2.0, targets="all-linear"
) -> GPT:
    """The model in the state in which this method, one of METHODS, begins to train it: in place, and returned.

    noise: the norm of the noise, as a multiple of that of NF4's error. scaling: s = alpha / rank. targets: the matrices
    with adapters.
    """
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: choose one of {', '.join(METHODS)}")
    layers = block_linears(model).values()
    if method == "blocks":
        model.requires_grad_(False)
        for layer in layers:
            layer.weight.requires_grad_(True)
    if method in ("full", "blocks"):
        return model
    if method == "qlora":
        quantize_linears(model, block_size=BLOCK_SIZE, double_quant=True)
    if method == "noise":
        add_noise(model, noise, seed)
    if method == "nf2":
        for layer in layers:
            layer.weight.data = quantize(layer.weight.detach(), "nf2", BLOCK_SIZE).dequantize()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # A is drawn at random
        add_lora(model, rank=rank, alpha=scaling * rank, targets=targets)
    return model


def add_noise(model: GPT, times: float = 1.0, seed: int = 0) -> None:
    """Add to each weight in the blocks random numbers, in each 64 of them so many times the norm of NF4's error."""
    generator = torch.Generator().manual_seed(seed)
    for layer in block_linears(model).values():
        weight = layer.weight.detach()
        error = quantize(weight, "nf4", BLOCK_SIZE, double_quant=True).dequantize() - weight
        layer.weight.data = weight + times * noise_like(error, generator)


def noise_like(error: Tensor, generator: torch.Generator, block_size: int = BLOCK_SIZE) -> Tensor:
    """Normal random numbers of the shape of `error`, with its norm in each block of the flattened tensor."""
    blocks = error.flatten().view(-1, block_size)
    noise = torch.randn(blocks.shape, generator=generator)
    noise *= blocks.norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    return noise.view_as(error)


def fine_tune(
    model: GPT, steps: int, lr: float, seed: int, data: Text | None = None, *, batch_size=4, progress=True, **more
) -> list[float] | None:
    """Train what asks for a gradient, on all plays unless another text is given.

    Returns the loss of each batch, or None for a run whose loss was no longer finite. On the CPU: a GPU computes in
    bfloat16 and gives other numbers than the stored ones. more: as for `train`.
    """
    how = {"batch_size": batch_size, "eval_windows": 1, "device": "cpu", "progress": progress} | more
    try:
        return train(model, data or load_text("shakespeare"), steps, lr=lr, seed=seed, **how).train_loss
    except FloatingPointError:
        return None


def loss_on(model: GPT, text: str, windows: int = 64) -> float:
    """The loss on so many windows of a held-out text, in nats per byte. text: "shakespeare" or "speeches"."""
    return round(evaluate(model, load_text(text).validation, max_windows=windows), 5)
