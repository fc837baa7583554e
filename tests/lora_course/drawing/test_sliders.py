import ipywidgets
import matplotlib.pyplot as plt
import numpy as np
import pytest

from lora_course.drawing import sliders
from lora_course.drawing.sliders import View, explore


@pytest.fixture
def view():
    figure, axes = plt.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    (line,) = axes.plot([0, 10], [0, 0], color="black", lw=4, animated=True)

    def values(level):
        return {"heights": np.array([level, level]), "readout": f"level {level}"}

    return View(figure, values, lambda now: line.set_ydata(now["heights"]))


def test_the_output_carries_the_picture_and_the_controls_redraw_it(view, monkeypatch):
    outputs, shown = [], []
    publish = "lora_course.drawing.plots.publish"
    monkeypatch.setattr(publish, lambda bundle, metadata: outputs.append((bundle, metadata)))
    monkeypatch.setattr(sliders, "show_words", outputs.append)
    monkeypatch.setattr(sliders, "show_widget", shown.append)
    controls = explore(view, "a level line", level=ipywidgets.IntSlider(value=3, max=9, description="level"))
    (static, metadata), words = outputs
    assert metadata["image/png"]["alt"] == words == "a level line level 3" and static["image/png"]
    slider, panel = shown[0].children
    assert slider is controls["level"] and slider.layout.width == "100%"
    assert 'alt="a level line"' in panel.value and '<div role="status" aria-live="polite">level 3</div>' in panel.value
    before = panel.value
    controls["level"].value = 7
    assert panel.value != before and '<div role="status" aria-live="polite">level 7</div>' in panel.value


def test_a_control_without_a_name_is_refused(view):
    with pytest.raises(ValueError, match="description"):
        explore(view, "a level line", level=ipywidgets.IntSlider(value=3, max=9))
