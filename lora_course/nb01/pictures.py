"""The pictures of notebook 01: a matrix of low rank as a product, what its components are worth, and at which price.

`portrait_view` is the slider of the first screen.
"""

import matplotlib.pyplot as plt
import numpy as np
from matplotlib import cbook
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from lora_course.drawing.looks import BLUE, GRAY, ORANGE, RED
from lora_course.drawing.style import Drawn, note, panels, slider, styled, ticks
from lora_edu.measures import low_rank

UPDATE = "#333333"  # a whole update


# --- the product, true to scale: B A = B times A ----------------------------------------------------------------------


NOTHING = "nothing yet: each rank adds\na column to B and a row to A"  # rank 0


class Product:
    """Three images in a row, one dot for each number: the matrix B A, then B (d_out, r) and A (r, d_in)."""

    def __init__(self, axes: Axes, shape: tuple[int, int], low: float, high: float):
        height, width = shape
        self.shape, self.gap = shape, 0.16 * width
        right = 2 * width + min(shape) + 2 * self.gap + 2
        axes.set(xlim=(-2, right), ylim=(height + 2, -0.12 * height), aspect="equal")
        axes.set_axis_off()
        look: dict = {"cmap": "gray", "interpolation": "nearest", "animated": True}
        sign: dict = {"fontsize": 18, "ha": "center", "va": "center"}
        name: dict = {"fontsize": 12, "ha": "center", "va": "bottom", "color": ORANGE, "animated": True}
        self.whole = axes.imshow(np.zeros(shape), vmin=low, vmax=high, extent=(0, width, height, 0), **look)
        self.images = [axes.imshow(np.zeros((1, 1)), extent=(0, 1, 1, 0), **look) for _ in "BA"]
        frame: dict = {"fill": False, "ec": ORANGE, "lw": 1.6, "animated": True}
        self.frames = [Rectangle((0, 0), 0, 0, **frame) for _ in "BA"]
        for rectangle in self.frames:
            axes.add_patch(rectangle)
        axes.add_patch(Rectangle((0, 0), width, height, fill=False, ec=UPDATE, lw=1.0))
        axes.text(width + self.gap / 2, height / 2, "=", **sign)
        self.names = [axes.text(0, 0, "", **name) for _ in "BA"]
        self.times = axes.text(0, height / 2, "×", animated=True, **sign)
        place = (width + 1.1 * self.gap, height / 2)
        self.invitation = axes.text(*place, NOTHING, fontsize=11, va="center", linespacing=1.5, animated=True)

    def draw(self, now: dict) -> None:
        """now: the arrays "B", "A" and their product "whole"."""
        (height, width), B, A = self.shape, now["B"], now["A"]
        rank = len(A)
        left = width + self.gap  # of B
        right = left + rank + self.gap  # of A
        corners = ((left, 0, rank, height), (right, (height - rank) / 2, width, rank))
        self.whole.set_data(now["whole"])
        self.times.set(text="×" if rank else "", x=right - self.gap / 2)
        self.invitation.set_visible(not rank)
        factors = {f"B: {B.shape[0]} × {rank}": B, f"A: {rank} × {A.shape[1]}": A}
        for image, frame, text, (name, factor), (x, y, w, h) in zip(
            self.images, self.frames, self.names, factors.items(), corners, strict=True
        ):
            for artist in (image, frame, text):
                artist.set_visible(rank > 0)
            if rank:
                reach = np.abs(factor).max()
                frame.set_bounds(x, y, w, h)
                image.set(data=factor, extent=(x, x + w, y + h, y), clim=(-reach, reach))
                text.set(text=name, position=(x + w / 2, y - 0.02 * height))


def portrait() -> NDArray:
    """The portrait that comes with matplotlib, (200, 170), 0 black to 1 white."""
    photo = plt.imread(cbook.get_sample_data("grace_hopper.jpg", asfileobj=False))  # (600, 512, 3), values 0 to 255
    gray = photo[:600, :510].mean(axis=2) / 255
    return gray.reshape(200, 3, 170, 3).mean(axis=(1, 3))  # each 3 x 3 points become one


