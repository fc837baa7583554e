"""The book's sliders without a kernel show what the Python view shows, at any setting."""

import base64
import io
import json
import re
import shutil
import subprocess
import zlib
from itertools import product

import ipywidgets
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import torch
from conftest import ROOT, needed
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from PIL import Image

from book import live, pages, products
from book.svg import UNIT, SVGRenderer
from lora_course.drawing.sliders import View
from lora_course.nb01 import pictures as nb01
from lora_course.nb05 import pictures as nb05

PAGE = ROOT / "notebooks" / "06_nf4.ipynb"


@pytest.fixture(scope="module")
def recorded():
    shown, *_ = live.sliders_of(PAGE)  # the first
    return shown, live.record(shown, "06")


def some(settings, count=20):
    return [(i, settings[i]) for i in np.linspace(0, len(settings) - 1, count).round().astype(int)]


def polylines(fragment):
    """The corners of every path of straight lines, in pixels from the lower left corner of an infinite page."""
    found = []
    for data in re.findall(r"M[^MZ\"]+", fragment):
        numbers = [int(number) for number in re.findall(r"-?\d+", data)]
        found.append(np.cumsum(np.array(numbers).reshape(-1, 2), axis=0) / UNIT)
    return found


def test_a_frame_is_what_the_view_draws_whatever_came_before(recorded):
    shown, data = recorded
    renderer = SVGRenderer(shown.view.figure, "06")
    for _ in range(2):  # ids are given in the order of first use
        renderer.fragment([shown.view.figure])
    settings = shown.settings()
    assert len(settings) == len(data["frames"]) == len(data["readouts"])
    for i, setting in reversed(some(settings)):
        readout = shown.view.update(**setting)
        fragments = [renderer.fragment([artist]) for artist in shown.view.moving]
        stored = [data["pieces"][piece] for piece in data["frames"][i]]
        without_ids = [re.sub(r"url\(#[^)]*\)", "", fragment) for fragment in fragments if fragment]
        assert [re.sub(r"url\(#[^)]*\)", "", fragment) for fragment in stored] == without_ids
        assert data["readouts"][i] == readout == shown.view.values(**setting)["readout"]


def test_lines_stand_where_the_values_are(recorded):
    """Back from the SVG to numbers: levels of notebook 06, to a tenth of a pixel."""
    shown, data = recorded
    axes = shown.view.figure.axes[0]
    height = data["size"][1]
    for i, setting in some(shown.settings()):
        wanted = np.array(shown.view.values(**setting)["levels"])
        fragment = next(
            piece
            for piece in (data["pieces"][piece] for piece in data["frames"][i])
            if len(polylines(piece)) == len(wanted) and "dasharray" not in piece
        )
        ends = np.array([line[-1] for line in polylines(fragment)])
        ends[:, 1] = height - ends[:, 1]
        points = axes.transData.inverted().transform(ends)
        pixel = abs(np.diff(axes.transData.inverted().transform([[0, 0], [1, 1]]), axis=0))[0]
        assert np.abs(points[:, 0] - wanted).max() < 0.11 * pixel[0]


def test_a_slider_is_small_and_starts_as_the_notebook_stores_it(recorded):
    shown, data = recorded
    assert len(live.script(data).encode()) <= live.MOST_BYTES
    cells = nbformat.read(PAGE, as_version=4).cells
    stored = next(output for output in cells[shown.cell].outputs if "image/png" in output.data)
    start = 0
    for control in data["controls"]:
        start = start * len(control["options"]) + control["start"]
    assert pages.alt_text(stored) == f"{data['alt']} {data['readouts'][start]}"


def test_the_page_has_a_place_for_the_slider_and_folds_its_code(recorded, tmp_path):
    shown, data = recorded
    page = pages.page(PAGE, tmp_path, {shown.cell: "06"})
    cell = page.cells[shown.cell]
    assert 'data-live="06"><img' in str(cell.outputs) and "hide-input" in cell.metadata.tags
    assert sum("data-live" in str(cell.get("outputs", "")) for cell in page.cells) == 1
    packed = re.fullmatch(r'\(window.liveSliders \?\?= \[\]\).push\("(.+)"\);\n', live.script(data))[1]
    assert json.loads(zlib.decompress(base64.b64decode(packed))) == json.loads(json.dumps(data))


CONTROLS = [
    (ipywidgets.IntSlider(3, 1, 5, 2), [("1", 1), ("3", 3), ("5", 5)]),
    (ipywidgets.SelectionSlider(options=[("all", 9), ("few", 2)]), [("all", 9), ("few", 2)]),
    (ipywidgets.SelectionSlider(options={"all": 9, "few": 2}), [("all", 9), ("few", 2)]),
    (ipywidgets.ToggleButtons(options=["a", "b"]), [("a", "a"), ("b", "b")]),
]


