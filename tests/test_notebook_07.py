"""Notebook 07: bitsandbytes was asked, the page goes on without them, and what it says about errors."""

from functools import partial
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from conftest import code_cell, code_cells

from lora_edu import quantize
from lora_edu.codebooks import dynamic_codebook
from lora_edu.experiments import load_results
from lora_edu.experiments import nb07 as experiments
from lora_edu.measures import relative_error
from lora_edu.quantization import block_absmax

cell = partial(code_cell, "07_double_quantization")


def test_one_value_that_differs_from_bitsandbytes_is_noticed():
    pytest.importorskip("bitsandbytes")
    changed = dynamic_codebook()
    changed[200] += 1e-6
    with pytest.raises(AssertionError):
        exec(cell("create_dynamic_map").source, {"torch": torch, "dynamic_codebook": lambda: changed})


@pytest.fixture(scope="module")
def interactions():
    """The two cells of section 4: how errors add, with each of the two reasons switched off."""
    weights = experiments.normal_weights(2**20)
    names = {"torch": torch, "weights": weights, "absmax": block_absmax(weights, 64)}
    names |= {"stored": quantize(weights[:64], "nf4", 64), "relative_error": relative_error}
    exec("from lora_edu.rounding import rescale", names)
    exec(cell("too_far = ").source, names)
    exec(cell("share[rounding, how]").source, names)
    return names


def test_codes_toward_zero_are_no_farther_out_than_their_weights(interactions):
    levels, scaled = interactions["levels"], interactions["scaled"]
    toward, near = interactions["codes"]["toward zero"], interactions["codes"]["nearest"]
    assert (levels[toward].abs() <= scaled.abs()).all() and (toward - near).abs().max() == 1
    assert (levels[toward] * scaled >= 0).all()


def test_the_squares_fail_only_where_both_reasons_are_off(interactions):
    *one_off, both_off = interactions["share"].values()
    assert list(interactions["share"])[-1] == ("toward zero", "all 10% too small")
    assert both_off > 0.3 and max(map(abs, one_off)) < 0.08


def test_levels_make_the_right_angle_by_being_means_not_by_being_many(interactions):
    """The page once said that coarse levels fail: four means do not, and sixteen levels that are none do."""
    names = interactions | {"plots": Mock()}
    exec(cell("angles = {").source, names)
    angles, rounded = names["angles"], names["rounded"]
    assert list(angles.values()) == pytest.approx([92.4, 114.3, 90.0, 99.6], abs=0.3)
    assert (len(names["means"]), len(names["apart"])) == (4, 16)
    _, NF2, means, apart = rounded.values()
    some = names["some"]
    assert relative_error(some, means) < relative_error(some, NF2) and relative_error(some, apart) < 0.15


def test_an_error_of_8_bit_size_would_hardly_hurt_even_added_in_full():
    """The rival of the right angle: the second error is small. The page once named the angle alone."""
    arms, base = load_results("double-quantization")["arms"], load_results("scoreboard")["arms"]["as shipped"]["loss"]
    exact, squares, full = (arms[name] for name in ("32 bits", "8 bits", experiments.IN_FULL))
    assert full["loss"] - exact["loss"] == pytest.approx(0.0004, abs=5e-5)
    assert (full["loss"] - exact["loss"]) / (exact["loss"] - base) == pytest.approx(0.06, abs=0.005)
    assert squares["weight_error"] - exact["weight_error"] < 0.02 * (full["weight_error"] - exact["weight_error"])


def test_added_in_full_is_the_sum_of_both_errors():
    weight = experiments.normal_weights(48 * 64).view(48, 64)
    errors = experiments.error_by_source(weight.flatten(), experiments.rounded_constants)
    moved = experiments.changed_weight(weight, experiments.IN_FULL)
    assert moved.shape == weight.shape
    assert relative_error(weight, moved) == pytest.approx(errors["codes"] + errors["constants"], rel=1e-5)


def test_blocks_of_32_win_each_draw_where_constants_have_8_bits():
    arms = load_results("double-quantization")["arms"]
    gains = np.subtract(*(experiments.losses_of_draws(arms, name) for name in ("8 bits, blocks of 32", "8 bits")))
    assert (gains < 0).all()


def test_what_a_function_does_is_shown_before_it_is_used():
    sources = [cell.source for cell in code_cells("07_double_quantization")]
    built = next(i for i, source in enumerate(sources) if "def error_by_source" in source)
    assert min(i for i, source in enumerate(sources) if "error_by_source(" in source) == built
