"""The pictures of notebook 07: two errors at right angles, and what it takes to turn them.

`arms` is everywhere the part of that name of the stored results of `two-errors`: a set of weights -> a way to round the
constants -> the errors of "codes", "constants" and "both".
"""

import matplotlib.pyplot as plt
import numpy as np

from lora_course.drawing.looks import CONSTANTS as CONSTANTS_LOOK
from lora_course.drawing.looks import GREEN, RED
from lora_course.drawing.style import Drawn, panels, picture, slider
from lora_course.nb07.lab import CONSTANTS, WEIGHT_SETS

WIDTHS = tuple(f"{bits} bits" for bits in CONSTANTS)  # what the buttons say, and the names of stored ways
PURPLE = CONSTANTS_LOOK[0]
TRIANGLES_ALT = (
    "Two errors at right angles make the long side of a triangle, not their sum. One triangle to scale a set of "
    "weights: the error of the codes lies, that of the constants stands. An arc swings the long side down to a black "
    "mark, the measured error; a red one is the sum."
)


@slider
def triangles(arms: dict):
    """One control, `constants`: one of WIDTHS."""
    figure, frames = plt.subplots(1, 4, figsize=(10.4, 3.4), sharex=True, sharey=True)
    figure.subplots_adjust(left=0.01, right=0.99, bottom=0.16, top=0.9, wspace=0.04)
    widest = 100 * max(ways["2 bits"]["codes"] + ways["2 bits"]["constants"] for ways in arms.values())
    moving = {name: _triangle(axes, name) for name, axes in zip(WEIGHT_SETS, frames, strict=True)}
    frames[0].set(xlim=(-0.5, widest + 1.5), ylim=(-5.5, 0.8 * widest), yticks=[])

    def values(constants: str) -> dict:
        errors = {name: {source: 100 * e for source, e in arms[name][constants].items()} for name in WEIGHT_SETS}
        said = "; ".join(
            f"{name} {e['codes']:.1f}% and {e['constants']:.1f}% make {e['both']:.1f}%" for name, e in errors.items()
        )
        return {"sets": errors, "readout": f"constants in {constants}: {said}"}

    def draw(now: dict) -> None:
        for name, error in now["sets"].items():
            _move(moving[name], error["codes"], error["constants"], error["both"])

    return figure, values, draw, {"constants": "2 bits"}


def _triangle(axes, name: str) -> dict:
    """The sides, marks and labels of one triangle, still without a place."""
    axes.set(title=name, aspect="equal", xlabel="relative error, %")
    axes.spines["left"].set_visible(False)
    moving = {"animated": True}
    parts = {
        "codes": axes.plot([], [], color=GREEN, lw=3, **moving)[0],
        "constants": axes.plot([], [], color=PURPLE, lw=3, **moving)[0],
        "both": axes.plot([], [], color="black", lw=1.6, **moving)[0],
        "arc": axes.plot([], [], ":", color="black", lw=1, **moving)[0],
        "measured": axes.plot([], [], "|", color="black", ms=12, mew=2, **moving)[0],
        "sum": axes.plot([], [], "|", color=RED, ms=12, mew=2, **moving)[0],
    }
    sides = ((GREEN, "left"), (PURPLE, "center"), ("black", "left"), (RED, "center"))
    parts["texts"] = [axes.text(0, 0, "", color=color, ha=side, **moving) for color, side in sides]
    return parts


def _move(parts: dict, c: float, k: float, both: float) -> None:
    """Draw a triangle with the sides c and k, in percent."""
    long = np.hypot(c, k)
    parts["codes"].set_data([0, c], [0, 0])
    parts["constants"].set_data([c, c], [0, k])
    parts["both"].set_data([0, c], [0, k])
    turn = np.linspace(0, np.arctan2(k, c), 40)
    parts["arc"].set_data(long * np.cos(turn), long * np.sin(turn))
    parts["measured"].set_data([both], [0])
    parts["sum"].set_data([c + k], [0])
    beside = np.clip(c + k, c + 6, 26)  # the sum's label: right of that of both, below its mark, within the frame
    places = ((0, -2.2, f"codes {c:.2f}"), (c, k + 0.7, f"constants {k:.2f}"), (0, -4.7, f"both {both:.2f}"))
    for text, (x, y, said) in zip(parts["texts"], (*places, (beside, -4.7, f"sum {c + k:.2f}")), strict=True):
        text.set(position=(x, y), text=said)


def angle(errors: dict[str, float]) -> float:
    """Between the error of the codes and that of the constants, in degrees, from their sizes and that of both."""
    c, k, both = (errors[source] for source in ("codes", "constants", "both"))
    return float(np.degrees(np.arccos((both**2 - c**2 - k**2) / (2 * c * k))))


@picture
def turned(ways: dict[str, dict[str, float]]) -> Drawn:
    """A triangle for each way to be off: codes, then constants, and both from end to end. ways: of one set."""
    off = {way: errors for way, errors in ways.items() if "10%" in way}
    figure, frames = panels(len(off), 10.4, 3, sharex=True, sharey=True)
    for axes, (way, errors) in zip(frames, off.items(), strict=True):
        c, k = 100 * errors["codes"], 100 * errors["constants"]
        turn = np.radians(angle(errors))
        x, y = c + k * np.cos(turn), k * np.sin(turn)
        axes.plot([c, c], [0, k], ":", color=GREEN, lw=1)  # where a right angle would lead
        axes.plot([0, c], [0, 0], color=GREEN, lw=3)
        axes.plot([c, x], [0, y], color=PURPLE, lw=3)
        axes.plot([0, x], [0, y], color="black", lw=1.6)
        axes.text(c / 2, -0.6, "codes", color=GREEN, ha="center", va="top")
        axes.text(x + 0.5, y, "constants", color=PURPLE, va="center")
        codes, _, constants = way.partition(", ")
        axes.set_title(f"codes {codes},\nconstants {constants}:\n{angle(errors):.0f} degrees")
        axes.set(aspect="equal", xlim=(-0.5, 30), ylim=(-3, 11.5), xlabel="relative error, %", yticks=[])
        axes.spines["left"].set_visible(False)
    *one, both = (angle(errors) for errors in off.values())
    return figure, (
        f"With one reason switched off, or none, the angle stays within {max(abs(a - 90) for a in one):.0f} degrees "
        f"of a right one; with both it is {both:.0f}. Four triangles: the error of the codes lies, that of the "
        "constants leaves its end at the angle that the measured error of both implies; a dotted line stands upright."
    )
