"""The pictures of notebook 07: a matrix that shrinks, the two levels, errors at right angles, and what bits buy.

`shrinking` is the slider of the first screen.
"""

import functools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Arc, Polygon, Rectangle
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.experiments.nb07 import CONSTANTS, error_by_source
from lora_edu.figures.drawing import Drawn, note, panels, picture, slider, styled
from lora_edu.figures.looks import BLUE, CODES, GRAY, GREEN, ORANGE, RED, WEIGHT, filled
from lora_edu.figures.looks import CONSTANTS as CONSTANTS_LOOK
from lora_edu.quantization import nearest_code

BLOCK_SIZES = (8, 16, 32, 64, 128, 256, 1024)
WIDTHS = {f"{bits} bits": bits for bits in CONSTANTS}  # what the buttons say -> bits of a constant
SECOND_SIZE = 256

# --- a matrix shrinks: the slider of the first screen ----------------------------------------------------------------

SHRINK_ALT = (
    "Left, squares whose areas are bits, all to one scale: the weights in 16 bits, their 4-bit codes, the constants of "
    "the blocks, and the constants of the constants. Right, three bars: the error of the codes alone, of the constants "
    "alone, and of both."
)
# What a square stands for: where its left side is (one of 16 bits is 4 wide), and how it looks.
SQUARES = {
    "weights": (0.0, WEIGHT),
    "codes": (4.5, CODES),
    "constants": (7.0, CONSTANTS_LOOK),
    "their constants": (9.5, ("#4B2A5E", "")),  # as dark as can be: it is small
}
BARS = {"codes": ("codes alone", CODES), "constants": ("constants alone", CONSTANTS_LOOK), "both": ("both", (GRAY, ""))}


def bits_of_parts(block_size: int, constant_bits: int) -> dict[str, float]:
    """What one weight takes: its code, its share of a constant, and of a constant of constants."""
    second = 32 / (block_size * SECOND_SIZE) if constant_bits < 16 else 0.0
    return {"codes": 4.0, "constants": constant_bits / block_size, "their constants": second}


@slider
def shrinking(weight: Tensor):
    """Two controls: block_size (one of BLOCK_SIZES) and constants (one of WIDTHS). weight: a layer's, of any shape."""
    if weight.numel() < max(BLOCK_SIZES) * SECOND_SIZE or not weight.any():
        raise ValueError(f"the view needs {max(BLOCK_SIZES) * SECOND_SIZE} weights or more that are not all zero")
    errors = functools.cache(lambda block_size, bits: error_by_source(weight.flatten(), CONSTANTS[bits], block_size))
    figure = plt.figure(figsize=(10.4, 3.4))
    areas, bars = figure.add_axes([0.01, 0.02, 0.62, 0.96]), figure.add_axes([0.755, 0.2, 0.235, 0.62])
    areas.set(xlim=(-0.1, 11.6), ylim=(-0.1, 5.7), aspect="equal", anchor="W")
    areas.axis("off")
    bars.set(xlim=(0, 31), xlabel="relative error, %", ylim=(2.6, -0.6))
    bars.set_title("what comes back is off by", loc="center")
    title = areas.text(0, 5.2, "", fontsize=11, weight="bold", animated=True)
    squares, lengths = {}, {}
    for name, (x, look) in SQUARES.items():
        square = areas.add_patch(Rectangle((x, 0), 4, 4, lw=0, animated=True, **filled(look)))
        squares[name] = square, areas.text(x, 0, "", va="bottom", linespacing=1.3, animated=True)
    for place, (source, (name, look)) in enumerate(BARS.items()):
        (length,) = bars.barh(name, 0, height=0.6, lw=0, animated=True, **filled(look))
        lengths[source] = length, bars.text(0, place, "", va="center", animated=True)

    def values(block_size: int, constants: str) -> dict:
        bits, error = bits_of_parts(block_size, WIDTHS[constants]), errors(block_size, WIDTHS[constants])
        percent = {source: 100 * value for source, value in error.items()}
        return {
            "bits": {"weights": 16.0} | bits,
            "error": percent,
            "readout": f"blocks of {block_size}, constants in {constants}: {sum(bits.values()):.3f} bits a weight; "
            f"error of the codes alone {percent['codes']:.2f}%, of the constants alone {percent['constants']:.2f}%, "
            f"of both {percent['both']:.2f}%",
        }

    def draw(now: dict) -> None:
        for (name, bits), (square, label) in zip(now["bits"].items(), squares.values(), strict=True):
            square.set(width=bits**0.5, height=bits**0.5)
            label.set(text=f"{name}\n{bits:.3g} bits" if bits else "", position=(SQUARES[name][0], bits**0.5 + 0.1))
        _, *parts = now["bits"].values()
        title.set_text(f"{' + '.join(f'{bits:.3g}' for bits in parts if bits)} = {sum(parts):.3f} bits a weight")
        for source, (length, end) in lengths.items():
            length.set_width(now["error"][source])
            end.set(text=f" {now['error'][source]:.2f}%", x=now["error"][source])

    return figure, values, draw, {"block_size": 64, "constants": "32 bits"}


