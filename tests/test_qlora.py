import copy
import gc
import math
import weakref

import pytest
import torch
import torch.nn.functional as F
from conftest import moved
from torch import nn

from lora_edu.layers import trainable_summary
from lora_edu.lora import LoRALinear, add_lora, lora_layers, merge, unmerge
from lora_edu.qlora import NF4Linear, dequantize_linears, merge_into_nf4, quantize_linears
from lora_edu.quantization import DoubleQuant, quantize, unpack


def kept_bytes(function, *inputs):
    """The bytes of the distinct tensors that autograd keeps for the backward pass of function(*inputs)."""
    kept = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        output = function(*inputs)
    return sum(kept.values()), output


def test_output_and_gradient_are_those_of_the_dequantized_layer():
    layer = NF4Linear.from_linear(nn.Linear(48, 20))
    x = torch.randn(7, 48, requires_grad=True)
    grad_y = torch.randn(7, 20)
    expected = F.linear(x, layer.dequantize(), layer.bias)
    (expected_grad,) = torch.autograd.grad(expected, x, grad_y)
    y = layer(x)
    (grad,) = torch.autograd.grad(y, x, grad_y)
    assert torch.equal(y, expected) or torch.allclose(y, expected, atol=1e-6)
    assert torch.allclose(grad, expected_grad, atol=1e-6)


def test_gradient_check_in_float64():
    layer = NF4Linear.from_linear(nn.Linear(6, 5).double())
    assert torch.autograd.gradcheck(layer, torch.randn(3, 6, dtype=torch.float64, requires_grad=True))


@pytest.mark.parametrize("shape", [(48,), (7, 48), (2, 3, 48)])
def test_a_trainable_bias_gets_its_gradient(shape):
    layer = NF4Linear.from_linear(nn.Linear(48, 20))
    layer.bias.requires_grad_(True)
    for x in (torch.randn(shape), torch.randn(shape, requires_grad=True)):
        grad_y = torch.randn(*shape[:-1], 20)
        (expected,) = torch.autograd.grad(F.linear(x, layer.dequantize(), layer.bias), layer.bias, grad_y)
        (grad,) = torch.autograd.grad(layer(x), layer.bias, grad_y)
        assert torch.allclose(grad, expected, atol=1e-6) and grad.abs().max() > 0.1


def test_a_trainable_bias_under_autocast():
    layer = NF4Linear.from_linear(nn.Linear(48, 20))
    layer.bias.requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.ones(4, 48)).sum().backward()
    assert layer.bias.grad.dtype == torch.float32 and layer.bias.grad.tolist() == [4.0] * 20


def test_backward_keeps_no_full_weight():
    linear = nn.Linear(256, 512, bias=False)
    layer = NF4Linear.from_linear(linear)
    x = torch.randn(4, 256, requires_grad=True)
    ours, _ = kept_bytes(layer, x)
    naive, _ = kept_bytes(lambda x: F.linear(x, quantize(linear.weight).dequantize()), x)
    assert naive >= 4 * 256 * 512  # four bytes a weight
    assert ours <= 4 * x.numel()  # at most the input itself


def test_the_full_weight_is_gone(tiny_gpt):
    weights = [weakref.ref(layer.weight) for path, layer in tiny_gpt.named_modules()
               if isinstance(layer, nn.Linear) and path != "lm_head"]  # fmt: skip
    quantize_linears(tiny_gpt)
    gc.collect()
    assert len(weights) == 12 and all(weight() is None for weight in weights)


def test_only_block_linears_are_quantized(tiny_gpt):
    untouched = {name: p.clone() for name, p in tiny_gpt.named_parameters() if "_proj.weight" not in name}
    quantize_linears(tiny_gpt)
    kinds = {path: type(module) for path, module in tiny_gpt.named_modules() if path.endswith("_proj")}
    assert len(kinds) == 12 and set(kinds.values()) == {NF4Linear} and type(tiny_gpt.lm_head) is nn.Linear
    left = dict(tiny_gpt.named_parameters())
    assert left.keys() == untouched.keys() and all(torch.equal(left[name], p) for name, p in untouched.items())
    assert not any(p.requires_grad for p in left.values())


