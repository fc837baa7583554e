"""Double quantization, measured: where the error comes from, and what it does to a model's loss."""

import copy
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from lora_edu.experiments.scoreboard import WINDOWS, change_linears, with_constants
from lora_edu.measures import relative_error
from lora_edu.models.pretrain import load_base
from lora_edu.observing import layer_inputs
from lora_edu.quantization import quantize
from lora_edu.rounding import rescale
from lora_edu.texts import load_text
from lora_edu.training import evaluate


def normal_weights(count: int, seed: int = 0) -> Tensor:
    """Numbers from the normal distribution (count,) float32, the same on every machine."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=count).astype(np.float32))


def rounded_constants(absmax: Tensor, code: str = "dynamic", size: int = 256, mean: bool = True) -> Tensor:
    """What is left of absmax (n_blocks,) after double quantization; mean: it is taken off, and added back."""
    offset = absmax.mean() if mean else 0
    return quantize(absmax - offset, code, size).dequantize() + offset


# Bits of a constant -> what they make of absmax (n_blocks,). Below 16 bits there is a second level, in blocks of 256.
CONSTANTS: dict[int, Callable[[Tensor], Tensor]] = {
    32: lambda absmax: absmax,
    16: lambda absmax: absmax.half().float(),
    8: rounded_constants,
    4: lambda absmax: rounded_constants(absmax, "nf4"),
    2: lambda absmax: rounded_constants(absmax, "nf2"),
}


def error_by_source(weights: Tensor, change: Callable[[Tensor], Tensor], block_size: int = 64) -> dict[str, float]:
    """The relative error of NF4 from its codes alone, from its constants alone, and from both.

    change: what happens to the constants, a function from absmax (n_blocks,) to what is stored of it.
    """
    exact = quantize(weights, "nf4", block_size)
    new = change(exact.absmax)
    results = {
        "codes": exact.dequantize(),
        "constants": rescale(weights, exact.absmax, new, block_size),
        "both": rescale(exact.dequantize(), exact.absmax, new, block_size),
    }
    return {source: relative_error(weights.double(), result.double()) for source, result in results.items()}


def error_of_layers(layers: dict[str, Tensor], block_size: int) -> dict[int, float]:
    """The relative error of all weights together in NF4, for each entry of CONSTANTS; each layer has its own offset."""
    lost, total = dict.fromkeys(CONSTANTS, 0.0), 0.0
    for weight in layers.values():
        flat = weight.flatten()
        exact = quantize(flat, "nf4", block_size)
        decoded, total = exact.dequantize(), total + flat.square().sum().item()
        for bits, change in CONSTANTS.items():
            result = rescale(decoded, exact.absmax, change(exact.absmax), block_size)
            lost[bits] += (flat - result).square().sum().item()
    return {bits: (squares / total) ** 0.5 for bits, squares in lost.items()}


# --- double-quantization: what does it do to the loss? ---------------------------------------------------------------


def double_quant_loss(
    change: str, *, block_size: int = 64, windows: int = WINDOWS, noise_seed: int = 0, seed: int = 0
) -> dict:
    """The loss of the shipped base on held-out speeches, its blocks in NF4 and their constants changed in one way.

    change: one of CHANGES. Returns the loss in nats per byte, and the errors of weights and outputs, by the protocol
    of the scoreboard.
    """
    model = copy.deepcopy(load_base("laptop", device="cpu"))  # float32: bfloat16 on a GPU would hide what is measured
    tokens = load_text("speeches").validation
    generator = torch.Generator().manual_seed(1000 * seed + noise_seed)
    inputs = layer_inputs(model, tokens)
    result = change_linears(model, lambda weight: changed_weight(weight, change, block_size, generator), inputs)
    result["loss"] = evaluate(model, tokens, max_windows=windows)
    return {name: round(value, 6) for name, value in result.items()}


def changed_weight(weight: Tensor, change: str, block_size: int = 64, generator=None) -> Tensor:
    """One weight (d_out, d_in) in NF4, its constants after one of CHANGES."""
    if change not in CHANGES:
        raise ValueError(f"unknown change {change!r}: choose one of {', '.join(CHANGES)}")
    exact = quantize(weight, "nf4", block_size)
    new = CHANGES[change](exact.absmax, generator)
    return with_constants(exact.dequantize(), exact.absmax, new, block_size)


def _noisy(absmax: Tensor, generator) -> Tensor:
    """Off at random by as much as double quantization is."""
    size = (rounded_constants(absmax) - absmax).square().mean().sqrt()
    return absmax + size * torch.randn(absmax.shape, generator=generator)


CHANGES: dict[str, Callable] = {
    **{f"{bits} bits": lambda absmax, _, change=change: change(absmax) for bits, change in CONSTANTS.items()},
    "noise": _noisy,
    "offset not added back": lambda absmax, _: rounded_constants(absmax) - absmax.mean(),
    "e4m3, no mean": lambda absmax, _: rounded_constants(absmax, "e4m3", mean=False),
}

DOUBLE_QUANT_ARMS = {
    **{change: {"change": change} for change in CHANGES if change != "noise"},
    **{f"noise {i}": {"change": "noise", "noise_seed": i} for i in range(8)},
    **{f"{bits} bits, blocks of 32": {"change": f"{bits} bits", "block_size": 32} for bits in (16, 8, 4)},
    "4 bits, blocks of 16": {"change": "4 bits", "block_size": 16},
    "8 bits, 32 windows": {"change": "8 bits", "windows": 32},  # notebook 07 runs this one again
}