# --- pictures --------------------------------------------------------------------------------------------------------


@picture
def two_levels(weights: Tensor, absmax: Tensor, offset: float) -> Drawn:
    """One block of constants on its way: weights (256 * 64,), their absmax (256,), and the offset of the layer."""
    code, count = get_codebook("dynamic"), len(absmax)
    centered = absmax - offset
    second, top = centered.abs().max(), int(centered.abs().argmax())
    codes = nearest_code(centered / second, code)
    back = code[codes.long()] * second + offset
    error = ((back - absmax).norm() / absmax.norm()).item()
    figure, rows = plt.subplots(4, 1, figsize=(9.6, 7.4), height_ratios=(3, 2, 2, 2), sharex=True)
    places, edges, purple = np.arange(count) + 0.5, range(count + 1), CONSTANTS_LOOK[0]
    inside = np.arange(len(weights)) * count / len(weights)
    rows[0].plot(inside, weights.abs().numpy(), ".", color=BLUE, ms=1.2, alpha=0.5, rasterized=True)
    rows[0].stairs(absmax.numpy(), edges, baseline=None, color=purple, lw=1.3)
    rows[0].plot([0, count], [offset, offset], "k--", lw=1)
    rows[0].text(count + 2, offset, f"offset\n{offset:.3f}", va="center")
    rows[1].bar(places, centered.numpy(), width=0.9, color=purple)
    rows[1].plot(top + 0.5, centered[top], "kv" if centered[top] > 0 else "k^", ms=7)
    rows[1].text(count + 2, 0, f"largest\n{second:.3f}", va="center")
    rows[2].plot(places, codes.numpy(), "s", color=purple, ms=2.6)
    rows[2].set(ylim=(-8, 263), yticks=[0, 127, 255])
    rows[3].stairs(absmax.numpy(), edges, baseline=None, color=GRAY, lw=5, alpha=0.45)
    rows[3].stairs(back.numpy(), edges, baseline=None, color=purple, lw=1.3)
    titles = (
        f"{len(weights):,} weights (dots: magnitudes) have {count} constants (line): 1,024 bytes in float32",
        "less the offset, the mean of the whole layer: now both signs; the triangle marks the largest",
        f"divided by the largest, the nearest of 256 values: {count} bytes, and 4 for the largest",
        f"and back (thin) over the exact constants (wide): error {error:.2%}",
    )
    for row, title in zip(rows, titles, strict=True):
        row.set(title=title, xlim=(-2, count + 24))
    for row in (rows[0], rows[3]):
        row.set_ylim(0, 1.06 * absmax.max().item())
    rows[3].set_xlabel("block of 64 weights")
    return figure, (
        f"256 constants become 256 bytes and one number, and come back with an error of {error:.2%}. Four rows over "
        "the same 256 blocks: weights under the line of their constants, the constants without their "
        "mean, the byte of each, and the restored constants over the exact ones."
    )


