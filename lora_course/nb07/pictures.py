"""The slider of notebook 07: two errors at right angles.

`ways` is everywhere what the stored results of `two-errors` say of one set of weights: a way to round -> the errors of
"codes", "constants" and "both".
"""

import numpy as np

from lora_course.drawing.looks import GREEN, PURPLE, RED
from lora_course.drawing.style import slider, stage
from lora_course.nb07.lab import CONSTANTS

WIDTHS = tuple(f"{bits} bits" for bits in CONSTANTS)  # what the buttons say, and the names of stored ways
TRIANGLE_ALT = (
    "Two errors at right angles make the long side of a triangle, not their sum. To scale: the codes' error lies, the "
    "constants' stands. An arc swings the long side down to a black mark, the measured error of both; red is the "
    "sum."
)


@slider
def triangle(ways: dict[str, dict[str, float]]):
    """One control, `constants`: one of WIDTHS."""
    figure, axes = stage(7.2, 4.9, (0.02, 0.11, 0.96, 0.88))
    axes.set(xlim=(-0.5, 24.5), ylim=(-3, 13.8), aspect="equal", xlabel="relative error, %", yticks=[])
    axes.spines["left"].set_visible(False)
    looks = ((GREEN, "-", 4), (PURPLE, "-", 4), ("black", "-", 1.6), ("black", ":", 1))
    lines = [axes.plot([], [], color=color, ls=style, lw=width, animated=True)[0] for color, style, width in looks]
    marks = [axes.plot([], [], "|", color=color, ms=16, mew=3, animated=True)[0] for color in ("black", RED)]
    sides = ((GREEN, "center"), (PURPLE, "center"), ("black", "right"), (RED, "left"))
    texts = [axes.text(0, 0, "", color=color, ha=side, fontsize=12, animated=True) for color, side in sides]

    def values(constants: str) -> dict:
        error = {source: 100 * e for source, e in ways[constants].items()}
        said = "{codes:.1f}% and {constants:.1f}% make {both:.1f}%".format(**error)
        return error | {"readout": f"constants in {constants}: {said}"}

    def draw(error: dict) -> None:
        c, k, both = error["codes"], error["constants"], error["both"]
        turn = np.linspace(0, np.arctan2(k, c), 40)
        arc = np.hypot(c, k) * np.array([np.cos(turn), np.sin(turn)])
        for line, ends in zip(lines, (([0, c], [0, 0]), ([c, c], [0, k]), ([0, c], [0, k]), arc), strict=True):
            line.set_data(*ends)
        for mark, place in zip(marks, (both, c + k), strict=True):
            mark.set_data([place], [0])
        said = f"codes {c:.2f}", f"constants {k:.2f}", f"both {both:.2f}", f"sum {c + k:.2f}"
        places = (c / 2, -1.1), (c, k + 0.4), (both + 0.3, -2.3), (max(c + k - 0.3, both + 0.9), -2.3)
        for text, words, place in zip(texts, said, places, strict=True):
            text.set(text=words, position=place)

    return figure, values, draw, {"constants": "2 bits"}


def angle(errors: dict[str, float]) -> float:
    """Between the error of the codes and that of the constants, in degrees, from their sizes and that of both."""
    c, k, both = (errors[source] for source in ("codes", "constants", "both"))
    return float(np.degrees(np.arccos((both**2 - c**2 - k**2) / (2 * c * k))))
