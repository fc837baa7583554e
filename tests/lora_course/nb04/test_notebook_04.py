"""Notebook 04: what its text says, held against the stored numbers and against the package."""

import copy
import itertools

import numpy as np
import pytest
import torch
from conftest import code_cell, moved
from torch import nn

from lora_course.experiments import load_results
from lora_course.nb04.lab import SEEDS, kept_in_bf16
from lora_course.nb04.pictures import base_table, kept_by_mixing, kept_gain, merge_table, push_table
from lora_edu.lora import LoRALinear, add_lora, lora_layers
from lora_edu.measures import relative_error

ARMS = load_results("dial")["arms"]


@pytest.fixture(scope="module")
def page():
    """The page's own twelve lines, as a class."""
    source = code_cell("04_lora_torch", "class LoRA(nn.Module)").source
    assert len(source.splitlines()) == 12
    namespace = {"nn": nn, "torch": torch, "F": torch.nn.functional}
    exec(source, namespace)
    return namespace["LoRA"]


@pytest.mark.parametrize("size", [(12, 20), (256, 64), (1024, 256)])
def test_the_twelve_lines_are_the_package_s_layer(page, size):
    """The same seed draws the same A, and forward and backward are the same."""
    base, x, grad = nn.Linear(*size), torch.randn(2, 5, size[0]), torch.randn(2, 5, size[1])
    layers = []
    for make in (page, LoRALinear):
        torch.manual_seed(3)
        layers.append(make(copy.deepcopy(base), rank=3, alpha=12))
        nn.init.normal_(layers[-1].lora_B)
        layers[-1](x).backward(grad)
    ours, package = layers
    assert torch.allclose(ours.lora_A, package.lora_A, rtol=1e-6)
    assert torch.allclose(ours(x), package(x), atol=1e-4)
    for name in ("lora_A", "lora_B"):
        assert relative_error(getattr(package, name).grad, getattr(ours, name).grad) < 1e-5
    assert ours.base.weight.grad is None


# --- merging and rounding --------------------------------------------------------------------------------------------


def test_either_base_will_do_for_a_whole_update_at_4_bits_and_not_at_2_nor_for_a_tenth_rounded_again():
    """The page once said "either base" of every format, and "to round again, merge onto W" of updates of any size."""
    arms, apart = load_results("which-base")["arms"], {}
    for grid, how in itertools.product(("nf4", "nf3", "nf2"), ("merged", "rounded")):
        runs = (arms[f"{grid}, seed {seed}"] for seed in SEEDS)
        apart[grid, how] = np.array([arm["W"][how] - arm["W′"][how] for arm in runs])
    assert (abs(apart["nf4", "merged"]) < 0.004).all() and (apart["nf2", "merged"] > 0.05).all()
    again = {grid: -apart[grid, "rounded"].mean() for grid in ("nf4", "nf3", "nf2")}
    assert abs(again["nf4"]) < 0.002 and again["nf3"] > 0.03 and again["nf2"] > 0.3
    for arm in (arms[f"nf4, seed {seed}"] for seed in SEEDS):
        gain = arm["W′"]["base"] - arm["W′"]["a tenth, merged"]
        kept = {base: (arm["W′"]["base"] - arm[base]["a tenth, rounded"]) / gain for base in ("W′", "W")}
        assert kept["W′"] < 0.1 and kept["W"] > 0.8  # one adapter kept 23% on W'; these keep 6% in the mean


def test_merged_in_bf16_a_large_push_arrives_and_a_small_one_is_lost(tiny_gpt):
    """That of the gain on plays, too, the page's cell asserts."""
    model = moved(add_lora(tiny_gpt, rank=3, alpha=6, targets="all-linear"))
    path, layer = next(iter(lora_layers(model).items()))
    push = layer.delta_weight().detach()

    def loss(each):
        return -(each.get_submodule(path).weight.detach() * push).sum().item()

    kept = [kept_in_bf16(model, size, loss) for size in (0.1, 0.001)]
    assert abs(kept[0] - 1) < 0.03 and 0 < kept[1] < 0.75
    assert torch.equal(layer.delta_weight(), push)  # the model that was given still has its own updates


# --- the stored dial -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["plays", "verses"])
@pytest.mark.parametrize("seed", SEEDS)
def test_halfway_each_keeps_most_of_its_gain_and_averaged_factors_little_less_than_a_quarter_of_each(text, seed):
    """Not the merit of mixing; and the page once split what averages lack into size and cross terms."""
    kept = {arm: shares[seed] for arm, shares in kept_by_mixing(ARMS)[text].items()}
    alone = kept_gain(ARMS, f"half {text} alone, seed {seed}", seed)[text]
    assert kept["plays 0.5"] > 0.75 and abs(kept["plays 0.5"] - alone) < 0.1  # half of one by itself keeps as much
    gap = kept["plays 0.5"] - kept["averaged 0.5"]
    assert -0.01 < kept["a quarter of each"] - kept["averaged 0.5"] < 0.2 * gap < 0.07
    assert 0.06 < kept["plays 0.5"] - kept["PEFT's linear"] < 0.14  # with half of each, cross terms cost more
    # not "cross terms cost": the start decides
    names = (f"one start, {way}, seed {seed}" for way in ("averaged", "a quarter"))
    averaged, quarter = (kept_gain(ARMS, name, seed)[text] for name in names)
    assert averaged - quarter > 0.1 and 0.04 < kept["plays 0.5"] - averaged < 0.12


# --- tables ----------------------------------------------------------------------------------------------------------


def test_a_table_has_a_column_for_each_of_its_heads():
    header, rows, _ = merge_table({0.01: {"wrong": 0.162, "arrives": 1, "kept": 0.998}})
    assert rows == [["1.0%", "16%", "100%", "100%"]] and len(header) == 4
    header, rows = push_table({"W": {"left": 1, "jumping": 0.1}})
    assert rows == [["W", "100%", "10%"]] and len(header) == 3


def test_the_table_of_bases_has_the_rounded_base_first():
    losses = {}
    for bits, base, what in itertools.product((4, 2), ("W′", "W"), ("base", "merged", "rounded")):
        losses[bits, base, what] = bits + (base == "W")
    header, rows = base_table(losses)
    assert header[1:] == ["onto W′", "onto W"]
    assert rows[0] == ["4 bits, before the merge", "4.000", "5.000"] and rows[3][1:] == ["2.000", "3.000"]
