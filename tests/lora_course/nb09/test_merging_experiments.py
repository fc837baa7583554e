"""Merging into 4 bits without the original weights: both ways on a small matrix, and what is stored of them."""

from functools import cache, partial
from statistics import mean

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb09.lab_merging import DRAWS, NF4, arm_name, kept, rounded
from lora_edu.quantization import nearest_code, stochastic_code

WAYS = ("nearest", "by lot")


def test_the_nearest_level_loses_a_small_push_and_by_lot_it_arrives_on_average():
    generator = torch.Generator().manual_seed(0)
    constants = torch.rand(320, 2, generator=generator).add(0.5).repeat_interleave(32, dim=1)
    old = NF4[torch.randint(1, 15, (320, 64), generator=generator)] * constants
    push = 0.01 * torch.randn(320, 4, generator=generator) @ torch.randn(4, 64, generator=generator)
    lot = partial(stochastic_code, generator=generator)
    found = [rounded(old + push, constants, choose) for choose in (nearest_code, lot)]
    assert all(torch.allclose(rounded(merged, constants), merged, atol=1e-6) for merged in found)  # on levels
    nearest, by_lot = (((merged - old) * push).sum() / push.square().sum() for merged in found)
    assert by_lot == pytest.approx(1, abs=0.1) and nearest < 0.5


# --- what is stored --------------------------------------------------------------------------------------------------


@cache
def arms():
    return load_results("merge-again")["arms"]


def shares(way, adapter="shipped", times=0.1):
    return [kept(arms()[arm_name(adapter, times, draw)], way) for draw in DRAWS]


def test_by_lot_keeps_what_the_nearest_level_loses():
    for adapter in ("shipped", "trained"):
        assert max(shares("nearest", adapter)) < 0.3
        assert min(shares("by lot", adapter)) > 0.94 and mean(shares("by lot", adapter)) > 0.95


def test_the_update_and_not_the_rounding_is_what_gains():
    """The rivals: an update of size zero, and a random one as large as the adapter's."""
    nothing, gain = arms()["shipped x 0, draw 0"], mean(a["W′"] - a["apart"] for a in map(arms().get, names("shipped")))
    assert all(nothing[way] == pytest.approx(nothing["W′"], abs=1e-4) for way in WAYS)
    assert all(abs(arms()[name]["W′"] - arms()[name][way]) < 0.1 * gain for name in names("random") for way in WAYS)


def names(adapter, times=0.1):
    return [arm_name(adapter, times, draw) for draw in DRAWS]
