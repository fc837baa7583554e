"""The pictures of notebook 06: the bell in slices, how codes are used, which offset is best, how far guesses move.

`beat_nf4` is the slider of the first screen.
"""

from itertools import pairwise
from statistics import NormalDist

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from torch import Tensor

from lora_course.drawing.looks import BLUE, CODES, GRAY, GREEN, ORANGE, RED, filled
from lora_course.drawing.style import Drawn, note, panels, picture, slider, styled, ticks
from lora_edu import nf_codebook, quantize
from lora_edu.measures import relative_error

NF4_OFFSET = 0.9677083
OFFSETS = [round(0.86 + 0.002 * step, 3) for step in range(66)]  # 0.86 to 0.99
OFFSETS[54] = NF4_OFFSET  # in place of 0.968
TRIED = [*OFFSETS[5:23:4], *OFFSETS[55::4]]  # the trace that is there from the start; the best is left to be found


def error_at(values: Tensor, offset: float, block_size: int = 64) -> float:
    """The relative error of `values` in the codebook that starts at this offset."""
    return relative_error(values, quantize(values, nf_codebook(4, offset=offset), block_size).dequantize())


# --- beat NF4: the slider of the first screen ------------------------------------------------------------------------

BEAT_ALT = (
    "Left: the bell curve, cut into slices, equally likely on each side of zero; their edges are the 16 levels. A tail "
    "is left out at both ends. Right: the error at this offset, a black dot. Gray dots show it at offsets below 0.91 "
    "and above 0.97, and it falls toward the gap between them from both sides. The dashed line is NF4's error."
)
SHADES = ("#BBD7CC", "#7FB8A2")  # neighboring slices differ in lightness


@slider
def beat_nf4(values: Tensor):
    """One control, offset (one of OFFSETS): where the levels go, and the error on values (n,) in blocks of 64."""
    errors = {offset: error_at(values, offset) for offset in OFFSETS}
    nf4 = relative_error(values, quantize(values, "nf4", 64).dequantize())
    figure, (bell, curve) = _beat_panels()
    edge: dict = {"linewidth": 0.8, "animated": True}
    slices = PolyCollection([], edgecolor="white", facecolor=SHADES, **edge)
    tails = PolyCollection([], facecolor="white", edgecolor=RED, hatch="\\\\\\", **edge)
    bell.add_collection(slices)
    bell.add_collection(tails)
    levels = bell.vlines([], 0, 1, color="black", lw=1.3, animated=True)
    ends = [bell.text(0, 0.5, "", ha=side, va="bottom", animated=True) for side in ("right", "left")]
    curve.axhline(100 * nf4, color=GRAY, ls="--", lw=1.6)
    curve.text(0.904, 100 * nf4 + 0.03, f"NF4: {nf4:.2%}", color=GRAY, va="bottom")  # where the hand's number is below
    curve.plot(TRIED, [100 * errors[offset] for offset in TRIED], "o", color=GRAY, ms=5)
    curve.text(TRIED[-1] - 0.004, 100 * errors[TRIED[-1]], "offsets tried", color=GRAY, ha="right", va="center")
    (marker,) = curve.plot([], [], "o", color="black", ms=8, animated=True)
    note = curve.text(0, 0, "", ha="center", va="bottom", animated=True)

    def view_values(offset: float) -> dict:
        error = errors[offset]
        verdict = "smaller than" if error < nf4 - 5e-5 else "larger than" if error > nf4 + 5e-5 else "the same as"
        return {
            "levels": (nf_codebook(4, offset=offset) * NormalDist().inv_cdf(offset)).tolist(),  # in standard deviations
            "offset": offset,
            "error": 100 * error,
            "readout": f"offset {offset:.3f}: error {error:.2%}, {verdict} NF4's {nf4:.2%}",
        }

    def draw(now: dict) -> None:
        cuts = now["levels"]
        slices.set_verts([_slice(low, high) for low, high in pairwise(cuts)])
        slices.set_facecolor([SHADES[i % 2] for i in range(len(cuts) - 1)])
        tails.set_verts([_slice(-3.2, cuts[0]), _slice(cuts[-1], 3.2)])
        levels.set_segments([[(z, 0), (z, _height(z))] for z in cuts])
        for text, z, name in zip(ends, (cuts[0], cuts[-1]), ("level -1", "level 1"), strict=True):
            text.set(text=name, position=(z, _height(z) + 0.02))
        marker.set_data([now["offset"]], [now["error"]])
        inside = min(max(now["offset"], OFFSETS[0] + 0.01), OFFSETS[-1] - 0.005)
        note.set(text=f"{now['error']:.2f}%", position=(inside, now["error"] + 0.07))

    return figure, view_values, draw, {"offset": OFFSETS[0]}


def _height(z: float) -> float:
    return float(np.exp(-z * z / 2))


def _slice(low: float, high: float) -> list[tuple[float, float]]:
    """The outline of the area under the bell between two values."""
    steps = np.linspace(low, high, 12)
    return [(low, 0.0), *((z, _height(z)) for z in steps), (high, 0.0)]


