"""The variants of LoRA: equal to the base at the start, equal to their merged weight, equal to PEFT."""

import copy
import json

import pytest
import torch
from torch import nn

from lora_edu.experiments import nb11_peft
from lora_edu.lora import LoRALinear, adapter_state, add_lora, load_adapter_state, lora_layers, merge, unmerge
from lora_edu.measures import output_error, relative_error
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS, load_adapter, save_adapter
from lora_edu.qlora import NF4Linear
from lora_edu.variants import (
    VARIANTS,
    add_variant,
    as_plain_lora,
    full_weight,
    largest_directions,
    loftq_start,
    lora_plus_groups,
    qera_start,
    qpissa_start,
    round_weight,
    square_roots,
)

TOKENS = torch.randint(0, 256, (2, 20), generator=torch.Generator().manual_seed(2))
RANK, ALPHA = 4, 6  # s = 1.5, and 3 for rsLoRA


@pytest.fixture
def base(tiny_gpt):
    for module in tiny_gpt.modules():
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.normal_(module.bias, std=0.5)  # a fresh one is 0, which hides a bias that is scaled
            module.weight.data *= 10  # a fresh one is tiny, which hides a weight that is left out
    return tiny_gpt


def moved(model):
    """Give all that is trained other values, as training does."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)
    return model


def logits(model):
    with torch.no_grad():
        out = model(TOKENS)
    return out[0] if isinstance(out, tuple) else out


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_starts_as_the_base(base, variant):
    before = logits(base)
    after = logits(add_variant(base, variant, RANK, ALPHA))
    if variant == "PiSSA":  # W is taken apart and put together
        assert torch.allclose(after, before, atol=1e-5)
    else:
        assert torch.equal(after, before)


@pytest.mark.parametrize("variant", VARIANTS)
def test_merged_it_computes_the_same(base, variant):
    model = moved(add_variant(base, variant, RANK, ALPHA))
    before = logits(model)
    weights = [layer.base.weight.clone() for layer in lora_layers(model).values()]
    assert torch.allclose(logits(merge(model)), before, atol=2e-5)
    if variant == "DoRA":
        with pytest.raises(RuntimeError, match="load the base again"):
            unmerge(model)
        return
    unmerge(model)
    for layer, weight in zip(lora_layers(model).values(), weights, strict=True):
        assert torch.allclose(layer.base.weight, weight, atol=1e-6)
    assert torch.allclose(logits(model), before, atol=2e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_is_trained_gets_a_gradient(base, variant):
    model = moved(add_variant(base, variant, RANK, ALPHA))
    model(TOKENS, TOKENS)[1].backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None and parameter.grad.any()) == parameter.requires_grad, name


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


@pytest.mark.parametrize("variant", ["rsLoRA", "DoRA", "LoRA"])
def test_it_sits_on_a_4_bit_base(variant):
    linear = nn.Linear(64, 32)
    layer = VARIANTS[variant](NF4Linear.from_linear(linear), RANK, ALPHA)
    x = torch.randn(3, 64)
    assert torch.equal(layer(x), layer.base(x))
    assert torch.equal(full_weight(layer.base), layer.base.dequantize())


# --- PEFT ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def equal():
    return nb11_peft.compare()


@pytest.mark.parametrize("variant", nb11_peft.OPTIONS)
def test_equal_to_peft(equal, variant):
    asked = {what for name, what in equal if name == variant}
    assert asked == {"outputs at the start", "outputs", "merged weights", "saved file"}
    assert all(equal[variant, what] for what in asked)


@pytest.mark.parametrize("spoil", ["scaling", "magnitude", "base"])
def test_the_comparison_with_peft_can_fail(spoil, monkeypatch):
    """With another s, with lengths that are not handed over, with a start that is not taken out of W."""
    variant = {"scaling": "rsLoRA", "magnitude": "DoRA", "base": "PiSSA"}[spoil]
    monkeypatch.setattr(nb11_peft, "OPTIONS", {variant: nb11_peft.OPTIONS[variant]})
    if spoil == "scaling":
        monkeypatch.setattr(nb11_peft, "add_variant", lambda model, _, *sizes: add_lora(model, *sizes))
    else:
        make = nb11_peft.add_variant

        def spoiled(model, *arguments):
            originals = [p.detach().clone() for p in model.parameters()]
            made = make(model, *arguments)
            for layer in lora_layers(made).values():
                if spoil == "magnitude":
                    layer.magnitude.data *= 1.1
                    layer.forward = layer.base.forward
                else:
                    layer.base.weight.data = next(w for w in originals if w.shape == layer.base.weight.shape)
            return made

        monkeypatch.setattr(nb11_peft, "add_variant", spoiled)
    assert not all(nb11_peft.compare().values())


@pytest.mark.parametrize("variant", ["rsLoRA", "DoRA"])
def test_peft_loads_what_we_save(base, variant, tmp_path):
    import peft
    from safetensors.torch import load_file, save_file

    untouched = copy.deepcopy(base)
    ours = moved(add_variant(base, variant, RANK, ALPHA, ("q_proj", "up_proj")))
    save_adapter(ours, tmp_path)
    assert nb11_peft.OPTIONS[variant].items() <= json.loads((tmp_path / CONFIG).read_text()).items()
    wrapped = {n.replace(PREFIX, f"{PREFIX}gpt."): t for n, t in load_file(tmp_path / WEIGHTS).items()}
    save_file(wrapped, tmp_path / WEIGHTS, metadata={"format": "pt"})
    theirs = peft.PeftModel.from_pretrained(nb11_peft.LogitsOnly(untouched), tmp_path)
    assert torch.allclose(theirs(TOKENS), logits(ours), atol=2e-5)


def test_rslora_comes_back_from_its_file(base, tmp_path):
    fresh = copy.deepcopy(base)
    ours = moved(add_variant(base, "rsLoRA", RANK, ALPHA))
    assert torch.allclose(logits(load_adapter(fresh, save_adapter(ours, tmp_path))), logits(ours), atol=1e-5)


def test_dora_s_lengths_are_saved_and_loaded(base):
    ours = moved(add_variant(base, "DoRA", RANK, ALPHA))
    state, before = adapter_state(ours), logits(ours)
    assert sum(name.endswith(".magnitude") for name in state) == len(lora_layers(ours))
    moved(ours)
    assert not torch.allclose(logits(ours), before, atol=1e-2)
    assert torch.equal(logits(load_adapter_state(ours, state)), before)


@pytest.mark.parametrize(("variant", "why"), [("PiSSA", "as_plain_lora"), ("VeRA", "no such vectors")])
def test_what_is_no_lora_beside_the_base_is_not_saved_as_one(base, variant, why, tmp_path):
    with pytest.raises(ValueError, match=why):
        save_adapter(add_variant(base, variant, RANK, ALPHA), tmp_path)
    assert not list(tmp_path.iterdir())


def test_what_pissa_learned_is_a_lora_of_twice_the_rank(base):
    untouched = copy.deepcopy(base)
    ours = add_variant(base, "PiSSA", RANK, ALPHA)
    start = adapter_state(ours)
    state = as_plain_lora(adapter_state(moved(ours)), start)
    plain = load_adapter_state(add_lora(copy.deepcopy(untouched), 2 * RANK, 2 * ALPHA, "all-linear"), state)
    assert torch.allclose(logits(plain), logits(ours), atol=5e-5)
    alone = load_adapter_state(add_lora(untouched, RANK, ALPHA, "all-linear"), adapter_state(ours))
    assert not torch.allclose(logits(alone), logits(ours), atol=1e-1)  # its A and B belong to the changed base


def test_vera_is_peft_s(base):
    import peft

    config = peft.VeraConfig(r=RANK, target_modules=["up_proj"], d_initial=0.1)
    theirs = peft.get_peft_model(nb11_peft.LogitsOnly(copy.deepcopy(base)), config)
    ours = moved(add_variant(base, "VeRA", RANK, ALPHA, "up_proj"))
    modules = nb11_peft.inner(theirs)
    with torch.no_grad():
        for path, layer in lora_layers(ours).items():
            layer.lora_A.copy_(theirs.base_model.vera_A["default"])
            layer.lora_B.copy_(theirs.base_model.vera_B["default"])
            modules[path].vera_lambda_d["default"].copy_(layer.vera_d)
            modules[path].vera_lambda_b["default"].copy_(layer.vera_b)
    assert torch.allclose(theirs.eval()(TOKENS), logits(ours), atol=1e-5)
    merge(ours), theirs.merge_adapter()
    for path, layer in lora_layers(ours).items():
        assert torch.allclose(modules[path].base_layer.weight, layer.base.weight, atol=1e-6)


# --- arguments, groups -----------------------------------------------------------------------------------------------


def test_bad_arguments_change_nothing(base):
    before = {name: tensor.clone() for name, tensor in base.state_dict().items()}
    for arguments, why in (
        (("DORA", 4, 6), "unknown variant 'DORA'"),
        (("DoRA", 400, 6), "rank must be between 1 and 16"),
        (("PiSSA", 4, 6, "nowhere"), "no linear layer is named nowhere"),
    ):
        with pytest.raises(ValueError, match=why):
            add_variant(base, *arguments)
    assert all(torch.equal(base.state_dict()[name], was) for name, was in before.items())
    add_variant(base, "PiSSA", 4, 6)
    with pytest.raises(ValueError, match="has adapters already"):
        add_variant(base, "PiSSA", 4, 6)


def test_pissa_takes_what_it_can_change():
    with pytest.raises(ValueError, match="4 bits"):
        VARIANTS["PiSSA"](NF4Linear.from_linear(nn.Linear(64, 32)), RANK, ALPHA)


def test_the_groups_of_lora_plus(base):
    model = add_lora(base, RANK, ALPHA)
    slow, fast = lora_plus_groups(model, 0.1, ratio=8)
    assert (slow["lr"], fast["lr"]) == (0.1, 0.8)
    assert {p.shape[0] for p in slow["params"]} == {RANK} and {p.shape[1] for p in fast["params"]} == {RANK}
    assert len(slow["params"]) == len(fast["params"]) == len(lora_layers(model))


def test_every_variant_is_a_lora_layer():
    assert all(issubclass(kind, LoRALinear) for kind in VARIANTS.values())


# --- starts on a rounded base ----------------------------------------------------------------------------------------


@pytest.fixture
def weight():
    """A weight whose singular values decay, and inputs that live mostly in a few directions."""
    generator = torch.Generator().manual_seed(0)
    decay = torch.diag(0.9 ** torch.arange(64.0))
    W = torch.randn(48, 64, generator=generator) @ decay + 0.05 * torch.randn(48, 64, generator=generator)
    inputs = torch.randn(500, 64, generator=generator) @ torch.diag(torch.linspace(3, 0.05, 64))
    return W, inputs


def repaired(start):
    Q, B, A = start
    return Q + B @ A


def test_repairs_do_what_they_promise(weight):
    W, x = weight
    for codebook in ("nf4", "nf2"):
        none = round_weight(W, codebook)
        svd, loftq = (repaired(loftq_start(W, 4, codebook, rounds)) for rounds in (1, 5))
        qera, qpissa = repaired(qera_start(W, 4, codebook, x)), repaired(qpissa_start(W, 4, codebook))
        assert relative_error(W, svd) < relative_error(W, none)
        assert output_error(W, qera, x) < min(output_error(W, other, x) for other in (none, svd))
        assert relative_error(W, qera) > relative_error(W, svd)  # the SVD is best for the weights
        assert relative_error(W, qpissa) < relative_error(W, none)
        assert torch.linalg.matrix_rank(svd - none) == torch.linalg.matrix_rank(qera - none) == 4
        assert codebook == "nf2" or relative_error(W, loftq) < relative_error(W, svd)


def test_qera_with_inputs_that_prefer_nothing_is_the_svd(weight):
    W, _ = weight
    x = 8 * torch.eye(64)
    assert torch.allclose(repaired(qera_start(W, 4, "nf4", x)), repaired(loftq_start(W, 4, "nf4", 1)), atol=1e-5)


def test_square_roots():
    x = torch.randn(300, 20)
    R = x.T @ x / len(x)
    root, inverse = square_roots(R)
    assert torch.allclose(root @ root, R, atol=1e-5) and torch.allclose(root @ inverse, torch.eye(20), atol=1e-4)
    unused = torch.diag(torch.tensor([1.0, 2.0, 0.0]))  # a direction that no input has
    assert all(part.isfinite().all() for part in square_roots(unused))


def test_the_largest_directions_are_the_nearest_matrix_of_the_rank(weight):
    W, _ = weight
    B, A = largest_directions(W, 5)
    values = torch.linalg.svdvals(W)
    assert torch.allclose((W - B @ A).norm(), values[5:].norm(), rtol=1e-4)