def test_the_options_of_controls():
    assert all(live.options(control) == options for control, options in CONTROLS)
    assert len(live.options(ipywidgets.FloatSlider(0.5, min=0, max=1, step=1 / 8))) == 9
    two = live.Slider(0, None, "", {"x": ipywidgets.Checkbox(), "y": ipywidgets.IntSlider(0, 0, 2)})
    assert [tuple(s.values()) for s in two.settings()] == list(product((False, True), (0, 1, 2)))


def with_axes(*places, size=(10, 4)):
    figure = plt.figure(figsize=size, dpi=100)
    for place in places:
        figure.add_axes(place)
    return figure, View(figure, dict, print)


def test_a_picture_is_cut_between_its_panels_and_not_through_a_heading():
    figure, view = with_axes([0.1, 0.2, 0.3, 0.6], [0.6, 0.2, 0.3, 0.6])
    left, right = live.panels(view)
    assert left[1] < right[0]
    for x in (0.95, 0.97):
        figure.text(x, 0.5, "x")
    left, right, legend = live.panels(view)
    assert right[1] < legend[0] and legend[1] > 970
    figure.suptitle("a heading that is as long as both panels together, and then some")
    assert len(live.panels(view)) == 2


def test_the_book_s_slider_follows_what_moves():
    """Of notebook 03 the cursor, which is one of many artists that move."""
    (shown,) = live.sliders_of(ROOT / "notebooks" / "03_small_gpt.ipynb")
    renderer = SVGRenderer(shown.view.figure, "03")
    fragments = [renderer.fragment([artist]) for artist in shown.view.moving]
    assert [fragment.startswith('<g class="here"><path') for fragment in fragments].count(True) == 1
    assert len(live.panels(shown.view)) == 6  # the line of text, and five guesses


@pytest.mark.parametrize("origin", ["upper", "lower"])
def test_an_image_is_stored_pixel_by_pixel_and_stands_upright(origin):
    figure, _ = with_axes([0.25, 0.25, 0.5, 0.5], size=(2, 2))
    numbers, look = np.arange(6).reshape(2, 3) * 51, {"cmap": "gray", "vmin": 0, "vmax": 255, "interpolation": "none"}
    shown = figure.axes[0].imshow(numbers, origin=origin, aspect="auto", **look)
    fragment = SVGRenderer(figure, "x").fragment([shown])
    assert 'x="500" y="500" width="1000" height="1000"' in fragment
    picture = Image.open(io.BytesIO(base64.b64decode(re.search('base64,([^"]+)', fragment)[1])))
    expected = numbers if origin == "upper" else numbers[::-1]
    assert np.array_equal(np.asarray(picture)[..., 0], expected)


def test_the_cells_that_a_slider_needs():
    cells = ["import numpy as np\nr = 1", "x = np.ones(3)", "r = 2", "def scaled(y):\n    return r * y", "stop = 1 / 0"]
    assert live.needed([*cells, "scaled(x)"]) == [*cells[:1], *cells[1:4], "scaled(x)"]
    assert live.needed([*cells, "x[0] = 5"]) == [cells[0], cells[1], "x[0] = 5"]
    assert live.needed([*cells, "x = scaled(2)\nx + 1"])[-1].startswith("x = ")  # and not what made x before


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "notebooks").glob("*.ipynb")), ids=lambda path: path.stem)
def test_each_slider_is_found_and_starts_as_the_notebook_stores_it(path):
    found = live.sliders_of(path)
    cells = nbformat.read(path, as_version=4).cells
    assert len(found) == {"13": 0, "05": 2, "to": 2}.get(path.stem[:2], 1)
    for slider in found:
        stored = next(output for output in cells[slider.cell].outputs if "image/png" in output.data)
        start = {name: control.value for name, control in slider.controls.items()}
        assert pages.alt_text(stored) == f"{slider.alt} {slider.view.update(**start)}"


RUN = """
globalThis.window = { addEventListener() {} };
const [script, data] = process.argv.slice(1).map(name => require("fs").readFileSync(name, "utf8"));
(0, eval)(script);
const { bars, frames } = JSON.parse(data);
console.log(JSON.stringify(frames.map(frame => window.liveParts.stacks(bars, frame))));
"""


@pytest.fixture(scope="module")
def shown():
    (slider,) = live.sliders_of(ROOT / "notebooks" / "14_which_card.ipynb")
    slider.controls["model"].options = slider.controls["model"].options[::6]  # three of the models
    return slider


@pytest.fixture(scope="module")
def data(shown):
    return live.record(shown, "14")


