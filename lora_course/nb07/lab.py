"""Double quantization, measured: where the error comes from, and what it does to a model's loss."""

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from lora_course.running.scoreboard import fidelity, measured, permuted, rounded
from lora_edu import load_base, load_pretrained, nf_codebook
from lora_edu.downloads import model_folder
from lora_edu.measures import relative_error
from lora_edu.observing import block_linears
from lora_edu.quantization import block_absmax, nearest_code, normalize, quantize
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


def nearest(weights: Tensor, block_size: int = 64) -> Tensor:
    """Weights (n,) in NF4 and back."""
    return quantize(weights, "nf4", block_size).dequantize()


def toward_zero(weights: Tensor, block_size: int = 64) -> Tensor:
    """The same with each weight at the next level toward zero: a control, of which no format makes use."""
    levels, absmax = nf_codebook(4), block_absmax(weights, block_size)
    scaled = normalize(weights, absmax, block_size)
    near = nearest_code(scaled, levels).long()
    too_far = levels[near].abs() > scaled.abs() + 1e-6  # not the absmax itself, rounded
    Q = levels[near - too_far * (near - 7).sign()]  # code 7 is the zero
    return Q * absmax.repeat_interleave(block_size)[: len(weights)]


def error_by_source(weights: Tensor, change: Callable, block_size: int = 64, decoded=nearest) -> dict[str, float]:
    """The relative error of NF4 from its codes alone, from its constants alone, and from both.

    weights: (n,); change: what happens to the constants, a function from absmax (n_blocks,) to what is stored of it.
    """
    Q, old = decoded(weights, block_size), block_absmax(weights, block_size)
    new = change(old)
    results = {
        "codes": Q,
        "constants": rescale(weights, old, new, block_size),
        "both": rescale(Q, old, new, block_size),
    }
    return {source: relative_error(weights.double(), result.double()) for source, result in results.items()}


# --- two-errors: does it hold for weights that somebody trained? ------------------------------------------------------


def up_and_down(absmax: Tensor) -> Tensor:
    """Constants off by 10% at random."""
    return absmax * (1 + 0.1 * torch.randn(absmax.shape, generator=torch.Generator().manual_seed(0)))


OFF = {"up and down by 10%": up_and_down, "all 10% too small": lambda absmax: 0.9 * absmax}
CODES = {"nearest": nearest, "toward zero": toward_zero}
WAYS: dict[str, dict] = {  # the arguments of `error_by_source`
    **{f"{bits} bits": {"change": change} for bits, change in CONSTANTS.items()},
    **{
        code + ", no mean" * (not mean): {"change": partial(rounded_constants, code=code, mean=mean)}
        for code in ("dynamic", "int8", "e4m3")
        for mean in (True, False)
    },
    **{
        f"{code}, {how}": {"change": change, "decoded": decoded}
        for code, decoded in CODES.items()
        for how, change in OFF.items()
    },
}


def two_errors(weights: str) -> dict:
    """The errors of NF4 from codes, constants and both, for each of WAYS. weights: of WEIGHT_SETS."""
    layers = [weight.flatten() for weight in WEIGHT_SETS[weights]()]
    return {way: error_of_layers(layers, **how) for way, how in WAYS.items()}


def error_of_layers(layers: list[Tensor], change: Callable, **how) -> dict[str, float]:
    """The errors of `error_by_source` for all layers together; each layer has its own offset."""
    squares = np.array([weight.double().square().sum().item() for weight in layers])
    found = [error_by_source(weight, change, **how) for weight in layers]
    of_all = {source: np.average([e[source] ** 2 for e in found], weights=squares) ** 0.5 for source in found[0]}
    return {source: float(f"{error:.6g}") for source, error in of_all.items()}


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


# --- double-quantization: what do the freed bits buy? -----------------------------------------------------------------


def double_quant_loss(bits: int, block_size: int = 64, draw: int = 0, *, windows: int = 64) -> dict:
    """The shipped base, its blocks in NF4 with constants of 32, 16, 8 or 4 bits: how far did its guesses move?

    draw: the seed of an order that the columns have meanwhile. Returns the errors of weights and outputs, the loss on
    so many windows of held-out speeches in nats per byte, and KL and flips there.
    """
    change = permuted(partial(rounded, codebook="nf4", block_size=block_size, constant_bits=bits), draw)
    return measured(change, windows=windows) | fidelity(change, windows=windows)


SPENT = {"64, 16 bits": (16, 64), "64, 8 bits": (8, 64), "32, 8 bits": (8, 32), "16, 4 bits": (4, 16)}
DRAWS = range(6)
DOUBLE_QUANT_ARMS = {
    f"blocks of {name}, draw {draw}": {"bits": bits, "block_size": size, "draw": draw}
    for name, (bits, size) in SPENT.items()
    for draw in DRAWS
}
