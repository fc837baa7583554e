"""A slider of too many settings for pictures: notebook 14's has 9,360. The bytes of every setting are stored, kind by
kind, and static/live.js stacks the bars. How they look and where they stand is taken from what the view draws.
"""

import re

from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from book.svg import UNIT, SVGRenderer
from lora_course.drawing.sliders import View
from lora_course.nb14.pictures import TOP
from lora_edu.memory.calculator import CARDS_GB, GIB

WORDS, LONGEST = "100%", "99.99 GiB"  # in whose places live.js writes numbers


def stored(view: View, settings: list[dict], renderer: SVGRenderer) -> dict:
    """view: of `nb14.memory_view`, whose first bar shows shares of all that is needed, the others shares of a card."""
    values = [view.values(**setting) for setting in settings]
    parts, marks, texts = (
        [artist for artist in view.moving if isinstance(artist, kind)] for kind in (Rectangle, Line2D, Text)
    )
    for artist in view.moving:
        artist.set_visible(True)
    for part in parts:
        part.set(y=0, height=1)
    for text in texts:  # above a bar, or in the list beside them all
        text.set(text=WORDS, y=0.02) if text.axes else text.set(text=LONGEST)
    sizes, (*shares, in_all) = ([text for text in texts if bool(text.axes) == beside] for beside in (False, True))
    places = [part.get_window_extent() for part in parts[:: len(sizes)]]
    holds = [0, *(card * GIB for card in CARDS_GB)]
    above = [renderer.fragment([text]) for text in (in_all, *shares)]
    cuts = ["", *(renderer.fragment([mark]) for mark in marks)]
    columns = [
        {"left": round(UNIT * place.x0), "right": round(UNIT * place.x1), "holds": card, "text": text, "cut": cut}
        for place, card, text, cut in zip(places, holds, above, cuts, strict=True)
    ]
    drawing = {
        "bytes": [[round(now["parts"][kind]) for now in values] for kind in values[0]["parts"]],
        "looks": [re.sub(' d="[^"]*"', ' d="BAR"', renderer.fragment([part])) for part in parts[: len(sizes)]],
        "sizes": [renderer.fragment([text]) for text in sizes],
        "columns": columns,
        "zero": UNIT * (renderer.height - places[0].y0),
        "one": UNIT * places[0].height,
        "top": TOP,
    }
    return {"bars": drawing, "readouts": [now["readout"] for now in values]}
