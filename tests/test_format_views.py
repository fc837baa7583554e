import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lora_edu import quantize
from lora_edu.figures.nb05 import BITS, BLOCK_SIZES, WHOLE_TENSOR, bits_view
from lora_edu.measures import bits_per_weight, block_codes, relative_error, round_in_blocks


def normal(n, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=n)).float()


@pytest.fixture(scope="module")
def tensors():
    outliers = normal(6_000)
    outliers[::500] *= 30
    return {"normal": normal(8_192), "ragged": normal(5_003, seed=1).view(5_003, 1), "outliers": outliers.view(100, 60)}


@pytest.fixture(scope="module")
def view(tensors):
    return bits_view(tensors)


@pytest.mark.parametrize("bits", BITS)
def test_codes_of_one_block_by_hand(bits):
    largest = 2 ** (bits - 1) - 1
    codes, step = block_codes(torch.tensor([0.0, -2.0, 1.0 / largest, 2.0]), bits, 64)
    assert codes.tolist() == [[0, -largest, round(0.5), largest]] and step.item() == pytest.approx(2 / largest)


@pytest.mark.parametrize("bits", BITS)
@pytest.mark.parametrize("block_size", [1, 7, 64, 4096, WHOLE_TENSOR])
@pytest.mark.parametrize("shape", [(3, 5), (130,), (70, 61)])
def test_rounding_equals_quantize_with_the_integer_codebook(bits, block_size, shape):
    values = normal(int(np.prod(shape)), seed=bits).view(shape)
    rounded = round_in_blocks(values, bits, block_size)
    assert rounded.shape == values.shape
    expected = quantize(values, f"int{bits}", block_size=min(block_size, values.numel())).dequantize()
    assert torch.allclose(rounded, expected, rtol=1e-5, atol=1e-7)
    assert torch.allclose(round_in_blocks(rounded, bits, block_size), rounded, rtol=1e-6)


def test_nobody_is_farther_than_half_a_step_and_a_short_block_has_its_own():
    values = normal(100)
    values[96:] /= 1000
    rounded = round_in_blocks(values, 4, 32)
    for first in range(0, 100, 32):
        block, change = values[first : first + 32], (values - rounded)[first : first + 32]
        assert change.abs().max() <= block.abs().max() / 7 / 2 * 1.0001
    assert block_codes(values, 4, 32)[0].shape == (4, 32) and rounded[96:].abs().max() > 0


def test_blocks_of_zeros_stay_zero():
    assert round_in_blocks(torch.zeros(3, 11), 4, 8).tolist() == torch.zeros(3, 11).tolist()


def test_bits_per_weight_counts_the_constants():
    assert bits_per_weight(4, 64) == 4.5 and bits_per_weight(4, 64, scale_bits=16) == 4.25
    assert bits_per_weight(4, 64) == quantize(normal(64), "int4", block_size=64).bits_per_weight
    assert bits_per_weight(3, 4096) == 3 + 1 / 128


def test_a_sweep_over_all_values_of_the_controls(view, tensors):
    for name, values in tensors.items():
        for bits in BITS:
            for size in BLOCK_SIZES:
                png, readout = view.render(distribution=name, bits=bits, block_size=size)
                assert png.startswith(b"\x89PNG")
                size = min(size, values.numel())
                found = re.fullmatch(
                    rf"{name}, {bits} bits, blocks of ([\d,]+): error ([\d.]+)%, ([\d.]+) bits per weight "
                    rf"with a 32-bit constant, (\d+) of {2**bits - 1} codes used",
                    readout,
                )
                assert int(found[1].replace(",", "")) == size
                error = relative_error(values, round_in_blocks(values, bits, size))
                assert float(found[2]) == pytest.approx(100 * error, abs=6e-3)
                assert float(found[3]) == pytest.approx(bits + 32 / size, abs=6e-4)
                assert 2 <= int(found[4]) <= 2**bits - 1


def test_what_is_shown(view, tensors):
    view.update(distribution="normal", bits=4, block_size=64)
    levels, bars, *lines = view.moving[:9]
    assert [round(segment[0][0] * 7) for segment in levels.get_segments()] == list(range(-7, 8))
    at_the_ends = bars.get_data().values[[0, -1]].sum() / bars.get_data().values.sum()
    assert at_the_ends > 1 / 64  # every block has one value at -1 or 1
    marker = next(artist for artist in view.moving if getattr(artist, "get_marker", lambda: "")() == "o")
    assert marker.get_xdata()[0] == BLOCK_SIZES.index(64)
    assert marker.get_ydata()[0] == pytest.approx(lines[2].get_ydata()[2])  # the dot lies on the curve of 4 bits
    assert 9 < marker.get_ydata()[0] < 12
    view.update(distribution="normal", bits=4, block_size=WHOLE_TENSOR)
    assert bars.get_data().values[[0, -1]].sum() / bars.get_data().values.sum() < 1 / 1000
    assert marker.get_xdata()[0] == len(BLOCK_SIZES) - 1


def test_the_picture_follows_each_control(view):
    def pixels(**values):
        return np.asarray(Image.open(io.BytesIO(view.render(**values)[0])))

    start = dict(distribution="normal", bits=4, block_size=64)
    first = pixels(**start)
    assert (first == pixels(**start)).all()
    for change in ({"distribution": "outliers"}, {"bits": 7}, {"block_size": 256}):
        assert not (first == pixels(**start | change)).all()


def test_what_cannot_be_shown():
    with pytest.raises(ValueError, match="at least one tensor"):
        bits_view({})
    with pytest.raises(ValueError, match=r"'few' must hold more than 4096 .* shape \(3, 4\)"):
        bits_view({"few": torch.ones(3, 4)})
    with pytest.raises(ValueError, match="'whole' must hold .*got torch.int64"):
        bits_view({"whole": torch.ones(5000).long()})
    with pytest.raises(ValueError, match="not all of them zero"):
        bits_view({"zero": torch.zeros(5000)})


@pytest.mark.parametrize(("block_size", "percent"), [(64, 10.77), (256, 12.64), (4096, 15.72)])
def test_int4_on_normal_numbers_has_the_known_errors(block_size, percent):
    values = normal(2**20, seed=4)
    assert 100 * relative_error(values, round_in_blocks(values, 4, block_size)) == pytest.approx(percent, rel=0.01)