def boxes(fragments):
    """The bars as (color, left, lower, right, upper), in tenths of a pixel, in their order."""
    found = []
    for color, path in re.findall(r'<path fill="(#[0-9a-f]+)" stroke="[^"]+"[^>]* d="([^"]+)"', fragments):
        points, here = [], [0, 0]
        for letter, numbers in re.findall(r"([MlHV])([^MlHVZ]*)", path):
            values = [int(number) for number in re.findall(r"-?\d+", numbers)]
            move = {"H": [values[0], here[1]], "V": [here[0], values[0]], "M": values}
            here = move[letter] if letter in move else [here[0] + values[0], here[1] + values[1]]
            points.append(here)
        found.append((color, *np.min(points, axis=0), *np.max(points, axis=0)))
    return found


def test_the_page_stacks_what_the_view_draws(shown, data, tmp_path):
    node = needed(shutil.which("node"), "Node, which runs live.js,")
    settings = shown.settings()
    assert len(settings) == len(data["readouts"]) == len(data["bars"]["bytes"][0]) > live.MOST_PICTURES
    frames = [*np.random.default_rng(0).choice(len(settings), 40, replace=False).tolist(), len(settings) - 1]
    (tmp_path / "data.json").write_text(json.dumps({"bars": data["bars"], "frames": frames}), encoding="utf-8")
    command = [node, "-e", RUN, str(ROOT / "book" / "static" / "live.js"), str(tmp_path / "data.json")]
    drawn = json.loads(subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout)
    view, renderer, heights = shown.view, SVGRenderer(shown.view.figure, "14"), set()
    for frame, there in zip(frames, drawn, strict=True):
        assert view.update(**settings[frame]) == data["readouts"][frame]
        patches, words = ([a for a in view.moving if isinstance(a, kind)] for kind in (Rectangle, Text))
        here = boxes("".join(renderer.fragment([patch]) for patch in patches))
        assert [box[0] for box in boxes(there)] == [box[0] for box in here]
        assert np.abs(np.array([b[1:] for b in boxes(there)]) - [b[1:] for b in here]).max() <= 1, settings[frame]
        said = sorted(re.findall(r">([^<>]+)</text>", there))
        assert said == sorted(text.get_text() for text in words), settings[frame]
        heights |= {box[2] for box in here}
    assert len(heights) > 100  # the control: the settings differ


SETTINGS = [{"rank": rank} for rank in range(171)]


@pytest.fixture(scope="module")
def view():
    return nb01.portrait_view(nb01.portrait())


def decoded(text, step, length):
    return step * (np.array([ord(letter) for letter in text]) - products.ZERO).reshape(-1, length)


def test_the_letters_multiply_to_the_picture(view):
    stored = products.factors(view, SETTINGS)
    columns_of_B = decoded(stored["B"], stored["steps"][0], stored["rows"])  # (170, 200)
    rows_of_A = decoded(stored["A"], stored["steps"][1], stored["columns"])  # (170, 170)
    assert len(live.packed(stored)) < 60_000
    for rank in np.linspace(0, 170, 20).round().astype(int):
        shown = columns_of_B[:rank].T @ rows_of_A[:rank]
        error = np.abs(shown - view.values(int(rank))["whole"])
        assert error.max() < 0.05 and np.sqrt(np.mean(error**2)) < 1 / 128  # of black to white
    wrong = columns_of_B[::-1].T @ rows_of_A  # control: the columns in another order
    assert np.abs(wrong - view.values(170)["whole"]).max() > 0.5


def test_an_image_says_which_part_it_shows(view):
    view.update(rank=24)
    values = view.values(24)
    said = [products.attributes(artist, values) for artist in view.moving]
    assert [text.split()[0] for text in said if text] == ['data-part="whole"', 'data-part="B"', 'data-part="A"']
    assert all('data-rank="24"' in text for text in said if text)
    assert said[0].endswith('data-low="0" data-high="1"')
    fragment = SVGRenderer(view.figure, "x").fragment([view.moving[0]], said[0])
    assert fragment.startswith("<foreignObject ") and f"<canvas {said[0]}></canvas>" in fragment


def test_other_views_have_no_product(view):
    block = torch.randn(64, generator=torch.Generator().manual_seed(0))
    settings = [{"size": size, "shared": nb05.ONE_CONSTANT} for size in (1, 3, 5)]
    assert products.factors(nb05.outlier_view(block), settings) is None

    def backward(rank):
        return {**view.values(rank), "B": view.values(rank)["B"][:, ::-1]}

    turned = View(view.figure, backward, print)
    assert products.factors(turned, SETTINGS) is None  # a smaller rank is not the first columns
