"""Sliders without a kernel: those of a notebook, computed at every setting and put together in the browser.

The notebook's own cells are run, those that a slider needs; nothing is described twice. For each setting of the
controls, the view draws itself into SVG (`book.svg`), and fragments that come again are stored once. static/live.js
shows them.
"""

import ast
import base64
import contextlib
import io
import json
import math
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from itertools import product
from pathlib import Path
from types import ModuleType
from unittest import mock

import ipywidgets
import nbformat

from book import bars, products
from book.svg import SVGRenderer
from lora_course.drawing import sliders
from lora_course.drawing.sliders import View
from lora_course.setup.hosted import is_hosted

MOST_PICTURES = 500  # with more settings, the numbers are stored (`book.bars`)
MOST_BYTES = 200_000
MARGIN = 4  # pixels around a panel
LEGEND_GAP = 20  # pixels between the parts of a legend, at most
WIDEST = (min, max, min, max)  # of a panel's left, right, upper and lower edges
ROW_GAP = 24  # pixels between two rows of panels, at least


@dataclass
class Slider:
    """A slider of a notebook: the cell that shows it, the view, its words and its controls."""

    cell: int
    view: View
    alt: str
    controls: dict[str, ipywidgets.Widget]

    def settings(self) -> list[dict]:
        """Every combination of the controls' values, the last control running fastest."""
        values = [[value for _, value in options(control)] for control in self.controls.values()]
        return [dict(zip(self.controls, combination, strict=True)) for combination in product(*values)]


def sliders_of(path: Path) -> list[Slider]:
    """The sliders of a notebook: what its cells, or its module of pictures for the first picture, give to `explore`."""
    cells = nbformat.read(path, as_version=4).cells
    code = {number: cell for number, cell in enumerate(cells) if cell.cell_type == "code" and not is_hosted(cell)}
    drawn = [n for n, cell in code.items() if any("image/png" in output.get("data", {}) for output in cell.outputs)]
    own = _home_of_slider([cell.source for number, cell in code.items() if drawn and number <= drawn[0]])
    found = []
    for number in drawn:
        if "explore(" in cells[number].source or (number == drawn[0] and hasattr(own, "explore")):
            sources = needed([cell.source for place, cell in code.items() if place <= number])
            found.append(Slider(number, *_given_to_explore(sources, own)))
    return found


def _home_of_slider(sources: list[str]) -> ModuleType | None:
    """The module in which the last of these cells finds its slider: `pictures.dial` of the clinic is notebook 00's."""
    room = re.search(r"from (lora_course\.\w+) import .*\bpictures\b", "\n".join(sources))
    called = re.search(r"\bpictures\.(\w+)\(", sources[-1]) if room else None
    slider = getattr(import_module(f"{room[1]}.pictures"), called[1], None) if room and called else None
    return import_module(slider.__module__) if slider else None


def needed(sources: list[str]) -> list[str]:
    """The last of these cells and, before it, those that make a name which it needs, or which another of them needs."""
    kept: list[str] = []
    wanted: set[str] = set()
    for source in reversed(sources):
        made, used = set(), set()
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Name):
                (used if isinstance(node.ctx, ast.Load) else made).add(node.id)
            elif isinstance(node, ast.FunctionDef | ast.alias):
                made.add(getattr(node, "asname", None) or node.name)
        if not kept or made & wanted:
            kept.insert(0, source)
            wanted = wanted - made | used
    return kept


def _given_to_explore(sources: list[str], own: ModuleType | None) -> tuple:
    """Run these cells, and return the view, the words and the controls that the last call of `explore` was given."""
    shown: list[tuple] = []

    def record(view: View, alt: str, **controls: ipywidgets.Widget) -> dict:
        shown.append((view, alt, controls))
        return controls

    with contextlib.ExitStack() as undo:
        for module in (sliders, own):
            if hasattr(module, "explore"):
                undo.enter_context(mock.patch.object(module, "explore", record))
        undo.enter_context(contextlib.redirect_stdout(io.StringIO()))
        names: dict = {"__name__": "__main__"}
        for source in sources:
            exec(compile(source, "<cell>", "exec"), names)
    return shown[-1]


def options(control: ipywidgets.Widget) -> list[tuple[str, object]]:
    """What a control can be set to, as pairs of label and value."""
    if hasattr(control, "options"):
        given = control.options.items() if isinstance(control.options, Mapping) else control.options
        return [pair if isinstance(pair, tuple) else (str(pair), pair) for pair in given]
    if isinstance(control, ipywidgets.Checkbox):
        return [("no", False), ("yes", True)]
    count = math.floor((control.max - control.min) / control.step + 1e-9) + 1
    values = [control.min + i * control.step for i in range(count)]
    return [(f"{value:g}", value) for value in values]


