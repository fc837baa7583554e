"""The pictures of notebook 05: an outlier in its block, a block on its way to bytes, and guesses before and after."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection, PatchCollection
from matplotlib.patches import Rectangle
from torch import Tensor

from lora_course.drawing.looks import CODES, CONSTANTS, GRAY, GREEN, RED, WEIGHT, filled
from lora_course.drawing.painted import PaintedLine
from lora_course.drawing.style import Drawn, slider, stage, styled
from lora_edu.measures import relative_error
from lora_edu.quantization import QuantizedTensor, unpack
from lora_edu.rounding import block_codes

# --- one outlier: the slider of the first screen ---------------------------------------------------------------------

OUTLIER_ALT = (
    "The pale bars are 64 weights, the dark bars their values in int4. One weight can be dragged far out; the others "
    "then fall onto ever fewer marks. A second control gives each 16 weights a constant of their own."
)
PLACE = 21  # of the weight that is dragged
ONE_CONSTANT, FOUR_CONSTANTS = "one constant for 64", "one for each 16"
SHARED = {ONE_CONSTANT: 64, FOUR_CONSTANTS: 16}


@slider
def outlier_view(weights: Tensor):
    """Two controls: size of the weight at PLACE, in standard deviations, and who shares a constant. weights: (64,)."""
    weights = weights / weights.std()
    figure, axes = stage(9.6, 3.2, (0.06, 0.17, 0.92, 0.7))
    places = np.arange(64)
    others = places != PLACE
    mine = axes.bar(places, weights.numpy(), width=0.9, color=GRAY, alpha=0.3)[PLACE]
    mine.set(animated=True, gid="here")
    dashed: dict = {"colors": RED, "linewidths": 0.7, "linestyles": "--"}
    marks = LineCollection([], animated=True, **dashed)
    rounded = LineCollection([], colors=GREEN, linewidths=5, animated=True)
    axes.add_collection(marks)
    axes.add_collection(rounded)
    note = axes.text(PLACE + 0.8, 3.6, "", va="top", animated=True)
    title = axes.text(0, 1.04, "", fontsize=11, transform=axes.transAxes, animated=True)
    axes.set(xlim=(-1, 64), ylim=(-3.6, 3.8), xlabel="the weights of one block", ylabel="value, standard deviations")

    def values(size: float, shared: str) -> dict:
        dragged = weights.clone()
        dragged[PLACE] = size
        codes, step = block_codes(dragged, 4, SHARED[shared])
        back = (codes * step).flatten().numpy()
        used = len(np.unique(back[others].round(6)))
        error = relative_error(dragged[others], torch.from_numpy(back[others]))
        zeros = int((back[others] == 0).sum())
        return {
            "back": back,
            "steps": step.flatten().numpy(),
            "size": size,
            "title": f"the others: error {error:.0%}, {zeros} of 63 are rounded to 0",
            "readout": f"the others: error {error:.0%}, {zeros} of 63 are rounded to 0, different values left: {used}",
        }

    def draw(now: dict) -> None:
        rounded.set_segments([[(i, 0), (i, value)] for i, value in zip(places, now["back"], strict=True)])
        width = 64 // len(now["steps"])
        levels = [(i * width - 0.5, code * step) for i, step in enumerate(now["steps"]) for code in range(-7, 8)]
        marks.set_segments([[(left, y), (left + width, y)] for left, y in levels if abs(y) < 3.6])
        mine.set_height(now["size"])
        note.set_text(f"yours, up to {now['size']:g}" if now["size"] > 3.6 else "yours")
        title.set_text(now["title"])

    return figure, values, draw, {"size": 3, "shared": ONE_CONSTANT}


# --- the guesses: what KL adds up ------------------------------------------------------------------------------------

GUESSES_ALT = (
    "A line of a play, with the rounded model's surprise as a bar under each byte. A box around a byte says that "
    "rounding has changed the favorite there. Below, at one place, the eight likeliest bytes have two bars each, "
    "before and after rounding, and a mark stands at the byte that came."
)


@slider
def guesses_view(before: np.ndarray, after: np.ndarray, text: str):
    """Two controls: a place in the line, and which of its eight likeliest bytes came, 1 to 8.

    before, after: (n_bytes, 256), the logarithms of what a model and its rounded copy guess at each byte of text.
    """
    figure = plt.figure(figsize=(9.6, 4.8))
    surprises = [-guess[np.arange(len(text)), list(text.encode())] for guess in (before, after)]
    name = f"before rounding {surprises[0].mean():.2f}, after"
    painted = figure.add_axes((0.065, 0.64, 0.925, 0.33))
    line = PaintedLine(painted, text, name, GREEN)
    line.set(surprises[1])
    axes = figure.add_axes((0.065, 0.1, 0.925, 0.3))
    flips = (before.argmax(1) != after.argmax(1)).nonzero()[0]
    box: dict = {"width": 0.96, "height": 2.1, "fill": False}
    flipped = [Rectangle((x - 0.48, 0.05), **box) for x in flips]
    painted.add_collection(PatchCollection(flipped, facecolor="none", edgecolor=RED, lw=1.6))
    here = Rectangle((0, -8), 0.96, 8, color=GRAY, alpha=0.25, lw=0, animated=True, zorder=0)
    painted.add_patch(here)
    places, looks = np.arange(8), (filled(WEIGHT), filled(CODES))
    bars = [axes.bar(places + side, 1.0, 0.36, animated=True, **look)
            for side, look in zip((-0.19, 0.19), looks, strict=True)]  # fmt: skip
    names = [axes.text(x, -0.05, "", ha="center", va="top", family="monospace", animated=True) for x in range(8)]
    (came,) = axes.plot([], [], "v", color=RED, ms=9, animated=True)
    title = axes.text(0, 1.08, "", transform=axes.transAxes, fontsize=11, va="bottom", linespacing=1.3, animated=True)
    axes.set(xlim=(-0.6, 7.6), ylim=(0, 1.12), xticks=[], yticks=[0, 0.5, 1], yticklabels=["0", "50%", "100%"])
    patches = [Rectangle((0, 0), 1, 1, **look) for look in looks]
    axes.legend(patches, ["before rounding", "after"], loc="upper right")

    def values(place: int, byte: int) -> dict:
        p, difference = np.exp(before[place]), before[place] - after[place]
        likeliest = (-p).argsort()[:8]
        chosen = likeliest[byte - 1]
        moved = f"if {_said(chosen)} came, the loss moves by {difference[chosen]:+.3f}"
        mean = f"over all 256, weighted by how likely each was before: KL {(p * difference).sum():.3f}"
        return {
            "place": place,
            "byte": byte,
            "bars": (p[likeliest], np.exp(after[place][likeliest])),
            "names": [_said(code) for code in likeliest],
            "title": f"{moved}\n{mean}",
            "readout": f"After “{text[:place]}”: {moved}; {mean}. {len(flips)} of {len(text)} favorites have changed.",
        }

    def draw(now: dict) -> None:
        here.set_x(now["place"] - 0.48)
        for row, heights in zip(bars, now["bars"], strict=True):
            for bar, height in zip(row, heights, strict=True):
                bar.set_height(height)
        for name, said in zip(names, now["names"], strict=True):
            name.set_text(said)
        came.set_data([now["byte"] - 1], [max(heights[now["byte"] - 1] for heights in now["bars"]) + 0.09])
        title.set_text(now["title"])

    return figure, values, draw, {"place": 0, "byte": 1}


def _said(code: int) -> str:
    """A byte as it is read on a line: a letter, or the mark of a space or a line end, or its number."""
    return {32: "·", 10: "¶"}.get(code) or (chr(code) if 32 < code < 127 else f"{code:02x}")


# --- pictures --------------------------------------------------------------------------------------------------------


@styled
def one_block(values: Tensor, quantized: QuantizedTensor) -> Drawn:
    """One block on its way: values (64,), absmax, codes, bytes, and back. quantized: of this block, in int4."""
    codes, back = unpack(quantized.codes, 16).int(), quantized.dequantize()
    absmax, top = quantized.block_scales().item(), int(values.abs().argmax())
    figure, rows = plt.subplots(4, 1, figsize=(9.6, 6), height_ratios=(3, 1, 1, 3), sharex=True)
    places = np.arange(len(values))
    constant = absmax if values[top] > 0 else -absmax
    green = CODES[0]
    error = relative_error(values, back)
    rows[0].bar(places, values.numpy(), width=0.85, **filled(WEIGHT))
    rows[0].plot([0, 64], [constant] * 2, color=CONSTANTS[0], lw=1.6)
    rows[0].text(64, constant, f" absmax {absmax:.3g}", color=CONSTANTS[0], va="center")
    for i, code in enumerate(codes.tolist()):
        rows[1].text(i, 0.3 if i % 2 else 0.7, code - 7, ha="center", va="center", fontsize=9, color=green)
    for i, byte in enumerate(quantized.codes.tolist()):
        rows[2].add_patch(Rectangle((2 * i - 0.45, 0.08), 1.9, 0.84, fill=False, edgecolor=green))
        rows[2].text(2 * i + 0.5, 0.5, f"{byte:02x}", ha="center", va="center", fontsize=8)
    rows[3].bar(places, values.numpy(), width=0.85, color=GRAY, alpha=0.3)
    rows[3].bar(places, back.numpy(), width=0.45, color=green)
    rows[3].set_xlabel("place in the block")
    titles = (
        "64 weights in float32: 256 bytes",
        "each divided by absmax / 7 and rounded: 64 codes from -7 to 7",
        "each code plus 7, two codes to a byte: 32 bytes, and 4 for the absmax",
        f"and back: code times absmax / 7 (dark) over the weights (pale), error {error:.0%}",
    )
    for row, title in zip(rows, titles, strict=True):
        row.set(xlim=(-1, 69), title=title)
    for row in rows[1:3]:
        row.spines[["left", "bottom"]].set_visible(False)
        row.set(ylim=(0, 1), yticks=[])
        row.tick_params(bottom=False)
    return figure, (
        f"64 weights of 256 bytes become 32 bytes of codes and 4 of absmax, and come back with an error of "
        f"{error:.0%}. Four rows over the same 64 places: the weights with their largest marked, the codes from -7 to "
        "7, the bytes in hexadecimal, and the restored values over the weights."
    )
