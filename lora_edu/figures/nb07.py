"""The pictures of notebook 07: a matrix that shrinks, the two levels, errors at right angles, and what bits buy.

`shrinking` is the slider of the first screen.
"""

import functools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Arc, Polygon, Rectangle
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.experiments.nb07 import CONSTANTS, error_by_source
from lora_edu.figures import plots
from lora_edu.figures.plots import BLUE, CODES, GRAY, GREEN, ORANGE, RED
from lora_edu.figures.sliders import View
from lora_edu.quantization import nearest_code

Drawn = tuple[Figure, str]  # a figure and its words
BLOCK_SIZES = (8, 16, 32, 64, 128, 256, 1024)
WIDTHS = {f"{bits} bits": bits for bits in CONSTANTS}  # what the buttons say -> bits of a constant
SECOND_SIZE = 256

# --- a matrix shrinks: the slider of the first screen ----------------------------------------------------------------

SHRINK_ALT = (
    "Left, squares whose areas are bits, all to one scale: the weights in 16 bits, their 4-bit codes, the constants of "
    "the blocks, and the constants of the constants. Right, three bars: the error of the codes alone, of the constants "
    "alone, and of both."
)
NAMES = ("weights", "codes", "constants", "their constants")
PLACES = (0.0, 4.5, 7.0, 9.5)  # of the left side of each square; a square of 16 bits is 4 wide
SECOND_LEVEL = ("#4B2A5E", "")  # as dark as can be: it is small


def bits_of_parts(block_size: int, constant_bits: int) -> dict[str, float]:
    """What one weight takes: its code, its share of a constant, and of a constant of constants."""
    second = 32 / (block_size * SECOND_SIZE) if constant_bits < 16 else 0.0
    return {"codes": 4.0, "constants": constant_bits / block_size, "their constants": second}


def shrinking(weight: Tensor) -> View:
    """Two controls: block_size (one of BLOCK_SIZES) and constants (one of WIDTHS). weight: a layer's, of any shape."""
    if weight.numel() < max(BLOCK_SIZES) * SECOND_SIZE or not weight.any():
        raise ValueError(f"the view needs {max(BLOCK_SIZES) * SECOND_SIZE} weights or more that are not all zero")
    flat = weight.flatten()
    errors = functools.cache(lambda block_size, bits: error_by_source(flat, CONSTANTS[bits], block_size))
    figure, areas, bars = _shrinking_panels()
    looks = (plots.WEIGHT, plots.CODES, plots.CONSTANTS, SECOND_LEVEL)
    squares = [Rectangle((x, 0), 4, 4, lw=0, **plots.filled(look)) for x, look in zip(PLACES, looks, strict=True)]
    for square in squares:
        areas.add_patch(square)
    labels = [areas.text(x, 0, "", va="bottom", fontsize=10, linespacing=1.3) for x in PLACES]
    title = areas.text(0, 5.2, "", fontsize=11, weight="bold")
    lengths = [
        bars.barh(name, 0, height=0.6, lw=0, **plots.filled(look))[0]
        for name, look in zip(
            ("codes alone", "constants alone", "both"), (CODES, plots.CONSTANTS, (GRAY, "")), strict=True
        )
    ]
    ends = [bars.text(0, place, "", va="center", fontsize=10) for place in range(3)]

    def values(block_size: int, constants: str) -> dict:
        bits, error = bits_of_parts(block_size, WIDTHS[constants]), errors(block_size, WIDTHS[constants])
        total = sum(bits.values())
        percent = {source: 100 * value for source, value in error.items()}
        return {
            "bits": {"weights": 16.0, **bits},
            "error": percent,
            "readout": f"blocks of {block_size}, constants in {constants}: {total:.3f} bits a weight; error of the "
            f"codes alone {percent['codes']:.2f}%, of the constants alone {percent['constants']:.2f}%, of both "
            f"{percent['both']:.2f}%",
        }

    def draw(now: dict) -> None:
        for square, label, place, name in zip(squares, labels, PLACES, NAMES, strict=True):
            bits = now["bits"][name]
            square.set(width=bits**0.5, height=bits**0.5)
            label.set(text=f"{name}\n{bits:.3g} bits" if bits else "", position=(place, bits**0.5 + 0.1))
        parts = [now["bits"][name] for name in NAMES[1:]]
        shown = " + ".join(f"{bits:.3g}" for bits in parts if bits)
        title.set_text(f"{shown} = {sum(parts):.3f} bits a weight")
        for length, end, source in zip(lengths, ends, ("codes", "constants", "both"), strict=True):
            length.set_width(now["error"][source])
            end.set(text=f" {now['error'][source]:.2f}%", x=now["error"][source])

    draw(values(64, "32 bits"))
    return View(figure, [*squares, *labels, title, *lengths, *ends], values=values, draw=draw)


