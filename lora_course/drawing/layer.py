"""The diagram of a linear layer with an adapter, which grows from notebook to notebook: backward, in 4 bits.

It is the picture of the first page: W, and beside it B times A, with A above and B at the side. The squares are real
numbers, every fourth of a layer of the shipped base and of its Shakespeare adapter. True to scale: a side is as long as
there are numbers along it, so both strips are thin in the direction of the rank.
"""

import functools

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from safetensors.torch import load_file

from lora_course.drawing.looks import ADAPTER, CODES, CONSTANTS, GRADIENT, GRAY, WEIGHT, Look, light
from lora_edu import data_file

D_IN, D_OUT, RANK, BLOCK = 256, 192, 8, 64
UNIT = 0.01  # of the drawing, for one number
WIDE, TALL, THIN = D_IN * UNIT, D_OUT * UNIT, RANK * UNIT
X, W, PLUS, B, Y = 0.45, 2.6, 4.35, 5.35, 9.3  # where things stand, from left to right
PRODUCT = B + THIN / 2 + 0.12 + WIDE / 2
A = TALL / 2 + 0.12 + THIN / 2  # the height of A
ABOVE = 3.2  # the height of the codes
PAPER = {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
LAYER, EVERY = "blocks.2.attention.v_proj", 4


def layer_diagram(quantized: bool = False, backward: bool = False) -> tuple[Figure, str]:
    """A linear layer with A and B, and what the course adds to it, true to scale: the figure and its words."""
    top, bottom = ABOVE + 1.05 if quantized else 1.75, -1.95 if backward else -1.75
    figure, axes = plt.subplots(figsize=(8.6, 8.6 * (top - bottom) / 10.2), layout="constrained")
    axes.axis("off")
    _ends(axes)
    _base(axes, quantized)
    if quantized:
        _decode_step(axes, backward)
    _adapter(axes, backward)
    if backward:
        _backward(axes, quantized)
    axes.set(xlim=(-0.2, 10.0), ylim=(bottom, top), aspect="equal")
    return figure, _words(quantized, backward)


def _ends(axes: Axes) -> None:
    """x, from which the layer makes y."""
    gray = (GRAY, "")
    _box(axes, X, 0, THIN, WIDE, gray)
    axes.text(X, WIDE / 2 + 0.08, "x", ha="center", va="bottom", fontsize=13, style="italic")
    axes.text(X - 0.55, -WIDE / 2 - 0.1, f"$d_{{in}}$ = {D_IN}", ha="left", va="top", fontsize=10)
    _box(axes, Y, 0, THIN, TALL, gray)
    axes.text(Y, TALL / 2 + 0.08, "y", ha="center", va="bottom", fontsize=13, style="italic")
    axes.text(Y, -TALL / 2 - 0.1, f"$d_{{out}}$ = {D_OUT}", ha="center", va="top", fontsize=10)
    _arrow(axes, (X + 0.1, 0), (W - WIDE / 2, 0))
    _arrow(axes, (PRODUCT + WIDE / 2, 0), (Y - 0.08, 0))


def _base(axes: Axes, quantized: bool) -> None:
    _box(axes, W, 0, WIDE, TALL, WEIGHT, dashed=quantized)
    _mosaic(axes, W, 0, WIDE, TALL, WEIGHT, numbers()["W"], faint=0.5 if quantized else 1)
    name = "W′, decoded:\nthere for this product,\nthen dropped" if quantized else "W, frozen"
    axes.text(W, 0, name, ha="center", va="center", fontsize=11, bbox=PAPER)
    size = f"$d_{{out}} \\times d_{{in}}$ = {D_OUT} × {D_IN}"
    axes.text(W, -TALL / 2 - 0.1, size, ha="center", va="top", fontsize=10)
    axes.text(PLUS, 0, "+", ha="center", va="center", fontsize=20)
    axes.text(PLUS + 0.28, 0, "$s$", ha="center", va="center", fontsize=13)


def _adapter(axes: Axes, backward: bool) -> None:
    """A over the columns of B A, B at its rows. Of the product only a faint picture: a layer never forms it."""
    part = numbers()
    _box(axes, PRODUCT, A, WIDE, THIN, ADAPTER)
    _mosaic(axes, PRODUCT, A, WIDE, THIN, ADAPTER, part["A"])
    _box(axes, B, 0, THIN, TALL, ADAPTER)
    _mosaic(axes, B, 0, THIN, TALL, ADAPTER, part["B"])
    _mosaic(axes, PRODUCT, 0, WIDE, TALL, ADAPTER, part["B"] @ part["A"], faint=0.55)
    _box(axes, PRODUCT, 0, WIDE, TALL, ADAPTER, dashed=True)
    name = "B A, the update:\nfirst A x, then B (A x)"
    axes.text(PRODUCT, 0, name, ha="center", va="center", fontsize=11, bbox=PAPER)
    size = f"A: $r \\times d_{{in}}$ = {RANK} × {D_IN}"
    axes.text(PRODUCT, A + (0.34 if backward else 0.1), size, ha="center", va="bottom", fontsize=10)
    size = f"B: $d_{{out}} \\times r$ = {D_OUT} × {RANK}"
    axes.text(B, -TALL / 2 - 0.1, size, ha="center", va="top", fontsize=10)
    axes.text(PRODUCT + WIDE / 2, -TALL / 2 - 0.1, "$s = \\alpha / r$", ha="right", va="top", fontsize=10)


def _decode_step(axes: Axes, backward: bool) -> None:
    """What is stored stands above: it is decoded into W' whenever the layer is used."""
    _box(axes, W, ABOVE, WIDE, TALL, CODES)
    _mosaic(axes, W, ABOVE, WIDE, TALL, CODES, numbers()["W"])
    size = f"codes: {D_OUT} × {D_IN}\nof 4 bits each"
    axes.text(W, ABOVE, size, ha="center", va="center", fontsize=11, bbox=PAPER)
    constants = D_IN / BLOCK * UNIT
    strip = W + WIDE / 2 + 0.35
    _box(axes, strip, ABOVE, constants, TALL, CONSTANTS)
    axes.text(strip + 0.15, ABOVE, f"constants:\none absmax\nfor {BLOCK} codes", ha="left", va="center", fontsize=10)
    axes.text(W - WIDE / 2 - 0.2, ABOVE, "stored,\nfrozen", ha="right", va="center", fontsize=11)
    _arrow(axes, (W, ABOVE - TALL / 2), (W, TALL / 2))
    when = "once forward,\nonce backward" if backward else "at every use"
    axes.text(W + 0.15, ABOVE / 2, f"decode, {when}:\nW′ = codebook[code]\n× absmax", va="center", fontsize=10)


def _backward(axes: Axes, quantized: bool) -> None:
    """Dashed, below the way forward. Into W leads no arrow: it is frozen."""
    color, low = GRADIENT[0], -0.62
    name = "W′" if quantized else "W"
    said: dict = {"fontsize": 10, "color": color}
    _box(axes, PRODUCT, A + 0.2, WIDE, THIN, GRADIENT)
    axes.text(PRODUCT + WIDE / 2 + 0.1, A + 0.2, "gradient\nof A", ha="left", va="center", **said)
    _box(axes, B - 0.2, 0, THIN, TALL, GRADIENT)
    axes.text(B - 0.32, -0.55, "gradient\nof B", ha="right", va="center", **said)
    _arrow(axes, (Y - 0.15, low), (PRODUCT + WIDE / 2 + 0.03, low), GRADIENT)
    _arrow(axes, (W - WIDE / 2 - 0.03, low), (X + 0.15, low), GRADIENT)
    axes.text(Y - 0.12, low - 0.1, "dL/dy", ha="right", va="top", **said)
    axes.text(X + 0.14, low - 0.1, "dL/dx", ha="left", va="top", **said)
    through = f"({name} gets no gradient;\ndL/dx comes through {name} and B A)"
    axes.text(W, -TALL / 2 - 0.4, through, ha="center", va="top", **said)


def _words(quantized: bool, backward: bool) -> str:
    weight = "W′" if quantized else "W"
    words = (
        f"A linear layer, true to scale: x ({D_IN} numbers) goes through {weight} ({D_OUT} × {D_IN}) to y. "
        f"Added to it, times s: B A. A lies above, as wide as W and {RANK} tall; B stands at the side, as tall as W "
        f"and {RANK} wide."
    )
    if quantized:
        when = "once forward and once backward" if backward else "at every use"
        words += f" W′ is decoded {when} from 4-bit codes and one absmax for {BLOCK} of them."
    if backward:
        words += f" Backward, dashed: A and B get a gradient, {weight} none; that of x comes through {weight} and B A."
    return words


@functools.cache
def numbers() -> dict[str, np.ndarray]:
    """Every fourth number of the upper part of a layer: W (48, 64), A (8, 64) and B (48, 8)."""
    base = load_file(data_file("base-laptop.safetensors"))
    adapter = load_file(data_file("shakespeare-adapter") / "adapter_model.safetensors")
    W, A, B = (
        tensor.float().numpy()
        for tensor in (
            base[f"{LAYER}.weight"],
            adapter[f"base_model.model.{LAYER}.lora_A.weight"],
            adapter[f"base_model.model.{LAYER}.lora_B.weight"],
        )
    )
    return {"W": W[:D_OUT:EVERY, ::EVERY], "A": A[:, ::EVERY], "B": B[:D_OUT:EVERY]}


def _mosaic(axes, x, y, width, height, look: Look, values: np.ndarray, faint: float = 1) -> None:
    """Numbers as squares: the further from zero, the more of the look's color; values: (rows, columns)."""
    shades = LinearSegmentedColormap.from_list("shades", ["white", look[0]])
    size = np.abs(values)
    sides = (x - width / 2, x + width / 2, y - height / 2, y + height / 2)
    how: dict = {"cmap": shades, "vmin": 0, "vmax": np.quantile(size, 0.99), "alpha": faint, "interpolation": "none"}
    axes.imshow(size, extent=sides, zorder=0.9, **how)


def _box(axes: Axes, x: float, y: float, width: float, height: float, look: Look, dashed: bool = False) -> None:
    """The frame of a part; hatched where no mosaic fills it."""
    style = light(look)
    if look in (WEIGHT, ADAPTER, CODES):
        style |= {"facecolor": "none", "hatch": ""}
    if dashed:
        style |= {"linestyle": (0, (4, 3))}
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **style))


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], look: Look = ("black", "")) -> None:
    how: dict = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0}
    style = "--" if look is GRADIENT else "-"
    axes.add_patch(FancyArrowPatch(start, end, color=look[0], lw=1.2, ls=style, **how))
