"""The pictures of notebook 02: what an adapter looks at, digits with answers, and the results of its experiments."""

from collections.abc import Callable, Sequence

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lora_course.drawing.looks import ADAPTER, BLUE, GRAY, ORANGE, RED, TEXTS
from lora_course.drawing.style import Drawn, note, panels, picture, slider, styled
from lora_course.nb02.lab import AS_TRAINED, STRONGEST, Outcome

SIGNED = "cividis"  # negative dark blue, zero gray, positive yellow: lightness alone tells them apart


# --- what the adapter looks at (the slider) --------------------------------------------------------------------------

ROWS_ALT = (
    "Upper: the rows of A in the first layer, each as a picture of 8 x 8 pixels. Middle: what each row answers to the "
    "ten classes of rotated digits, as bars. Lower: twelve rotated test digits and the network's answers."
)


@slider
def rows_of_A(outcome: Callable[[int], Outcome], digits: NDArray, labels: Sequence[int], most: int = 8):
    """The view behind the rank slider of the first screen. Its settings: rank, 0 to `most`, and which rows.

    outcome(rank): what was trained. digits: those shown with their labels, (12, 64).
    """
    images = (digits.reshape(-1, 8, 8) + 1) / 2
    outcomes = {rank: outcome(rank) for rank in range(most + 1)}
    figure = plt.figure(figsize=(9.6, 4.9), dpi=100, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(2.6, 1))
    grid = upper.subplots(2, most, height_ratios=(1.25, 1))
    upper.suptitle("rows of A (yellow +, blue −), and below each its mean answer a·x to the digits 0 to 9")
    tiles = [_empty_tile(axes) for axes in grid[0]]
    bars = [_empty_bars(axes) for axes in grid[1]]
    lower.suptitle("rotated digits, and the answer at this rank: a wrong one stands in parentheses")
    texts = [_digit_with_text(axes, image) for axes, image in zip(lower.subplots(1, len(images)), images, strict=True)]

    def values(rank: int, rows: str) -> dict:
        found = outcomes[rank]
        right = f"{np.sum(found.given == np.array(labels))} of these {len(labels)} rotated digits right"
        readout, A, means = f"no adapter: {right}", np.zeros((0, 64)), np.zeros((0, 10))
        if rank:
            needed = int(np.searchsorted(np.cumsum(found.shares), 0.98)) + 1
            strong = f" {needed} of {rank} components hold 98% of its squared norm." if rows == STRONGEST else ""
            readout, A, means = f"rank {rank}: {right}.{strong}", found.rows[rows], found.responses[rows]
        return _padded(A, means, most) | {"given": found.given, "readout": readout}

    def draw(now: dict) -> None:
        for tile, image in zip(tiles, now["images"], strict=True):
            tile.set(visible=bool(np.isfinite(image).all()), data=image)
        for drawn, heights in zip(bars, now["responses"], strict=True):
            for bar, height in zip(drawn, heights, strict=True):
                bar.set(visible=bool(np.isfinite(height)), height=height)
        for text, answer, label in zip(texts, now["given"], labels, strict=True):
            content, color = _mark(answer, label)
            text.set(text=content, color=color)

    return figure, values, draw, {"rank": 0, "rows": AS_TRAINED}


def rows_controls() -> dict:
    """The controls of `rows_of_A`."""
    return {
        "rank": ipywidgets.IntSlider(value=4, min=1, max=8, description="rank of the adapter"),
        "rows": ipywidgets.ToggleButtons(options=[AS_TRAINED, STRONGEST], description="rows of A"),
    }


def _padded(rows: NDArray, responses: NDArray, most: int) -> dict:
    """Rows as pictures, each scaled to its largest entry of all, and nan where there is none."""
    images, heights = np.full((most, 8, 8), np.nan), np.full((most, 10), np.nan)
    if len(rows):
        images[: len(rows)] = rows.reshape(-1, 8, 8) / np.abs(rows).max()
        centered = responses - responses.mean(axis=1, keepdims=True)
        heights[: len(rows)] = centered / np.abs(centered).max()
    return {"images": images, "responses": heights}


def _empty_tile(axes: Axes):
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(color=GRAY, ls=":", visible=True)
    return axes.imshow(np.zeros((8, 8)), cmap=SIGNED, vmin=-1, vmax=1, animated=True)


def _empty_bars(axes: Axes):
    axes.set(xlim=(-0.8, 9.8), ylim=(-1.05, 1.05), yticks=[])
    axes.set_xticks([0, 3, 6, 9])
    axes.tick_params(labelsize=9, length=2)
    axes.axhline(0, color=GRAY, lw=0.8)
    axes.spines["left"].set_visible(False)
    return axes.bar(range(10), np.zeros(10), color=ADAPTER[0], animated=True)