def test_qlora_equals_lora_on_the_dequantized_weight(tiny_gpt):
    """The composition: the same adapters on NF4Linear and on an nn.Linear with the rounded weight."""
    moved(add_lora(quantize_linears(tiny_gpt), rank=2, alpha=8, targets="all-linear"), 0.1)
    tokens = torch.randint(0, 256, (2, 20))
    tiny_gpt(tokens, tokens)[1].backward()
    logits, grads = tiny_gpt(tokens)[0], [p.grad.clone() for p in tiny_gpt.parameters() if p.requires_grad]
    tiny_gpt.zero_grad()
    dequantize_linears(tiny_gpt)
    assert all(
        isinstance(layer, LoRALinear) and type(layer.base) is nn.Linear for layer in lora_layers(tiny_gpt).values()
    )
    tiny_gpt(tokens, tokens)[1].backward()
    assert torch.allclose(tiny_gpt(tokens)[0], logits, atol=1e-6)
    for grad, p in zip(grads, (p for p in tiny_gpt.parameters() if p.requires_grad), strict=True):
        assert torch.allclose(grad, p.grad, rtol=1e-4, atol=1e-7)


def test_merging_into_four_bits_is_refused_with_the_reason(tiny_gpt):
    add_lora(quantize_linears(tiny_gpt), rank=2, alpha=8)
    with pytest.raises(ValueError, match=r"keeps its weight in 4 bits.*Call dequantize_linears\(model\) first"):
        merge(tiny_gpt)
    unmerge(merge(dequantize_linears(tiny_gpt)))


def test_under_autocast_the_product_is_in_bfloat16():
    layer = NF4Linear.from_linear(nn.Linear(64, 32))
    x = torch.randn(4, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    assert x.grad.dtype == torch.float32
    expected = F.linear(x.bfloat16(), layer.dequantize().bfloat16(), layer.bias.bfloat16())
    assert torch.equal(y, expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):  # backward inside autocast works too
        layer(x).float().sum().backward()


def test_compute_dtype():
    layer = NF4Linear.from_linear(nn.Linear(64, 32), compute_dtype=torch.bfloat16)
    x = torch.randn(4, 64)
    y = F.linear(x.bfloat16(), layer.dequantize().bfloat16(), layer.bias.bfloat16())
    assert layer(x).dtype == torch.float32 and torch.equal(layer(x), y.float())


@pytest.mark.parametrize("double_quant", [True, False])
def test_casting_the_model_keeps_the_constants_exact(double_quant):
    layer = NF4Linear.from_linear(nn.Linear(64, 40), double_quant=double_quant)
    before = layer.dequantize()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.dequantize(), before) and layer.bias.dtype == torch.bfloat16


@pytest.mark.parametrize("double_quant", [True, False])
def test_state_dict_round_trip(double_quant):
    layers = [NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant) for _ in range(2)]
    state = layers[0].state_dict()
    constants = {"absmax", "absmax_absmax", "absmax_offset"} if double_quant else {"absmax"}
    assert state.keys() == {"codes", "bias"} | constants
    layers[1].load_state_dict(state)
    assert torch.equal(layers[0].dequantize(), layers[1].dequantize())
    model = nn.Sequential(nn.ReLU(), NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant))
    model.load_state_dict({f"1.{name}": tensor for name, tensor in state.items()}, assign=True)
    assert torch.equal(model[1].dequantize(), layers[0].dequantize()) and model.state_dict().keys() == {
        f"1.{name}" for name in state
    }


def test_a_state_of_another_kind_is_refused():
    double, single = (NF4Linear.from_linear(nn.Linear(50, 33), double_quant=how) for how in (True, False))
    for one, two in [(double, single), (single, double)]:
        with pytest.raises(ValueError, match="absmax"):
            one.load_state_dict(two.state_dict())


