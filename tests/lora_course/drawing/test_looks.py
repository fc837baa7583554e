"""One table of colors: pages hold what `looks.css` writes, and a text has one color everywhere."""

import re

import pytest
from conftest import ROOT
from matplotlib.colors import to_rgb

from lora_course.drawing import looks
from lora_course.drawing.painted import color_of

PAGES = ("try.html", "lora_course/alive/dial.js", "book/static/book.css")


def luminance(color):
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(color)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_the_colors_of_the_table_and_no_others(name):
    text = (ROOT / name).read_text("utf-8")
    for colors in (looks.LIGHT, looks.DARK):
        assert looks.css(colors) in text, f"copy what looks.css gives into {name}"
    known = {color.lower() for color in (*looks.LIGHT.values(), *looks.DARK.values())}
    assert set(re.findall(r"#[0-9a-f]{6}\b", text.lower())) <= known


@pytest.mark.parametrize("colors", [looks.LIGHT, looks.DARK])
def test_words_can_be_read_in_every_color(colors):
    back = luminance(colors["back"]) + 0.05
    for name in ("ink", "mute", "c0", "c1", "c2"):
        here = luminance(colors[name]) + 0.05
        assert max(back, here) / min(back, here) >= 4.5, name


def test_a_text_has_one_color():
    assert [looks.LIGHT[name] for name in ("c0", "c1", "c2")] == [looks.BLUE, looks.ORANGE, looks.PLUM]
    assert (looks.WEIGHT[0], looks.ADAPTER[0]) == (looks.BLUE, looks.ORANGE)
    assert color_of("a held-out address") == looks.BLUE and color_of("a line of Shakespeare") == looks.ORANGE
