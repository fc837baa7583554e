"""The variants of LoRA: equal to the base at the start, equal to their merged weight, equal to PEFT."""

import copy
from functools import partial

import peft
import pytest
import torch
from torch import nn

from lora_edu import GPT, NF4Linear, trainable_summary
from lora_edu.lora import adapter_state, add_lora, combine, load_adapter_state, lora_layers, merge, unmerge
from lora_edu.peft_io import save_adapter
from lora_edu.variants import VARIANTS, add_variant, full_weight, largest_directions, lora_plus_groups
from tests.conftest import TINY

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))
RANK, ALPHA, TARGETS = 4, 6, ("q_proj", "up_proj", "down_proj")  # s = 1.5, and 3 for rsLoRA; of three shapes


@pytest.fixture
def base():
    """A GPT whose weights and biases are large enough that leaving one out shows."""
    model = GPT(TINY).eval()
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.5)
            module.weight.data *= 10
    return model


def moved(model):
    """All that is trained gets other values, as training gives them."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return model


def logits(model):
    with torch.no_grad():
        return model(TOKENS)[0]


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_starts_as_the_base_and_what_is_trained_gets_a_gradient(base, variant):
    before = logits(base)
    model = add_variant(base, variant, RANK, ALPHA)
    exact = {"rtol": 0, "atol": 1e-5 if variant == "PiSSA" else 0}  # W is taken apart and put together
    torch.testing.assert_close(logits(model), before, **exact)
    moved(model)(TOKENS, TOKENS)[1].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any()) == parameter.requires_grad, name


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_it_computes_the_same(base, variant):
    model = moved(add_variant(base, variant, RANK, ALPHA))
    before = logits(model)
    weights = [layer.base.weight.clone() for layer in lora_layers(model).values()]
    assert torch.allclose(logits(merge(model)), before, atol=2e-5)
    unmerge(model)
    for layer, weight in zip(lora_layers(model).values(), weights, strict=True):
        assert torch.allclose(layer.base.weight, weight, atol=1e-6)
    assert torch.allclose(logits(model), before, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_hears_the_dial(base, variant):
    """Of notebook 00: halved, s halves the update, in what is computed, read and merged."""
    layer = moved(VARIANTS[variant](nn.Linear(12, 8), 2, 6))
    x, W = torch.randn(5, 12), full_weight(layer.base).clone()
    whole = layer.weight - W
    layer.scaling /= 2
    changed = layer.weight.detach()
    if not hasattr(layer, "row_scale"):
        assert torch.allclose(changed - W, whole / 2, atol=1e-6) and whole.abs().max() > 0.1
    y = nn.functional.linear(x, changed, layer.bias)
    assert torch.allclose(layer(x), y, atol=1e-5)
    assert torch.allclose(merge(layer).eval()(x), y, atol=1e-5)
    assert torch.allclose(unmerge(layer).base.weight, W, atol=1e-6)


def test_the_norm_of_dora_gets_no_gradient():
    """Section 4.3 of the paper; with it, the gradient would have no part along W + s B A."""
    layer = VARIANTS["DoRA"](nn.Linear(8, 6, bias=False), 2, 4)
    nn.init.normal_(layer.lora_B)
    x = torch.randn(5, 8)
    layer(x).sum().backward()
    W = layer.base.weight + layer.scaling * layer.lora_B @ layer.lora_A
    by_hand = layer.scaling * (layer.row_scale()[:, None] * x.sum(0)) @ layer.lora_A.T
    assert torch.allclose(layer.lora_B.grad, by_hand, atol=1e-5)
    W.retain_grad()
    (x @ (layer.magnitude / W.norm(dim=1))[:, None].mul(W).T).sum().backward()
    assert (W.grad * W).sum(1).abs().max() < 1e-4 < (by_hand @ layer.lora_B.T).abs().max()


def test_gains_are_dora_whose_lengths_are_those_of_the_moving_rows():
    """As many numbers; and with m = g |W + s B A| both are one weight."""
    dora, gains = (VARIANTS[kind](nn.Linear(8, 6), 2, 4) for kind in ("DoRA", "gains"))
    gains.base = dora.base
    moved(gains)
    dora.lora_A.data, dora.lora_B.data = gains.lora_A.data, gains.lora_B.data
    V = full_weight(dora.base) + dora.scaling * dora.lora_B @ dora.lora_A
    dora.magnitude.data = gains.gain.data * V.detach().norm(dim=1)
    assert torch.allclose(dora.delta_weight(), gains.delta_weight(), atol=1e-5)
    assert sum(p.numel() for p in dora.parameters()) == sum(p.numel() for p in gains.parameters())


@pytest.mark.parametrize("variant", VARIANTS)
def test_on_a_16_bit_base_what_is_trained_is_in_float32(variant):
    linear = nn.Linear(24, 16).bfloat16()
    x, W = torch.randn(3, 24).bfloat16(), linear.weight.float()
    layer = VARIANTS[variant](linear, RANK, ALPHA)
    assert {p.dtype for p in layer.parameters() if p.requires_grad} == {torch.float32}
    moved(layer)
    y = layer(x)
    y.sum().backward()
    assert y.dtype == layer.base.weight.dtype == torch.bfloat16
    changed = full_weight(layer.base) + layer.delta_weight()
    assert not torch.allclose(changed, W, atol=0.05)
    by_hand = x.float() @ changed.T + linear.bias.float()
    assert torch.allclose(y.float(), by_hand, atol=0.02 * by_hand.abs().max().item())


@pytest.mark.parametrize("variant", ["rsLoRA", "DoRA", "gains", "LoRA", "VeRA"])
def test_it_sits_on_a_4_bit_base(variant):
    linear = nn.Linear(64, 32)
    layer = VARIANTS[variant](NF4Linear.from_linear(linear), RANK, ALPHA)
    x = torch.randn(3, 64)
    assert torch.equal(layer(x), layer.base(x))
    assert torch.equal(full_weight(layer.base), layer.base.dequantize())


# --- PEFT ------------------------------------------------------------------------------------------------------------


IN_PEFT = {
    "rsLoRA": {"use_rslora": True},
    "DoRA": {"use_dora": True},
    "PiSSA": {"init_lora_weights": "pissa"},
    "VeRA": {"save_projection": False},  # the pair is drawn from the seed, and not in the file
}
close = partial(torch.testing.assert_close, rtol=1e-5, atol=2e-5)


def in_peft(base, variant):
    kind = peft.VeraConfig if variant == "VeRA" else partial(peft.LoraConfig, lora_alpha=ALPHA)
    return peft.get_peft_model(copy.deepcopy(base), kind(r=RANK, target_modules=list(TARGETS), **IN_PEFT[variant]))


def pairs(ours, theirs):
    """Our layers, each with PEFT's."""
    return [(layer, theirs.base_model.model.get_submodule(path)) for path, layer in lora_layers(ours).items()]