@pytest.mark.parametrize("double_quant", [True, False])
def test_an_empty_layer_filled_from_a_file(double_quant):
    """As large models are loaded: built on the meta device, emptied onto the real one, filled."""
    layer = NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant)
    there = [
        copy.deepcopy(layer).to("meta"),
        NF4Linear.from_linear(nn.Linear(50, 33, device="meta"), double_quant=double_quant),
        copy.deepcopy(layer),
    ]
    x = torch.randn(3, 50, requires_grad=True)
    for empty in there:
        empty.to_empty(device="cpu")
        empty.load_state_dict(layer.state_dict())
        assert torch.equal(empty.dequantize(), layer.dequantize())
        (grad,), (expected,) = (torch.autograd.grad(side(x).sum(), x) for side in (empty, layer))
        assert torch.equal(empty(x), layer(x)) and torch.equal(grad, expected)


def test_a_model_on_the_meta_device():
    with torch.device("meta"):
        model = quantize_linears(nn.Sequential(nn.Linear(64, 32), nn.Linear(32, 8)))
    assert all(tensor.is_meta for tensor in model.state_dict().values())


def test_a_copy_shares_nothing_but_is_equal():
    layer = NF4Linear.from_linear(nn.Linear(50, 33))
    twin = copy.deepcopy(layer)
    before = layer.dequantize()
    twin.quantized.codes.zero_()
    assert torch.equal(layer.dequantize(), before) and not torch.equal(twin.dequantize(), before)


def test_ragged_layers():
    linear = nn.Linear(33, 21)
    layer = NF4Linear.from_linear(linear)
    assert torch.equal(layer.dequantize(), quantize(linear.weight, double_quant=True).dequantize())
    assert layer.state_dict()["absmax"].numel() == math.ceil(33 * 21 / 64)


def test_conv1d_is_turned_to_out_in():
    from transformers.pytorch_utils import Conv1D

    conv = Conv1D(20, 12)
    layer = NF4Linear.from_linear(conv)
    assert (layer.in_features, layer.out_features) == (12, 20)
    assert torch.equal(layer.dequantize(), quantize(conv.weight.T, double_quant=True).dequantize())


def test_trainable_summary_counts_weights_not_bytes(tiny_gpt):
    total = trainable_summary(tiny_gpt).total
    assert trainable_summary(quantize_linears(tiny_gpt)) == (0, total)


def test_equals_bitsandbytes_linear4bit():
    bitsandbytes = pytest.importorskip("bitsandbytes")
    linear = nn.Linear(128, 64)
    theirs = bitsandbytes.nn.Linear4bit(
        128, 64, compute_dtype=torch.float32, quant_type="nf4", compress_statistics=False
    )
    theirs.load_state_dict(linear.state_dict())
    theirs = theirs.to("cpu")
    theirs.support_avx512bf16_for_cpu = False  # else one forward in eval mode repacks its weight in place
    ours = NF4Linear.from_linear(linear, double_quant=False)
    grads = []
    x = torch.randn(5, 128)
    for layer in (ours, theirs):
        x_i = x.clone().requires_grad_(True)
        y = layer(x_i)
        y.square().sum().backward()
        grads.append((y.detach(), x_i.grad))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-5)
    assert torch.allclose(grads[0][1], grads[1][1], rtol=1e-4, atol=1e-4)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_quantize_comes_first(tiny_gpt):
    with pytest.raises(ValueError, match=r"call quantize_linears\(model\) first, then add_lora"):
        quantize_linears(add_lora(tiny_gpt, rank=2, alpha=8))


def test_nothing_left_to_quantize(tiny_gpt):
    with pytest.raises(ValueError, match="no layer is left to choose"):
        quantize_linears(quantize_linears(tiny_gpt))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_layer_with_nan_is_named_and_the_model_stays_as_it_was(tiny_gpt, value):
    tiny_gpt.blocks[1].mlp.down_proj.weight.data[3, 2] = value  # the last one
    before = dict(tiny_gpt.named_modules())
    message = rf"blocks.1.mlp.down_proj cannot be quantized: the tensor has the value {value} at index \(3, 2\)"
    with pytest.raises(ValueError, match=message):
        quantize_linears(tiny_gpt)
    assert dict(tiny_gpt.named_modules()) == before and all(p.requires_grad for p in tiny_gpt.parameters())


