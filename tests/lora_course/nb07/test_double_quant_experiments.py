"""Double quantization, measured: errors by their sources, and what is stored of the loss."""

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb07 import lab as dq
from lora_course.nb07.lab import CONSTANTS, error_by_source, normal_weights, rounded_constants
from lora_edu.quantization import DoubleQuant, quantize
from lora_edu.rounding import total_bits

SETS = load_results("two-errors")["arms"]


def test_the_bits_are_those_that_the_package_counts():
    weight = normal_weights(2**14)
    for block_size in (32, 64):
        assert total_bits(block_size) == quantize(weight, "nf4", block_size).bits_per_weight
        for second_size, code, width in ((256, "dynamic", 8), (64, "int8", 8), (256, "nf4", 4)):
            stored = quantize(weight, "nf4", block_size, DoubleQuant(code, block_size=second_size))
            assert total_bits(block_size, width, second_size) == pytest.approx(stored.bits_per_weight, abs=1e-12)


@pytest.mark.parametrize("how", [DoubleQuant(), DoubleQuant("e4m3", 16, False), DoubleQuant("nf4", 64)])
def test_the_constants_are_rounded_as_the_package_does(how):
    weight = normal_weights(48 * 100)
    exact, stored = quantize(weight, "nf4", 64), quantize(weight, "nf4", 64, how)
    mine = rounded_constants(exact.absmax, how.code, how.block_size, how.subtract_mean)
    assert torch.allclose(mine, stored.block_scales(), rtol=1e-6)


@pytest.mark.parametrize("source", ["codes", "constants", "both"])
def test_the_error_of_layers_counts_all_weights_together(source):
    """Not the mean of the layers' errors, and the last block of a layer included."""
    layers = [normal_weights(64 * 40 - 7), 3 * normal_weights(64 * 20, 1)]
    for change in CONSTANTS.values():
        squares = [(error_by_source(weight, change, 32)[source] * weight.norm()) ** 2 for weight in layers]
        whole = sum(squares) / sum(weight.norm() ** 2 for weight in layers)
        assert dq.error_of_layers(layers, change, block_size=32)[source] == pytest.approx(whole.item() ** 0.5, rel=1e-4)


def test_errors_add_in_squares_on_all_four_sets_also_where_the_constants_are_the_larger_one():
    """The rival: that it looks so only because the error of the codes is so large beside it."""
    for ways in SETS.values():
        for errors in (e for way, e in ways.items() if "10%" not in way):
            assert errors["both"] == pytest.approx((errors["codes"] ** 2 + errors["constants"] ** 2) ** 0.5, rel=0.015)
    two = SETS["normal numbers"]["2 bits"]
    assert two["constants"] > 1.2 * two["codes"] and two["both"] < 0.75 * (two["codes"] + two["constants"])


def test_what_holds_of_normal_numbers_alone():
    """The page once said of every weight: "a 44th", "int8 beats the dynamic code", "more than 40 times"."""
    growth = {name: {way: e["both"] / e["codes"] - 1 for way, e in ways.items()} for name, ways in SETS.items()}
    ratio = {name: ways["8 bits"]["codes"] / ways["8 bits"]["constants"] for name, ways in SETS.items()}
    assert 43 < ratio.pop("normal numbers") < 45 and all(20 < each < 35 for each in ratio.values())
    better = {name: each["int8"] < each["dynamic"] for name, each in growth.items()}
    assert better == {"normal numbers": True, "our GPT": True, "MiniLM": False, "SmolLM2": True}
    times = {name: each["e4m3, no mean"] / each["e4m3"] for name, each in growth.items()}
    assert times.pop("normal numbers") > 40 and all(13 < each < 23 for each in times.values())