def _shrinking_panels() -> tuple[Figure, Axes, Axes]:
    figure = plt.figure(figsize=(10.4, 3.4), dpi=96)
    areas, bars = figure.add_axes([0.01, 0.02, 0.62, 0.96]), figure.add_axes([0.755, 0.2, 0.235, 0.62])
    areas.set(xlim=(-0.1, 11.6), ylim=(-0.1, 5.7), aspect="equal", anchor="W")
    areas.axis("off")
    bars.set(xlim=(0, 31), xlabel="relative error, %", ylim=(2.6, -0.6))
    bars.set_title("what comes back is off by", fontsize=11)
    bars.spines[["top", "right"]].set_visible(False)
    return figure, areas, bars


# --- pictures --------------------------------------------------------------------------------------------------------


def two_levels(weights: Tensor, absmax: Tensor, offset: float) -> Drawn:
    """One block of constants on its way: weights (256 * 64,), their absmax (256,), and the offset of the layer."""
    code, count = get_codebook("dynamic"), len(absmax)
    centered = absmax - offset
    second = centered.abs().max()
    codes = nearest_code(centered / second, code)
    back = code[codes.long()] * second + offset
    error = ((back - absmax).norm() / absmax.norm()).item()
    figure, rows = plt.subplots(4, 1, figsize=(9.6, 7.4), layout="constrained", height_ratios=(3, 2, 2, 2), sharex=True)
    places, purple = np.arange(count) + 0.5, plots.CONSTANTS[0]
    inside = np.arange(len(weights)) * count / len(weights)
    rows[0].plot(inside, weights.abs().numpy(), ".", color=BLUE, ms=1.2, alpha=0.5, rasterized=True)
    rows[0].stairs(absmax.numpy(), range(count + 1), baseline=None, color=purple, lw=1.3)
    rows[0].plot([0, count], [offset, offset], color="black", lw=1, ls="--")
    rows[0].text(count + 2, offset, f"offset\n{offset:.3f}", va="center", fontsize=10)
    _titled(
        rows[0], f"{len(weights):,} weights (dots: magnitudes) have {count} constants (line): 1,024 bytes in float32"
    )
    rows[1].bar(places, centered.numpy(), width=0.9, color=purple)
    top = int(centered.abs().argmax())
    rows[1].plot(top + 0.5, centered[top], "v" if centered[top] > 0 else "^", color="black", ms=7)
    rows[1].text(count + 2, 0, f"largest\n{second:.3f}", va="center", fontsize=10)
    _titled(rows[1], "less the offset, the mean of the whole layer: now both signs; the triangle marks the largest")
    rows[2].plot(places, codes.numpy(), "s", color=purple, ms=2.6)
    rows[2].set(ylim=(-8, 263), yticks=[0, 127, 255])
    _titled(rows[2], f"divided by the largest, the nearest of 256 values: {count} bytes, and 4 for the largest")
    rows[3].stairs(absmax.numpy(), range(count + 1), baseline=None, color=GRAY, lw=5, alpha=0.45)
    rows[3].stairs(back.numpy(), range(count + 1), baseline=None, color=purple, lw=1.3)
    for row in (rows[0], rows[3]):
        row.set_ylim(0, 1.06 * absmax.max().item())
    _titled(rows[3], f"and back (thin) over the exact constants (wide): error {error:.2%}")
    rows[3].set_xlabel("block of 64 weights")
    for row in rows:
        row.set_xlim(-2, count + 24)
        row.spines[["top", "right"]].set_visible(False)
    return figure, (
        f"256 constants become 256 bytes and one number, and come back with an error of {error:.2%}. Four rows over "
        "the same 256 blocks: weights under the line of their constants, the constants without their "
        "mean, the byte of each, and the restored constants over the exact ones."
    )


def _titled(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=10.5)