def test_a_weight_that_is_too_large_for_float32_is_refused_before_anything_is_changed():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).double()
    model[1].weight.data[2, 1] = 1e300
    with pytest.raises(ValueError, match=r"^1 cannot be quantized: the tensor has the value 1e\+300 at index \(2, 1\)"):
        quantize_linears(model)
    assert type(model[0]) is nn.Linear


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"double_quant": DoubleQuant("nf9")}, ValueError, "unknown codebook 'nf9'"),
        ({"double_quant": DoubleQuant(block_size=0)}, ValueError, "block_size must be"),
    ],
)
def test_bad_settings_leave_the_model_as_it_was(tiny_gpt, how, error, message):
    before = dict(tiny_gpt.named_modules())
    with pytest.raises(error, match=message):
        quantize_linears(tiny_gpt, **how)
    assert dict(tiny_gpt.named_modules()) == before


def test_a_name_to_skip_is_one_name_not_its_letters(tiny_gpt):
    quantize_linears(tiny_gpt, skip="lm_head")
    assert type(tiny_gpt.lm_head) is nn.Linear
    add_lora(tiny_gpt, rank=2, alpha=4, targets="all-linear", skip="lm_head")
    assert type(tiny_gpt.lm_head) is nn.Linear and type(tiny_gpt.blocks[0].mlp.up_proj) is LoRALinear


# --- states of something else ----------------------------------------------------------------------------------------

