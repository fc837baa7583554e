"""The figures of notebook 00: the dial, what it gains and costs, an adapter to scale, the map."""

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import FancyBboxPatch, Rectangle

from lora_course.drawing.looks import ADAPTER, GRAY, METHODS, RED, TEXTS, WEIGHT
from lora_course.drawing.painted import TwoLines, in_lines
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, slider, styled
from lora_course.nb00.lab import STRENGTHS, arm_name
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE

DIAL_ALT = (
    "Two lines of text, one of a play and one of an address. Under every byte hangs a bar as long as the model's "
    "surprise. Below them stands a text that the model wrote."
)


# --- the dial --------------------------------------------------------------------------------------------------------


def dial(arms: dict) -> None:
    """Show the dial. arms: of the stored results of `adapter-dial`."""
    strength = ipywidgets.SelectionSlider(options=STRENGTHS, description="strength")
    explore(dial_view(arms), DIAL_ALT, strength=strength)


@slider
def dial_view(arms: dict):
    """A view with one control, `strength` (one of STRENGTHS)."""
    texts = {"a play": PLAY_LINE, "an address": ADDRESS_LINE}
    lines = TwoLines((9.4, 5.0), texts, (0.69, 0.39), 0.26, said="and it writes, after “My lord, ”:")

    def values(strength: float) -> dict:
        arm = arms[arm_name(strength)]
        return {
            "lines": (np.array(arm["play line"]), np.array(arm["address line"]), in_lines(arm["sample"])),
            "readout": f"strength {strength:g}: loss {arm['plays']:.2f} on plays, {arm['addresses']:.2f} on addresses",
        }

    return lines.figure, values, lambda now: lines.set(*now["lines"]), {"strength": STRENGTHS[0]}


# --- gain and price --------------------------------------------------------------------------------------------------


def share(arms: dict, strength: float, text: str) -> float:
    """How far the loss on `text` has moved at a strength, as a share of its way from strength 0 to 1."""
    off, here, full = (arms[arm_name(at)][text] for at in (0, strength, 1))
    return (here - off) / (full - off)


@styled
def strengths_figure(arms: dict, doubt: float) -> Drawn:
    """The losses against the strength, and two controls on plays: a shuffled adapter, and doubt alone (a loss)."""
    figure, (axes,) = panels(1, 8, 4)
    off = {0: arms[arm_name(0)]["plays"]}
    shuffled = off | {s: arms[arm_name(s, 0)]["plays"] for s in STRENGTHS if arm_name(s, 0) in arms}
    curves = {
        "on plays": (TEXTS["plays"], {s: arms[arm_name(s)]["plays"] for s in STRENGTHS}),
        "on addresses": (TEXTS["addresses"], {s: arms[arm_name(s)]["addresses"] for s in STRENGTHS}),
        "on plays, shuffled once": (METHODS["control"], shuffled),
    }
    for name, (look, losses) in curves.items():
        axes.plot(*zip(*losses.items(), strict=True), **look)
        note(axes, name, (2, losses[2]), (8, 0), color=look["color"])
    axes.axhline(doubt, ls=(0, (4, 3)), color=GRAY, lw=1.2)
    note(axes, "on plays, base with one temperature", (0.6, doubt), (0, 5), color=GRAY, va="baseline")
    axes.axvline(0.5, color=RED, lw=1, ls=(0, (1, 2)))
    axes.set(xlabel="strength of the adapter", ylabel="loss, nats per byte", xlim=(-0.05, 2.05), xticks=STRENGTHS[::2])
    gain, price = share(arms, 0.5, "plays"), share(arms, 0.5, "addresses")
    axes.text(0.52, 3.75, f"half: {gain:.0%} of the gain,\n{price:.0%} of the price", color=RED, va="top")
    axes.set_title("Trained, the adapter helps on plays; shuffled, it does not")
    plays = curves["on plays"][-1]
    best = min(plays, key=lambda strength: plays[strength])
    return figure, (
        f"Loss against strength from 0 to 2. Trained, it falls from {plays[0]:.2f} to {plays[best]:.2f} at strength "
        f"{best:g}, then rises. Shuffled, it helps nowhere: up to {shuffled[2]:.2f}. A flat line at {doubt:.2f}: the "
        f"base, less sure. On addresses the loss rises, slowly at first: at half strength {gain:.0%} of the gain cost "
        f"{price:.0%} of the price."
    )


# --- an adapter, to scale --------------------------------------------------------------------------------------------


