"""Double quantization, measured: where the error comes from, and what it does to a model's loss."""

from collections.abc import Callable, Iterable

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import pad

from lora_edu.downloads import model_folder
from lora_edu.experiments.scoreboard import WINDOWS, begun_later, measured
from lora_edu.measures import relative_error
from lora_edu.models.pretrain import load_base
from lora_edu.models.pretrained import load_pretrained
from lora_edu.observing import block_linears
from lora_edu.quantization import quantize
from lora_edu.rounding import rescale


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


# --- two-errors: does it hold for weights that somebody trained? ------------------------------------------------------


def error_of_layers(layers: Iterable[Tensor], block_size: int, changes: dict = CONSTANTS) -> dict:
    """The errors of `error_by_source` for all layers together, for each change; each layer has its own offset.

    A change multiplies block j of the decoded weights Q by s_j, so four numbers a block are enough: the squares of the
    weights, of Q and of e = W - Q, and the product of e and Q.
    """
    lost, total = {name: dict.fromkeys(("codes", "constants", "both"), 0.0) for name in changes}, 0.0
    for weight in layers:
        exact = quantize(weight.flatten(), "nf4", block_size)
        missing = -weight.numel() % block_size  # zeros fill the last block and count for nothing
        W, Q = (
            pad(flat, (0, missing)).view(-1, block_size).double() for flat in (weight.flatten(), exact.dequantize())
        )
        squares, error, decoded, product = ((a * b).sum(1) for a, b in ((W, W), (W - Q, W - Q), (Q, Q), (W - Q, Q)))
        total += squares.sum().item()
        for name, change in changes.items():
            missed = 1 - change(exact.absmax).double() / exact.absmax.clamp(min=1e-38).double()  # 1 - s
            lost[name]["codes"] += error.sum().item()
            lost[name]["constants"] += (missed**2 * squares).sum().item()
            lost[name]["both"] += (error + 2 * missed * product + missed**2 * decoded).sum().item()
    return {name: {source: (s / total) ** 0.5 for source, s in sums.items()} for name, sums in lost.items()}


BYTE_CODES = ("dynamic", "int8", "e4m3", "e5m2")  # the candidates for 8 bits, with the mean taken off and without
WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    **{f"{bits} bits": change for bits, change in CONSTANTS.items()},
    **{code: lambda absmax, code=code: rounded_constants(absmax, code) for code in BYTE_CODES},
    **{
        f"{code}, no mean": lambda absmax, code=code: rounded_constants(absmax, code, mean=False) for code in BYTE_CODES
    },
}


def two_errors(weights: str) -> dict:
    """The errors of NF4 from codes, constants and both, for each of WAYS, in blocks of 64. weights: of WEIGHT_SETS."""
    errors = error_of_layers(WEIGHT_SETS[weights](), 64, WAYS)
    return {way: {source: float(f"{e:.6g}") for source, e in found.items()} for way, found in errors.items()}


def _minilm() -> list[Tensor]:
    """The matrices of a sentence encoder's layers, in float32 as its makers gave them away."""
    stored = load_file(model_folder("minilm") / "model.safetensors")
    return [weight for path, weight in stored.items() if path.startswith("encoder.") and weight.ndim == 2]


def _smollm2() -> list[Tensor]:
    """The linear layers of a language model's blocks. They come in 4 bits, Q4_1, and so are rounded a second time."""
    model, _ = load_pretrained("smollm2", device="cpu")
    linears = {path: module for path, module in model.named_modules() if isinstance(module, nn.Linear)}
    return [layer.weight.detach() for path, layer in linears.items() if path != "lm_head"]


WEIGHT_SETS: dict[str, Callable[[], list[Tensor]]] = {
    "normal numbers": lambda: [normal_weights(2**20)],
    "our GPT": lambda: [layer.weight.detach() for layer in block_linears(load_base("laptop", device="cpu")).values()],
    "MiniLM": _minilm,
    "SmolLM2": _smollm2,
}
TWO_ERRORS_ARMS = {name: {"weights": name} for name in WEIGHT_SETS}