def record(shown: Slider, name: str) -> dict:
    """All pictures of a slider, for static/live.js. Raises ValueError if they would be too large."""
    view, settings = shown.view, shown.settings()
    renderer = SVGRenderer(view.figure, name)
    view.figure.patch.set_visible(False)
    view.figure.set_layout_engine("none")  # everything stays where the view has put it
    stored = bars.stored(view, settings, renderer) if len(settings) > MOST_PICTURES else {}
    data = {
        "name": name,
        "size": [renderer.width, renderer.height],
        "panels": roomy_panels(view, settings),
        "alt": shown.alt,
        "controls": [_control(control) for control in shown.controls.values()],
        "background": renderer.fragment([view.figure]),
        **(stored or _pictures(view, settings, renderer)),
    }
    data["definitions"] = renderer.written_definitions()
    if len(script(data)) > MOST_BYTES:
        raise ValueError(f"{name}: its slider takes {len(script(data)):,} bytes, more than {MOST_BYTES:,}")
    return data


def _pictures(view: View, settings: list[dict], renderer: SVGRenderer) -> dict:
    """The picture and the readout of each setting."""
    product = products.factors(view, settings)
    pieces: dict[str, int] = {}
    frames, readouts = [], []
    for setting in settings:
        readouts.append(view.update(**setting))
        values = view.values(**setting) if product else {}
        images = [products.attributes(artist, values) if product else "" for artist in view.moving]
        fragments = [renderer.fragment([artist], image) for artist, image in zip(view.moving, images, strict=True)]
        frames.append([pieces.setdefault(fragment, len(pieces)) for fragment in fragments if fragment])
    return {"pieces": list(pieces), "frames": frames, "readouts": readouts, "product": product}


def script(data: dict) -> str:
    """A script, since a page from file:// may load no other file."""
    return f'(window.liveSliders ??= []).push("{packed(data)}");\n'


def packed(data) -> str:
    """JSON as zlib in base64, a tenth of the text; static/live.js and static/search.js unpack it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(zlib.compress(text, 9)).decode()


def roomy_panels(view: View, settings: list[dict]) -> list[list[int]]:
    """Panels with room for what is drawn now, and at the first and the last setting: a label may be longer there."""
    found = [panels(view)]
    for setting in (settings[0], settings[-1]):
        view.update(**setting)
        found.append(panels(view))
    alike = [each for each in found if len(each) == len(found[0])]
    return [
        [pick(edges) for pick, edges in zip(WIDEST, zip(*same, strict=True), strict=True)]
        for same in zip(*alike, strict=True)
    ]


def panels(view: View) -> list[list[int]]:
    """Left, right, upper and lower edge of each panel, in pixels: on a phone they stand below each other.

    Rows of frames are told by the white between them. A heading over two panels keeps them together, and what stands
    beside all axes, such as a legend, is one panel.
    """
    renderer, figure = view.canvas.get_renderer(), view.figure
    parts = [part for whole in (figure, *figure.subfigs) for part in whole.get_children() if part is not whole.patch]
    extents = {part: part.get_tightbbox(renderer) for part in parts if part not in figure.subfigs}
    boxes = {part: box for part, box in extents.items() if box is not None}
    spans = _joined([[box.ymin, box.ymax] for box in boxes.values()], ROW_GAP)
    rows = [{part: box for part, box in boxes.items() if low <= box.ymin <= high} for low, high in reversed(spans)]
    if figure.subfigs or not all(set(row) & set(figure.axes) for row in rows):
        rows = [boxes]
    whole, found = figure.bbox, []
    for row in rows:
        upper, lower = (
            whole.height - max(box.ymax for box in row.values()),
            whole.height - min(box.ymin for box in row.values()),
        )
        upper, lower = (upper - MARGIN, lower + MARGIN) if len(rows) > 1 else (0, whole.height)
        for left, right in _columns(row, figure.axes):
            edges = (max(left - MARGIN, 0), min(right + MARGIN, whole.width), max(upper, 0), min(lower, whole.height))
            found.append([round(edge) for edge in edges])
    return found


def _columns(row: dict, axes: list) -> list[list[float]]:
    """Left and right edge of each panel in a row of boxes."""
    frames = [[box.xmin, box.xmax] for part, box in row.items() if part in axes]
    others = [[box.xmin, box.xmax] for part, box in row.items() if part not in axes]
    beside = [[low, high] for low, high in others if all(high < left or right < low for left, right in frames)]
    along = [span for span in others if span not in beside]
    return _joined([*frames, *along, *_joined(beside, LEGEND_GAP)], 0)


def _joined(spans: list[list[float]], gap: float) -> list[list[float]]:
    """The spans from left to right, those joined that overlap or have no more than `gap` between them."""
    joined: list[list[float]] = []
    for low, high in sorted(spans):
        if joined and low - gap < joined[-1][1]:
            joined[-1][1] = max(joined[-1][1], high)
        else:
            joined.append([low, high])
    return joined


def _control(control: ipywidgets.Widget) -> dict:
    labels, values = zip(*options(control), strict=True)
    slides = isinstance(control, ipywidgets.IntSlider | ipywidgets.FloatSlider | ipywidgets.SelectionSlider)
    start = min(range(len(values)), key=lambda i: values[i] != control.value)
    return {"label": control.description, "slides": slides, "options": labels, "start": start}
