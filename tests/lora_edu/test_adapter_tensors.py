"""An adapter's tensors are all that its model computes with, or a sentence says what is left out."""

import types
import warnings

import pytest
from conftest import moved, random_gpt
from stopped_runs import refused
from torch import nn

from lora_edu import LoRALinear, save_adapter
from lora_edu.lora import adapter_state, add_lora, load_adapter_state, lora_layers, merge, unload

FIRST = "blocks.0.attention.q_proj"


class Doubled(LoRALinear):
    """A reader's own layer."""

    def forward(self, x):
        return 2 * super().forward(x)


class Renamed(LoRALinear):
    """One that computes what LoRALinear computes."""


def forward_replaced(model):
    layer = model.get_submodule(FIRST)
    layer.forward = types.MethodType(Doubled.forward, layer)


OTHERS = {
    "a subclass": lambda model: setattr(model.get_submodule(FIRST), "__class__", Doubled),
    "a forward replaced": forward_replaced,
}


@pytest.mark.parametrize("change", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("work", [merge, save_adapter])
def test_a_layer_that_computes_something_else_is_neither_saved_nor_merged(change, work, tmp_path):
    model = moved(add_lora(random_gpt(), 2, 4))
    change(model)
    with refused(model, ValueError, rf"{FIRST} cannot be .*forward of its own"):
        work(model, tmp_path) if work is save_adapter else work(model)
    assert not list(tmp_path.iterdir())


def test_a_subclass_that_computes_the_same_is_saved_and_merged(tmp_path):
    model = moved(add_lora(random_gpt(), 2, 4))
    for layer in lora_layers(model).values():
        layer.__class__ = Renamed
    save_adapter(model, tmp_path)
    merge(model)


def test_a_reader_s_own_layer_is_taken_out():
    model = add_lora(random_gpt(), 2, 4)
    OTHERS["a subclass"](model)
    assert not lora_layers(unload(model))


def test_what_is_trained_beside_the_adapters_and_not_saved_is_said(tmp_path):
    model = add_lora(random_gpt(), 2, 4)
    with warnings.catch_warnings(action="error"):
        save_adapter(model, tmp_path)
    model.lm_head.requires_grad_(True)
    model.final_norm.requires_grad_(True)
    with pytest.warns(UserWarning, match=r"holds the adapters alone: final_norm.weight \(and 2 more\) is trained, too"):
        save_adapter(model, tmp_path)


def test_two_layers_with_one_a_take_one_value_for_it():
    """The last one won, and the first layer computed with the other's A."""
    model = moved(add_lora(random_gpt(), 2, 4, ["q_proj", "v_proj"]))
    first, second = model.blocks[0].attention.q_proj, model.blocks[0].attention.v_proj
    apart = adapter_state(model)
    second.lora_A = first.lora_A
    with refused(model, ValueError, "q_proj.lora_A and .*v_proj.lora_A are one tensor in this model"):
        load_adapter_state(model, apart)
    load_adapter_state(model, adapter_state(model))  # the control
    second.lora_A = nn.Parameter(first.lora_A.data[:])  # another parameter of the same memory
    with refused(model, ValueError, "are one tensor in this model"):
        load_adapter_state(model, apart)