PORTRAIT_RANKS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24, 40, 64, 100, 170)  # as many as the book can hold
PORTRAIT_ALT = (
    "A picture and, true to scale, the two matrices whose product it is: B, a strip as tall as the picture, and A, one "
    "as wide as it; both are as thick as the rank."
)


@slider
def portrait_view(picture: NDArray):
    """One control, rank (0 to the smaller side): the best picture of that rank, and the two factors that make it."""
    U, S, Vt = np.linalg.svd(picture, full_matrices=False)
    figure = plt.figure(figsize=(9.6, 3.9))
    product = Product(figure.add_axes((0, 0, 1, 1)), picture.shape, 0, 1)

    def values(rank: int) -> dict:
        root = np.sqrt(S[:rank])  # of the strengths: B (d_out, rank) and A (rank, d_in) have one each
        B, A = U[:, :rank] * root, root[:, None] * Vt[:rank]
        numbers = B.size + A.size
        readout = f"rank {rank}: {numbers:,} numbers in B and A, {numbers / picture.size:.0%} of the {picture.size:,}"
        return {"B": B, "A": A, "whole": low_rank(U, S, Vt, rank), "readout": f"{readout} in the picture"}

    return figure, values, product.draw, {"rank": 0}


# --- pictures --------------------------------------------------------------------------------------------------------


@styled
def components(U: NDArray, S: NDArray, Vt: NDArray) -> Drawn:
    """Single components of a picture, and sums of the first few."""
    figure, axes = plt.subplots(2, 5, figsize=(9.6, 5.2))
    for frame, k in zip(axes[0], (1, 2, 3, 10, 40), strict=True):
        frame.imshow(np.outer(U[:, k - 1], Vt[k - 1]), cmap="gray")
        frame.set_title(f"component {k}\n$\\sigma$ = {S[k - 1]:.1f}")
    for frame, rank in zip(axes[1], (2, 4, 16, 48, len(S)), strict=True):
        frame.imshow(low_rank(U, S, Vt, rank), cmap="gray", vmin=0, vmax=1)
        frame.set_title(f"the first {rank} added")
    for frame in axes.flat:
        frame.set_axis_off()
    figure.suptitle("Each component is a plaid (contrast stretched: see its σ); their sum is a face")
    return figure, (
        f"Every component is a plaid, their sum a face. Upper: components 1, 2, 3, 10 and 40, of strengths {S[0]:.1f}, "
        f"{S[1]:.1f}, {S[2]:.1f}, {S[9]:.1f} and {S[39]:.1f}, with ever finer stripes. Lower: the first 2, 4, 16, 48 "
        f"and {len(S)} added; 16 show a face."
    )


@styled
def floor_picture(floor: NDArray, ranks: list[int], random: list[float], learned: list[float]) -> Drawn:
    """The error of the theorem against the rank, and the errors of two challengers at some ranks."""
    figure, (axes,) = panels(1, 7.4, 3.4)
    axes.plot(floor[: ranks[-1] + 5], color=BLUE)
    axes.plot(ranks, random, "s--", color=RED, lw=1.6)
    axes.plot(ranks, learned, "o", color="black", mfc="none", ms=10)
    axes.text(ranks[-1], random[-1] - 0.08, "B random, the best A for it", color=RED, ha="right")
    note(axes, "B and A learned", (ranks[2], learned[2]), (14, 12), va="baseline")
    axes.text(ranks[-2] + 3, floor[ranks[-2]] + 0.05, "the floor: the first r components", color=BLUE)
    axes.set(xlabel="rank r", ylabel="error, relative to the picture", ylim=(0, 1.05))
    axes.set_title("Learned factors come down to the floor; nothing goes below it")
    return figure, (
        f"Learned factors reach the floor, random ones do not. Error against rank: the floor falls from {floor[1]:.2f} "
        f"at rank 1 to {floor[ranks[-1]]:.2f} at rank {ranks[-1]}, the learned factors lie on it; with a random B the "
        f"error is {random[0]:.2f} and {random[-1]:.2f}."
    )


