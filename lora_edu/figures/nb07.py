"""The block sliders: how many bits a weight takes, and which error that buys, for block sizes at both levels."""

import functools

import matplotlib.pyplot as plt
from matplotlib.patches import Rectangle
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.figures.plots import BLUE, GREEN, ORANGE, RED
from lora_edu.figures.sliders import View
from lora_edu.measures import pareto, relative_error, total_bits
from lora_edu.quantization import DoubleQuant, QuantizedTensor, code_width, quantize

BLOCK_SIZES = (16, 32, 64, 128, 256, 1024, 4096)
SECOND_SIZES = (0, 16, 64, 256, 1024)  # 0: the constants stay in float32
LOOKS = ((ORANGE, "///"), (BLUE, "..."), (GREEN, "xxx"))


def budget_error(weight: Tensor, block_size: int, second_size: int, code: str) -> float:
    """The relative error of NF4 with these block sizes; second_size 0 for constants in float32."""
    how = DoubleQuant(code, block_size=second_size) if second_size else False
    stored: QuantizedTensor = quantize(weight.flatten(), "nf4", block_size, how)
    return relative_error(weight.flatten().double(), stored.dequantize().double())


def budget_view(weights: dict[str, Tensor]) -> View:
    """A view with four controls: weights (a name), block_size, second_size (0 for float32 constants) and code."""
    _check_weights(weights)
    error = functools.cache(lambda name, *setting: budget_error(weights[name], *setting))
    figure, (bar, plane) = _panels()
    parts = [Rectangle((0, 0.3), 1, 0.4, facecolor=color, edgecolor="white", hatch=hatch) for color, hatch in LOOKS]
    for part in parts:
        bar.add_patch(part)
    text = bar.text(0.5, 0.85, "", ha="center", fontsize=10, transform=bar.transAxes)
    (cloud,) = plane.plot([], [], "o", color=BLUE, ms=4, alpha=0.7)
    (edge,) = plane.plot([], [], "-", color="black", lw=1, drawstyle="steps-post")
    (chosen,) = plane.plot([], [], "D", color=RED, ms=9, mfc="none", mew=2)

    def update(weights: str, block_size: int, second_size: int, code: str) -> str:
        width = code_width(len(get_codebook(code)))  # 8 bits a constant, or 4
        first = width / block_size if second_size else 32 / block_size
        second = 32 / (block_size * second_size) if second_size else 0
        left = 0.0
        for part, bits in zip(parts, (4, first, second), strict=True):
            part.set_x(left)
            part.set_width(bits)
            left += bits
        settings = {f"{b} {s}": (b, s) for b in BLOCK_SIZES for s in SECOND_SIZES}
        points = {key: (total_bits(*sizes, width) - 4, error(weights, *sizes, code)) for key, sizes in settings.items()}
        cloud.set_data(*zip(*points.values(), strict=True))
        edge.set_data(*zip(*(points[key] for key in pareto(points)), strict=True))
        measured = error(weights, block_size, second_size, code)
        chosen.set_data([left - 4], [measured])
        text.set_text(f"4 + {first:.4f} + {second:.5f} = {left:.4f} bits")
        constants = f"{width}-bit constants ({code}), {second_size} a block" if second_size else "float32 constants"
        return f"{weights}, blocks of {block_size}, {constants}: {left:.3f} bits a weight, error {measured:.4f}"

    update(next(iter(weights)), 64, 256, "dynamic")
    return View(figure, [*parts, text, cloud, edge, chosen], update)


def _panels():
    figure = plt.figure(figsize=(10, 3.1), dpi=96)
    bar, plane = figure.add_axes([0.03, 0.19, 0.42, 0.66]), figure.add_axes([0.54, 0.19, 0.44, 0.74])
    bar.set(xlim=(0, 6.2), ylim=(0, 1), yticks=[], xlabel="bits per weight: codes ///, constants ..., second level xxx")
    bar.spines[["top", "right", "left"]].set_visible(False)
    plane.set(xscale="log", xlim=(1.5e-3, 3), ylim=(0.07, 0.14))
    plane.set(xlabel="bits per weight above 4", ylabel="relative error")
    plane.spines[["top", "right"]].set_visible(False)
    return figure, (bar, plane)


def _check_weights(weights: dict[str, Tensor]) -> None:
    if not weights:
        raise ValueError("the block view needs the weights of at least one layer, got none")
    for name, weight in weights.items():
        if weight.numel() < max(BLOCK_SIZES) or not weight.any():
            raise ValueError(f"{name!r} must have {max(BLOCK_SIZES)} weights or more that are not all zero")
