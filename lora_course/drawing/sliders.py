"""Figures that answer a slider. The static picture stands in the notebook; with a kernel the controls redraw it.

A view is a figure that is built once, the artists in it that move, and two plain functions:

    values(**settings)   the numbers for these settings of the controls: a dictionary of arrays, and under "readout" a
                         line of text. It knows nothing of the figure, so it can be tested, and drawn elsewhere.
    draw(values)         moves the artists to these numbers.

Everything that does not move is drawn a single time and kept as a background; a change of a slider draws the moving
artists over it. That takes a few milliseconds, where drawing a figure anew takes a few hundred.
"""

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from itertools import groupby

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image

from lora_course.drawing.plots import publish_png, show_words


@dataclass
class View:
    """What a slider moves: the artists of a figure that are marked as `animated`."""

    figure: Figure
    values: Callable[..., dict]
    draw: Callable[[dict], None]

    def __post_init__(self):
        plt.close(self.figure)  # matplotlib need not show it by itself
        moving = self.figure.findobj(lambda artist: artist.get_animated())
        self.moving: list[Artist] = sorted(moving, key=lambda artist: artist.zorder)
        self.canvas = FigureCanvasAgg(self.figure)
        self.canvas.draw()  # without them
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def update(self, **settings) -> str:
        """Move the artists to these settings. Returns the readout."""
        values = self.values(**settings)
        self.draw(values)
        return values["readout"]

    def render(self, **settings) -> tuple[bytes, str]:
        """The picture for these settings, as PNG, and the readout."""
        readout = self.update(**settings)
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            artist.draw(self.canvas.get_renderer())
        buffer = io.BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]  # (height, width, RGB)
        Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
        return buffer.getvalue(), readout


def explore(view: View, alt: str, **controls: ipywidgets.Widget) -> dict[str, ipywidgets.Widget]:
    """Show a view with its controls, one per setting, each with a `description`. Returns the controls.

    alt: what the picture shows, in words that hold at every setting; the readout follows it.

    Three outputs: the picture as it is at the start, for a page without a kernel; the controls with a picture of their
    own, which hide the first one; and the words. A browser that cannot revive the controls of a saved notebook so still
    has the first picture.
    """
    nameless = [name for name, control in controls.items() if not control.description]
    if nameless:
        raise ValueError(f"each control needs a description that says what it does: {', '.join(nameless)} has none")

    def seen() -> tuple[bytes, str]:
        return view.render(**{name: control.value for name, control in controls.items()})

    def redraw(_change) -> None:
        panel.value = _panel(alt, *seen())

    picture, readout = seen()
    words = f"{alt} {readout}"
    publish_png(picture, {"alt": words})
    panel = ipywidgets.HTML(_panel(alt, picture, readout))
    for control in controls.values():
        control.style.description_width = "initial"
        control.layout.width = "auto" if isinstance(control, ipywidgets.Checkbox) else "100%"
        control.observe(redraw, names="value")
    show_widget(ipywidgets.VBox([*_rows(list(controls.values())), panel]))
    show_words(words)
    return controls


def _rows(controls: list[ipywidgets.Widget]) -> list[ipywidgets.Widget]:
    """The controls below each other; boxes to tick stand beside each other, so that the picture stays in sight."""
    rows: list[ipywidgets.Widget] = []
    for ticked, group in groupby(controls, lambda control: isinstance(control, ipywidgets.Checkbox)):
        members = list(group)
        if ticked:
            members = [ipywidgets.HBox(members, layout=ipywidgets.Layout(flex_flow="row wrap", grid_gap="0 1.5em"))]
        rows += members
    return rows


def show_widget(widget: ipywidgets.Widget) -> None:
    """Show a widget, and nothing of it on a page that has none: its text would be the names of Python classes."""
    view = {"model_id": widget.model_id, "version_major": 2, "version_minor": 0}
    display({"application/vnd.jupyter.widget-view+json": view}, raw=True)


# The output before the controls is the picture without them: not needed while they are there.
HIDE_STATIC = (
    "<style>.jp-OutputArea-child:has(+ .jp-OutputArea-child .lora-edu-view) {display: none} "
    ".widget-vbox:has(.lora-edu-view) {--jp-widgets-slider-handle-size: 24px}</style>"  # large enough for a finger
)

# JupyterLab marks what has lost its kernel. Then the handles would move and nothing would follow: they stand still.
ASLEEP = (
    "<style>.lora-edu-asleep {display: none} .jupyter-widgets-disconnected .lora-edu-asleep {display: block} "
    ".widget-vbox.jupyter-widgets-disconnected:has(.lora-edu-view) "
    ":is(.noUi-target, input, button) {pointer-events: none; opacity: 0.35}</style>"
    '<p class="lora-edu-asleep"><b>These controls sleep: run the cell above to wake them (Shift+Enter).</b></p>'
)

# ipywidgets gives a slider's handle no name, and of a SelectionSlider it announces the index. Each new picture, once it
# is loaded, says both as they are written beside the slider.
NAME_HANDLES = (
    "for (const slider of this.closest('.widget-vbox')?.querySelectorAll('.widget-slider') ?? []) "
    "for (const handle of slider.querySelectorAll('.noUi-handle')) { "
    "handle.setAttribute('aria-label', slider.querySelector('.widget-label').textContent); "
    "handle.setAttribute('aria-valuetext', slider.querySelector('.widget-readout').textContent) }"
)
# The folded words are the next output: they tell of the picture that is there now.
TELL = (
    "; const told = this.closest('.jp-OutputArea-child')?.nextElementSibling?.querySelector('details'); "
    "if (told) told.lastChild.textContent = this.alt + ' ' + this.nextElementSibling.textContent"
)


def _panel(alt: str, picture: bytes, readout: str) -> str:
    """The picture and, below it, the readout, which a screen reader speaks whenever it changes."""
    source = f"data:image/png;base64,{base64.b64encode(picture).decode('ascii')}"
    return (
        f'{HIDE_STATIC}{ASLEEP}<div class="lora-edu-view">'
        f'<img src="{source}" alt="{escape(alt)}" style="max-width: 100%" onload="{escape(NAME_HANDLES + TELL)}">'
        f'<div role="status" aria-live="polite">{escape(readout)}</div></div>'
    )
