"""How a figure is shown. The one visual language of all of them is in `lora_course.drawing.looks`.

A figure function returns the figure and its words, both made from the same numbers: `show(*some_figure(numbers))`.
"""

import base64
import io
import os
from html import escape

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from PIL import Image

from lora_course.drawing.layer import layer_diagram as layer_diagram  # pages say plots.layer_diagram(...)
from lora_course.drawing.tables import publish
from lora_course.drawing.tables import row_head as row_head  # and plots.row_head(...), plots.table(...)
from lora_course.drawing.tables import table as table

# --- showing ---------------------------------------------------------------------------------------------------------


def show(figure: Figure, words: str) -> None:
    """Display a figure, and below it, folded, what it says in words; close it.

    words: first what was found, then what the picture shows. JupyterLab drops the alt text of a
    png, and pages that clean HTML drop embedded pictures: a png with the words below it arrives everywhere.
    """
    picture = png(figure)
    plt.close(figure)
    seen = {"alt": words, "width": Image.open(io.BytesIO(picture)).width * SHOWN_DPI // DPI}
    publish_png(picture, seen)
    show_words(words)


def publish_png(picture: bytes, seen: dict) -> None:
    """Display a picture. seen: how, such as its alt text."""
    encoded = base64.b64encode(picture).decode("ascii")
    publish({"image/png": encoded, "text/plain": "(a figure: its words follow)"}, {"image/png": seen})


def show_words(words: str) -> None:
    """The folded text below a figure."""
    folded = f"<details><summary>In words</summary>{escape(words, quote=False)}</details>"
    handler = NAME_PICTURE if IN_A_BROWSER in os.environ else ""  # never in the notebooks that are stored
    publish({"text/html": folded + handler, "text/plain": f"In words: {words}"})


IN_A_BROWSER = "JPY_SESSION_NAME"  # set by the server of JupyterLab, for the kernel of a notebook that is open

# JupyterLab leaves out the alt text of a picture. A dot that nobody sees takes it from the words below the picture.
NAME_PICTURE = (
    '<img style="display: none" alt="" onload="'
    "const picture = this.closest('.jp-OutputArea-child')?.previousElementSibling?.querySelector('img'); "
    "if (picture && !picture.alt) picture.alt = this.previousElementSibling.lastChild.textContent"
    '" src="data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7">'
)


SHOWN_DPI = 110  # as large as a picture is meant to be seen
DPI = 176  # what it holds: in a column of 800 pixels twice as many as a plain screen shows
PALETTE = 256


def png(figure: Figure) -> bytes:
    """The figure as a PNG. Drawings have few colors: with a palette they take a third of the bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, bbox_inches="tight", facecolor="white", metadata={"Software": None})
    picture = Image.open(buffer).convert("RGB")
    if picture.getcolors(4 * PALETTE):  # not a photograph
        picture = picture.quantize(PALETTE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
