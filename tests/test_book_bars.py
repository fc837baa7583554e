"""Notebook 14's slider in the book: what static/live.js stacks is what the Python view draws, at settings all over."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.patches import Rectangle
from matplotlib.text import Text

from book import live
from book.svg import SVGRenderer

ROOT = Path(__file__).parent.parent
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
    node = shutil.which("node")
    if not node:
        pytest.skip("Node is not here: live.js is not run")
    settings = shown.settings()
    assert len(settings) == len(data["readouts"]) == len(data["bars"]["bytes"][0]) == 9360
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
