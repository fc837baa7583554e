"""The pictures of notebook 07: every setting of the slider, areas true to scale, words with the numbers drawn."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lora_edu.experiments.nb07 import CONSTANTS, error_by_source, normal_weights
from lora_edu.figures import nb07 as pictures
from lora_edu.figures import plots
from lora_edu.quantization import block_absmax
from lora_edu.rounding import total_bits


@pytest.fixture(scope="module")
def weight():
    return normal_weights(2**18).view(512, 512)


@pytest.fixture(scope="module")
def view(weight):
    return pictures.shrinking(weight)


def test_a_sweep_over_all_values_of_the_controls(view, weight):
    for block_size in pictures.BLOCK_SIZES:
        for name, bits in pictures.WIDTHS.items():
            readout = view.update(block_size=block_size, constants=name)
            total, codes, constants, both = map(float, re.findall(r"(\d+\.\d+)(?: bits|%)", readout))
            assert total == pytest.approx(total_bits(block_size, bits, 256 if bits < 16 else 0), abs=6e-4)
            assert both <= codes + constants + 0.02 and codes < 12 and both < 29
            assert both == pytest.approx(np.hypot(codes, constants), rel=0.1)


def test_areas_are_bits(view):
    view.update(block_size=32, constants="8 bits")
    areas = [square.get_width() * square.get_height() for square in view.moving[:4]]
    assert areas == pytest.approx([16, 4, 8 / 32, 32 / (32 * 256)])
    view.update(block_size=32, constants="16 bits")
    assert view.moving[3].get_width() == 0  # no second level


def test_the_bars_are_the_measured_errors(view, weight):
    view.update(block_size=64, constants="4 bits")
    bars = [artist.get_width() for artist in view.moving[4:7]]
    error = error_by_source(weight.flatten(), CONSTANTS[4])
    assert bars == pytest.approx([100 * error[source] for source in ("codes", "constants", "both")])


def test_the_picture_follows_the_controls(view):
    def pixels(**settings):
        png, _ = view.render(**settings)
        return np.asarray(Image.open(io.BytesIO(png)))

    first = pixels(block_size=64, constants="32 bits")
    assert (first == pixels(block_size=64, constants="32 bits")).all()
    assert not (first == pixels(block_size=64, constants="8 bits")).all()
    assert not (first == pixels(block_size=16, constants="32 bits")).all()


@pytest.mark.parametrize("bad", [torch.ones(64), torch.zeros(2**18)])
def test_what_cannot_be_shown(bad):
    with pytest.raises(ValueError, match="the view needs 262144 weights or more that are not all zero"):
        pictures.shrinking(bad)


def test_the_two_levels_are_drawn_from_the_numbers(weight):
    flat = weight.flatten()
    absmax = block_absmax(flat, 64)
    figure, words = pictures.two_levels(flat[: 64 * 256], absmax[:256], absmax.mean().item())
    centered = [bar.get_height() for bar in figure.axes[1].patches]
    assert centered == pytest.approx((absmax[:256] - absmax.mean()).tolist(), abs=1e-6)
    codes = figure.axes[2].lines[0].get_ydata()
    assert len(codes) == 256 and 0 <= min(codes) and max(codes) <= 255 and 255 in codes
    assert "error of 0.2" in words or "error of 0.1" in words
    plots.plt.close(figure)


def test_the_triangles_have_the_errors_as_sides(weight):
    rows = {bits: error_by_source(weight.flatten(), CONSTANTS[bits]) for bits in (8, 4, 2)}
    figure, words = pictures.right_angles(rows)
    for axes, row in zip(figure.axes, rows.values(), strict=True):
        corners = axes.patches[0].get_xy()
        c, k = 100 * row["codes"], 100 * row["constants"]
        assert corners[:3] == pytest.approx(np.array([(0, 0), (c, 0), (c, k)]))
        assert axes.get_aspect() == 1  # a right angle looks like one
        assert f"{row['both']:.2%}" in words
    plots.plt.close(figure)


def test_error_against_bits_is_drawn_on_a_log_axis():
    points = {
        (size, bits): (total_bits(size, bits, 256 if bits < 16 else 0), 0.09 + 0.0001 * size)
        for size in (16, 32, 64, 128)
        for bits in (32, 16, 8, 4)
    }
    figure, words = pictures.bits_bought(points)
    (axes,) = figure.axes
    assert axes.get_xscale() == "log" and "blocks of 32, 8-bit constants 9.32%" in words
    labels = [text.get_text() for text in axes.texts]
    assert {"16-bit\nconstants", "32-bit\nconstants"} <= set(labels)  # 16 bits were once left out
    plots.plt.close(figure)
