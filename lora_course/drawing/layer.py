"""The diagram of a linear layer with an adapter, which grows from notebook to notebook: backward, in 4 bits.

True to scale: a side of a rectangle is as long as there are numbers along it. So A is as wide as W, B is as tall as W,
and both are thin in the direction of the rank.
"""

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle

from lora_course.drawing.looks import ADAPTER, CODES, CONSTANTS, GRADIENT, GRAY, WEIGHT, Look, light

D_IN, D_OUT, RANK, BLOCK = 256, 192, 8, 64
UNIT = 0.01  # of the drawing, for one number
WIDE, TALL, THIN = D_IN * UNIT, D_OUT * UNIT, RANK * UNIT
X, LEFT, W, B, PLUS, Y = 0.5, 1.35, 4.0, 6.9, 8.5, 10.0  # where things stand, from left to right
BELOW = -2.55  # the height at which the adapter's path runs
ABOVE = 2.95  # the height of the codes


def layer_diagram(quantized: bool = False, backward: bool = False) -> tuple[Figure, str]:
    """A linear layer with A and B, and what the course adds to it, true to scale: the figure and its words."""
    top, bottom = ABOVE + 1.25 if quantized else 1.55, BELOW - 1.45
    width = 8.4 if quantized else 7.2  # where W holds a name alone, the letters have room
    figure, axes = plt.subplots(figsize=(width, width * (top - bottom) / 11.2), layout="constrained")
    axes.set(xlim=(-0.2, 11.0), ylim=(bottom, top), aspect="equal")
    axes.axis("off")
    _base(axes, quantized)
    if quantized:
        _decode_step(axes, backward)
    _adapter(axes)
    if backward:
        _backward(axes, quantized)
    return figure, _words(quantized, backward)


def _base(axes: Axes, quantized: bool) -> None:
    gray = (GRAY, "")
    _box(axes, X, 0, THIN, WIDE, gray)
    axes.text(X, WIDE / 2 + 0.08, "x", ha="center", va="bottom", fontsize=13, style="italic")
    axes.text(X - 0.45, -WIDE / 2 - 0.1, f"$d_{{in}}$ = {D_IN}", ha="left", va="top", fontsize=10)
    _box(axes, W, 0, WIDE, TALL, WEIGHT, dashed=quantized)
    name = "W′, decoded:\nthere for this product,\nthen dropped" if quantized else "W\nfrozen"
    axes.text(W, 0, name, ha="center", va="center", fontsize=11)
    size = f"$d_{{out}} \\times d_{{in}}$ = {D_OUT} × {D_IN}"
    axes.text(W, -TALL / 2 - 0.1, size, ha="center", va="top", fontsize=10)
    _box(axes, Y, 0, THIN, TALL, gray)
    axes.text(Y, TALL / 2 + 0.08, "y", ha="center", va="bottom", fontsize=13, style="italic")
    axes.text(Y, -TALL / 2 - 0.1, f"$d_{{out}}$ = {D_OUT}", ha="center", va="top", fontsize=10)
    _arrow(axes, (X + 0.1, 0), (W - WIDE / 2, 0))
    _arrow(axes, (W + WIDE / 2, 0), (PLUS - 0.2, 0))
    _arrow(axes, (PLUS + 0.2, 0), (Y - 0.08, 0))
    axes.add_patch(Circle((PLUS, 0), 0.2, facecolor="white", edgecolor="black", lw=1.3, zorder=3))
    axes.text(PLUS, -0.012, "+", ha="center", va="center", fontsize=15, zorder=4)


def _adapter(axes: Axes) -> None:
    _line(axes, (LEFT, 0), (LEFT, BELOW))
    _arrow(axes, (LEFT, BELOW), (W - WIDE / 2, BELOW))
    _box(axes, W, BELOW, WIDE, THIN, ADAPTER)
    axes.text(W, BELOW - 0.12, f"A: $r \\times d_{{in}}$ = {RANK} × {D_IN}", ha="center", va="top", fontsize=10)
    _arrow(axes, (W + WIDE / 2, BELOW), (B - THIN / 2, BELOW))
    _box(axes, B, BELOW, THIN, TALL, ADAPTER)
    size = f"B: $d_{{out}} \\times r$ = {D_OUT} × {RANK}"
    axes.text(B, BELOW - TALL / 2 - 0.1, size, ha="center", va="top", fontsize=10)
    _line(axes, (B + THIN / 2, BELOW), (PLUS, BELOW))
    _arrow(axes, (PLUS, BELOW), (PLUS, -0.2))
    axes.text(PLUS + 0.12, BELOW / 2, "times\n$s = \\alpha / r$", fontsize=10, va="center")


