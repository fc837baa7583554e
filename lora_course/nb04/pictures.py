"""The figures of notebook 04: the dial between two adapters, what averaged factors lose, and the training.

`arms` is everywhere the part of that name of the stored results of `dial`: the name of an arm -> its losses.
"""

import textwrap
from statistics import fmean

import matplotlib.pyplot as plt
import numpy as np
from ipywidgets import FloatSlider, ToggleButtons

from lora_course.drawing.looks import BLUE, GRAY, MARKS, ORANGE, RED, TEXTS
from lora_course.drawing.style import Drawn, note, panels, picture, slider, styled
from lora_course.nb04.lab import PROMPT, SEEDS, SETTINGS, setting_name

BOTH = ("plays", "verses")


# --- the hero: a dial between two voices -----------------------------------------------------------------------------

WAYS = {"add the updates": "combined", "average the factors": "averaged", "add, merge, round to NF4": "rounded"}
DIAL_WORDS = (
    "Added, each voice keeps most of its gain halfway. The loss on plays falls and that on verses rises as the dial "
    "goes from the verses adapter to the plays adapter; thin solid lines are the sum, dotted ones the base. Beside "
    "them, a sample."
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
    page.text(0, 0.98, "One prompt, the voice that the dial says:", fontsize=11, va="top", weight="bold")
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

WAYS_TO_MIX = {  # the arm of the dial, and what it puts on the base
    "plays 0.5": "half of each",
    "PEFT's linear": "half of each, and cross terms:\nPEFT's linear",
    "a quarter of each": "a quarter of each",
    "averaged 0.5": "a quarter, and cross terms:\nA and B averaged",
    "one start, averaged": "averaged, from one start",
}


def kept_by_mixing(arms: dict) -> dict[str, dict[str, list[float]]]:
    """text -> arm of WAYS_TO_MIX -> the share of that adapter's own gain that is kept, one number a seed."""
    return {
        text: {arm: [kept_gain(arms, f"{arm}, seed {seed}", seed)[text] for seed in SEEDS] for arm in WAYS_TO_MIX}
        for text in BOTH
    }


@picture
def gap(arms: dict) -> Drawn:
    """What two adapters keep of their gains, with weights of a half and of a quarter, without cross terms and with."""
    figure, axes = panels(2, 9, 3.2)
    words = []
    for panel, (text, kept) in zip(axes, kept_by_mixing(arms).items(), strict=True):
        means = {arm: np.mean(numbers) for arm, numbers in kept.items()}
        colors = (ORANGE, RED, ORANGE, RED, RED)
        panel.barh(range(len(means)), list(means.values()), height=0.55, color=colors, alpha=0.45)
        for row, (arm, mean) in enumerate(means.items()):
            panel.text(0.02, row, f"{mean:.0%}", va="center")
            panel.plot(kept[arm], [row] * len(SEEDS), "|", color="black", ms=12, mew=1.5)
        alone = fmean(kept_gain(arms, f"half {text} alone, seed {seed}", seed)[text] for seed in SEEDS)
        panel.axvline(alone, color="black", ls="--", lw=1.4)
        panel.set(yticks=range(len(means)), xlim=(0, 1), xlabel=f"of the gain on {text}, kept")
        panel.set_yticklabels(WAYS_TO_MIX.values() if panel is axes[0] else [])
        panel.invert_yaxis()
        panel.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
        words.append(f"{text} " + ", ".join(f"{mean:.0%}" for mean in means.values()))
    named = "; ".join(WAYS_TO_MIX.values()).replace("\n", " ")
    return figure, (
        "Averaged A and B keep about what a quarter of each does, unless they had one start. Kept with "
        f"{named}: {'; '.join(words)}. Ticks are seeds, the dashed line is half of that adapter alone."
    )


# --- training --------------------------------------------------------------------------------------------------------


@styled
def training(losses: list[float], before: float, after: float) -> Drawn:
    """The loss of each step, and the loss on held-out text before the first step and after the last."""
    figure, (axes,) = panels(1, 7.2, 3)
    axes.plot(range(1, len(losses) + 1), losses, color=GRAY, lw=1.2)
    axes.text(0.6, 0.75, "training, each step", color=GRAY, fontsize=11, transform=axes.transAxes)
    for place, loss in ((0, before), (len(losses), after)):
        axes.plot(place, loss, "o", ms=9, color=BLUE)
        side = "bottom" if place == 0 else "center"
        note(axes, f"held out: {loss:.2f}", (place, loss), (10, 0), color=BLUE, fontsize=11, va=side)
    axes.margins(y=0.12)
    axes.set(xlabel="training step", ylabel="nats per byte", xlim=(-2, 1.2 * len(losses)))
    axes.set_title(f"{len(losses)} steps take {before - after:.2f} nats off the loss")
    words = f"The loss on held-out plays falls from {before:.2f} to {after:.2f} nats per byte. "
    return figure, words + "A jagged falling line is the loss of each training step; two marks are the held-out text."
