"""Merging into 4 bits without the original weights: the ways on a small matrix, and what is stored of them."""

import copy
from functools import cache
from statistics import mean

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb09.lab_merging import DRAWS, NF4, arm_name, border_moved, compensated, kept, rounded, searched
from lora_course.running.finetune import loss_on
from lora_edu import data_file, load_adapter, load_base, merge_into_nf4, quantize, quantize_linears, rounding
from lora_edu.lora import lora_layers
from lora_edu.measures import relative_error

FIXED = (
    "nearest",
    "border moved",
    "compensated",
    "searched",
    "by lot",
    "by lot, compensated",
)  # constants as they were


@pytest.fixture(scope="module")
def small():
    """(W' + a small push, constants, W', inputs): W' lies on its levels, inputs are correlated."""
    generator = torch.Generator().manual_seed(0)
    constants = torch.rand(32, 2, generator=generator).add(0.5).repeat_interleave(32, dim=1)
    old = NF4[torch.randint(1, 15, (32, 64), generator=generator)] * constants
    push = 0.01 * torch.randn(32, 4, generator=generator) @ torch.randn(4, 64, generator=generator)
    inputs = torch.randn(500, 16, generator=generator) @ torch.randn(16, 64, generator=generator)
    return old + push, constants, old, inputs


def test_each_way_ends_on_levels(small):
    values, constants, old, inputs = small
    start = compensated(values, constants, inputs)
    for merged in (border_moved(values, constants, old), start, searched(values, constants, inputs, start)):
        assert torch.allclose(rounded(merged, constants), merged, atol=1e-6)


def test_with_the_border_moved_the_push_arrives_in_sum_where_the_nearest_level_loses_it(small):
    values, constants, old, _ = small
    push = values - old
    moved, nearest = ((merged - old).flatten() @ push.flatten() / push.square().sum()
                      for merged in (border_moved(values, constants, old), rounded(values, constants)))  # fmt: skip
    assert moved == pytest.approx(1, abs=0.02) and nearest < 0.5
    assert torch.equal(border_moved(old, constants, old), old)  # without a push nothing moves


def test_what_looks_at_outputs_errs_less_there(small):
    values, constants, _, inputs = small
    start = compensated(values, constants, inputs)
    ways = rounded(values, constants), start, searched(values, constants, inputs, start)
    errors = [relative_error(inputs @ values.T, inputs @ merged.T) for merged in ways]
    assert errors[0] > 1.2 * errors[1] and errors[1] > 1.2 * errors[2]


def test_gptq_s_way_is_that_of_notebook_06(small):
    values, _, _, inputs = small
    constants = quantize(values, "nf4", 64).absmax[:, None].expand_as(values)  # a row is a block of 64
    ours, pages = compensated(values, constants, inputs), rounding.compensated(values, inputs, NF4)
    assert torch.allclose(ours, pages, atol=1e-6)


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
    assert all(nothing[way] == pytest.approx(nothing["W′"], abs=1e-4) for way in FIXED)
    assert all(abs(arms()[name]["W′"] - arms()[name][way]) < 0.1 * gain for name in names("random") for way in FIXED)


def names(adapter, times=0.1):
    return [arm_name(adapter, times, draw) for draw in DRAWS]


def test_merging_by_lot_keeps_the_gain_of_a_tenth_live():
    """The shipped adapter at a tenth, on few windows: W', the adapter apart, merged by lot."""
    model = load_adapter(
        quantize_linears(load_base("laptop", device="cpu"), double_quant=True), data_file("shakespeare-adapter")
    )
    for layer in lora_layers(model).values():
        layer.scaling *= 0.1
    found = {"apart": loss_on(model, "shakespeare", 8)}
    found["by lot"] = loss_on(merge_into_nf4(copy.deepcopy(model)), "shakespeare", 8)
    for layer in lora_layers(model).values():
        layer.scaling = 0.0
    found["W′"] = loss_on(model, "shakespeare", 8)
    assert 0.9 < kept(found, "by lot") < 1.1
