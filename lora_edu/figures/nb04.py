"""The figures of notebook 04: the dial between two adapters, what it is compared with, and what a merge loses.

`arms` is everywhere the part of that name of the stored results of `dial`: the name of an arm -> its losses.
"""

import textwrap

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure

from lora_edu.experiments.nb04 import PROMPT, SEEDS, SETTINGS, setting_name
from lora_edu.figures.plots import BLUE, GRAY, GREEN, ORANGE, RED, plain_axes
from lora_edu.figures.sliders import View

TEXTS = ("plays", "verses")
LOOKS = {"plays": (BLUE, "-", "o"), "verses": (ORANGE, "--", "s")}


# --- the hero: a dial between two voices -----------------------------------------------------------------------------


def dial_values(arms: dict, plays: float) -> dict:
    """The losses and the sample at one setting of the dial: all of the plays adapter at 1, all of the other at 0."""
    here = arms[setting_name(plays)]
    kept = kept_gain(arms, setting_name(plays))
    readout = (
        f"plays {plays:.0%}, verses {1 - plays:.0%}: loss on plays {here['plays']:.2f} ({kept['plays']:.0%} of that "
        f"adapter's gain), on verses {here['verses']:.2f} ({kept['verses']:.0%} of the other's)"
    )
    return {"plays": plays, "losses": [here[text] for text in TEXTS], "sample": here["sample"], "readout": readout}


def kept_gain(arms: dict, name: str, seed: int = 0) -> dict[str, float]:
    """Which share of each adapter's own gain over the base an arm keeps, on that adapter's text."""
    base, arm = arms["base, seed 0"], arms[name]
    full = {"plays": arms[setting_name(1, seed)], "verses": arms[setting_name(0, seed)]}
    return {text: (base[text] - arm[text]) / (base[text] - full[text][text]) for text in TEXTS}


def dial_view(arms: dict) -> View:
    """The two curves over the dial, a mark on each, and what the model writes there."""
    figure, (axes, page) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=(1, 1), layout="constrained")
    _dial_curves(axes, arms)
    marks, moving = {}, []
    for text in TEXTS:
        color, _, marker = LOOKS[text]
        (marks[text],) = axes.plot([], [], marker, color=color, ms=13, mec="black", mew=1.5)
    line = axes.axvline(0, color=GRAY, lw=1)
    page.axis("off")
    page.text(0, 0.98, "One prompt, the voice that the dial says:", fontsize=11, va="top", weight="bold")
    written = page.text(0, 0.86, "", fontsize=11, va="top", family="monospace", linespacing=1.35)
    moving = [line, *marks.values(), written]

    def draw(values: dict) -> None:
        line.set_xdata([values["plays"]] * 2)
        for text, loss in zip(TEXTS, values["losses"], strict=True):
            marks[text].set_data([values["plays"]], [loss])
        written.set_text(in_lines(PROMPT + values["sample"]))

    return View(figure, moving, values=lambda plays: dial_values(arms, plays), draw=draw)


DIAL_WORDS = (
    "Halfway, each adapter keeps most of its gain. The loss on plays falls and that on verses rises as the dial goes "
    "from the verses adapter to the plays adapter; dotted lines mark the base. Beside them, a sample."
)


def in_lines(text: str, width: int = 44, lines: int = 9) -> str:
    """Text as it is drawn: its own line ends are kept, long lines are broken, and it ends after a few of them."""
    wrapped = [part for line in text.split("\n") for part in textwrap.wrap(line, width) or [""]]
    return "\n".join(wrapped[:lines])