def right_angles(rows: dict[int, dict[str, float]]) -> Drawn:
    """Triangles to scale. rows: bits of a constant -> the errors of "codes", "constants" and "both"."""
    figure, panels = plt.subplots(1, len(rows), figsize=(10.4, 3.6), layout="constrained", sharex=True, sharey=True)
    for axes, (bits, error) in zip(panels, rows.items(), strict=True):
        c, k, both = (100 * error[source] for source in ("codes", "constants", "both"))
        axes.add_patch(Polygon([(0, 0), (c, 0), (c, k)], facecolor=(0.4, 0.4, 0.4, 0.12), edgecolor="none"))
        axes.plot([0, c], [0, 0], color=GREEN, lw=3)
        axes.plot([c, c], [0, k], color=plots.CONSTANTS[0], lw=3)
        axes.plot([0, c], [0, k], color="black", lw=1.6)
        axes.add_patch(Arc((0, 0), 2 * np.hypot(c, k), 2 * np.hypot(c, k), theta2=np.degrees(np.arctan2(k, c)), ls=":"))
        axes.plot([both], [0], "|", color="black", ms=14, mew=2)
        axes.plot([c + k], [0], "|", color=RED, ms=14, mew=2)
        axes.text(c / 2, -1.2, f"codes {c:.2f}", color=GREEN, ha="center", va="top", fontsize=10)
        place = (np.hypot(c, k) - 1.6, 8) if k > 8 else (c + 1.2, 1.2)  # beyond the arc
        axes.text(*place, f"constants {k:.2f}", color=plots.CONSTANTS[0], fontsize=10)
        axes.text(c + k, -1.2, f" sum {c + k:.2f}", color=RED, ha="center" if k > 8 else "left", va="top", fontsize=10)
        axes.text(0, k + (0.9 if k > 8 else 2.2), f"in squares {np.hypot(c, k):.2f}, measured {both:.2f}", fontsize=10)
        axes.set_title(f"constants in {bits} bits", fontsize=11)
        axes.set(xlim=(-0.5, 25), ylim=(-3.4, 14.6), aspect="equal", yticks=[], xlabel="relative error, %")
        axes.spines[["top", "right", "left"]].set_visible(False)
    words = "; ".join(
        f"{bits} bits: codes {row['codes']:.2%}, constants {row['constants']:.2%}, both {row['both']:.2%}"
        for bits, row in rows.items()
    )
    figure.suptitle(
        "Swing the black side down: it ends close to the measured error of both (black mark), not at the sum (red)",
        fontsize=11,
    )
    return figure, (
        f"The error of both sources is the long side of a right triangle, not the sum of the short ones. {words}. One "
        "triangle to scale for each, with a black mark at the measured error and a red one at the sum."
    )


EQUAL_BITS = ((128, 32), (64, 16), (32, 8), (16, 4))  # block size, bits of a constant: 4.25 bits a weight


def bits_bought(points: dict[tuple[int, int], tuple[float, float]]) -> Drawn:
    """Error against bits on a log axis. points: (block size, bits of a constant) -> (bits a weight, error)."""
    figure, axes = plots.plain_axes(9.6, 4.4)
    looks = {32: (RED, "s", ":"), 16: (ORANGE, "D", "--"), 8: (BLUE, "o", "-"), 4: (GREEN, "^", "-.")}
    axes.axvline(0.25, color=GRAY, lw=1)
    for width, (color, marker, style) in looks.items():
        sizes = sorted(size for size, bits in points if bits == width)
        x, y = zip(*[(points[size, width][0] - 4, 100 * points[size, width][1]) for size in sizes], strict=True)
        axes.plot(x, y, marker, ms=6, mfc="white", mew=1.6, color=color, ls=style, lw=1.4)
        axes.text(x[0], y[0] - 0.2, f"{width}-bit\nconstants", color=color, ha="center", va="top", fontsize=9.5)
    named = [(key, f"{key[0]}", (8, 4), "left") for key in EQUAL_BITS[:-1]]
    named += [
        ((16, 4), "16", (-24, -16), "right"),
        ((64, 8), "QLoRA: 64", (-40, -14), "right"),
        ((32, 4), "32", (-40, -32), "right"),
    ]
    for key, text, place, side in named:
        arrow = {"arrowstyle": "-", "color": GRAY} if side == "right" else None
        at = (points[key][0] - 4, 100 * points[key][1])
        axes.annotate(text, at, place, textcoords="offset points", ha=side, fontsize=9.5, arrowprops=arrow)
    ticks = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 4]
    axes.set(xscale="log", xlim=(0.0065, 6), ylim=(6.3, 11.3))
    axes.set_xticks(ticks, [f"{4 + tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="bits a weight (log scale of what lies above 4)", ylabel="error of the GPT's weights, %")
    axes.set_title("At 4.25 bits a weight, short constants pay for small blocks (numbers: block sizes)", fontsize=11)
    found = ", ".join(
        f"blocks of {size}, {bits}-bit constants {points[size, bits][1]:.2%}" for size, bits in EQUAL_BITS
    )
    return figure, (
        f"Near 4.25 bits a weight the error falls with the bits of a constant: {found}. Four curves of error against "
        f"bits a weight, small blocks at the right. QLoRA's blocks of 64: {points[64, 8][0]:.3f} bits, "
        f"{points[64, 8][1]:.2%}; blocks of 32 with 4-bit "
        f"constants: {points[32, 4][0]:.3f} bits, {points[32, 4][1]:.2%}."
    )
