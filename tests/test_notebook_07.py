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


def test_only_fine_nearest_levels_are_nearly_at_right_angles(interactions):
    names = interactions | {"quantize": quantize, "rows": [], "check": Mock(), "plots": Mock(), "my_guess": None}
    exec(cell("angles = {}").source, names)
    angles = names["angles"]
    assert angles["nf4"] < angles["int4"] < angles["nf3"] < angles["nf2"]
    assert angles["nf4"] == pytest.approx(92.4, abs=0.3) and angles["nf2"] == pytest.approx(114.3, abs=0.5)
    small = quantize(names["some"], "nf2", 64).dequantize()
    assert relative_error(names["some"], 0.9 * small) < relative_error(names["some"], small) - 0.02


def test_blocks_of_32_win_each_draw_where_constants_have_8_bits():
    arms = load_results("double-quantization")["arms"]
    gains = np.subtract(*(experiments.losses_of_draws(arms, name) for name in ("8 bits, blocks of 32", "8 bits")))
    assert (gains < 0).all()


def test_what_a_function_does_is_shown_before_it_is_used():
    sources = [cell.source for cell in code_cells("07_double_quantization")]
    built = next(i for i, source in enumerate(sources) if "def error_by_source" in source)
    assert min(i for i, source in enumerate(sources) if "error_by_source(" in source) == built