@styled
def spectra(values: dict[str, NDArray], rank90: dict[str, int]) -> Drawn:
    """The singular values of matrices, each divided by its first, and the rank that holds 90% of the squared norm."""
    figure, (axes,) = panels(1, 7.4, 3.4)
    for (name, S), color, style in zip(values.items(), (BLUE, ORANGE, GRAY), ("-", "--", ":"), strict=True):
        axes.plot(range(1, len(S) + 1), S / S[0], style, color=color)
        k = rank90[name]
        axes.plot(k, S[k - 1] / S[0], "o", color=color, ms=8)
        lift = 42 if "Δ" in name else -4  # the words of the update stand above those of the weight
        line, place = {"arrowstyle": "-", "color": color, "lw": 0.8}, (k, S[k - 1] / S[0])
        note(axes, f"{name}: 90% at rank {k}", place, (16, lift), color=color, va="baseline", arrowprops=line)
    axes.set(xlabel="component, strongest first", ylabel="singular value,\nrelative to the first", ylim=(0, 1.03))
    axes.set_title("The update falls fastest; random numbers fall slowly, and none dominates")
    named = ", ".join(f"{k} for {name}" for name, k in rank90.items())
    return figure, (
        f"Rank that holds 90% of the squared norm: {named}. The singular values of three 256 x 256 matrices, each "
        "divided by its first: the update's fall fastest, then the weight's; those of random numbers fall slowly, in a "
        "nearly straight line."
    )


LINES = {  # name of a curve -> color, line, marker
    "components": (ORANGE, "-", "o"),
    "shrunk": (UPDATE, "--", "s"),
    "remainder": (GRAY, ":", "v"),
    "entries": (BLUE, "-.", "^"),
    "subspace": (RED, ":", "x"),
    "trained": ("black", "", "P"),
}
PANELS = (  # title, label of the axis; curve -> its words, and where they stand: place, height in %, side
    (
        "Equal norm: the whole update wins", "the norm of this many components",
        {"shrunk": ("whole update, shrunk", 1.1, 100, "left"), "components": ("components", 9, 73, "left"),
         "remainder": ("the other components, scaled", 1.1, 32, "left")},
    ),
    (
        "Equal numbers: of cuts, components win", "as many numbers as this many components",
        {"components": ("components", 4.4, 79, "right"), "entries": ("largest entries", 5.4, 42, "right"),
         "subspace": ("random directions", 128, 2, "right"), "trained": ("trained at rank 8", 7, 101, "right")},
    ),
)  # fmt: skip


@styled
def two_axes(ranks: list[int], shares: dict[str, NDArray], trained: NDArray) -> Drawn:
    """The same updates at equal norm and at equal numbers: the share of the improvement that each cut keeps.

    shares: name of LINES -> (ranks, seeds); trained: (seeds,), what A and B keep that were trained at rank 8.
    """
    shares = shares | {"trained": trained[None]}
    figure, frames = panels(2, 9.6, 4.2, sharey=True)
    for axes, (title, label, names) in zip(frames, PANELS, strict=True):
        for name, (words, x, y, side) in names.items():
            color, style, marker = LINES[name]
            places = [8] if name == "trained" else ranks
            low, middle, high = (100 * f(shares[name], axis=1) for f in (np.min, np.mean, np.max))
            axes.fill_between(places, low, high, color=color, alpha=0.25, lw=0)
            size = 11 if len(places) == 1 else 5
            axes.plot(places, middle, ls=style, marker=marker, ms=size, color=color, lw=1.8)
            axes.text(x, y, words, color=color, ha=side).set_in_layout(False)
        axes.set(xscale="log", xlabel=label, ylim=(-4, 112), title=title)
        ticks(axes.xaxis, ranks)
    frames[0].set_ylabel("share of the improvement that is kept, %")
    at_8 = {name: f"{shares[name][min(ranks.index(8), len(shares[name]) - 1)].mean():.0%}" for name in shares}
    return figure, (
        f"Which way to cut an update wins depends on what is held equal. At the norm of rank 8: whole {at_8['shrunk']}"
        f", components {at_8['components']}, remainder {at_8['remainder']}. At its numbers: largest entries "
        f"{at_8['entries']}, random directions {at_8['subspace']}, trained {at_8['trained']}. Bands: three seeds."
    )
