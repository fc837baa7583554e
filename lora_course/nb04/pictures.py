"""The figures and tables of notebook 04: the dial between two adapters, what averaged factors lose, and the training.

`arms` is everywhere the part of that name of the stored results of `dial`: the name of an arm -> its losses.
"""

import textwrap
from collections.abc import Iterable
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatSlider, ToggleButtons
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb

from lora_course.drawing.looks import GRAY, MARKS, ORANGE, RED, TEXTS
from lora_course.drawing.style import Drawn, note, panels, picture, slider, styled
from lora_course.nb04.lab import PROMPT, SEEDS, SETTINGS, setting_name

BOTH = ("plays", "verses")
Table = tuple[list[str], list[list[str]]]  # a header and rows


# --- the hero: a dial between two voices -----------------------------------------------------------------------------

WAYS = {"add the updates": "combined", "average the factors": "averaged", "add, merge, round to NF4": "rounded"}
DIAL_WORDS = (
    "Added, each voice keeps most of its gain halfway. As the dial goes from the verses adapter to the plays adapter, "
    "the loss on plays falls and the loss on verses rises. Thin solid lines are the added updates, dotted lines are "
    "the base. Next to the curves stands a sample."
)


def kept_gain(arms: dict, name: str, seed: int = 0) -> dict[str, float]:
    """Which share of each adapter's own gain over the base an arm keeps, on that adapter's text."""
    base, arm = arms["base, seed 0"], arms[name]
    full = {"plays": arms[setting_name(1, seed)], "verses": arms[setting_name(0, seed)]}
    return {text: (base[text] - arm[text]) / (base[text] - full[text][text]) for text in BOTH}


@slider
def dial_view(arms: dict):
    """The two curves over the dial, a mark on each, and what the model writes there.

    Two controls: plays, the weight of that adapter, where the other one has the rest; and way, one of WAYS.
    """
    figure, (axes, page) = plt.subplots(1, 2, figsize=(10, 3.8), dpi=100, layout="constrained")
    _frame_of_dial(axes, arms)
    moving, black = {"animated": True}, {"ms": 13, "mec": "black", "mew": 1.5}
    line = axes.axvline(0, color=GRAY, lw=1, **moving)
    curves = {text: axes.plot(SETTINGS, [np.nan] * len(SETTINGS), **TEXTS[text] | moving)[0] for text in BOTH}
    marks = {text: axes.plot([], [], **TEXTS[text] | MARKS | black | moving)[0] for text in BOTH}
    page.axis("off")
    page.text(0, 0.98, "One prompt, in the voice of this setting:", fontsize=11, va="top", weight="bold")
    written = page.text(0, 0.86, "", fontsize=11, va="top", family="monospace", linespacing=1.35, **moving)

    def values(plays: float, way: str) -> dict:
        how = WAYS[way]
        here, kept = arms[setting_name(plays, how=how)], kept_gain(arms, setting_name(plays, how=how))
        readout = (
            f"{way}, plays {plays:.0%}, verses {1 - plays:.0%}: loss on plays {here['plays']:.2f} ({kept['plays']:.0%} "
            f"of that adapter's gain), on verses {here['verses']:.2f} ({kept['verses']:.0%} of the other's)"
        )
        lines = {text: [arms[setting_name(weight, how=how)][text] for weight in SETTINGS] for text in BOTH}
        losses = {text: here[text] for text in BOTH}
        return {"plays": plays, "losses": losses, "curves": lines, "sample": here["sample"], "readout": readout}

    def draw(now: dict) -> None:
        line.set_xdata([now["plays"]] * 2)
        for text in BOTH:
            curves[text].set_ydata(now["curves"][text])
            marks[text].set_data([now["plays"]], [now["losses"][text]])
        parts = [part for each in (PROMPT + now["sample"]).split("\n") for part in textwrap.wrap(each, 44) or [""]]
        written.set_text("\n".join(parts[:9]))

    return figure, values, draw, {"plays": 0, "way": "add the updates"}


def dial_controls() -> dict:
    plays = FloatSlider(0.5, min=0, max=1, step=1 / 8, description="weight of the plays")
    return {"plays": plays, "way": ToggleButtons(options=list(WAYS), description="how")}