def _dial_curves(axes, arms: dict) -> None:
    for text in TEXTS:
        color, style, marker = LOOKS[text]
        losses = [arms[setting_name(weight)][text] for weight in SETTINGS]
        base = arms["base, seed 0"][text]
        axes.plot(SETTINGS, losses, style, color=color, marker=marker, lw=2)
        axes.axhline(base, ls=":", color=color, lw=1.6)
        axes.text(1, base + 0.02, f"base, on {text}", color=color, ha="right", va="bottom", fontsize=10)
    name = {"fontsize": 11, "weight": "bold", "textcoords": "offset points"}
    start, late = arms[setting_name(0)]["plays"], arms[setting_name(0.75)]["verses"]
    axes.annotate("loss on plays", (0, start), (10, 4), color=LOOKS["plays"][0], **name)
    axes.annotate("loss on verses", (0.75, late), (-8, -22), color=LOOKS["verses"][0], **name)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(y=0.1)
    axes.set(xlabel="weight of the plays adapter; the verses adapter gets the rest", ylabel="nats per byte")
    axes.set(xticks=[0, 0.25, 0.5, 0.75, 1], xticklabels=["0\nverses", "¼", "½", "¾", "1\nplays"])
    axes.set_title("Halfway, each voice keeps most of its gain", fontsize=11, loc="left")


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
        label: {text: [kept_gain(arms, f"{name}, seed {seed}", seed)[text] for seed in SEEDS] for text in TEXTS}
        for label, name in RIVALS.items()
    }


