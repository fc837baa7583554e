"""Figures that answer a slider. The static picture stands in the notebook; with a kernel the controls redraw it.

A view is a figure that is built once, the artists in it that move, and a function `update(**values)` that moves them
and returns a line of text. Everything that does not move is drawn a single time and kept as a background; a change of a
slider draws the moving artists over it. That takes a few milliseconds, where drawing a figure anew takes a few hundred.
"""

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.artist import Artist
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image


@dataclass
class View:
    """What a slider moves. `update` is a plain function of the controls' values, testable without a notebook."""

    figure: Figure
    moving: Sequence[Artist]
    update: Callable[..., str]

    def __post_init__(self):
        plt.close(self.figure)  # matplotlib need not show it by itself
        self.canvas = FigureCanvasAgg(self.figure)
        for artist in self.moving:
            artist.set_animated(True)  # left out when the background is drawn
        self.canvas.draw()
        self.background = self.canvas.copy_from_bbox(self.figure.bbox)

    def render(self, **values) -> tuple[bytes, str]:
        """The picture for these values, as PNG, and the line of text."""
        readout = self.update(**values)
        self.canvas.restore_region(self.background)
        for artist in self.moving:
            artist.draw(self.canvas.get_renderer())
        buffer = io.BytesIO()
        pixels = np.asarray(self.canvas.buffer_rgba())[..., :3]  # (height, width, RGB)
        Image.fromarray(pixels).save(buffer, format="png", compress_level=1)
        return buffer.getvalue(), readout


def explore(view: View, alt: str, **controls: ipywidgets.Widget) -> dict[str, ipywidgets.Widget]:
    """Show a view with its controls, one per argument of `view.update`. Returns the controls.

    alt: what the picture shows, for readers who cannot see it; the line of text is announced when it changes.
    The output carries the picture too, so that a page without a kernel shows it.
    """
    picture, readout = view.render(**{name: control.value for name, control in controls.items()})
    image = ipywidgets.Image(value=picture, format="png")
    text = ipywidgets.HTML(_announced(readout))

    def redraw(_change) -> None:
        image.value, line = view.render(**{name: control.value for name, control in controls.items()})
        text.value = _announced(line)

    for control in controls.values():
        control.observe(redraw, names="value")
    row = ipywidgets.HBox(list(controls.values()), layout={"flex_flow": "row wrap"})  # no slider shrinks to nothing
    panel = ipywidgets.VBox([row, image, text])
    bundle = {
        "application/vnd.jupyter.widget-view+json": {
            "model_id": panel.model_id,
            "version_major": 2,
            "version_minor": 0,
        },
        "image/png": base64.b64encode(picture).decode("ascii"),
        "text/plain": f"{alt} {readout}",
    }
    display(bundle, raw=True, metadata={"image/png": {"alt": f"{alt} {readout}"}})
    return controls


def _announced(readout: str) -> str:
    return f'<div role="status" aria-live="polite">{escape(readout)}</div>'
