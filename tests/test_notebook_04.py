"""Notebook 04: what its text says, held against the stored numbers and against the package."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from conftest import code_cell, moved
from torch import nn

from lora_edu import data_file, evaluate, load_adapter, load_base, load_text, save_adapter
from lora_edu.experiments import load_results
from lora_edu.experiments.nb04 import SEEDS, kept_in_bf16, setting_name
from lora_edu.figures.nb04 import kept_by_mixing, kept_gain
from lora_edu.lora import LoRALinear, add_lora, combine, load_adapter_state, lora_layers
from lora_edu.measures import relative_error
from lora_edu.quantization import quantize

PAGE = "04_lora_torch"


# --- the cell that asks PEFT -----------------------------------------------------------------------------------------


@pytest.fixture
def names(tiny_gpt):
    """What the notebook has defined before that cell, on a tiny model."""
    model = moved(add_lora(copy.deepcopy(tiny_gpt), rank=3, alpha=7, targets="all-linear"), 0.3)
    tokens = torch.randint(0, 256, (1, 20))
    return {"torch": torch, "model": model, "tokens": tokens, "base_model": lambda: copy.deepcopy(tiny_gpt)}


def test_the_cell_fails_if_the_logits_differ(names):
    names["base_model"] = lambda: type(names["model"])(names["model"].config).eval()
    with pytest.raises(AssertionError):
        exec(code_cell(PAGE, "peft.PeftModel").source, names)


# --- the layer -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def page():
    """The page's own twelve lines, as a class."""
    source = code_cell(PAGE, "class LoRA(nn.Module)").source
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


# --- two adapters ----------------------------------------------------------------------------------------------------


def random_adapters(tiny_gpt, seeds=(1, 2)):
    states = []
    for seed in seeds:
        torch.manual_seed(seed)
        model = moved(add_lora(copy.deepcopy(tiny_gpt), rank=3, alpha=6, targets="all-linear"))
        states.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_" in n})
    return states


def holding(tiny_gpt, state, rank):
    return load_adapter_state(add_lora(copy.deepcopy(tiny_gpt), rank, 2 * rank, targets="all-linear"), state)


def test_side_by_side_is_the_sum_and_the_mean_of_the_factors_is_not(tiny_gpt):
    states = random_adapters(tiny_gpt)
    one, two = (holding(tiny_gpt, state, 3) for state in states)
    both = holding(tiny_gpt, combine(states, [0.5, 0.5]), 6)
    mean = holding(tiny_gpt, {name: (states[0][name] + states[1][name]) / 2 for name in states[0]}, 3)
    for path, layer in lora_layers(both).items():
        wanted = (one.get_submodule(path).delta_weight() + two.get_submodule(path).delta_weight()) / 2
        assert relative_error(wanted, layer.delta_weight()) < 1e-5
        assert relative_error(wanted, mean.get_submodule(path).delta_weight()) > 0.3


def test_peft_s_cat_is_the_sum_and_its_linear_has_cross_terms(tiny_gpt, tmp_path):
    peft = pytest.importorskip("peft")
    states, tokens = random_adapters(tiny_gpt), torch.randint(0, 256, (1, 20))
    for name, state in zip(("one", "two"), states, strict=True):
        save_adapter(holding(tiny_gpt, state, 3), tmp_path / name)
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(tiny_gpt), tmp_path / "one", adapter_name="one")
    theirs.load_adapter(tmp_path / "two", "two")
    mixed = {name: 0.5**0.5 * (states[0][name] + states[1][name]) for name in states[0]}  # the arm "PEFT's linear"
    ours = {"linear": (mixed, 3), "cat": (combine(states, [0.5, 0.5]), 6)}
    for how, (state, rank) in ours.items():
        theirs.add_weighted_adapter(["one", "two"], [0.5, 0.5], how, combination_type=how)
        theirs.set_adapter(how)
        assert torch.allclose(theirs(tokens)[0], holding(tiny_gpt, state, rank)(tokens)[0], atol=1e-4)


# --- merging and rounding --------------------------------------------------------------------------------------------


def small_update(size=0.02, side=256):
    """A weight, and an update of rank 8 whose norm is `size` times that of the weight."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(side, side, generator=generator)
    dW = torch.randn(side, 8, generator=generator) @ torch.randn(8, side, generator=generator)
    return W, size * W.norm() / dW.norm() * dW


def arrived(dW, change):
    """Which share of the update is in a change: 1 if all of it is, 0 if nothing."""
    return ((dW * change).sum() / dW.square().sum()).item()


def test_rounding_again_swallows_a_small_update_on_rounded_weights_and_not_on_the_original_ones():
    W, dW = small_update()

    def nf4(weight):
        return quantize(weight, "nf4", 64).dequantize()

    seen = nf4(W)
    assert arrived(dW, nf4(seen + dW) - seen) < 0.1  # W' lies on codes: hardly a weight crosses a threshold
    assert 0.8 < arrived(dW, nf4(W + dW) - nf4(W)) < 1.2  # W lies anywhere between them: its share of weights does


def test_in_bf16_an_update_of_1_percent_arrives_and_a_smaller_one_begins_to_be_lost():
    """The page once said "16% wrong", an error of the weights; the model's gain on plays hardly feels it."""
    model = load_adapter(load_base("laptop"), data_file("shakespeare-adapter")).eval()
    plays = load_text("shakespeare").validation

    def loss(each):
        return evaluate(each, plays, seq_len=128, max_windows=8)

    kept = [kept_in_bf16(model, size, loss) for size in (0.01, 0.003, 0.001)]
    assert abs(kept[0] - 1) < 0.03 and 0.8 < kept[1] < 0.97 and 0.4 < kept[2] < 0.75
    sizes = {(layer.delta_weight().norm() / layer.base.weight.norm()).item() for layer in lora_layers(model).values()}
    assert min(sizes) > 0.1  # the model that was given still has its own updates