OTHERS = {
    "exchanged sides": dict(linear=nn.Linear(33, 50, bias=False)),
    "another shape of this size": dict(linear=nn.Linear(25, 66, bias=False)),
    "another block size with as many blocks": dict(block_size=1650),
    "int4": dict(codebook="int4"),
    "fp4": dict(codebook="fp4-bnb"),
    "another second level": dict(double_quant=DoubleQuant(code="int8")),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_a_state_that_means_other_numbers_is_refused(kind):
    how = {"block_size": 1700 if "block" in kind else 64, "double_quant": True, "codebook": "nf4"}

    def layer(linear, codebook, block_size, double_quant):
        return NF4Linear(quantize(linear.weight, codebook, block_size, double_quant), None)

    here = layer(nn.Linear(50, 33, bias=False), **how)
    there = layer(**({"linear": nn.Linear(50, 33, bias=False)} | how | OTHERS[kind]))
    assert all(tensor.shape == here.state_dict()[name].shape for name, tensor in there.state_dict().items())
    before = here.dequantize()
    for strict in (True, False):
        with pytest.raises(ValueError, match="was saved with .* and has"):
            nn.Sequential(here).load_state_dict(nn.Sequential(there).state_dict(), strict=strict)
    assert torch.equal(here.dequantize(), before)
    here.load_state_dict(layer(nn.Linear(50, 33, bias=False), **how).state_dict())  # the control
    assert not torch.equal(here.dequantize(), before)


@pytest.mark.parametrize("strict", [True, False])
def test_a_state_of_another_strength_is_refused(tiny_gpt, strict, tmp_path):
    one, other = copy.deepcopy(tiny_gpt), tiny_gpt
    torch.save(add_lora(one, 2, 8).state_dict(), tmp_path / "state.pt")
    add_lora(other, 2, 4)
    with pytest.raises(ValueError, match="was saved with .*'scaling': 4.0"):
        other.load_state_dict(torch.load(tmp_path / "state.pt"), strict=strict)
    with pytest.raises(ValueError, match="merged_into_base"):
        one.load_state_dict(merge(copy.deepcopy(one)).state_dict(), strict=strict)
    one.load_state_dict(torch.load(tmp_path / "state.pt"), strict=strict)
    other.load_state_dict(dict(one.state_dict()), strict=strict)  # tensors alone say nothing, as in a safetensors file


def test_a_second_gradient_is_refused():
    x = torch.randn(3, 64, requires_grad=True)
    y = x
    for _ in range(2):
        y = NF4Linear.from_linear(nn.Linear(64, 64))(y.tanh())
    (grad,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        grad.sum().backward()


def test_its_weight_is_no_part_of_it():
    layer = NF4Linear.from_linear(nn.Linear(12, 20))
    adapter = LoRALinear(layer, 2, 4)
    assert torch.equal(layer.weight, layer.dequantize()) and torch.equal(adapter.weight, layer.weight)
    nn.init.normal_(adapter.lora_B)
    assert torch.allclose(adapter.weight, layer.weight + adapter.delta_weight())
    assert adapter.bias is layer.bias
    names = {*adapter.state_dict(), *dict(adapter.named_parameters()), *dict(adapter.named_buffers())}
    assert not {name for name in names if name.endswith("weight")}


# --- a merge into 4 bits ---------------------------------------------------------------------------------------------


def small_update(size=0.03, **how):
    """A 4-bit layer with an adapter whose update is this share of its weight."""
    torch.manual_seed(100)  # none of the lots' seeds: a weight and its lot must not be the same random number
    layer = LoRALinear(NF4Linear.from_linear(nn.Linear(100, 70), **how), rank=4, alpha=8)
    nn.init.normal_(layer.lora_B)
    layer.scaling *= (size * layer.base.dequantize().norm() / layer.delta_weight().norm()).item()
    return layer


def arrived(old, new, update):
    """The part of an update that is in the difference of two weights."""
    return (((new - old) * update).sum() / update.square().sum()).item()


def test_merged_by_lot_the_update_arrives_on_average_where_the_nearest_level_loses_it():
    layer = small_update()
    old, update = layer.base.dequantize(), layer.delta_weight().detach()
    inside = old.abs() < old.abs().max() / 2  # the outermost levels have nothing beyond them
    one = merge_into_nf4(copy.deepcopy(layer)).dequantize()
    mean = sum(merge_into_nf4(copy.deepcopy(layer), seed).dequantize() for seed in range(40)) / 40
    assert arrived(old[inside], mean[inside], update[inside]) == pytest.approx(1, abs=0.03)
    noise, left = ((new - old - update)[inside].norm().item() for new in (one, mean))
    assert left == pytest.approx(noise / 40**0.5, rel=0.1)  # nothing but noise, so that its mean fades
    nearest = quantize(old + update, double_quant=True).dequantize()
    assert arrived(old[inside], nearest[inside], update[inside]) < 0.3  # the control


@pytest.mark.parametrize("double_quant", [True, False])
def test_a_merge_by_lot_moves_codes_by_one_level_and_nothing_else(double_quant):
    layer = small_update(double_quant=double_quant)
    before = copy.deepcopy(layer.base)
    base = merge_into_nf4(layer)
    assert isinstance(base, NF4Linear) and base.quantized.nbytes == before.quantized.nbytes
    assert torch.equal(base.quantized.block_scales(), before.quantized.block_scales())
    steps = (unpack(base.codes, 16).int() - unpack(before.codes, 16).int()).abs()
    assert steps.max() == 1 and 0.03 < steps.float().mean() < 0.5
    again = small_update(double_quant=double_quant)
    assert torch.equal(merge_into_nf4(again, seed=0).codes, base.codes)  # the seed decides


def test_an_adapter_that_has_not_learned_changes_no_code(tiny_gpt):
    model = add_lora(quantize_linears(tiny_gpt), rank=2, alpha=8, targets="all-linear")
    before = copy.deepcopy(model.state_dict())
    merge_into_nf4(model)
    assert not lora_layers(model)
    assert all(
        torch.equal(tensor, before[name.replace("proj.", "proj.base.")]) for name, tensor in model.state_dict().items()
    )


def test_only_adapters_on_four_bits_are_merged_by_lot():
    model = nn.ModuleDict({"coarse": NF4Linear.from_linear(nn.Linear(64, 8)), "fine": nn.Linear(64, 8)})
    add_lora(model, rank=2, alpha=8, targets="all-linear")
    assert set(lora_layers(merge_into_nf4(model))) == {"fine"}
    with pytest.raises(ValueError, match="no layer in 4 bits has an adapter"):
        merge_into_nf4(model)


def test_a_layer_with_a_hook_is_not_merged_by_lot():
    layer = small_update()
    before = layer.base.codes.clone()
    layer.base.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="cannot be merged"):
        merge_into_nf4(layer)
    assert torch.equal(layer.base.codes, before)
