"""Merging into 4 bits without the original weights: the ways on a small matrix, and what is stored of them."""

import copy
from functools import cache
from statistics import mean

import pytest
import torch

from lora_edu import data_file, merge_into_nf4, quantize, rounding
from lora_edu.experiments import load_results
from lora_edu.experiments.finetune import loss_on
from lora_edu.experiments.nb09_merging import DRAWS, NF4, arm_name, compensated, kept, rounded
from lora_edu.lora import lora_layers
from lora_edu.measures import relative_error
from lora_edu.models.pretrain import load_base
from lora_edu.peft_io import load_adapter
from lora_edu.qlora import quantize_linears

FIXED = ("nearest", "by lot", "by lot, compensated")  # constants as they were


def test_gptq_s_way_is_that_of_notebook_06():
    """Inputs are correlated; a row is a block of 64."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(32, 64, generator=generator)
    inputs = torch.randn(500, 16, generator=generator) @ torch.randn(16, 64, generator=generator)
    constants = quantize(values, "nf4", 64).absmax[:, None].expand_as(values)
    ours, pages = compensated(values, constants, inputs), rounding.compensated(values, inputs, NF4)
    assert torch.allclose(ours, pages, atol=1e-6) and torch.allclose(rounded(ours, constants), ours, atol=1e-6)
    errors = [relative_error(inputs @ values.T, inputs @ Q.T) for Q in (rounded(values, constants), ours)]
    assert errors[0] > 1.2 * errors[1]


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
