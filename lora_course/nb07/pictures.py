"""The picture of notebook 07: two errors at right angles.

`arms` is everywhere the part of that name of the stored results of `two-errors`: a set of weights -> a way to round the
constants -> the errors of "codes", "constants" and "both".
"""

import matplotlib.pyplot as plt
import numpy as np

from lora_course.drawing.looks import CONSTANTS as CONSTANTS_LOOK
from lora_course.drawing.looks import GREEN, RED
from lora_course.drawing.style import slider
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
            f"{name} {e['codes']:.3f}% and {e['constants']:.3f}% make {e['both']:.3f}%" for name, e in errors.items()
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
    beside = np.clip(c + k, c + 6, 26)  # the sum's label: right of that of the codes, and within the frame
    places = ((0, -2.2, f"codes {c:.2f}"), (c, k + 0.7, f"constants {k:.2f}"), (0, -4.7, f"both {both:.2f}"))
    for text, (x, y, said) in zip(parts["texts"], (*places, (beside, -2.2, f"sum {c + k:.2f}")), strict=True):
        text.set(position=(x, y), text=said)