def _digit_with_text(axes: Axes, image: NDArray):
    _draw_digit(axes, image)
    axes.set_xlabel(" ", fontsize=14)  # keeps room for the answer
    text = axes.text(0.5, -0.12, "", transform=axes.transAxes, ha="center", va="top", fontsize=12, animated=True)
    text.set_in_layout(False)
    return text


def _mark(answer: int, label: int) -> tuple[str, str]:
    return (f"{answer}", "black") if answer == label else (f"({answer})", RED)


def _draw_digit(axes: Axes, image: NDArray) -> None:
    axes.imshow(image, cmap="gray_r", vmin=0, vmax=1)
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(True)


# --- digits with answers ---------------------------------------------------------------------------------------------


@styled
def answers(rows: dict[str, tuple[NDArray, Sequence[int]]], labels: Sequence[int]) -> Drawn:
    """Rows of digits with a network's answer below each: rows maps a title to (rows of 64 pixels, answers).

    A wrong answer is red and stands in parentheses.
    """
    count = len(labels)
    figure = plt.figure(figsize=(0.78 * count, 1.4 * len(rows)))
    parts, said = figure.subfigures(len(rows), 1, squeeze=False)[:, 0], []
    for part, (title, (pixels, given)) in zip(parts, rows.items(), strict=True):
        for axes, image, answer, label in zip(part.subplots(1, count), pixels[:count], given, labels, strict=False):
            text, color = _mark(answer, label)
            _draw_digit(axes, (image.reshape(8, 8) + 1) / 2)
            axes.set_xlabel(text, color=color, fontsize=12)
        right = sum(int(answer == label) for answer, label in zip(given, labels, strict=False))
        fours = sum(int(answer == 4) for answer in given[:count])
        part.suptitle(f"{title}: {right} of {count} right", x=0.01, ha="left")
        said.append(f"{title}: {right} of {count} right, {fours} answered 4")
    words = f"{'; '.join(said)}. Twelve handwritten test digits in each row, with the network's answer below each."
    return figure, words[0].upper() + words[1:]


# --- x squeezed through r numbers -------------------------------------------------------------------------------------


@styled
def squeezed(layers: Sequence, x: NDArray, before: int, after: int) -> Drawn:
    """One input on its way through the adapter of the first layer, true to scale: 64 -> rank -> 48 numbers.

    layers: adapted and trained. x: (64,), a digit. before, after: the network's answer without and with adapters.
    """
    layer = layers[0]
    rank, low = len(layer.lora_A), layer.lora_A @ x  # (rank,)
    change = layer.scaling * layer.lora_B @ low  # (48,)
    figure, (axes,) = panels(1, 9.4, 4.0)
    axes.axis("off")
    _image(axes, -x.reshape(8, 8), (0, 4), 24, "gray", f"x: a rotated digit,\n64 pixels; answer {before}")
    side = min(24 / rank, 8)
    for k, (row, number) in enumerate(zip(layer.lora_A, low, strict=True)):
        bottom = 28 - (k + 1) * 28 / rank + (28 / rank - side) / 2 + 2
        _image(axes, row.reshape(8, 8), (37, bottom), side, SIGNED)
        axes.text(37 + side + 1.5, bottom + side / 2, f"{number:+.1f}", va="center", fontsize=12)
    axes.text(37 + side / 2, 33.5, f"A: {rank} pictures", ha="center", fontsize=11)
    axes.text(37, -4.5, f"A x: {rank} numbers, how much\nof each picture is in x", ha="left", va="center", fontsize=11)
    limit = np.abs(change).max()
    axes.imshow(change[:, None], cmap=SIGNED, vmin=-limit, vmax=limit, extent=(76, 80, 2, 30), aspect="auto")
    axes.add_patch(plt.Rectangle((76, 2), 4, 28, fill=False, edgecolor=ADAPTER[0]))
    axes.text(78, 33.5, "s B (A x)", ha="center", fontsize=11)
    axes.text(78, -4.5, "48 numbers, added\nto W x", ha="center", va="center", fontsize=11)
    for start, end in (((26, 16), (35, 16)), ((58, 16), (74, 16)), ((82, 16), (92, 16))):
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "lw": 1.3})
    axes.text(66, 18, "times s B", ha="center", fontsize=11)
    axes.text(94, 16, f"layer 2:\nanswer {after}", va="center", fontsize=12)
    axes.set(xlim=(-2, 110), ylim=(-9, 38), aspect="equal")
    numbers = ", ".join(f"{number:+.1f}" for number in low)
    return figure, (
        f"Of a digit's 64 pixels, only {rank} numbers reach B. Without adapters, the network answers {before} to this "
        f"rotated digit. The digit is multiplied by each of the {rank} rows of A, which are drawn as pictures. That "
        f"gives the numbers {numbers}. B and s turn them into 48 numbers, which are added to W x. The answer is now "
        f"{after}."
    )