@styled
def right_angles(rows: dict[int, dict[str, float]]) -> Drawn:
    """Triangles to scale. rows: bits of a constant -> the errors of "codes", "constants" and "both"."""
    figure, frames = panels(len(rows), 10.4, 3.6, sharex=True, sharey=True)
    for axes, (bits, error) in zip(frames, rows.items(), strict=True):
        c, k, both = (100 * error[source] for source in ("codes", "constants", "both"))
        long, high, purple = np.hypot(c, k), k > 8, CONSTANTS_LOOK[0]
        axes.add_patch(Polygon([(0, 0), (c, 0), (c, k)], facecolor=(0.4, 0.4, 0.4, 0.12), edgecolor="none"))
        axes.plot([0, c], [0, 0], color=GREEN, lw=3)
        axes.plot([c, c], [0, k], color=purple, lw=3)
        axes.plot([0, c], [0, k], color="black", lw=1.6)
        axes.add_patch(Arc((0, 0), 2 * long, 2 * long, theta2=np.degrees(np.arctan2(k, c)), ls=":"))
        for x, color in ((both, "black"), (c + k, RED)):
            axes.plot([x], [0], "|", color=color, ms=14, mew=2)
        axes.text(c / 2, -1.2, f"codes {c:.2f}", color=GREEN, ha="center", va="top")
        axes.text(*((long - 1.6, 8) if high else (c + 1.2, 1.2)), f"constants {k:.2f}", color=purple)  # beyond the arc
        axes.text(c + k, -1.2, f" sum {c + k:.2f}", color=RED, ha="center" if high else "left", va="top")
        axes.text(0, k + (0.9 if high else 2.2), f"in squares {long:.2f}, measured {both:.2f}")
        axes.set(title=f"constants in {bits} bits", xlim=(-0.5, 25), ylim=(-3.4, 14.6), aspect="equal", yticks=[])
        axes.set_xlabel("relative error, %")
        axes.spines["left"].set_visible(False)
    figure.suptitle(
        "Swing the black side down: it ends close to the measured error of both (black mark), not at the sum (red)"
    )
    parts = {bits: ", ".join(f"{source} {error[source]:.2%}" for source in BARS) for bits, error in rows.items()}
    return figure, (
        "The error of both sources is the long side of a right triangle, not the sum of the short ones. "
        f"{'; '.join(f'{bits} bits: {said}' for bits, said in parts.items())}. One "
        "triangle to scale for each, with a black mark at the measured error and a red one at the sum."
    )


EQUAL_BITS = ((128, 32), (64, 16), (32, 8), (16, 4))  # block size, bits of a constant: 4.25 bits a weight


LOOKS = {32: (RED, ":s"), 16: (ORANGE, "--D"), 8: (BLUE, "-o"), 4: (GREEN, "-.^")}  # bits of a constant
NAMED = {  # points with a name: what it is, and where it stands beside them
    (128, 32): ("128", 8, 4),
    (64, 16): ("64", 8, 4),
    (32, 8): ("32", 8, 4),
    (16, 4): ("16", -24, -16),
    (64, 8): ("QLoRA: 64", -40, -14),
    (32, 4): ("32", -40, -32),
}


@styled
def bits_bought(points: dict[tuple[int, int], tuple[float, float]]) -> Drawn:
    """Error against bits on a log axis. points: (block size, bits of a constant) -> (bits a weight, error)."""
    figure, (axes,) = panels(1, 9.6, 4.4)
    places = {key: (bits - 4, 100 * error) for key, (bits, error) in points.items()}
    axes.axvline(0.25, color=GRAY, lw=1)
    for width, (color, style) in LOOKS.items():
        x, y = zip(*[places[key] for key in sorted(places) if key[1] == width], strict=True)
        axes.plot(x, y, style, mfc="white", mew=1.6, color=color, lw=1.4)
        axes.text(x[0], y[0] - 0.2, f"{width}-bit\nconstants", color=color, ha="center", va="top")
    for key, (text, *by) in NAMED.items():
        line = {"arrowstyle": "-", "color": GRAY} if by[0] < 0 else None
        note(axes, text, places[key], by, "right" if line else "left", va="baseline", arrowprops=line)
    marks = [0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2, 4]
    axes.set(xscale="log", xlim=(0.0065, 6), ylim=(6.3, 11.3), ylabel="error of the GPT's weights, %")
    axes.set(xlabel="bits a weight (log scale of what lies above 4)")
    axes.set_xticks(marks, [f"{4 + mark:g}" for mark in marks])
    axes.minorticks_off()
    axes.set_title("At 4.25 bits a weight, short constants pay for small blocks (numbers: block sizes)")
    found = ", ".join(f"blocks of {k}, {bits}-bit constants {points[k, bits][1]:.2%}" for k, bits in EQUAL_BITS)
    (bits, error), (fewer, rounded) = points[64, 8], points[32, 4]
    return figure, (
        f"Near 4.25 bits a weight the error falls with the bits of a constant: {found}. Four curves of error against "
        f"bits a weight, small blocks at the right. QLoRA's blocks of 64: {bits:.3f} bits, {error:.2%}; blocks of 32 "
        f"with 4-bit constants: {fewer:.3f} bits, {rounded:.2%}."
    )
