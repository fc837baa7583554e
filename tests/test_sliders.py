import io

import ipywidgets
import numpy as np
import pytest
from PIL import Image

from lora_edu.figures import plots, sliders
from lora_edu.figures.sliders import View, explore


@pytest.fixture
def view():
    figure, axes = plots.plain_axes()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    (line,) = axes.plot([0, 10], [0, 0], color="black", lw=4)

    def update(level):
        line.set_ydata([level, level])
        return f"level {level}"

    return View(figure, [line], update)


def pixels(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_only_what_moves_is_drawn_again(view):
    first, readout = view.render(level=2)
    second, _ = view.render(level=8)
    again, _ = view.render(level=2)
    assert readout == "level 2" and (pixels(first) == pixels(again)).all()
    assert not (pixels(first) == pixels(second)).all()
    assert (pixels(first)[0] == pixels(second)[0]).all()


def test_the_output_carries_the_picture_and_the_controls_redraw_it(view, monkeypatch):
    shown = []
    monkeypatch.setattr(sliders, "display", lambda data, raw, metadata: shown.append((data, metadata)))
    controls = explore(view, "a level line", level=ipywidgets.IntSlider(value=3, max=9))
    ((data, metadata),) = shown
    assert metadata["image/png"]["alt"] == "a level line level 3" == data["text/plain"]
    model_id = data["application/vnd.jupyter.widget-view+json"]["model_id"]
    image, text = next(w for w in ipywidgets.widgets.widget._instances.values() if w.model_id == model_id).children[1:]
    before = image.value
    controls["level"].value = 7
    assert image.value != before and text.value == '<div role="status" aria-live="polite">level 7</div>'