def hand_over(ours, theirs):
    """Gives PEFT's model what ours trains; what is not trained, as VeRA's random pair, each makes by itself."""
    for layer, other in pairs(ours, theirs):
        if hasattr(layer, "vera_d"):
            other.vera_lambda_d["default"].data.copy_(layer.vera_d)
            other.vera_lambda_b["default"].data.copy_(layer.vera_b)
            continue
        other.lora_A["default"].weight.data.copy_(layer.lora_A)
        other.lora_B["default"].weight.data.copy_(layer.lora_B)
        if hasattr(layer, "magnitude"):
            other.lora_magnitude_vector["default"].weight.data.copy_(layer.magnitude)


@torch.no_grad()
@pytest.mark.parametrize("variant", IN_PEFT)
def test_equal_to_peft(base, variant):
    """Outputs and merged weights. What PiSSA has learned is LoRA of twice the rank on the unchanged base."""
    ours, theirs = add_variant(copy.deepcopy(base), variant, RANK, ALPHA, TARGETS), in_peft(base, variant)
    close(theirs(TOKENS)[0], ours(TOKENS)[0])
    hand_over(ours, theirs)
    start = adapter_state(ours)
    hand_over(moved(ours), theirs)
    close(theirs.eval()(TOKENS)[0], ours(TOKENS)[0])
    theirs.merge_adapter()
    for layer, other in pairs(merge(copy.deepcopy(ours)), theirs):
        close(other.base_layer.weight, layer.base.weight)
    if variant == "PiSSA":
        plain = add_lora(base, 2 * RANK, 2 * ALPHA, TARGETS)
        close(load_adapter_state(plain, combine([adapter_state(ours), start], [1, -1]))(TOKENS)[0], ours(TOKENS)[0])


def test_the_weights_of_dora_are_those_of_peft_to_the_bit_merged_and_on_the_way_back(base):
    theirs, ours = in_peft(base, "DoRA"), moved(add_variant(base, "DoRA", RANK, ALPHA, TARGETS))
    hand_over(ours, theirs)
    for one, other in ((merge, theirs.merge_adapter), (unmerge, theirs.unmerge_adapter)):
        one(ours), other()
        assert all(torch.equal(mine.base.weight, their.base_layer.weight) for mine, their in pairs(ours, theirs))


NO_LORA = {"PiSSA": "Save combine", "VeRA": "no such vectors", "gains": "no gains"}


@pytest.mark.parametrize(("variant", "why"), NO_LORA.items())
def test_what_is_no_lora_beside_the_base_is_not_saved_as_one(base, variant, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        save_adapter(add_variant(base, variant, RANK, ALPHA), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "PiSSA"])
def test_all_that_is_trained_is_saved_and_loaded(base, variant):
    """Of VeRA two vectors a layer: the seed draws the pair again, once for all layers."""
    fresh = copy.deepcopy(base)
    ours = moved(add_variant(base, variant, RANK, ALPHA, TARGETS))
    state = adapter_state(ours)
    assert sum(tensor.numel() for tensor in state.values()) == trainable_summary(ours).trainable
    again = load_adapter_state(add_variant(fresh, variant, RANK, ALPHA, TARGETS), state)
    assert torch.equal(logits(again), logits(ours))
    pieces = {layer.lora_A.untyped_storage().data_ptr() for layer in lora_layers(ours).values()}
    assert len(pieces) == (1 if variant == "VeRA" else len(lora_layers(ours)))


@pytest.mark.parametrize("variant", ["LoRA", "VeRA"])
def test_a_merged_adapter_is_not_trained(base, variant):
    model = merge(add_variant(base, variant, RANK, ALPHA)).train()
    with pytest.raises(RuntimeError, match="a merged adapter cannot be trained"):
        model(TOKENS, TOKENS)


# --- arguments, groups -----------------------------------------------------------------------------------------------


def test_the_groups_of_lora_plus(base):
    model = add_lora(base, RANK, ALPHA)
    slow, fast = lora_plus_groups(model, 0.1, ratio=8)
    assert (slow["lr"], fast["lr"]) == (0.1, 0.8)
    assert {p.shape[0] for p in slow["params"]} == {RANK} and {p.shape[1] for p in fast["params"]} == {RANK}
    assert len(slow["params"]) == len(fast["params"]) == len(lora_layers(model))


def test_the_largest_directions_are_the_nearest_matrix_of_the_rank():
    W = torch.randn(48, 64)
    B, A = largest_directions(W, 5)
    assert torch.allclose((W - B @ A).norm(), torch.linalg.svdvals(W)[5:].norm(), rtol=1e-4)
