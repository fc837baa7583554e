"""The figures of notebook 00: the dial, and what it gains and costs."""

import ipywidgets
import numpy as np

from lora_course.drawing.looks import GRAY, METHODS, RED, TEXTS
from lora_course.drawing.painted import TwoLines, in_lines
from lora_course.drawing.sliders import explore
from lora_course.drawing.style import Drawn, note, panels, slider, styled
from lora_course.nb00.lab import STRENGTHS, arm_name
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE

DIAL_ALT = (
    "Two lines of text, one of a play and one of an address. Under every byte hangs a bar as long as the model's "
    "surprise. Below them stands a text that the model wrote."
)


# --- the dial --------------------------------------------------------------------------------------------------------


def dial(arms: dict) -> None:
    """Show the dial. arms: of the stored results of `adapter-dial`."""
    strength = ipywidgets.SelectionSlider(options=STRENGTHS, description="strength")
    explore(dial_view(arms), DIAL_ALT, strength=strength)


@slider
def dial_view(arms: dict):
    """A view with one control, `strength` (one of STRENGTHS)."""
    texts = {"a play": PLAY_LINE, "an address": ADDRESS_LINE}
    lines = TwoLines((9.4, 5.0), texts, (0.69, 0.39), 0.26, said="and it writes, after “My lord, ”:")

    def values(strength: float) -> dict:
        arm = arms[arm_name(strength)]
        return {
            "lines": (np.array(arm["play line"]), np.array(arm["address line"]), in_lines(arm["sample"])),
            "readout": f"strength {strength:g}: loss {arm['plays']:.2f} on plays, {arm['addresses']:.2f} on addresses",
        }

    return lines.figure, values, lambda now: lines.set(*now["lines"]), {"strength": STRENGTHS[0]}


# --- gain and price --------------------------------------------------------------------------------------------------


def share(arms: dict, strength: float, text: str) -> float:
    """How far the loss on `text` has moved at a strength, as a share of its way from strength 0 to 1."""
    off, here, full = (arms[arm_name(at)][text] for at in (0, strength, 1))
    return (here - off) / (full - off)


@styled
def strengths_figure(arms: dict, doubt: float) -> Drawn:
    """The losses against the strength, and two controls on plays: a shuffled adapter, and doubt alone (a loss)."""
    figure, (axes,) = panels(1, 8, 4)
    off = {0: arms[arm_name(0)]["plays"]}
    shuffled = off | {s: arms[arm_name(s, 0)]["plays"] for s in STRENGTHS if arm_name(s, 0) in arms}
    curves = {
        "on plays": (TEXTS["plays"], {s: arms[arm_name(s)]["plays"] for s in STRENGTHS}),
        "on addresses": (TEXTS["addresses"], {s: arms[arm_name(s)]["addresses"] for s in STRENGTHS}),
        "on plays, shuffled once": (METHODS["control"], shuffled),
    }
    for name, (look, losses) in curves.items():
        axes.plot(*zip(*losses.items(), strict=True), **look)
        note(axes, name, (2, losses[2]), (8, 0), color=look["color"])
    axes.axhline(doubt, ls=(0, (4, 3)), color=GRAY, lw=1.2)
    note(axes, "on plays, base with one temperature", (0.6, doubt), (0, 5), color=GRAY, va="baseline")
    axes.axvline(0.5, color=RED, lw=1, ls=(0, (1, 2)))
    axes.set(xlabel="strength of the adapter", ylabel="loss, nats per byte", xlim=(-0.05, 2.05), xticks=STRENGTHS[::2])
    gain, price = share(arms, 0.5, "plays"), share(arms, 0.5, "addresses")
    axes.text(0.52, 3.75, f"half: {gain:.0%} of the gain,\n{price:.0%} of the price", color=RED, va="top")
    axes.set_title("Trained, the adapter helps on plays; shuffled, it does not")
    plays = curves["on plays"][-1]
    best = min(plays, key=lambda strength: plays[strength])
    return figure, (
        f"Loss against strength from 0 to 2. Trained, it falls from {plays[0]:.2f} to {plays[best]:.2f} at strength "
        f"{best:g}, then rises. Shuffled, it helps nowhere: up to {shuffled[2]:.2f}. A flat line at {doubt:.2f}: the "
        f"base, less sure. On addresses the loss rises, slowly at first: at half strength {gain:.0%} of the gain cost "
        f"{price:.0%} of the price."
    )