def rivals(arms: dict) -> tuple[Figure, str]:
    """The share of both gains that each way of mixing keeps, a dot for each seed, a bar for their mean."""
    shares = kept_shares(arms)
    figure, panels = plt.subplots(1, 2, figsize=(9.6, 3.5), sharey=True, layout="constrained")
    for axes, text in zip(panels, TEXTS, strict=True):
        for row, (label, kept) in enumerate(shares.items()):
            color = GREEN if label.startswith("combined") else RED if "averaged" in label else GRAY
            mean = float(np.mean(kept[text]))
            axes.barh(row, mean, height=0.55, color=color, alpha=0.35)
            axes.plot(kept[text], [row] * len(SEEDS), "o", color=color, ms=5)
            axes.text(1.24, row, f"{mean:.0%}", ha="right", va="center", fontsize=10)
        axes.axvline(1, color="black", lw=1, ls=":")
        axes.axvline(0, color="black", lw=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.set(xlim=(-0.2, 1.25), xlabel=f"share of the gain on {text} that is kept")
        axes.xaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    panels[0].set(yticks=range(len(shares)), yticklabels=list(shares))
    panels[0].invert_yaxis()
    figure.suptitle("Half an adapter keeps most of its gain, and the other half does not disturb it", fontsize=11)
    pairs = (
        f"{label}: {np.mean(shares[label]['plays']):.0%} and {np.mean(shares[label]['verses']):.0%}"
        for label in shares
        if label.startswith(("combined", "factors averaged", "a quarter", "quarters")) and "one A" not in label
    )
    counts = np.mean([1 - arms[f"quarters, enlarged, seed {seed}"]["error"] for seed in SEEDS]) / 2
    words = "Kept of the gains on plays and verses: " + "; ".join(pairs)
    return figure, f"{words} (each update then counts {counts:.2f}). Dots are seeds."


# --- merging ---------------------------------------------------------------------------------------------------------


def rounding(measured: dict[str, dict[float, float]], factors: dict[str, float], here: float, paper: float):
    """The error of a merged update against its size: measured marks, and the formula's line.

    measured: format -> size of the update -> its error; factors: format -> the relative rounding error of a weight.
    Rounded are the update itself and the sum: factor * sqrt(||dW||**2 + ||W + dW||**2) / ||dW||, where ||W + dW||**2
    is about ||W||**2 + ||dW||**2.
    """
    figure, axes = plain_axes(7.6, 3.9)
    sizes = np.geomspace(1e-4, 1, 60)
    looks = zip("^so", ("-.", "--", "-"), (GREEN, ORANGE, BLUE), strict=True)
    for (name, errors), (marker, line, color) in zip(measured.items(), looks, strict=True):
        axes.plot(sizes, np.minimum(1, factors[name] * np.sqrt(2 + sizes**-2.0)), line, color=color, lw=1.2)
        axes.plot(list(errors), list(errors.values()), marker, color=color, ms=6)
        middle = min(errors, key=lambda size: abs(np.log(size / 3e-3)))
        place, side = ((-8, -20), "right") if name == "float16" else ((8, 6), "left")  # below its line, or above
        axes.annotate(
            name, (middle, errors[middle]), place, textcoords="offset points", color=color, fontsize=12, ha=side
        )
    for size, label in ((paper, "Table 7"), (here, "here")):
        axes.axvline(size, color=GRAY, ls=":")
        axes.annotate(f"{label}: {size:.0%}", (size, 1.5e-6), (-4, 0), textcoords="offset points", rotation=90,
                      ha="right", va="bottom", color=GRAY, fontsize=10)  # fmt: skip
    axes.set(xscale="log", yscale="log", ylim=(1e-8, 2), xlabel="size of the update, ||ΔW|| / ||W||")
    axes.set(ylabel="share of the update that is wrong")
    axes.set_title(
        "The smaller the update, the larger the share that a 16-bit merge gets wrong", fontsize=11, loc="left"
    )
    at = {name: errors[min(errors, key=lambda size: abs(np.log(size / 0.01)))] for name, errors in measured.items()}
    words = "Of an update of 1% of the weight, " + ", ".join(
        f"{name} gets {error:.2g} wrong" for name, error in at.items()
    )
    return figure, f"{words}. Both axes are logarithmic: three falling lines with marks, for fp32, fp16 and bf16."


def kept_after_rounding(kept: dict[str, dict[float, float]]) -> tuple[Figure, str]:
    """Which share of an adapter's gain is left, for four ways to merge it: name -> times -> share.

    W is the original base, W′ the one that the adapter saw; "rounded" means to NF4, after the merge.
    """
    figure, axes = plain_axes(7.8, 3.6)
    looks = ((GRAY, "-", "o"), (GREEN, "--", "s"), (RED, ":", "^"), (BLUE, "-.", "D"))
    for (name, shares), (color, line, marker) in zip(kept.items(), looks, strict=True):
        axes.plot(list(shares), list(shares.values()), line, color=color, marker=marker, lw=2, label=name)
    axes.axhline(0, color="black", lw=1)
    times = list(next(iter(kept.values())))
    axes.set(xscale="log", xticks=times, xticklabels=[f"× {t:g}" for t in times], xlabel="size of the update")
    axes.minorticks_off()
    axes.invert_xaxis()
    axes.set(ylabel="share of the gain that is kept", ylim=(-0.05, 1.35))
    axes.yaxis.set_major_formatter(lambda share, _: f"{share:.0%}")
    axes.legend(frameon=False, fontsize=10, loc="lower left", title="merged")
    axes.set_title("Rounded again on W′, a small update is swallowed; on W it is not", fontsize=11, loc="left")
    lost, saved = (", ".join(f"{share:.0%}" for share in kept[name].values()) for name in list(kept)[2:])
    sizes = ", ".join(f"{t:g}" for t in times)
    words = f"Kept at {sizes} times the update: onto W′ and rounded {lost}; onto W and rounded {saved}."
    return figure, words + " One line for each way to merge, over the size of the update."


# --- training --------------------------------------------------------------------------------------------------------


def training(losses: list[float], before: float, after: float) -> tuple[Figure, str]:
    """The loss of each step, and the loss on held-out text before the first step and after the last."""
    figure, axes = plain_axes(7.2, 3)
    axes.plot(range(1, len(losses) + 1), losses, color=GRAY, lw=1.2)
    axes.text(0.6, 0.75, "training, each step", color=GRAY, fontsize=11, transform=axes.transAxes)
    for place, loss in ((0, before), (len(losses), after)):
        axes.plot(place, loss, "o", ms=9, color=BLUE)
        axes.annotate(f"held out: {loss:.2f}", (place, loss), (10, 0), textcoords="offset points",
                      color=BLUE, fontsize=11, va="bottom" if place == 0 else "center")  # fmt: skip
    axes.margins(y=0.12)
    axes.set(xlabel="training step", ylabel="nats per byte", xlim=(-2, 1.2 * len(losses)))
    axes.set_title(f"{len(losses)} steps take {before - after:.2f} nats off the loss", fontsize=11, loc="left")
    words = f"The loss on held-out plays falls from {before:.2f} to {after:.2f} nats per byte. "
    return figure, words + "A jagged falling line is the loss of each training step; two marks are the held-out text."
