"""The figures of notebook 04: the dial between two adapters, what it is compared with, and what a merge loses.

`arms` is everywhere the part of that name of the stored results of `dial`: the name of an arm -> its losses.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np

from lora_edu.experiments.nb04 import PROMPT, SEEDS, SETTINGS, setting_name
from lora_edu.figures.drawing import Drawn, note, panels, slider, styled
from lora_edu.figures.looks import BLUE, GRAY, GREEN, MARKS, ORANGE, RED, TEXTS

BOTH = ("plays", "verses")


# --- the hero: a dial between two voices -----------------------------------------------------------------------------


def dial_values(arms: dict, plays: float) -> dict:
    """The losses and the sample at one setting of the dial: all of the plays adapter at 1, all of the other at 0."""
    here = arms[setting_name(plays)]
    kept = kept_gain(arms, setting_name(plays))
    readout = (
        f"plays {plays:.0%}, verses {1 - plays:.0%}: loss on plays {here['plays']:.2f} ({kept['plays']:.0%} of that "
        f"adapter's gain), on verses {here['verses']:.2f} ({kept['verses']:.0%} of the other's)"
    )
    return {"plays": plays, "losses": [here[text] for text in BOTH], "sample": here["sample"], "readout": readout}


def kept_gain(arms: dict, name: str, seed: int = 0) -> dict[str, float]:
    """Which share of each adapter's own gain over the base an arm keeps, on that adapter's text."""
    base, arm = arms["base, seed 0"], arms[name]
    full = {"plays": arms[setting_name(1, seed)], "verses": arms[setting_name(0, seed)]}
    return {text: (base[text] - arm[text]) / (base[text] - full[text][text]) for text in BOTH}


@slider
def dial_view(arms: dict):
    """The two curves over the dial, a mark on each, and what the model writes there."""
    figure, (axes, page) = plt.subplots(1, 2, figsize=(10, 3.6), dpi=100, layout="constrained")
    _dial_curves(axes, arms)
    line = axes.axvline(0, color=GRAY, lw=1, animated=True)
    how = {"ms": 13, "mec": "black", "mew": 1.5, "animated": True}
    marks = [axes.plot([], [], **TEXTS[text] | MARKS | how)[0] for text in BOTH]
    page.axis("off")
    page.text(0, 0.98, "One prompt, the voice that the dial says:", fontsize=11, va="top", weight="bold")
    how = {"fontsize": 11, "va": "top", "family": "monospace", "linespacing": 1.35, "animated": True}
    written = page.text(0, 0.86, "", **how)

    def draw(values: dict) -> None:
        line.set_xdata([values["plays"]] * 2)
        for mark, loss in zip(marks, values["losses"], strict=True):
            mark.set_data([values["plays"]], [loss])
        written.set_text(in_lines(PROMPT + values["sample"]))

    return figure, lambda plays: dial_values(arms, plays), draw, {"plays": 0}


DIAL_WORDS = (
    "Halfway, each adapter keeps most of its gain. The loss on plays falls and that on verses rises as the dial goes "
    "from the verses adapter to the plays adapter; dotted lines mark the base. Beside them, a sample."
)


def in_lines(text: str, width: int = 44, lines: int = 9) -> str:
    """Text as it is drawn: its own line ends are kept, long lines are broken, and it ends after a few of them."""
    wrapped = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    return "\n".join(wrapped[:lines])


def _dial_curves(axes, arms: dict) -> None:
    for text in BOTH:
        base, color = arms["base, seed 0"][text], TEXTS[text]["color"]
        axes.plot(SETTINGS, [arms[setting_name(weight)][text] for weight in SETTINGS], **TEXTS[text])
        axes.axhline(base, ls=":", color=color, lw=1.6)
        axes.text(1, base + 0.02, f"base, on {text}", color=color, ha="right", va="bottom")
    for text, weight, by in (("plays", 0, (10, 4)), ("verses", 0.75, (-8, -22))):
        place = (weight, arms[setting_name(weight)][text])
        how = {"fontsize": 11, "weight": "bold", "va": "baseline", "color": TEXTS[text]["color"]}
        note(axes, f"loss on {text}", place, by, **how)
    axes.margins(y=0.1)
    axes.set(xlabel="weight of the plays adapter; the verses adapter gets the rest", ylabel="nats per byte")
    axes.set(xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0\nverses", "¼", "½", "¾", "1\nplays"])
    axes.set_title("Halfway, each voice keeps most of its gain")


# --- what the middle of the dial is compared with --------------------------------------------------------------------

RIVALS = {
    "combined, half and half": setting_name(0.5).removesuffix(", seed 0"),
    "half of the plays adapter alone": "half plays alone",
    "half of the verses adapter alone": "half verses alone",
    "half plays, half shuffled verses": "half plays, half shuffled",
    "factors averaged": "averaged",
    "a quarter of each: no cross terms": "a quarter of each",
    "factors averaged, at the size of the sum": "averaged, same size",
    "quarters, enlarged as much": "quarters, enlarged",
    "factors averaged, both began with one A": "averaged, same start",
}


def kept_shares(arms: dict) -> dict[str, dict[str, list[float]]]:
    """label -> text -> the share of that adapter's own gain that is kept, one number a seed."""
    return {
        label: {text: [kept_gain(arms, f"{name}, seed {seed}", seed)[text] for seed in SEEDS] for text in BOTH}
        for label, name in RIVALS.items()
    }