@styled
def adapter_figure(weight: np.ndarray, A: np.ndarray, B: np.ndarray) -> Drawn:
    """W (d_out, d_in) as a picture, A (r, d_in) below it and B (d_out, r) beside it, a pixel for a number."""
    (d_out, d_in), rank, gap = weight.shape, len(A), 22
    figure, (axes,) = panels(1, 6.2, 5.6)
    for matrix, left, top, look, name, place in (
        (weight, 0, 0, WEIGHT, f"W: {d_out} × {d_in}, frozen", (0, -6)),
        (A, 0, d_out + gap, ADAPTER, f"A: {rank} × {d_in}", (0, d_out + gap + rank + 16)),
        (B, d_in + gap, 0, ADAPTER, f"B: {d_out} × {rank}", (d_in + gap + rank + 6, 12)),
    ):
        (height, width), reach = matrix.shape, 3 * matrix.std()
        extent = (left, left + width, top + height, top)
        axes.imshow(matrix, cmap="gray", vmin=-reach, vmax=reach, extent=extent, interpolation="nearest")
        axes.add_patch(Rectangle((left, top), width, height, fill=False, edgecolor=look[0], lw=1.6))
        axes.text(place[0], place[1], name, fontsize=11, color=look[0])
    axes.set(xlim=(-4, d_in + gap + 90), ylim=(d_out + gap + rank + 22, -20), aspect="equal")
    axes.axis("off")
    numbers = A.size + B.size
    axes.set_title(f"{numbers:,} numbers beside {weight.size:,}")
    return figure, (
        f"The adapter of one layer has {numbers:,} numbers, its weight {weight.size:,}. Gray pictures to scale, a "
        f"pixel for a number: W is a square of {d_out} by {d_in}; A lies below it, as wide and {rank} tall; B stands "
        f"beside it, as tall and {rank} wide."
    )


# --- the map ---------------------------------------------------------------------------------------------------------

# number -> (column, row, its title, the question)
PLACES = {
    "00": (0, 1, "Start here", "what is\nan adapter?"),
    "01": (1, 0, "Low rank", "why can low\nrank be enough?"),
    "02": (2, 0, "LoRA by hand", "what are the\ngradients?"),
    "03": (3, 0, "A small GPT", "what is the\nmodel we adapt?"),
    "04": (4, 0, "LoRA in torch", "how does LoRA\nenter a model?"),
    "05": (1, 2, "Blocks", "how do numbers\nfit into 4 bits?"),
    "06": (2, 2, "NF4", "which 16\nnumbers?"),
    "07": (3, 2, "Constants", "what do the\nconstants cost?"),
    "08": (4, 2, "Memory", "where do\nthe bytes go?"),
    "09": (5, 1, "QLoRA", "does a 4-bit\nmodel learn?"),
    "12": (6, 1, "A real model", "and a model\nmade elsewhere?"),
}
PATHS = (("00", "01", "02", "03", "04", "09"), ("00", "05", "06", "07", "08", "09"), ("09", "12"))


@styled
def course_map() -> Drawn:
    """The notebooks as boxes: LoRA above, quantization below, both meet in 09."""
    figure, (axes,) = panels(1, 9.6, 4.4)
    for path in PATHS:
        columns, rows = zip(*(PLACES[number][:2] for number in path), strict=True)
        axes.plot(columns, rows, color=GRAY, lw=1.2, zorder=1)
    for number in PLACES:
        _place(axes, number)
    for row, name in ((-0.5, "LoRA: a path beside the weight"), (2.5, "quantization: how the weight is stored")):
        axes.text(2.5, row, name, ha="center", va="center", fontsize=11, style="italic")
    axes.set(xlim=(-0.5, 6.5), ylim=(2.65, -0.65))
    axes.axis("off")
    return figure, (
        "Two paths lead from 00 to 09: LoRA (01 to 04) and quantization (05 to 08). 09 puts one inside the other, 12 "
        "applies both to a real model."
    )


def _place(axes: plt.Axes, number: str) -> None:
    column, row, title, question = PLACES[number]
    corner, how = (column - 0.45, row - 0.33), "round,pad=0,rounding_size=0.06"
    box: dict = {"boxstyle": how, "facecolor": "white", "edgecolor": GRAY, "lw": 1, "zorder": 3}
    axes.add_patch(FancyBboxPatch(corner, 0.9, 0.66, **box))
    text: dict = {"ha": "center", "zorder": 4, "fontsize": 9}
    axes.text(column, row - 0.28, f"{number}\n{title}", va="top", weight="bold", **text)
    axes.text(column, row + 0.14, question, va="center", **text)
