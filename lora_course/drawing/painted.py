"""The painted line, the emblem of the course: one line of text, and under every byte how much it surprised a model.

The surprise of a byte is -ln of the probability that the model gave to it, knowing the text before it: 0 nats for what
it was sure of, 5.5 for a guess among 256 bytes. It is drawn as the length of a bar, never by color alone.
"""

import textwrap
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection

from lora_course.drawing.looks import BLUE, TEXTS
from lora_edu.gpt import encode

DEEPEST = 8.0  # nats at which a bar is cut off


class PaintedLine:
    """One line in a frame of its own. `set` moves its bars and its title, which a slider draws again."""

    def __init__(self, axes: Axes, text: str, name: str = "", color: str = BLUE):
        self.columns = np.arange(len(encode(text)))
        for column, character in zip(self.columns, _shown(text), strict=True):
            axes.text(float(column), 0.25, character, ha="center", va="bottom", family="monospace", fontsize=11.5)
        self.bars = PolyCollection([], facecolor=color, linewidth=0, animated=True)
        axes.add_collection(self.bars)
        (self.cut,) = axes.plot([], [], "v", color=color, ms=5, clip_on=False, animated=True)  # under a longer bar
        self.title = axes.text(-0.5, 2.4, "", ha="left", va="bottom", fontsize=11, animated=True)
        self.name = name
        axes.set(xlim=(-0.7, len(self.columns) - 0.3), xticks=[])
        axes.set(ylim=(-DEEPEST, 4.2), yticks=[0, -4, -8], yticklabels=["0", "4", "8 nats"])
        axes.spines["bottom"].set_visible(False)
        axes.spines["left"].set_bounds(-DEEPEST, 0)
        axes.axhline(0, color="black", lw=0.8)

    def set(self, losses: np.ndarray) -> None:
        """losses: (n_bytes,) nats. A bar longer than DEEPEST ends there, in a point."""
        lengths = np.minimum(np.asarray(losses, dtype=float), DEEPEST)
        left, right = self.columns - 0.42, self.columns + 0.42
        zero = np.zeros_like(lengths)
        corners = [(left, zero), (right, zero), (right, -lengths), (left, -lengths)]
        self.bars.set_verts(list(np.stack([np.stack(corner, axis=-1) for corner in corners], axis=1)))
        cut = self.columns[np.asarray(losses) > DEEPEST]
        self.cut.set_data(cut, np.full(len(cut), -DEEPEST - 0.5))
        mean = f"{np.mean(losses):.2f} nats per byte"
        self.title.set_text(f"{self.name}: {mean}" if self.name else mean)


class TwoLines:
    """Two painted lines, and below them a text that the model wrote: what the sliders of notebooks 00, 09 and 12 move.

    inches: of the figure, wide and tall. texts: name -> line. bottoms, height: of the two frames, as shares of the
    figure. said: stands above the sample.
    """

    def __init__(self, inches: tuple, texts: Mapping[str, str], bottoms: tuple, height: float, said: str, size=10.5):
        self.figure = figure = plt.figure(figsize=inches)
        places = [figure.add_axes((0.065, bottom, 0.925, height)) for bottom in bottoms]
        named = zip(places, texts.items(), strict=True)
        self.lines = [PaintedLine(axes, text, name, color_of(name)) for axes, (name, text) in named]
        inch = 1 / inches[1]
        top = bottoms[-1] - 0.28 * inch
        figure.text(0.01, top, said, fontsize=11, va="top")
        look = {"family": "monospace", "fontsize": size, "va": "top", "linespacing": 1.25}
        self.sample = figure.text(0.01, top - 0.29 * inch, "", animated=True, **look)

    def set(self, first: np.ndarray, second: np.ndarray, sample: str) -> None:
        """first, second: (n_bytes,) nats. sample: as `in_lines` cuts it."""
        self.lines[0].set(first)
        self.lines[1].set(second)
        self.sample.set_text(sample)


def color_of(name: str) -> str:
    """The color of a text whose name says what it is: "an address", "a verse", and else a play."""
    kind = next((kind for word, kind in (("address", "addresses"), ("verse", "verses")) if word in name), "plays")
    return TEXTS[kind]["color"]


def in_lines(text: str, width: int = 108, most: int = 6) -> str:
    """A sample in at most so many lines of so many characters. Empty lines are left out; the cut end is marked."""
    lines = [part for line in text.split("\n") if line.strip() for part in textwrap.wrap(line, width)]
    return "\n".join(lines[:most]) + " ..."


def _shown(text: str) -> list[str]:
    """One character for each byte: a space and a line end are drawn, a byte inside a letter is a dot."""
    shown = []
    for character in text.replace(" ", "·").replace("\n", "¶"):
        size = 1 if character in "·¶" else len(character.encode("utf-8"))
        shown += [character] + ["˙"] * (size - 1)
    return shown
