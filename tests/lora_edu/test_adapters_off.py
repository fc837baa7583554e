"""Adapters switched off for a while, layers put in another's place: each part keeps the mode that it had."""

import copy

import pytest
import torch
from conftest import moved, random_gpt
from stopped_runs import refused
from torch import nn

from lora_edu import (
    LoRALinear,
    NF4Linear,
    adapters_off,
    dequantize_linears,
    load_adapter,
    quantize_linears,
    save_adapter,
)
from lora_edu.lora import add_lora, lora_layers, merge, unload
from lora_edu.variants import add_variant

TOKENS = torch.arange(8)[None]


def modes(model):
    return {path: module.training for path, module in model.named_modules()}


def in_train_but_one_block(model):
    model.train()
    model.blocks[0].eval()


def dropout_alone(model):
    """Monte Carlo dropout: an evaluated model whose dropout goes on."""
    model.eval()
    for layer in lora_layers(model).values():
        layer.dropout.train()


MODES = {"in train but one block": in_train_but_one_block, "dropout alone": dropout_alone}


@pytest.mark.parametrize("prepare", MODES.values(), ids=MODES)
def test_each_part_is_in_its_own_mode_again(prepare):
    model = add_lora(random_gpt(), 2, 4, dropout=0.5)
    prepare(model)
    before = modes(model)
    with adapters_off(model):
        model(TOKENS)
    assert modes(model) == before


@pytest.mark.parametrize("training", [False, True])
def test_a_mode_that_is_set_inside_is_heard_by_the_adapters(training):
    model = add_lora(random_gpt(), 2, 4, dropout=0.5).train(not training)
    with adapters_off(model):
        model.train(training)
    assert set(modes(model).values()) == {training}


@pytest.mark.parametrize("work", [lambda model: add_lora(model, 2, 4, dropout=0.5), quantize_linears])
def test_what_takes_a_layer_s_place_is_in_its_mode(work):
    model = random_gpt()
    in_train_but_one_block(model)
    work(model)
    assert {mode for path, mode in modes(model).items() if path.startswith("blocks.0")} == {False}
    assert {mode for path, mode in modes(model).items() if not path.startswith("blocks.0")} == {True}
    if lora_layers(model):
        unload(model)
        assert not any(module.training for module in model.blocks[0].modules()) and model.lm_head.training


NOT_INSIDE = {
    "quantize_linears": quantize_linears,
    "add_lora": lambda model: add_lora(model, 2, 4, ["q_proj"]),
    "add_lora, elsewhere": lambda model: add_lora(model, 2, 4, ["k_proj"]),
    "add_variant": lambda model: add_variant(model, "DoRA", 2, 4),
}


@pytest.mark.parametrize("work", NOT_INSIDE.values(), ids=NOT_INSIDE)
def test_what_would_be_undone_at_the_end_is_refused(work):
    model = moved(add_lora(random_gpt(), 2, 4, ["q_proj"]))
    before = model(TOKENS)[0]
    with adapters_off(model):
        with refused(model, ValueError, "switched off here: leave the block of adapters_off first"):
            work(model)
        work(copy.deepcopy(model))  # the control: a copy of its own, without adapters
    assert torch.equal(model(TOKENS)[0], before)


def test_an_adapter_is_not_loaded_where_others_are_off(tmp_path):
    model = add_lora(random_gpt(), 2, 4)
    save_adapter(model, tmp_path)
    with adapters_off(model), refused(model, ValueError, "switched off here"):
        load_adapter(model, tmp_path)


def test_a_base_that_is_replaced_inside_stays_replaced():
    model = moved(add_lora(quantize_linears(random_gpt()), 2, 4))
    before = model(TOKENS)[0]
    with adapters_off(model):
        dequantize_linears(model)
    assert not any(isinstance(module, NF4Linear) for module in model.modules()) and lora_layers(model)
    torch.testing.assert_close(model(TOKENS)[0], before)


def test_an_adapter_on_an_adapter_is_not_merged_into_what_is_made_anew():
    """The weight of the inner one is a sum that is forgotten: the outer update was lost."""
    model = nn.Sequential(LoRALinear(LoRALinear(nn.Linear(6, 4), 2, 4), 2, 4))
    with refused(moved(model), ValueError, "0 cannot be merged: its base has an adapter of its own"):
        merge(model)
