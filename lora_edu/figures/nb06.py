"""The format slider: a format's levels on the scaled weights, how often each code is used, and the error it makes."""

import functools

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.figures.plots import BLUE, GRAY, ORANGE
from lora_edu.figures.sliders import View
from lora_edu.measures import bin_use, entropy_bits, relative_error
from lora_edu.quantization import block_absmax, nearest_code, normalize, quantize

FAMILIES = {"NF": "nf", "integer": "int", "FP4 E2M1": "fp4-e2m1", "FP4 E3M0": "fp4-e3m0", "FP4 bitsandbytes": "fp4-bnb"}
BLOCK_SIZES = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)


def codebook_name(family: str, bits: int) -> str:
    """The codebook of a family at so many bits: `nf4`, `int8`. The FP4 kinds have 4 bits, whatever is asked."""
    prefix = FAMILIES[family]
    return prefix if prefix.startswith("fp4") else f"{prefix}{bits}"


def format_view(values: Tensor) -> View:
    """A view of how formats round `values` (n,), with the controls family, bits (2 to 8) and block_size."""
    _check_values(values)

    @functools.cache
    def error(name: str, block_size: int) -> float:
        return relative_error(values, quantize(values, name, block_size).dequantize())

    figure, (density, use, curve) = _panels()
    edges = np.linspace(-1, 1, 102)
    (bell,) = density.plot([], [], color=BLUE, lw=1.6)
    levels = density.vlines([0], 0, 0.35, color=ORANGE, lw=1.2)
    (shares,) = use.plot([], [], color=BLUE, lw=1.4, drawstyle="steps-mid")
    (even,) = use.plot([], [], color=GRAY, ls="--", lw=1.4)
    (errors,) = curve.plot([], [], color=BLUE, lw=1.6)
    (marker,) = curve.plot([], [], "o", color="black", ms=8)
    titles = [axes.text(0.5, 1.05, "", ha="center", fontsize=10, transform=axes.transAxes) for axes in (use, curve)]

    def update(family: str, bits: int, block_size: int) -> str:
        name = codebook_name(family, bits)
        codebook = get_codebook(name)
        scaled = normalize(values, block_absmax(values, block_size), block_size)
        used = bin_use(nearest_code(scaled, codebook), len(codebook))
        counts, _ = np.histogram(scaled.numpy(), edges)
        bell.set_data((edges[:-1] + edges[1:]) / 2, counts / counts.max())
        levels.set_segments([[(level, 0), (level, 0.35)] for level in codebook.tolist()])
        place = (np.arange(len(codebook)) + 0.5) / len(codebook)
        shares.set_data(place, (used / used.max()).numpy())
        even.set_data([0, 1], [1 / len(codebook) / used.max().item()] * 2)
        errors.set_data(BLOCK_SIZES, [100 * error(name, size) for size in BLOCK_SIZES])
        marker.set_data([block_size], [100 * error(name, block_size)])
        titles[0].set_text(f"largest {used.max():.1%}, even {1 / len(codebook):.1%}")
        titles[1].set_text(f"error {100 * error(name, block_size):.2f}%")
        note = "" if name.startswith(("nf", "int")) else " (FP4 has no other width)"
        width = bits if not note else 4
        return (
            f"{family}, {width} bits{note}, block {block_size}: {len(codebook)} levels, "
            f"{width + 32 / block_size:.3g} bits a weight, entropy of the codes {entropy_bits(used):.2f} bits, "
            f"error {100 * error(name, block_size):.2f}%"
        )

    update("NF", 4, 64)
    return View(figure, [bell, levels, shares, even, errors, marker, *titles], update)


def _panels():
    figure = plt.figure(figsize=(10, 3.0), dpi=96)
    density, use, curve = (
        figure.add_axes([left, 0.19, width, 0.68]) for left, width in ((0.06, 0.3), (0.43, 0.22), (0.73, 0.25))
    )
    density.set(xlim=(-1.05, 1.05), ylim=(0, 1.05), xlabel="weight / absmax", ylabel="share (largest = 1)")
    density.set_title("scaled weights (curve) and levels (bars)", fontsize=10)
    use.set(xlim=(0, 1), ylim=(0, 1.05), xlabel="code, lowest to highest", ylabel="use (largest = 1)", xticks=[])
    curve.set(xscale="log", yscale="log", ylim=(0.2, 150), xlabel="block size, weights", ylabel="relative error, %")
    curve.set_xlim(7, 4700)
    curve.set_xticks([8, 64, 512, 4096], ["8", "64", "512", "4096"])
    curve.set_yticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
    curve.minorticks_off()
    for axes in (density, use, curve):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, (density, use, curve)


def _check_values(values: Tensor) -> None:
    if values.ndim != 1 or len(values) < max(BLOCK_SIZES) or not bool(torch.any(values)):
        raise ValueError(
            f"the format view needs at least {max(BLOCK_SIZES)} values in a row, not all zero, "
            f"got a tensor of shape {tuple(values.shape)}"
        )