@styled
def rivals(arms: dict) -> Drawn:
    """The share of both gains that each way of mixing keeps, a dot for each seed, a bar for their mean."""
    shares = kept_shares(arms)
    figure, frames = panels(2, 9.6, 3.5, sharey=True)
    for axes, text in zip(frames, BOTH, strict=True):
        for row, (label, kept) in enumerate(shares.items()):
            color = GREEN if label.startswith("combined") else RED if "averaged" in label else GRAY
            mean = float(np.mean(kept[text]))
            axes.barh(row, mean, height=0.55, color=color, alpha=0.35)
            axes.plot(kept[text], [row] * len(SEEDS), "o", color=color, ms=5)
            axes.text(1.24, row, f"{mean:.0%}", ha="right", va="center")
        axes.axvline(1, color="black", lw=1, ls=":")
        axes.axvline(0, color="black", lw=1)
        axes.set(xlim=(-0.2, 1.25), xlabel=f"share of the gain on {text} that is kept")
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    frames[0].set(yticks=range(len(shares)), yticklabels=list(shares))
    frames[0].invert_yaxis()
    figure.suptitle("Half an adapter keeps most of its gain, and the other half does not disturb it")
    pairs = (
        f"{label}: {np.mean(shares[label]['plays']):.0%} and {np.mean(shares[label]['verses']):.0%}"
        for label in shares
        if label.startswith(("combined", "factors averaged", "a quarter", "quarters")) and "one A" not in label
    )
    counts = np.mean([1 - arms[f"quarters, enlarged, seed {seed}"]["error"] for seed in SEEDS]) / 2
    words = "Kept of the gains on plays and verses: " + "; ".join(pairs)
    return figure, f"{words} (each update then counts {counts:.2f}). Dots are seeds."


# --- merging ---------------------------------------------------------------------------------------------------------


@styled
def rounding(measured: dict[str, dict[float, float]], factors: dict[str, float], here: float, paper: float) -> Drawn:
    """The error of a merged update against its size: measured marks, and the formula's line.

    measured: format -> size of the update -> its error; factors: format -> the relative rounding error of a weight.
    Rounded are the update itself and the sum: factor * sqrt(||dW||**2 + ||W + dW||**2) / ||dW||, where ||W + dW||**2
    is about ||W||**2 + ||dW||**2.
    """
    figure, (axes,) = panels(1, 7.6, 3.9)
    sizes = np.geomspace(1e-4, 1, 60)
    looks = zip("^so", ("-.", "--", "-"), (GREEN, ORANGE, BLUE), strict=True)
    for (name, errors), (marker, line, color) in zip(measured.items(), looks, strict=True):
        axes.plot(sizes, np.minimum(1, factors[name] * np.sqrt(2 + sizes**-2.0)), line, color=color, lw=1.2)
        axes.plot(list(errors), list(errors.values()), marker, color=color, ms=6)
        middle = min(errors, key=lambda size: abs(np.log(size / 3e-3)))
        place, side = ((-8, -20), "right") if name == "float16" else ((8, 6), "left")  # below its line, or above
        note(axes, name, (middle, errors[middle]), place, side, color=color, fontsize=12, va="baseline")
    for size, label in ((paper, "Table 7"), (here, "here")):
        axes.axvline(size, color=GRAY, ls=":")
        note(axes, f"{label}: {size:.0%}", (size, 1.5e-6), (-4, 0), "right", rotation=90, va="bottom", color=GRAY)
    axes.set(xscale="log", yscale="log", ylim=(1e-8, 2), xlabel="size of the update, ||ΔW|| / ||W||")
    axes.set(ylabel="share of the update that is wrong")
    axes.set_title("The smaller the update, the larger the share that a 16-bit merge gets wrong")
    at = {name: errors[min(errors, key=lambda size: abs(np.log(size / 0.01)))] for name, errors in measured.items()}
    words = "Of an update of 1% of the weight, " + ", ".join(
        f"{name} gets {error:.2g} wrong" for name, error in at.items()
    )
    return figure, f"{words}. Both axes are logarithmic: three falling lines with marks, for fp32, fp16 and bf16."


@styled
def kept_after_rounding(kept: dict[str, dict[float, float]]) -> Drawn:
    """Which share of an adapter's gain is left, for four ways to merge it: name -> times -> share.

    W is the original base, W′ the one that the adapter saw; "rounded" means to NF4, after the merge.
    """
    figure, (axes,) = panels(1, 7.8, 3.6)
    looks = ((GRAY, "-o"), (GREEN, "--s"), (RED, ":^"), (BLUE, "-.D"))
    for (name, shares), (color, style) in zip(kept.items(), looks, strict=True):
        axes.plot(*zip(*shares.items(), strict=True), style, color=color, label=name)
    axes.axhline(0, color="black", lw=1)
    times = list(next(iter(kept.values())))
    axes.set(xscale="log", xticks=times, xticklabels=[f"× {t:g}" for t in times], xlabel="size of the update")
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(ylabel="share of the gain that is kept", ylim=(-0.05, 1.35))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.legend(loc="lower left", title="merged")
    axes.set_title("Rounded again on W′, a small update is swallowed; on W it is not")
    lost, saved = (", ".join(f"{share:.0%}" for share in kept[name].values()) for name in list(kept)[2:])
    sizes = ", ".join(f"{t:g}" for t in times)
    words = f"Kept at {sizes} times the update: onto W′ and rounded {lost}; onto W and rounded {saved}."
    return figure, words + " One line for each way to merge, over the size of the update."


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