def _image(axes: Axes, image: NDArray, corner: tuple[float, float], side: float, cmap: str, below: str = "") -> None:
    left, bottom = corner
    limit = np.abs(image).max()
    extent = (left, left + side, bottom, bottom + side)
    axes.imshow(image, cmap=cmap, vmin=-limit, vmax=limit, extent=extent)
    axes.add_patch(plt.Rectangle(corner, side, side, fill=False, edgecolor=GRAY))
    if below:
        axes.text(left + side / 2, -4.5, below, ha="center", va="center", fontsize=11)


# --- where A and B start ----------------------------------------------------------------------------------------------


def starts_table(starts: dict[str, dict[str, float]]) -> tuple[list, list]:
    """Header and rows of a table, a row for each start: the numbers measured, and last the share right in percent."""
    header = ["start", *next(iter(starts.values()))]
    rows = []
    for name, measured in starts.items():
        *numbers, share = measured.values()
        rows.append([name, *numbers, f"{share:.1%}"])
    return header, rows


START_LOOKS = ((BLUE, "-", 7), (RED, "--", 0), (ORANGE, ":", 22))  # and how far above its end a curve is named


@picture
def starts(losses: dict[str, Sequence[float]], window: int = 20) -> Drawn:
    """The loss over training for each of three starts, by name. Each point is the mean of `window` steps."""
    figure, (axes,) = panels(1, 8, 3.4)
    ends = []
    for (name, values), (color, style, up) in zip(losses.items(), START_LOOKS, strict=True):
        curve = np.convolve(values, np.ones(window) / window, mode="valid")
        steps = np.arange(window, len(values) + 1)
        axes.plot(steps, curve, style, color=color)
        note(axes, name, (steps[-1], curve[-1]), (6, up), color=color)
        ends.append(f"{curve[-1]:.2f} with {name}")
    axes.set(xlabel="training step", ylabel=f"loss in nats, mean of {window} steps")
    axes.set(xlim=(0, len(values)), ylim=(0, None))
    return figure, (
        "With A and B both at zero, nothing is learned. The curves show the loss on rotated digits over "
        f"{len(values)} steps of training. It ends at {'; '.join(ends)}."
    )


# --- results ----------------------------------------------------------------------------------------------------------


def best_rates_table(best: dict[str, dict[int, float]]) -> tuple[list, list]:
    """Header and rows of a table, a row for each arm of the search and a column for each rank: the best rate."""
    ranks = next(iter(best.values()))
    header = ["best learning rate", *(f"rank {rank}" for rank in ranks)]
    return header, [[name, *rates.values()] for name, rates in best.items()]


def enough(new: dict) -> int:
    """The smallest rank within 3 points of full fine-tuning on the new task."""
    return next(rank for rank in new if rank != "full" and new[rank] > new["full"] - 0.03)


@styled
def ranks(new: dict, old: dict) -> Drawn:
    """Right answers against the rank, on the new and the old task: each maps a rank (0: none) or "full" to shares."""
    shown = [rank for rank in new if rank != "full"]
    figure, (axes,) = panels(1, 8, 3.9)
    looks = (TEXTS["plays"], TEXTS["addresses"])  # what is learned, and what the base knew
    for shares, name, look in zip((new, old), ("rotated (new task)", "upright (old task)"), looks, strict=True):
        color = look["color"]
        axes.plot(shown, [100 * shares[rank] for rank in shown], **look)
        axes.axhline(100 * shares["full"], color=color, ls=":", lw=1.6)
        down, side = (-12, "top") if shares is new else (8, "bottom")
        note(axes, f"LoRA, {name}", (shown[-1], 100 * shares[shown[-1]]), (0, down), "right", color=color, va=side)
        full = f"full fine-tuning, {name}: {shares['full']:.0%}"
        note(axes, full, (4.3, 100 * shares["full"]), (0, 4), color=color, va="bottom")
    axes.set(xlabel="rank of both adapters (0: none)", ylabel="right answers on test digits, %", ylim=(0, 112))
    axes.set(xticks=shown, yticks=range(0, 101, 20))
    near = enough(new)
    axes.set_title(f"Rank {near} is enough for the new task; the old one is forgotten at every rank")
    at = ", ".join(f"{new[rank]:.0%} at rank {rank}" for rank in (1, 2, 4, 8))
    kept = [old[rank] for rank in shown if rank]
    return figure, (
        f"From rank {near} on LoRA comes within 3 points of full fine-tuning ({new['full']:.0%}): {at}, against "
        f"{new[0]:.0%} without. Upright digits: {old[0]:.0%} before, {min(kept):.0%} to {max(kept):.0%} with an "
        f"adapter, {old['full']:.0%} after full fine-tuning."
    )
