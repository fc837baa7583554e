"""The pictures of notebook 05: an outlier in its block, and a block on its way to bytes."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.collections import LineCollection
from matplotlib.patches import Rectangle
from torch import Tensor

from lora_edu.figures.drawing import Drawn, note, panels, slider, styled, ticks
from lora_edu.figures.looks import BLUE, CODES, CONSTANTS, GRAY, GREEN, RED, WEIGHT, filled, light
from lora_edu.measures import relative_error
from lora_edu.quantization import QuantizedTensor, unpack
from lora_edu.rounding import block_codes

# --- one outlier: the slider of the first screen ---------------------------------------------------------------------

OUTLIER_ALT = (
    "64 weights as pale bars, and what int4 makes of them as dark ones. One weight can be dragged far out; the others "
    "then fall onto ever fewer marks. A second control gives each 16 weights a constant of their own."
)
PLACE = 21  # of the weight that is dragged
ONE_CONSTANT, FOUR_CONSTANTS = "one constant for 64", "one for each 16"
SHARED = {ONE_CONSTANT: 64, FOUR_CONSTANTS: 16}


@slider
def outlier_view(weights: Tensor):
    """Two controls: size of the weight at PLACE, in standard deviations, and who shares a constant. weights: (64,)."""
    weights = weights / weights.std()
    figure = plt.figure(figsize=(9.6, 3.2))
    axes = figure.add_axes([0.06, 0.17, 0.92, 0.7])
    places = np.arange(64)
    others = places != PLACE
    mine = axes.bar(places, weights.numpy(), width=0.9, color=GRAY, alpha=0.3)[PLACE]
    mine.set(animated=True, gid="here")
    dashed = {"colors": RED, "linewidths": 0.7, "linestyles": "--"}
    marks = axes.add_collection(LineCollection([], animated=True, **dashed))
    rounded = axes.add_collection(LineCollection([], colors=GREEN, linewidths=5, animated=True))
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


# --- pictures --------------------------------------------------------------------------------------------------------


@styled
def one_block(values: Tensor, quantized: QuantizedTensor) -> Drawn:
    """One block on its way: values (64,), absmax, codes, bytes, and back. quantized: of this block, in int4."""
    codes, back = unpack(quantized.codes, 16).int(), quantized.dequantize()
    absmax, top = quantized.block_scales().item(), int(values.abs().argmax())
    figure, rows = plt.subplots(4, 1, figsize=(9.6, 6), height_ratios=(3, 1, 1, 3), sharex=True)
    places, constant, green = np.arange(len(values)), np.sign(values[top]) * absmax, CODES[0]
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
        "each code plus 7, two of them a byte: 32 bytes, and 4 for the absmax",
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


@styled
def marks_picture(tensors: dict[str, tuple[Tensor, float]]) -> Drawn:
    """Where the 15 marks of int4 stand among values. tensors: name -> (values, the step between two marks)."""
    figure, frames = panels(len(tensors), 9.6, 3, sharey=True)
    for axes, (name, (values, step)) in zip(frames, tensors.items(), strict=True):
        axes.hist(values.clip(-6, 6).numpy(), bins=np.linspace(-6, 6, 81), color=BLUE, alpha=0.55)
        shown = [code * step for code in range(-7, 8) if abs(code * step) < 6]
        for mark in shown:
            axes.axvline(mark, color=RED, ls="--", lw=1.2)
        axes.set(xlabel="value, standard deviations", xlim=(-6, 6))
        axes.set_title(f"{name}: {len(shown)} of 15 marks in sight")
    frames[0].set_ylabel("values in the bin")
    (first, (_, narrow)), (second, (_, wide)) = tensors.items()
    return figure, (
        "One large value takes all marks but one away from the others. Two histograms of the same bell with the marks "
        f"of int4 as dashed lines: {first}, they are {narrow:.1f} apart; {second}, {wide:.1f}."
    )


@styled
def sharing_picture(
    curves: dict[str, list[float]], clipped: dict[str, float], sizes: list[int], added: dict[str, list[float]]
) -> Drawn:
    """Who shares a constant: the error of int4 by block size, and what four ways add to the loss.

    curves: name -> the error at each of `sizes` (the last one stands for all); clipped: name -> that of one clipped
    ruler; added: way and its error -> the loss that each draw adds.
    """
    figure, (left, right) = panels(2, 10.4, 3.9, width_ratios=(1.15, 1))
    looks = [(GRAY, "-"), (BLUE, "-"), (RED, "--"), (GREEN, "-.")]
    for (name, errors), (color, style) in zip(curves.items(), looks, strict=True):
        left.plot(sizes, [100 * error for error in errors], ls=style, color=color)
        note(left, name, (sizes[-1], 100 * errors[-1]), (5, 0), color=color)
        if name in clipped:
            left.plot(sizes[-1], 100 * clipped[name], "D", color=color, mfc="white", ms=7)
    note(left, "one ruler,\nclipped", (sizes[-1], 100 * min(clipped.values())), (8, 0), fontsize=9)
    left.set(xlabel="weights that share a constant", ylabel="relative error of int4, %", xscale="log", yscale="log")
    left.set_xlim(12, sizes[-1] * 60)
    ticks(left.xaxis, sizes[:-1:2])
    left.set_xticks([*sizes[:-1:2], sizes[-1]], [*map(str, sizes[:-1:2]), "all"])
    ticks(left.yaxis, (5, 10, 20, 40, 80))
    left.set_title("small blocks save what an outlier would ruin")
    for row, draws in enumerate(added.values()):
        right.barh(row, sum(draws) / len(draws), height=0.5, **light(CONSTANTS))
        right.plot(draws, [row] * len(draws), "o", color="black", ms=4)
        right.text(max(draws) + 0.002, row, f"{sum(draws) / len(draws):.3f}", va="center")
    right.set(yticks=range(len(added)), yticklabels=added, xlabel="loss added, nats per byte", xlim=(0, 0.09))
    right.invert_yaxis()
    right.set_title("clipping halves the error and saves no loss")
    found = ", ".join(f"{name} {errors[2]:.0%} against {errors[-1]:.0%}" for name, errors in curves.items())
    means = "; ".join(f"{way.replace(chr(10), ', ')}: {sum(draws) / len(draws):.3f}" for way, draws in added.items())
    return figure, (
        f"Clipping halves the error of the GPT's weights and saves no loss. Right, loss added by each draw: "
        f"{means}. Left, error against block size; blocks of {sizes[2]} against one constant: {found}; diamonds: one "
        "clipped ruler."
    )
