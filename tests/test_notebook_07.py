"""Notebook 07: bitsandbytes was asked, the page goes on without them, and what it says about errors."""

from functools import partial

import numpy as np
import pytest
import torch
from conftest import code_cell, code_cells

from lora_edu.codebooks import dynamic_codebook
from lora_edu.experiments import load_results
from lora_edu.experiments import nb07 as experiments
from lora_edu.measures import relative_error

cell = partial(code_cell, "07_double_quantization")


def test_one_value_that_differs_from_bitsandbytes_is_noticed():
    pytest.importorskip("bitsandbytes")
    changed = dynamic_codebook()
    changed[200] += 1e-6
    with pytest.raises(AssertionError):
        exec(cell("create_dynamic_map").source, {"torch": torch, "dynamic_codebook": lambda: changed})


def test_codes_toward_zero_are_the_next_level_and_no_farther_out_than_their_weights():
    weights = experiments.normal_weights(2**14)
    toward, near = experiments.toward_zero(weights), experiments.nearest(weights)
    assert (toward.abs() <= weights.abs() + 1e-5).all() and (toward * weights >= 0).all()
    moved = (toward - near).abs() > 1e-5
    assert 0.4 < moved.float().mean() < 0.6 and (near.abs() > weights.abs())[moved].all()


def test_the_squares_fail_only_where_both_reasons_are_off():
    """On all four sets: the page once had it of normal numbers alone."""
    for ways in load_results("two-errors")["arms"].values():
        off = {way: e for way, e in ways.items() if "10%" in way}
        share = {way: 1 - (e["codes"] ** 2 + e["constants"] ** 2) / e["both"] ** 2 for way, e in off.items()}
        assert share.pop("toward zero, all 10% too small") > 0.3
        assert len(share) == 3 and max(map(abs, share.values())) < 0.08


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


def test_at_equal_bits_smaller_blocks_err_less_on_all_sets_and_cost_less_in_each_draw():
    """The page once had one draw of it, and our GPT alone."""
    for ways in load_results("two-errors")["arms"].values():
        assert ways["8 bits, blocks of 32"]["both"] < ways["16 bits"]["both"] - 0.004
    arms = load_results("double-quantization")["arms"]
    losses = {name: np.array(experiments.losses_of_draws(arms, name)) for name in experiments.DRAWN}
    for name in ("8 bits, blocks of 32", "4 bits, blocks of 16"):
        gaps = losses[name] - losses["16 bits"]
        assert (gaps < 0).all() and gaps.mean() < -4 * gaps.std(ddof=1) / 2
    assert 0 < (losses["8 bits"] - losses["16 bits"]).mean() < 1e-4
    assert all(len({shift % size for shift in experiments.SHIFTS}) == 4 for size in (64, 32, 16))  # four draws


def test_what_a_function_does_is_shown_before_it_is_used():
    sources = [cell.source for cell in code_cells("07_double_quantization")]
    built = next(i for i, source in enumerate(sources) if "def error_by_source" in source)
    assert min(i for i, source in enumerate(sources) if "error_by_source(" in source) == built
