"""Notebook 07: what the page says about errors of codes and of constants, and what they cost."""

import numpy as np
import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb07 import lab as experiments
from lora_edu.measures import relative_error


def test_codes_toward_zero_are_the_next_level_and_no_farther_out_than_their_weights():
    weights = experiments.normal_weights(2**14)
    toward, near = experiments.toward_zero(weights), experiments.nearest(weights)
    assert (toward.abs() <= weights.abs() + 1e-5).all() and (toward * weights >= 0).all()
    moved = (toward - near).abs() > 1e-5
    assert 0.4 < moved.float().mean() < 0.6 and (near.abs() > weights.abs())[moved].all()


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


@pytest.mark.parametrize("change", experiments.BY_LOT)
def test_signs_by_lot_keep_the_size_of_what_each_weight_is_off_by(change):
    weight = experiments.normal_weights(48 * 64)
    Q, two, lot = (experiments.changed_weight(weight, name) for name in ("32 bits", "2 bits", change))
    assert torch.allclose((lot - Q).abs(), (two - Q).abs(), atol=1e-6)
    assert not (lot - two).view(-1, 64).any(1).all() if change.endswith("block") else (lot != two).any()


def test_at_equal_bits_smaller_blocks_cost_less_in_each_draw():
    """The page once had one draw of it. That they err less, on all sets, its cell asserts."""
    arms = load_results("double-quantization")["arms"]
    losses = {name: np.array(experiments.losses_of_draws(arms, name)) for name in experiments.DRAWN}
    for name in ("8 bits, blocks of 32", "4 bits, blocks of 16"):
        gaps = losses[name] - losses["16 bits"]
        assert (gaps < 0).all() and gaps.mean() < -4 * gaps.std(ddof=1) / 2
    assert 0 < (losses["8 bits"] - losses["16 bits"]).mean() < 1e-4
    assert all(len({shift % size for shift in experiments.SHIFTS}) == 4 for size in (64, 32, 16))  # four draws