def _frame_of_dial(axes, arms: dict) -> None:
    """What stays: the curves of the sum, thin, and the base."""
    for text in BOTH:
        base, color = arms["base, seed 0"][text], TEXTS[text]["color"]
        axes.plot(SETTINGS, [arms[setting_name(weight)][text] for weight in SETTINGS], color=color, lw=1, alpha=0.7)
        axes.axhline(base, ls=":", color=color, lw=1.6)
        axes.text(1, base + 0.02, f"base, on {text}", color=color, ha="right", va="bottom")
    for text, weight, by in (("plays", 0.125, (9, 5)), ("verses", 0, (0, 14))):
        place = (weight, arms[setting_name(weight)][text])
        how = {"fontsize": 11, "weight": "bold", "va": "baseline", "color": TEXTS[text]["color"]}
        note(axes, f"loss on {text}", place, by, **how)
    axes.margins(y=0.1)
    axes.set(xlabel="weight of the plays adapter; the verses adapter gets the rest", ylabel="nats per byte")
    axes.set(xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0\nverses", "¼", "½", "¾", "1\nplays"])
    axes.set_title("Added, each voice keeps most of its gain")


# --- what averaged factors lose --------------------------------------------------------------------------------------

# The arm of the dial, what it is called, and how often it takes an adapter's own update and a cross term.
RECIPES = (
    ("plays 0.5", "half of each update", 0.5, 0),
    ("PEFT's linear", "half, and cross terms:\nPEFT's linear", 0.5, 0.5),
    ("a quarter of each", "a quarter of each update", 0.25, 0),
    ("averaged 0.5", "a quarter, and cross terms:\nA and B averaged", 0.25, 0.25),
    ("one start, averaged", "A and B averaged,\nfrom one start", 0.25, 0.25),
)
FRACTIONS = {0: "0", 0.25: "¼", 0.5: "½"}
ABOVE = {"plays": -0.16, "verses": 0.16}  # where a text's marks lie, around the middle of a recipe's row


def kept_by_mixing(arms: dict) -> dict[str, dict[str, list[float]]]:
    """text -> arm of RECIPES -> the share of that adapter's own gain that is kept, one number a seed."""
    return {text: {arm: _kept_by_seed(arms, arm, text) for arm, *_ in RECIPES} for text in BOTH}


def _kept_by_seed(arms: dict, arm: str, text: str) -> list[float]:
    return [kept_gain(arms, f"{arm}, seed {seed}", seed)[text] for seed in SEEDS]


@picture
def gap(arms: dict) -> Drawn:
    """What two adapters keep of their gains: a row for each recipe, with a tile of what it takes of the products."""
    figure, (tiles, axes) = plt.subplots(1, 2, figsize=(9, 5.6), width_ratios=(1, 2.9), sharey=True)
    for row, (_, _, own, cross) in enumerate(RECIPES):
        _tile(tiles, row, own, cross)
    tiles.set(xlim=(-0.62, 0.42), aspect="equal")
    tiles.axis("off")
    kept = kept_by_mixing(arms)
    for text in BOTH:
        _marks_of_recipes(axes, text, kept[text])
        _half_alone(axes, text, fmean(_kept_by_seed(arms, f"half {text} alone", text)))
    for row, (_, name, _, _) in enumerate(RECIPES):
        axes.text(0.02, row, name, va="center")
    axes.set(xlim=(0, 1), ylim=(4.5, -0.75), yticks=[], xlabel="of that adapter's own gain, kept")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    return figure, _words_of_gap(kept)


def _tile(axes: Axes, row: int, own: float, cross: float) -> None:
    """The four products of two Bs and two As, each with how often it counts; darker where that is more."""
    size = 0.36
    for i in range(2):
        axes.text(-size - 0.03, row + size * (i - 0.5), f"$B_{i + 1}$", ha="right", va="center", fontsize=10)
        axes.text(size * (i - 0.5), row - size - 0.02, f"$A_{i + 1}$", ha="center", va="bottom", fontsize=10)
        for j in range(2):
            times = own if i == j else cross
            color = ORANGE if i == j else RED
            corner = (size * (j - 1), row + size * (i - 1))
            axes.add_patch(plt.Rectangle(corner, size, size, fc=(*to_rgb(color), 1.2 * times), ec=GRAY, lw=0.8))
            axes.text(size * (j - 0.5), row + size * (i - 0.5), FRACTIONS[times], ha="center", va="center")


def _marks_of_recipes(axes: Axes, text: str, kept: dict[str, list[float]]) -> None:
    """A small mark for each seed, and the mean as a number."""
    color = TEXTS[text]["color"]
    for row, shares in enumerate(kept.values()):
        height = row + ABOVE[text]
        axes.plot(shares, [height] * len(shares), **TEXTS[text] | MARKS, ms=6, mfc="white")
        name = f" on {text}" if row == 0 else ""
        how = {"color": color, "fontsize": 11, "bbox": {"fc": "white", "ec": "none", "pad": 1}}
        note(axes, f"{fmean(shares):.0%}{name}", (max(shares), height), (8, 0), **how)


def _half_alone(axes: Axes, text: str, share: float) -> None:
    """A line through all rows: half of that text's adapter, and nothing of the other."""
    color = TEXTS[text]["color"]
    side = "right" if text == "plays" else "left"
    axes.axvline(share, color=color, ls="--", lw=1.2, zorder=0)
    by = (-4, 0) if side == "right" else (4, 0)
    note(axes, f"half of {text} alone", (share, -0.66), by, side, color=color, fontsize=9)


def _words_of_gap(kept: dict[str, dict[str, list[float]]]) -> str:
    rows = []
    for arm, name, _, _ in RECIPES:
        shares = ", ".join(f"{fmean(kept[text][arm]):.0%} on {text}" for text in BOTH)
        rows.append(f"{name}: {shares}".replace("\n", " "))
    return (
        "Averaging A and B keeps about as much as a quarter of each update, unless both adapters had one start. "
        f"What is kept of each adapter's own gain. {'; '.join(rows)}. Each mark is a seed, and a dashed line is half "
        "of one adapter alone. The squares say how often each product of a B and an A counts."
    )


# --- tables: the header and the rows, for plots.table ----------------------------------------------------------------


def sample_table(samples: dict[str, str], prompt: str) -> Table:
    """samples: the name of a model -> what it writes after the prompt."""
    return ["model", prompt], [list(sample) for sample in samples.items()]


def merge_table(merged: dict[float, dict[str, float]]) -> tuple[list[str], list[list[str]], str]:
    """merged: ||dW|| / ||W|| -> which share is wrong, which arrives, and which share of the gain is kept."""
    rows = []
    for size, shares in merged.items():
        rows.append([f"{size:.1%}", *_percents(shares.values())])
    return ["size of the update", "wrong", "arrives", "gain on plays kept"], rows, "merged in bf16"


def push_table(pushed: dict[str, dict[str, float]]) -> Table:
    """pushed: W or W′ -> which share of the push is left, and which share of the weights moves."""
    rows = []
    for name, shares in pushed.items():
        rows.append([name, *_percents(shares.values())])
    return ["", "of the push is left", "of the weights jump"], rows


def again_table(kept: dict[str, float]) -> Table:
    """kept: the base that was merged onto -> the share of the merged gain that is left after rounding."""
    header = ["a tenth of the update, rounded again"] + [f"onto {base}" for base in kept]
    return header, [["of its gain is left", *_percents(kept.values())]]


ROWS_OF_BASES = {"base": "before the merge", "merged": "merged", "rounded": "merged, then rounded again"}


def base_table(losses: dict[tuple[int, str, str], float]) -> Table:
    """losses: (bits, base, what was done to it) -> the mean loss on plays."""
    rows = []
    for bits in (4, 2):
        for what, name in ROWS_OF_BASES.items():
            row = [f"{losses[bits, base, what]:.3f}" for base in ("W′", "W")]
            rows.append([f"{bits} bits, {name}", *row])
    return ["loss on plays", "onto W′", "onto W"], rows


def voice_table(voices: dict[str, dict], prompt: str) -> Table:
    """voices: the name of a model -> its two losses and a sample."""
    rows = []
    for name, voice in voices.items():
        rows.append([name, f"{voice['plays']:.2f}", f"{voice['verses']:.2f}", voice["sample"]])
    return ["voice", "loss on plays", "on verses", prompt], rows


def _percents(shares: Iterable[float]) -> list[str]:
    return [f"{share:.0%}" for share in shares]


# --- training --------------------------------------------------------------------------------------------------------


@styled
def training(losses: list[float], before: float, after: float) -> Drawn:
    """The loss of each step, and the loss on held-out text before the first step and after the last."""
    figure, (axes,) = panels(1, 7.2, 3)
    axes.plot(range(1, len(losses) + 1), losses, color=GRAY, lw=1.2)
    axes.text(0.6, 0.75, "training, each step", color=GRAY, fontsize=11, transform=axes.transAxes)
    for place, loss in ((0, before), (len(losses), after)):
        axes.plot(place, loss, "o", ms=9, color=TEXTS["plays"]["color"])
        side = "bottom" if place == 0 else "center"
        note(axes, f"held out: {loss:.2f}", (place, loss), (10, 0), color=TEXTS["plays"]["color"], fontsize=11, va=side)
    axes.margins(y=0.12)
    axes.set(xlabel="training step", ylabel="nats per byte", xlim=(-2, 1.2 * len(losses)))
    axes.set_title(f"{len(losses)} steps take {before - after:.2f} nats off the loss")
    words = f"The loss on held-out plays falls from {before:.2f} to {after:.2f} nats per byte. "
    return figure, words + "The jagged line is the loss of each training step, and the two marks are the held-out text."
