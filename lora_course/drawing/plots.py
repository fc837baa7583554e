"""How a figure and a table are shown. Their one visual language is in `lora_course.drawing.looks`.

A figure function returns the figure and its words, both made from the same numbers: `show(*some_figure(numbers))`.
"""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from typing import Any

import matplotlib.pyplot as plt
from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display
from matplotlib.figure import Figure
from PIL import Image

from lora_course.drawing.layer import layer_diagram as layer_diagram  # pages say plots.layer_diagram(...)

# --- showing ---------------------------------------------------------------------------------------------------------


def show(figure: Figure, words: str) -> None:
    """Display a figure, and below it, folded, what it says in words; close it.

    words: first what was found, then what the picture shows, in at most 60 words. JupyterLab drops the alt text of a
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


def publish(bundle: dict[str, str], metadata: dict | None = None) -> None:
    """Display one output in several forms; where there is no notebook, print its text."""
    if InteractiveShell.initialized():
        display(bundle, raw=True, metadata=metadata)
    else:
        print(bundle["text/plain"])


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


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
    """Display a table as HTML, with plain text for a terminal. Numbers stand at the right of their column.

    A whole number gets its thousands separated and any other number four digits: hand over text where that is wrong.
    """
    texts = [[cell_text(value) for value in row] for row in rows]
    right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    how = (header, texts, right, caption)
    publish({"text/html": _html_table(*how), "text/plain": _plain_table(*how)})


def cell_text(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _html_table(header, texts, right, caption) -> str:
    """Sides are given cell by cell: JupyterLab removes style sheets from a notebook that it does not trust."""
    sides = ["right" if side else "left" for side in right]
    head = "".join(
        f'<th scope="col" style="text-align: {side}">{escape(name)}</th>'
        for name, side in zip(header, sides, strict=True)
    )
    rows = [
        [row_head(row[0], sides[0])]
        + [f'<td style="text-align: {side}">{escape(text)}</td>' for text, side in zip(row[1:], sides[1:], strict=True)]
        for row in texts
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    title = f'<caption style="text-align: left">{escape(caption)}</caption>' if caption else ""
    blank = " \n"  # JupyterLab labels a folded output with the first line of its HTML
    return f"{blank}<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def row_head(text: str, side: str = "left") -> str:
    """The first cell of a row: a screen reader says it before each of the others."""
    return f'<th scope="row" style="text-align: {side}; font-weight: normal">{escape(text)}</th>'


def _plain_table(header, texts, right, caption) -> str:
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    lines = [
        "   ".join(
            text.rjust(width) if side else text.ljust(width)
            for text, width, side in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (header, *texts)
    ]
    return "\n".join([caption] * bool(caption) + lines)