@pytest.mark.parametrize("seed", SEEDS)
def test_either_base_will_do_at_4_bits_and_not_at_2(seed):
    """The page once said "either base" of every format."""
    arms = load_results("which-base")["arms"]
    apart = {grid: arms[f"{grid}, seed {seed}"] for grid in ("nf4", "nf3", "nf2")}
    apart = {grid: arm["W"]["merged"] - arm["W′"]["merged"] for grid, arm in apart.items()}
    assert abs(apart["nf4"]) < 0.004 < 0.05 < apart["nf2"]
    kept = {}
    for base in ("W′", "W"):
        arm = arms[f"nf4, seed {seed}"]
        gain = arm["W′"]["base"] - arm["W′"]["a tenth, merged"]
        kept[base] = (arm["W′"]["base"] - arm[base]["a tenth, rounded"]) / gain
    assert kept["W′"] < 0.1 and kept["W"] > 0.8  # one adapter kept 23% on W'; these keep 6% in the mean


def test_a_whole_update_rounded_to_nf4_again_may_go_onto_either_base():
    """The page once said "to round again, merge onto W" of an update of any size."""
    arms = load_results("which-base")["arms"]
    apart = {
        grid: np.mean(
            [arm["W′"]["rounded"] - arm["W"]["rounded"] for arm in (arms[f"{grid}, seed {s}"] for s in SEEDS)]
        )
        for grid in ("nf4", "nf3", "nf2")
    }
    assert abs(apart["nf4"]) < 0.002 and apart["nf3"] > 0.03 and apart["nf2"] > 0.3


# --- the stored dial -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arms():
    return load_results("dial")["arms"]


@pytest.mark.parametrize("text", ["plays", "verses"])
@pytest.mark.parametrize("seed", SEEDS)
def test_halfway_each_keeps_most_of_its_gain_and_that_is_not_the_merit_of_mixing(arms, text, seed):
    kept = {arm: shares[seed] for arm, shares in kept_by_mixing(arms)[text].items()}
    alone = kept_gain(arms, f"half {text} alone, seed {seed}", seed)[text]
    assert kept["plays 0.5"] > 0.75 and abs(kept["plays 0.5"] - alone) < 0.1  # half of one by itself keeps as much


@pytest.mark.parametrize("text", ["plays", "verses"])
@pytest.mark.parametrize("seed", SEEDS)
def test_averaged_factors_keep_little_less_than_a_quarter_of_each(arms, text, seed):
    """The page once split what they lack into size and cross terms, by an order of its own choice."""
    kept = {arm: shares[seed] for arm, shares in kept_by_mixing(arms)[text].items()}
    gap = kept["plays 0.5"] - kept["averaged 0.5"]
    assert -0.01 < kept["a quarter of each"] - kept["averaged 0.5"] < 0.2 * gap < 0.07
    assert 0.06 < kept["plays 0.5"] - kept["PEFT's linear"] < 0.14  # with half of each, cross terms cost more
    # not "cross terms cost": the start decides
    names = (f"one start, {way}, seed {seed}" for way in ("averaged", "a quarter"))
    averaged, quarter = (kept_gain(arms, name, seed)[text] for name in names)
    assert averaged - quarter > 0.1 and 0.04 < kept["plays 0.5"] - averaged < 0.12


def test_rounding_a_whole_update_costs_little_on_the_dial(arms):
    for step in range(9):
        sum_, rounded = (arms[setting_name(step / 8, how=how)] for how in ("combined", "rounded"))
        assert all(abs(sum_[text] - rounded[text]) < 0.03 for text in ("plays", "verses"))


def test_verses_minus_plays_is_worse_than_the_base(arms):
    for seed in SEEDS:
        assert arms[f"verses minus plays, seed {seed}"]["plays"] > arms["base, seed 0"]["plays"] + 0.5


def test_the_dial_rises_and_falls(arms):
    losses = [arms[setting_name(step / 8)] for step in range(9)]
    assert all(a["plays"] > b["plays"] for a, b in pairwise(losses))
    assert losses[0]["verses"] < losses[4]["verses"] < losses[8]["verses"] < arms["base, seed 0"]["verses"]
