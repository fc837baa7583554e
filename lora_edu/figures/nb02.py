"""The handwritten digits of notebook 02, and its two pictures: digits with a network's answers, and the rank slider.

The digits ship with scikit-learn: 1,797 scans of 8x8 pixels, from the UCI set "Optical recognition of digits".
"""

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from lora_edu.figures import plots
from lora_edu.figures.sliders import View


def answers(rows: dict[str, tuple[NDArray, Sequence[int]]], labels: Sequence[int]) -> Figure:
    """Rows of digits with the answer of a network below each: rows maps a title to (images, answers).

    A wrong answer is red and stands in parentheses.
    """
    count = len(labels)
    figure, grid = plt.subplots(len(rows), count, figsize=(0.72 * count, 1.25 * len(rows)), layout="constrained")
    for axes_row, (title, (images, given)) in zip(np.atleast_2d(grid), rows.items(), strict=True):
        for axes, image, answer, label in zip(axes_row, images, given, labels, strict=True):
            text, color = _mark(answer, label)
            _draw_digit(axes, image)
            axes.set_xlabel(text, color=color, fontsize=11)
        axes_row[0].set_title(title, loc="left", fontsize=10)
    return figure


class Outcome(NamedTuple):
    """What an update of one rank does."""

    delta: NDArray  # (d_out, d_in), the update of the first layer
    new: float  # share of right answers on the new task
    old: float  # share of right answers on the old task
    given: Sequence[int]  # its answers for the digits that are shown


def rank_view(outcomes: dict[str, dict[int, Outcome]], images: NDArray, labels: Sequence[int], base: float) -> View:
    """The view behind the rank slider: accuracy against rank, the update as a picture, and some digits with answers.

    outcomes: for each kind of update, the outcome per rank. images: the digits shown, (n, 8, 8), with their labels.
    base: the accuracy on the new task without any update. Nothing is computed here: the view looks up and draws.
    """
    figure = plt.figure(figsize=(8.6, 5.4), layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(3, 1))
    curves, picture = upper.subplots(1, 2, width_ratios=(1.25, 1))
    lines = _draw_curves(curves, outcomes, base)
    shown = _draw_update(upper, picture, outcomes)
    texts = []
    for axes, image in zip(lower.subplots(1, len(images)), images, strict=True):
        _draw_digit(axes, image)
        texts.append(axes.text(0.5, -0.12, "", transform=axes.transAxes, ha="center", va="top", fontsize=12))
    lower.suptitle("rotated test digits and the answers at this rank; a wrong one stands in parentheses", fontsize=9)

    def update(kind: str, rank: int) -> str:
        outcome = outcomes[kind][rank]
        shown.set_data(outcome.delta)
        lines[0].set_data([rank], [100 * outcome.new])
        lines[1].set_data([rank], [100 * outcome.old])
        for text, answer, label in zip(texts, outcome.given, labels, strict=True):
            content, color = _mark(answer, label)
            text.set(text=content, color=color)
        return (
            f"{kind}, rank {rank}: {outcome.new:.0%} of the rotated digits right, {outcome.old:.0%} of the upright ones"
        )

    return View(figure, [shown, *lines, *texts], update)


def _mark(answer: int, label: int) -> tuple[str, str]:
    return (f"{answer}", "black") if answer == label else (f"({answer})", plots.RED)


def _draw_digit(axes: Axes, image: NDArray) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])


def _draw_curves(axes: Axes, outcomes: dict[str, dict[int, Outcome]], base: float) -> list:
    """The curves, which stay, and the two markers, which move: for the new task and for the old one."""
    axes.spines[["top", "right"]].set_visible(False)
    looks = zip(outcomes.items(), ("-", "--"), (plots.BLUE, plots.ORANGE), strict=False)
    for (kind, by_rank), style, color in looks:
        axes.plot(list(by_rank), [100 * o.new for o in by_rank.values()], style, color=color, lw=2, label=kind)
    axes.axhline(100 * base, ls=":", color=plots.GRAY, label="no update")
    new = axes.plot([], [], "o", ms=10, color="black", label="here: rotated digits")[0]
    old = axes.plot([], [], "s", ms=8, mfc="white", mec="black", label="here: upright digits")[0]
    axes.set(xlabel="rank", ylabel="right answers on test digits in %", ylim=(0, 103))
    axes.set_xticks(sorted({rank for by_rank in outcomes.values() for rank in by_rank}))
    axes.legend(frameon=False, fontsize=8, loc="lower right", bbox_to_anchor=(1, 0.15))
    return [new, old]


def _draw_update(figure: Figure, axes: Axes, outcomes: dict[str, dict[int, Outcome]]):
    """The picture of the update: all ranks share one scale."""
    deltas = [outcome.delta for by_rank in outcomes.values() for outcome in by_rank.values()]
    limit = float(np.quantile(np.abs(deltas), 0.99))
    shown = axes.imshow(deltas[0], cmap="gray", vmin=-limit, vmax=limit, aspect="auto")
    figure.colorbar(shown, ax=axes, label="change of a weight")
    axes.set(xlabel="input pixel", ylabel="hidden unit")
    axes.set_title("the update of the first layer", fontsize=10)
    return shown
