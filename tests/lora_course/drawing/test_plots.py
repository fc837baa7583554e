"""The look: colors that stand out, figures and tables that carry their words."""

import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from lora_course.drawing import layer, looks, plots, tables
from lora_course.drawing import style as drawing

COLORS = {name: value for name, value in vars(looks).items() if re.fullmatch("#[0-9A-F]{6}", str(value))}


def contrast_with_white(color):
    """The ratio of WCAG 2: relative luminances, plus 0.05."""
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 1.05 / (np.dot((0.2126, 0.7152, 0.0722), linear) + 0.05)


@pytest.mark.parametrize("name", COLORS)
def test_every_color_stands_out_from_white(name):
    assert contrast_with_white("#E69F00") < 3 < contrast_with_white(COLORS[name])


def test_each_part_of_a_layer_has_a_look_of_its_own():
    parts = [looks.WEIGHT, looks.ADAPTER, looks.CODES, looks.CONSTANTS, looks.GRADIENT]
    assert len({color for color, _ in parts}) == len({hatch for _, hatch in parts}) == len(parts) == 5
    assert {color for color, _ in parts} <= set(COLORS.values())


@pytest.mark.parametrize("looks", [looks.METHODS, looks.TEXTS])
def test_what_is_compared_is_told_apart_without_color(looks):
    assert len({look["marker"] for look in looks.values()}) == len(looks)
    assert all(contrast_with_white(look["color"]) > 3 for look in looks.values())


def test_a_picture_says_its_finding_once():
    """Title and words cannot differ: the title is made of the words."""

    @drawing.picture
    def draw(count):
        figure, _ = drawing.panels(count)
        return figure, "It falls from 2.5 to 1.5. A line goes down."

    for count in (1, 2):
        figure, words = draw(count)
        title = figure.get_suptitle() if count == 2 else figure.axes[0].get_title(loc="left")
        assert title == "It falls from 2.5 to 1.5" and words == "It falls from 2.5 to 1.5. A line goes down."
        assert not figure.axes[0].spines["top"].get_visible()
    assert plt.rcParams["axes.spines.top"]  # the style of a reader's own pictures is left alone


@pytest.fixture
def outputs(monkeypatch):
    shown = []
    for module in (plots, tables):
        monkeypatch.setattr(module, "publish", lambda bundle, metadata=None: shown.append((bundle, metadata)))
    return shown


def test_a_figure_carries_its_words_twice(outputs):
    figure, _ = plt.subplots()
    plots.show(figure, "less than a < b")
    (picture, metadata), (words, _) = outputs
    assert metadata["image/png"]["alt"] == "less than a < b" and picture["image/png"]
    assert words["text/html"] == "<details><summary>In words</summary>less than a &lt; b</details>"
    assert words["text/plain"] == "In words: less than a < b"
    assert not plt.fignum_exists(figure.number)


def test_no_text_of_a_figure_is_below_eight_points():
    """At 700 pixels a figure of ten inches shows 8 points as 7.7 pixels."""
    course = Path(drawing.__file__).parents[1]
    files = [*course.rglob("*.py"), course.parent / "book" / "devices.py"]
    sizes = re.findall(r'(?:font|label)size"?[=:] ?([\d.]+)', "".join(path.read_text("utf-8") for path in files))
    assert len(sizes) > 40 and min(map(float, sizes)) >= 8


def test_without_a_notebook_the_text_is_printed(capsys):
    plots.table(["layer", "bytes"], [["q < k", 1234], ["head", 5]], "sizes")
    assert capsys.readouterr().out == "sizes\nlayer   bytes\nq < k   1,234\nhead        5\n"


def test_a_table_is_html_with_a_text_beside_it(outputs):
    plots.table(["layer", "bytes", "share"], [["q < k", 1234, 0.123456], ["head", 5, True]])
    html = outputs[0][0]["text/html"]
    assert html.count("<tr>") == 3 and html.count('<th scope="col"') == 3 and "<caption" not in html
    assert '<tr><th scope="row" style="text-align: left; font-weight: normal">q &lt; k</th><td' in html
    assert html.count('<th scope="row"') == 2 and '<td style="text-align: right">1,234</td>' in html
    assert ">0.1235<" in html and ">yes<" in html


@pytest.mark.parametrize("quantized", [False, True])
@pytest.mark.parametrize("backward", [False, True])
def test_the_layer_is_drawn_true_to_scale(quantized, backward):
    figure, words = plots.layer_diagram(quantized, backward)
    boxes = [patch for patch in figure.axes[0].patches if isinstance(patch, Rectangle)]
    sides = [(round(box.get_width(), 6), round(box.get_height(), 6)) for box in boxes]
    assert sides.count((layer.WIDE, layer.THIN)) == 1 + backward  # A and its gradient
    assert sides.count((layer.THIN, layer.TALL)) == 2 + backward  # y is as thin as B
    assert sides.count((layer.WIDE, layer.TALL)) == 2 + quantized  # W and B A
    at = {image.get_array().shape: image.get_extent() for image in figure.axes[0].images}
    assert at[8, 64][:2] == at[48, 64][:2] and at[8, 64][2] > at[48, 64][3]  # A lies above the columns of B A
    assert at[48, 8][2:] == at[48, 64][2:] and at[48, 8][1] < at[48, 64][0]  # B stands at its rows
    assert ("decoded" in words) == quantized and ("Backward" in words) == backward