# --- double-quantization: what does it do to the loss? ---------------------------------------------------------------


def double_quant_loss(
    change: str, *, block_size: int = 64, shift: int = 0, windows: int = WINDOWS, noise_seed: int = 0, seed: int = 0
) -> dict:
    """The loss of the shipped base on held-out speeches, its blocks in NF4 and their constants changed in one way.

    change: one of CHANGES, or IN_FULL; shift: how many weights later the first block begins, which draws the rounding
    anew. Returns the loss in nats per byte, and the errors of weights and outputs, by the protocol of the scoreboard.
    """
    generator = torch.Generator().manual_seed(1000 * seed + noise_seed)
    in_nf4 = begun_later(lambda flat: changed_weight(flat, change, block_size, generator), shift)
    return measured(in_nf4, windows=windows, digits=6)


def changed_weight(weight: Tensor, change: str, block_size: int = 64, generator=None) -> Tensor:
    """A weight of any shape in NF4, its constants after one of CHANGES, or `added_in_full`."""
    if change not in (*CHANGES, IN_FULL):
        raise ValueError(f"unknown change {change!r}: choose one of {', '.join((*CHANGES, IN_FULL))}")
    if change == IN_FULL:
        return added_in_full(weight, block_size)
    exact = quantize(weight.flatten(), "nf4", block_size)
    new = CHANGES[change](exact.absmax, generator)
    return rescale(exact.dequantize(), exact.absmax, new, block_size).view_as(weight)


def added_in_full(weight: Tensor, block_size: int = 64) -> Tensor:
    """A weight of any shape in NF4, and moved on along NF4's own error, by as much as 8-bit constants are off."""
    flat = weight.flatten()
    size = error_by_source(flat, rounded_constants, block_size)
    Q = quantize(flat, "nf4", block_size).dequantize()
    return (Q + (Q - flat) * size["constants"] / size["codes"]).view_as(weight)


def _noisy(absmax: Tensor, generator) -> Tensor:
    """Off at random by as much as double quantization is."""
    size = (rounded_constants(absmax) - absmax).square().mean().sqrt()
    return absmax + size * torch.randn(absmax.shape, generator=generator)


IN_FULL = "8 bits, added in full"  # a control: no constants do this
CHANGES: dict[str, Callable] = {
    **{f"{bits} bits": lambda absmax, _, change=change: change(absmax) for bits, change in CONSTANTS.items()},
    "noise": _noisy,
    "offset not added back": lambda absmax, _: rounded_constants(absmax) - absmax.mean(),
    "e4m3, no mean": lambda absmax, _: rounded_constants(absmax, "e4m3", mean=False),
}

# Two pairs of formats, short constants in small blocks beside longer ones, whose losses are compared over draws.
PAIRS = (("4 bits, blocks of 32", "8 bits"), ("4 bits, blocks of 16", "8 bits, blocks of 32"))
SHIFTS = (0, 4, 8, 12)


def _one(name: str) -> dict:
    """The arguments of a format by its name: "8 bits" is in blocks of 64."""
    change, _, size = name.partition(", blocks of ")
    return {"change": change} | ({"block_size": int(size)} if size else {})


def losses_of_draws(arms: dict, name: str) -> list[float]:
    """The loss of a format for each of SHIFTS."""
    return [arms[f"{name}, shift {shift}" if shift else name]["loss"] for shift in SHIFTS]


DOUBLE_QUANT_ARMS = {
    **{change: {"change": change} for change in (*CHANGES, IN_FULL) if change != "noise"},
    **{f"noise {i}": {"change": "noise", "noise_seed": i} for i in range(8)},
    **{name: _one(name) for pair in PAIRS for name in pair},
    **{f"{name}, shift {k}": _one(name) | {"shift": k} for pair in PAIRS for name in pair for k in SHIFTS[1:]},
    "8 bits, 32 windows": {"change": "8 bits", "windows": 32},  # notebook 07 runs this one again
}