def _decode_step(axes: Axes, backward: bool) -> None:
    """What is stored stands above: it is decoded into W' whenever the layer is used."""
    _box(axes, W, ABOVE, WIDE, TALL, CODES)
    size, paper = f"codes: {D_OUT} × {D_IN}\nof 4 bits each", {"facecolor": "white", "edgecolor": "none", "pad": 2.5}
    axes.text(W, ABOVE, size, ha="center", va="center", fontsize=11, bbox=paper)
    constants = D_IN / BLOCK * UNIT
    strip = W + WIDE / 2 + 0.35
    _box(axes, strip, ABOVE, constants, TALL, CONSTANTS)
    axes.text(strip + 0.15, ABOVE, f"constants:\none absmax\nfor {BLOCK} codes", ha="left", va="center", fontsize=10)
    axes.text(W - WIDE / 2 - 0.2, ABOVE, "stored,\nfrozen", ha="right", va="center", fontsize=11)
    _arrow(axes, (W, ABOVE - TALL / 2), (W, TALL / 2))
    when = "once forward, once backward" if backward else "at every use"
    axes.text(W + 0.15, ABOVE / 2, f"decode, {when}:\nW′ = codebook[code] × absmax", va="center", fontsize=10)


def _backward(axes: Axes, quantized: bool) -> None:
    """Dashed, a little below the way forward. Into W leads no arrow: it is frozen."""
    color, low = GRADIENT[0], -0.4
    name = "W′" if quantized else "W"
    said: dict = {"fontsize": 10, "color": color}
    _box(axes, W, BELOW + 0.3, WIDE, THIN, GRADIENT)
    axes.text(W, BELOW + 0.3 + 0.1, "gradient of A, of its shape", ha="center", va="bottom", **said)
    _box(axes, B + 0.3, BELOW, THIN, TALL, GRADIENT)
    axes.text(B + 0.3 + 0.12, BELOW - 0.6, "gradient\nof B", ha="left", va="center", **said)
    _arrow(axes, (PLUS - 0.18, -0.3), (PLUS - 0.18, BELOW + 0.15), GRADIENT)
    _arrow(axes, (B - 0.15, BELOW + 0.3), (W + WIDE / 2 + 0.05, BELOW + 0.3), GRADIENT)
    _line(axes, (W - WIDE / 2 - 0.05, BELOW + 0.3), (LEFT + 0.25, BELOW + 0.3), GRADIENT)
    _arrow(axes, (LEFT + 0.25, BELOW + 0.3), (LEFT + 0.25, low - 0.02), GRADIENT)  # adds to what W sends back
    _arrow(axes, (Y - 0.15, low), (PLUS + 0.1, low), GRADIENT)
    _arrow(axes, (PLUS - 0.25, low), (W + WIDE / 2 + 0.03, low), GRADIENT)
    _arrow(axes, (W - WIDE / 2 - 0.03, low), (X + 0.15, low), GRADIENT)
    axes.text(Y - 0.1, low - 0.12, "dL/dy", ha="right", va="top", fontsize=10, color=color)
    axes.text(X + 0.12, low - 0.12, "dL/dx", ha="left", va="top", fontsize=10, color=color)
    axes.text(W, low - 0.05, f"({name} gets no gradient)", ha="center", va="top", fontsize=9, color=color)


def _words(quantized: bool, backward: bool) -> str:
    weight = "W′" if quantized else "W"
    words = (
        f"A linear layer, true to scale: x ({D_IN} numbers) goes through {weight} ({D_OUT} × {D_IN}) to y. "
        f"Beside it A, as wide as W and {RANK} tall, and B, as tall as W and {RANK} wide, add to y, times s."
    )
    if quantized:
        when = "once forward and once backward" if backward else "at every use"
        words += f" W′ is decoded {when} from 4-bit codes and one absmax for {BLOCK} of them."
    if backward:
        words += f" Backward, dashed: A and B get a gradient, {weight} none."
    return words


def _box(axes: Axes, x: float, y: float, width: float, height: float, look: Look, dashed: bool = False) -> None:
    style = light(look)
    if dashed:
        style |= {"facecolor": "white", "linestyle": (0, (4, 3))}
    axes.add_patch(Rectangle((x - width / 2, y - height / 2), width, height, **style))


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], look: Look = ("black", "")) -> None:
    style = "--" if look is GRADIENT else "-"
    axes.plot(*zip(start, end, strict=True), color=look[0], lw=1.2, ls=style, solid_capstyle="butt")


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float], look: Look = ("black", "")) -> None:
    how: dict = {"arrowstyle": "-|>", "mutation_scale": 12, "shrinkA": 0, "shrinkB": 0}
    style = "--" if look is GRADIENT else "-"
    axes.add_patch(FancyArrowPatch(start, end, color=look[0], lw=1.2, ls=style, **how))
