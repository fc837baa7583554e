"""The bits slider: where the values of a block fall between the codes, and the error against the block size."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from torch import Tensor

from lora_edu.figures.plots import BLUE, GRAY, GREEN, ORANGE, RED
from lora_edu.figures.sliders import View
from lora_edu.measures import bits_per_weight, block_codes, relative_error, round_in_blocks

BITS = range(2, 9)
WHOLE_TENSOR = 2**30  # as a block size: larger than any tensor here, so that one constant serves all
BLOCK_SIZES = (16, 32, 64, 128, 256, 1024, 4096, WHOLE_TENSOR)
EDGES = np.linspace(-1, 1, 82)  # of the histogram: 81 bins, so that 0 lies in the middle of one
LOOKS = (("-", GRAY), ("--", RED), ("-", BLUE), (":", GREEN), ("-.", ORANGE), ("--", GRAY), ("-", GREEN))


def error_table(values: Tensor) -> dict[int, list[float]]:
    """For every number of bits, the relative error at each of BLOCK_SIZES."""
    return {
        bits: [relative_error(values, round_in_blocks(values, bits, size)) for size in BLOCK_SIZES] for bits in BITS
    }


def bits_view(tensors: dict[str, Tensor]) -> View:
    """A view with three controls: distribution (one of the names), bits (2 to 8) and block_size (of BLOCK_SIZES)."""
    _check_tensors(tensors)
    tables = {name: error_table(values) for name, values in tensors.items()}
    figure, (histogram, curves) = _panels()
    levels = histogram.add_collection(LineCollection([], colors=RED, linewidths=0.8, alpha=0.7))
    bars = histogram.stairs(np.zeros(81), EDGES, fill=True, color=BLUE, alpha=0.55)
    lines = {
        bits: curves.plot(range(len(BLOCK_SIZES)), [1] * len(BLOCK_SIZES), style, color=color, lw=1.3)[0]
        for bits, (style, color) in zip(BITS, LOOKS, strict=True)
    }
    names = {bits: curves.text(7.15, 1, f"{bits} bits", fontsize=9, va="center") for bits in BITS}
    (chosen,) = curves.plot([], [], color="black", lw=4, alpha=0.25)  # thick, under the curve of the chosen bits
    (marker,) = curves.plot([], [], "o", color="black", ms=8)
    cost = curves.text(0.5, 1.04, "", ha="center", fontsize=10, transform=curves.transAxes)

    def update(distribution: str, bits: int, block_size: int) -> str:
        values, table = tensors[distribution], tables[distribution]
        block_size = min(block_size, values.numel())
        codes, step = block_codes(values, bits, block_size)
        scaled = (values.flatten() / step.expand(codes.shape).flatten()[: values.numel()]).numpy()
        largest = 2 ** (bits - 1) - 1
        heights = np.histogram(np.clip(scaled / largest, -1, 1), EDGES)[0]
        bars.set_data(heights / heights.max())
        levels.set_segments([[(code / largest, 0), (code / largest, 1.05)] for code in range(-largest, largest + 1)])
        error = relative_error(values, round_in_blocks(values, bits, block_size))  # measured, not read off the curve
        for some_bits, line in lines.items():
            line.set_ydata(np.array(table[some_bits]) * 100)
            names[some_bits].set_y(table[some_bits][-1] * 100)
        place = next(i for i, size in enumerate(BLOCK_SIZES) if min(size, values.numel()) == block_size)
        chosen.set_data(range(len(BLOCK_SIZES)), np.array(table[bits]) * 100)
        marker.set_data([place], [error * 100])
        weight = bits_per_weight(bits, block_size)
        cost.set_text(f"error {error:.2%} at {weight:.3f} bits per weight")
        used = len(torch.unique(codes.flatten()[: values.numel()]))
        return (
            f"{distribution}, {bits} bits, blocks of {block_size:,}: error {error:.2%}, {weight:.3f} bits per weight "
            f"with a 32-bit constant, {used} of {2 * largest + 1} codes used"
        )

    update(next(iter(tensors)), 4, 64)
    return View(figure, [levels, bars, *lines.values(), *names.values(), chosen, marker, cost], update)


def _panels():
    figure = plt.figure(figsize=(10, 3.4), dpi=96)
    histogram = figure.add_axes([0.09, 0.17, 0.39, 0.72])
    histogram.set(
        xlabel="value, divided by the absmax of its block", ylabel="values in the bin,\nrelative to the fullest"
    )
    histogram.set(xlim=(-1.03, 1.03), ylim=(0, 1.05))
    histogram.set_title("the values (area) and the codes (lines)", fontsize=10)
    curves = figure.add_axes([0.56, 0.17, 0.37, 0.72])
    curves.set(xlabel="block size", ylabel="relative error in %", yscale="log", ylim=(0.25, 130), xlim=(-0.3, 7.1))
    curves.set_xticks(range(len(BLOCK_SIZES)), [*map(str, BLOCK_SIZES[:-1]), "all"])
    curves.set_yticks([0.3, 1, 3, 10, 30, 100], ["0.3", "1", "3", "10", "30", "100"])
    for axes in (histogram, curves):
        axes.spines[["top", "right"]].set_visible(False)
    return figure, (histogram, curves)


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    if not tensors:
        raise ValueError("the bits view needs at least one tensor to round")
    for name, values in tensors.items():
        if not values.is_floating_point() or values.numel() <= BLOCK_SIZES[-2] or not values.any():
            raise ValueError(
                f"{name!r} must hold more than {BLOCK_SIZES[-2]} floating-point values, not all of them zero, "
                f"got {values.dtype} of shape {tuple(values.shape)}"
            )