def _beat_panels() -> tuple[Figure, tuple[Axes, Axes]]:
    figure = plt.figure(figsize=(9.6, 3.5))
    bell, curve = figure.add_axes((0.03, 0.19, 0.5, 0.68)), figure.add_axes((0.63, 0.19, 0.35, 0.68))
    bell.set(xlim=(-3.2, 3.2), ylim=(0, 1.06), xlabel="weight, in standard deviations")
    bell.set_title("slices of equal probability; their edges are the 16 levels", loc="center", fontsize=10)
    bell.yaxis.set_visible(False)
    bell.spines["left"].set_visible(False)
    curve.set(xlim=(OFFSETS[0] - 0.005, OFFSETS[-1] + 0.01), ylim=(8.8, 11.2))
    curve.set(xlabel="offset: the share of the bell left of the last line", ylabel="relative error, %")
    curve.set_title("error on normal weights, block 64", loc="center", fontsize=10)
    return figure, (bell, curve)


# --- pictures --------------------------------------------------------------------------------------------------------


@styled
def code_use(scaled: Tensor, shares: Tensor, codebook: Tensor) -> Drawn:
    """Scaled weights with the levels, and how often each code is used. scaled: (n,), shares and codebook: (16,)."""
    figure, (bell, use) = panels(2, 9.6, 3.3)
    bell.hist(scaled.numpy(), bins=101, color=BLUE, alpha=0.45, density=True)
    bell.vlines(codebook.tolist(), 0, 0.35, color="black", lw=1.4)
    bell.set(xlabel="weight / absmax", ylabel="density", title="the scaled bell is narrower than its 16 levels (bars)")
    use.bar(range(16), 100 * shares, **filled(CODES))
    use.axhline(6.25, color=RED, ls="--", lw=2)
    use.text(15.6, 6.45, "equal use", color=RED, ha="right")
    use.set(xlabel="code", ylabel="share of the weights, %", xticks=range(0, 16, 3), title="inner codes are crowded")
    low, high = 100 * shares.min().item(), 100 * shares.max().item()
    return figure, (
        f"The codes are used unequally: {low:.1f}% of the weights get the rarest, {high:.1f}% the most used. Left: how "
        "often a scaled weight has which value, and NF4's 16 levels as bars. Right: a bar for each code, and a line at "
        "equal use."
    )


@styled
def best_offsets(curves: dict[str, list[float]], offsets: list[float]) -> Drawn:
    """Error against offset, a curve for each kind of weights and block size, its minimum marked."""
    figure, (axes,) = panels(1, 8.4, 4)
    looks = ((BLUE, "-"), (GREEN, "--"), (ORANGE, "-."), (RED, ":"))
    found = {}
    for (name, errors), (color, style) in zip(curves.items(), looks, strict=True):
        percent, place = 100 * np.array(errors), int(np.argmin(errors))
        found[name] = offsets[place]
        axes.plot(offsets, percent, color=color, ls=style)
        axes.plot(offsets[place], percent[place], "v", color=color, ms=9)
        axes.text(offsets[0] + 0.002, percent[0] + 0.06, name, color=color, va="bottom")
    axes.axvline(NF4_OFFSET, color=GRAY, lw=1.2)
    axes.margins(y=0.09)  # room for the highest name
    axes.text(NF4_OFFSET - 0.001, axes.get_ylim()[1], "NF4's offset ", color=GRAY, ha="right", va="top")
    axes.set(xlabel="offset", ylabel="relative error, %", xlim=(offsets[0], offsets[-1] + 0.002))
    axes.set_title("The best offset (triangle) moves with the block size and with the tails")
    named = ", ".join(f"{best:.3f} for {name}" for name, best in found.items())
    return figure, (
        f"No offset is best for all: {named}. A curve for each kind of weights, a triangle where it errs least. NF4's "
        "own offset is the vertical line."
    )


@picture
def moved_guesses(kl: dict, beside: dict[str, str], heroes: dict[str, str]) -> Drawn:
    """How far our GPT's guesses move, a row for each way to round, the least on top. One axis serves notebooks 06, 07.

    kl: way -> that of each draw, in nats; beside: what else is said of a way; heroes: the way that has the line, and
    others that are marked -> a word on each.
    """
    ways = sorted(kl, key=lambda way: np.mean(kl[way]))
    figure, (axes,) = panels(1, 9, 1.1 + 0.3 * len(ways))
    axes.axvline(1000 * np.mean(kl[next(iter(heroes))]), color=GRAY, ls="--", lw=1.2)
    for row, way in enumerate(ways):
        mark, size, color = ("*", 11, RED) if way in heroes else ("o", 7, BLUE)
        axes.plot(1000 * np.array(kl[way]), [row] * len(kl[way]), mark, ms=size, color=color, mfc="none")
        note(axes, heroes.get(way, ""), (1000 * max(kl[way]), row), (9, 0), color=RED)
    axes.set_yticks(range(len(ways)), [f"{way} · {beside[way]}" for way in ways])
    axes.invert_yaxis()
    axes.set(xscale="log", xlim=(3, 20), xlabel="KL, in thousandths of a nat (logarithmic)")
    ticks(axes.xaxis, (3, 4, 5, 6, 7, 8, 10, 12, 15, 20))
    least, most = (1000 * np.mean(kl[way]) for way in (ways[0], ways[-1]))
    return figure, (
        f"The guesses move least with {ways[0]}, and {most / least:.1f} times as far with {ways[-1]}. A row for each "
        f"way to round, a mark for each draw, from {least:.1f} to {most:.1f} on average. A dashed line stands at the "
        f"mean of {next(iter(heroes))}."
    )
