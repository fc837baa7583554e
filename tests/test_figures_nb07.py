"""The pictures of notebook 07: every setting of the slider, sides true to scale, words with the numbers drawn."""

import numpy as np
import pytest

from lora_edu.experiments import load_results
from lora_edu.figures import nb07 as pictures


@pytest.fixture(scope="module")
def arms():
    return load_results("two-errors")["arms"]


@pytest.mark.parametrize("bits", pictures.WIDTHS)
def test_the_triangles_have_the_stored_errors_as_sides(arms, bits):
    view = pictures.triangles(arms)
    readout = view.update(constants=bits)
    for axes, (name, ways) in zip(view.figure.axes, arms.items(), strict=True):
        error = {source: 100 * e for source, e in ways[bits].items()}
        lines = [line.get_xydata().tolist() for line in axes.lines]
        c, k = error["codes"], error["constants"]
        assert lines[:3] == [[[0, 0], [c, 0]], [[c, 0], [c, k]], [[0, 0], [c, k]]]
        assert lines[4:] == [[[error["both"], 0]], [[c + k, 0]]]
        assert np.allclose(np.hypot(*np.transpose(lines[3])), np.hypot(c, k))  # the arc
        assert axes.get_title(loc="left") == name and axes.get_aspect() == 1  # a right angle looks like one
        assert f"{name} {c:.3f}% and {k:.3f}% make {error['both']:.3f}%" in readout


def test_the_growth_is_drawn_from_the_stored_errors_and_lies_on_the_lower_line(arms):
    figure, words = pictures.growth(arms)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    for line, ways in zip(axes.lines[2:], arms.values(), strict=True):
        for ratio, more in line.get_xydata():
            assert any(e["constants"] / e["codes"] == pytest.approx(ratio) for e in ways.values())
            assert 0.75 < more / 100 / (np.hypot(1, ratio) - 1) < 1.35 and more < 80 * ratio
    assert f"marks for {sum(len(line.get_xydata()) for line in axes.lines[2:])} roundings" in words
