"""What works with a layer's weight refuses, by name, a layer that is more than x W^T + bias, and changes nothing."""

from functools import partial

import pytest
import torch
from conftest import library, moved
from stopped_runs import refused
from torch import nn
from torch.nn.utils import parametrizations, prune

from lora_edu import LoRALinear, add_lora, merge, trainable_summary, unload, unmerge
from lora_edu.qlora import NF4Linear, dequantize_linears, quantize_linears
from lora_edu.variants import DoRALinear, PiSSALinear, add_variant

X = torch.randn(5, 12, generator=torch.Generator().manual_seed(1))


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def own_forward(layer):
    layer.forward = lambda x: 2 * nn.Linear.forward(layer, x)
    return layer


def with_hook(layer):
    layer.register_forward_hook(lambda module, inputs, output: 2 * output)
    return layer


def bitsandbytes_layer(layer, kind):
    other = getattr(library("bitsandbytes").nn, kind)(12, 20)
    other.load_state_dict(layer.state_dict())
    return other.to("cpu")


MORE_THAN_LINEAR = {
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),  # by a hook before
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "a subclass": lambda layer: Doubled(12, 20),
    "a forward of its own": own_forward,
    "a hook": with_hook,
    "Linear8bitLt": partial(bitsandbytes_layer, kind="Linear8bitLt"),
    "Linear4bit": partial(bitsandbytes_layer, kind="Linear4bit"),
}
WITH_THE_WEIGHT = {
    "merge": merge,
    "quantize_linears": quantize_linears,
    "PiSSA": lambda model: add_variant(model, "PiSSA", 3, 6, "all-linear"),
    "DoRA": lambda model: add_variant(model, "DoRA", 3, 6, "all-linear"),
    "from_linear": lambda model: NF4Linear.from_linear(model.odd),
    "DoRALinear": lambda model: DoRALinear(model.odd, 3, 6),
    "PiSSALinear": lambda model: PiSSALinear(model.odd, 3, 6),
}


def two_layers(change):
    """A plain layer first: it must not change before the other one is refused."""
    model = nn.Module()
    model.plain, model.odd = nn.Linear(12, 20), change(nn.Linear(12, 20))
    return model.eval()


@pytest.mark.parametrize("work", WITH_THE_WEIGHT)
@pytest.mark.parametrize("kind", MORE_THAN_LINEAR)
def test_what_is_more_than_a_linear_layer_is_refused_by_name(kind, work):
    model = two_layers(MORE_THAN_LINEAR[kind])
    if work == "merge":
        moved(add_lora(model, 3, 6, "odd"))
    path = "odd" if work in ("merge", "quantize_linears", "DoRA") else "this layer|odd"
    with refused(model, ValueError, rf"({path}) cannot .* more than x W\^T \+ bias"):
        WITH_THE_WEIGHT[work](model)


@pytest.mark.parametrize("kind", [kind for kind in MORE_THAN_LINEAR if "bit" not in kind])
def test_an_adapter_beside_it_is_right(kind):
    model = two_layers(MORE_THAN_LINEAR[kind])
    before = model.odd(X)
    moved(add_lora(model, 3, 6, "odd"))
    assert torch.allclose(model.odd(X), before + 2 * X @ model.odd.lora_A.T @ model.odd.lora_B.T, atol=1e-4)


def test_hooks_are_not_lost_with_their_layer():
    for make, back, words in (
        (lambda model: add_lora(model, 3, 6, "odd"), unload, "taken out"),
        (quantize_linears, dequantize_linears, "turned back"),
    ):
        model = make(two_layers(lambda layer: layer))
        with_hook(model.odd)
        with refused(model, ValueError, f"odd cannot be {words}: it has hooks"):
            back(model)


# --- memory ----------------------------------------------------------------------------------------------------------


def slices(model):
    both = torch.randn(30, 12)
    model.plain.weight, model.odd.weight = nn.Parameter(both[:20]), nn.Parameter(both[10:])


SHARED = {
    "one parameter": lambda model: setattr(model.odd, "weight", model.plain.weight),
    "data": lambda model: setattr(model.odd.weight, "data", model.plain.weight.data),
    "slices that overlap": slices,
    "an embedding": lambda model: setattr(model, "tied", nn.Embedding.from_pretrained(model.odd.weight.data)),
    "a buffer": lambda model: model.register_buffer("kept", model.odd.weight.data),
    "one number for many": lambda model: setattr(model.odd, "weight", nn.Parameter(torch.ones(1, 12).expand(20, 12))),
}


@pytest.mark.parametrize("way", SHARED)
@pytest.mark.parametrize("work", ["merge", "PiSSA"])
def test_a_weight_in_memory_that_another_uses_is_not_written_into(way, work):
    model = two_layers(lambda layer: layer)
    SHARED[way](model)
    if work == "merge":
        moved(add_lora(model, 3, 6, "odd"))
    with refused(model, ValueError, "shares its weight with"):
        merge(model) if work == "merge" else add_variant(model, "PiSSA", 3, 6, "odd")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_sum_that_is_too_large_for_the_weight_s_type_is_not_merged(dtype):
    model = moved(add_lora(two_layers(lambda layer: layer.to(dtype)), 3, 6, "odd"))
    largest = torch.finfo(dtype).max
    model.odd.base.weight.data[0, 0] = 0.9 * largest
    model.odd.lora_A.data[0, 0], model.odd.lora_B.data[0] = 0.3 * largest, 1  # finite itself
    with refused(model, ValueError, f"the update of odd gives weights of {dtype} that are not finite"):
        merge(model)


# --- merged and changed ----------------------------------------------------------------------------------------------


def test_a_dial_that_is_not_heard_says_so():
    model = merge(add_lora(two_layers(lambda layer: layer), 3, 6, "odd"))
    model.odd.scaling = 1.0
    with pytest.raises(RuntimeError, match="scaling of a merged adapter was changed, and is not heard"):
        model.odd(X)


def test_a_row_that_dora_has_made_zero_does_not_come_back_and_no_other_layer_changes():
    model = moved(add_lora(two_layers(lambda layer: layer), 3, 6, "plain"))
    model.odd = DoRALinear(model.odd, 3, 6).eval()
    model.odd.magnitude.data[0] = 0
    with refused(merge(model), ValueError, "odd cannot be unmerged: .*Load the base again"):
        unmerge(model)


# --- one layer -------------------------------------------------------------------------------------------------------


def test_a_model_that_is_one_layer():
    base = nn.Linear(12, 20)
    assert unload(LoRALinear(base, 3, 6)) is base
    layer = NF4Linear.from_linear(base)
    linear = dequantize_linears(layer)
    assert type(linear) is nn.Linear and torch.equal(linear(X), layer(X))
    assert unload(LoRALinear(layer, 3, 6)) is layer and not list(layer.named_children())[1:]


# --- counting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["Linear4bit", "Linear8bitLt"])
def test_numbers_are_counted_in_packed_layers_of_another_library(kind):
    assert trainable_summary(nn.Sequential(MORE_THAN_LINEAR[kind](nn.Linear(12, 20)))).total == 12 * 20 + 20
    assert str(trainable_summary(nn.ReLU())) == "0 of 0 parameters are trained (0.00%)"
