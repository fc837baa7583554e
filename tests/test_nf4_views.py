"""The format slider: every value of its controls gives a picture, and a line whose numbers are right."""

import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lora_edu.codebooks import get_codebook
from lora_edu.figures.nb06 import BLOCK_SIZES, FAMILIES, codebook_name, format_view
from lora_edu.measures import relative_error
from lora_edu.quantization import quantize


@pytest.fixture(scope="module")
def values():
    return torch.randn(2**13, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def view(values):
    return format_view(values)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sweep_over_all_values_of_the_controls(view, values, family):
    for bits in range(2, 9):
        for block_size in BLOCK_SIZES:
            readout = view.update(family=family, bits=bits, block_size=block_size)
            name = codebook_name(family, bits)
            n_levels, entropy, error = re.search(r": (\d+) levels.* ([\d.]+) bits, error ([\d.]+)%", readout).groups()
            assert int(n_levels) == len(get_codebook(name))
            assert float(entropy) <= np.log2(int(n_levels)) + 0.01
            expected = 100 * relative_error(values, quantize(values, name, block_size).dequantize())
            assert float(error) == pytest.approx(expected, abs=0.006)


def test_the_readout_counts_the_bits(view):
    assert view.render(family="NF", bits=4, block_size=64)[0].startswith(b"\x89PNG")
    assert "NF, 4 bits, block 64: 16 levels, 4.5 bits a weight" in view.update(family="NF", bits=4, block_size=64)
    readout = view.update(family="FP4 E2M1", bits=7, block_size=32)
    assert readout.startswith("FP4 E2M1, 4 bits (FP4 has no other width), block 32: 15 levels, 5 bits a weight")


def test_what_is_shown(view):
    view.update(family="integer", bits=3, block_size=64)
    bell, levels, shares, even, errors, marker = view.moving[:6]
    assert [segment[0][0] for segment in levels.get_segments()] == pytest.approx([i / 3 for i in range(-3, 4)])
    assert len(shares.get_xdata()) == 7 and max(shares.get_ydata()) == 1
    assert even.get_ydata()[0] < 1 and len(bell.get_xdata()) == 101
    x, y = marker.get_data()
    assert y[0] == dict(zip(*errors.get_data(), strict=True))[x[0]] and x[0] == 64
    assert list(errors.get_ydata()) == sorted(errors.get_ydata())  # larger blocks, larger error


def test_the_picture_follows_the_controls(view):
    def pixels(**values):
        return np.asarray(Image.open(io.BytesIO(view.render(**values)[0])))

    first = pixels(family="NF", bits=4, block_size=64)
    assert (first == pixels(family="NF", bits=4, block_size=64)).all()
    assert not (first == pixels(family="NF", bits=4, block_size=512)).all()
    assert not (first == pixels(family="integer", bits=4, block_size=64)).all()


@pytest.mark.parametrize("bad", [torch.zeros(2**13), torch.ones(10), torch.ones(80, 80)])
def test_what_cannot_be_shown(bad):
    with pytest.raises(ValueError, match="the format view needs at least 4096 values in a row, not all zero"):
        format_view(bad)
