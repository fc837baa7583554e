"""The vocabulary of the figures: one style, and one way to hand over a picture with its words.

A picture is a function from numbers to a figure and its words. The words begin with the finding, which is said once:
their first sentence becomes the title. `STYLE` holds what all pictures share, so that each says only what is its own. A
slider's view is drawn in the same style: it marks what moves as `animated`.
"""

import functools
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text

from lora_course.drawing.sliders import View

STYLE: dict[Any, Any] = {  # matplotlib names every setting in its types, and ours are strings
    "figure.constrained_layout.use": True,
    "figure.titlesize": 11,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "lines.linewidth": 2,
}
Drawn = tuple[Figure, str]  # a figure and its words


def styled(draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
    """Draws a figure, which has titles of its own, in the course's style."""

    @functools.wraps(draw)
    def drawn(*arguments, **options) -> Drawn:
        with plt.rc_context(STYLE):
            return draw(*arguments, **options)

    return drawn


def picture(draw: Callable[..., Drawn]) -> Callable[..., Drawn]:
    """The same for a figure whose title is its finding: the first sentence of its words."""

    @styled
    @functools.wraps(draw)
    def titled(*arguments, **options) -> Drawn:
        figure, words = draw(*arguments, **options)
        finding = textwrap.fill(words.partition(". ")[0], int(13 * figure.get_figwidth()))
        if len(figure.axes) > 1:
            figure.suptitle(finding, x=0.01, ha="left")
        else:
            figure.axes[0].set_title(finding)
        return figure, words

    return titled


def slider(make: Callable) -> Callable[..., View]:
    """Makes a view in the course's style. The function returns figure, values, draw and the settings to begin with."""

    @functools.wraps(make)
    def view(*arguments, **options) -> View:
        with plt.rc_context(STYLE | {"figure.constrained_layout.use": False, "figure.dpi": 96}):
            figure, values, draw, start = make(*arguments, **options)
            draw(values(**start))
        return View(figure, values, draw)

    return view


def panels(count: int = 1, width: float = 8.6, height: float = 3.6, **how) -> tuple[Figure, Sequence[Axes]]:
    """A figure with frames side by side."""
    figure, axes = plt.subplots(1, count, figsize=(width, height), squeeze=False, **how)
    return figure, axes[0]


def stage(width: float, height: float, box: tuple[float, float, float, float]) -> tuple[Figure, Axes]:
    """A slider's figure with one frame; box: its left, bottom, width and height as shares of the figure."""
    figure = plt.figure(figsize=(width, height))
    return figure, figure.add_axes(box)


def beside(figure: Figure, looks: Mapping[str, dict], left: float, words: float, top: float, step: float) -> list[Text]:
    """A line for each look, right of a slider's frame: a patch, its name, and a number that moves. Returns these."""
    numbers = []
    for i, (name, look) in enumerate(looks.items()):
        height = top - step * i
        figure.add_artist(plt.Rectangle((left, height - 0.03), 0.035, 0.06, **look))
        figure.text(words, height, name, va="center")
        numbers.append(figure.text(0.985, height, "", ha="right", va="center", animated=True))
    return numbers


def listed(numbers: Mapping[str, float], form: str = ".3f") -> str:
    """ "LoRA 1.234, QLoRA 1.240": for the words of a picture."""
    return ", ".join(f"{name} {value:{form}}" for name, value in numbers.items())


def note(axes: Axes, text: str, at: tuple, by: tuple = (0, 0), side: str = "left", **how) -> None:
    """A direct label at a point, moved by so many points of the page; right of it, left of it or centered."""
    axes.annotate(text, at, by, textcoords="offset points", ha=side, **{"va": "center"} | how)


def ticks(axis, places: Iterable[float], form: str = "g") -> None:
    """Ticks at these places alone, each with its number: for a logarithmic axis, which sets its own."""
    axis.set_ticks(places, [f"{place:{form}}" for place in places])
    axis.set_ticks([], minor=True)
