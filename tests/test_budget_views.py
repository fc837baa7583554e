import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from lora_edu.experiments.nb07 import SECOND_CODES, normal_weights
from lora_edu.figures.nb07 import BLOCK_SIZES, SECOND_SIZES, budget_error, budget_view
from lora_edu.measures import pareto, total_bits
from lora_edu.quantization import DoubleQuant, quantize


@pytest.fixture(scope="module")
def weights():
    return {"normal": normal_weights(2**13), "uneven": normal_weights(2**13, 1) * torch.linspace(0.1, 1, 2**13)}


@pytest.fixture(scope="module")
def view(weights):
    return budget_view(weights)


@pytest.mark.parametrize("second", [0, 16, 256])
def test_the_budget_is_what_the_package_counts(second):
    stored = quantize(normal_weights(2**14), "nf4", 64, DoubleQuant(block_size=second) if second else False)
    assert total_bits(64, second) == pytest.approx(stored.bits_per_weight, abs=1e-12)


@pytest.mark.parametrize(("code", "width"), [("int8", 8), ("nf4", 4)])
def test_a_constant_may_have_other_widths(code, width, weights):
    stored = quantize(normal_weights(2**14), "nf4", 32, DoubleQuant(code, block_size=64))
    assert total_bits(32, 64, width) == pytest.approx(stored.bits_per_weight, abs=1e-12)


def test_the_numbers_of_the_paper():
    assert total_bits(64) == 4.5
    assert total_bits(64, 256) - 4 == pytest.approx(0.127, abs=5e-4)
    assert total_bits(64) - total_bits(64, 256) == pytest.approx(0.373, abs=5e-4)


def test_pareto_keeps_what_nothing_beats():
    points = {"a": (4.0, 0.3), "b": (4.5, 0.2), "worse": (4.6, 0.25), "equal": (5.0, 0.2), "c": (6.0, 0.1)}
    assert pareto(points) == ["a", "b", "c"]


def test_a_sweep_over_all_values_of_the_controls(view, weights):
    for name in weights:
        for code in (*SECOND_CODES, "nf4"):
            for block_size in BLOCK_SIZES:
                for second_size in SECOND_SIZES:
                    line = view.update(weights=name, block_size=block_size, second_size=second_size, code=code)
                    bits, error = map(float, re.fullmatch(r".*: ([\d.]+) bits a weight, error ([\d.]+)", line).groups())
                    assert bits == pytest.approx(
                        total_bits(block_size, second_size, 4 if code == "nf4" else 8), abs=6e-4
                    )
                    assert 0.06 < error < 0.14
    png, _ = view.render(weights="normal", block_size=64, second_size=256, code="int8")
    assert png.startswith(b"\x89PNG")


def test_the_readout_is_the_measured_error(view, weights):
    line = view.update(weights="uneven", block_size=64, second_size=16, code="e5m2")
    wanted = quantize(weights["uneven"], "nf4", 64, DoubleQuant("e5m2", block_size=16)).dequantize()
    error = ((weights["uneven"] - wanted).norm() / weights["uneven"].norm()).item()
    assert line == (
        f"uneven, blocks of 64, 8-bit constants (e5m2), 16 a block: {4 + 8 / 64 + 32 / 1024:.3f} bits a weight, "
        f"error {error:.4f}"
    )
    line = view.update(weights="uneven", block_size=32, second_size=256, code="nf4")
    assert line.startswith("uneven, blocks of 32, 4-bit constants (nf4), 256 a block: 4.129 bits a weight")
    assert "float32 constants: 4.500 bits" in view.update(weights="normal", block_size=64, second_size=0, code="int8")


def test_the_picture_follows_the_controls(view):
    def pixels(second_size):
        png, _ = view.render(weights="normal", block_size=32, second_size=second_size, code="dynamic")
        return np.asarray(Image.open(io.BytesIO(png)))

    first = pixels(256)
    assert (first == pixels(256)).all()
    assert not (first == pixels(0)).all()


def test_larger_blocks_cost_error(weights):
    errors = [budget_error(weights["normal"], block_size, 256, "dynamic") for block_size in BLOCK_SIZES]
    assert errors == sorted(errors)


def test_what_cannot_be_shown():
    with pytest.raises(ValueError, match="needs the weights of at least one layer"):
        budget_view({})
    with pytest.raises(ValueError, match="'small' must have 4096 weights or more"):
        budget_view({"small": torch.ones(64)})
    with pytest.raises(ValueError, match="'zero' must have 4096 weights or more that are not all zero"):
        budget_view({"zero": torch.zeros(4096)})
