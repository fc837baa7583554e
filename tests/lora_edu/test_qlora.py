import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from stopped_runs import refused
from torch import nn

from lora_edu import NF4Linear, merge_into_nf4, quantize_linears, trainable_summary
from lora_edu.lora import LoRALinear, add_lora, lora_layers, merge
from lora_edu.memory.activations import measured_activations
from lora_edu.quantization import DoubleQuant, quantize, unpack


@pytest.mark.parametrize("shape", [(48,), (7, 48), (2, 3, 48)])
def test_outputs_and_gradients_are_those_of_the_dequantized_layer(shape):
    """Those of a trainable bias too, whether the input has a gradient or not."""
    layer = NF4Linear.from_linear(nn.Linear(48, 20))
    layer.bias.requires_grad_(True)
    for x in (torch.randn(shape), torch.randn(shape, requires_grad=True)):
        grad_y, wanted = torch.randn(*shape[:-1], 20), [layer.bias, x][: 1 + x.requires_grad]
        expected = F.linear(x, layer.dequantize(), layer.bias)
        torch.testing.assert_close(layer(x), expected)
        grads = torch.autograd.grad(layer(x), wanted, grad_y)
        torch.testing.assert_close(grads, torch.autograd.grad(expected, wanted, grad_y))


def test_backward_keeps_no_full_weight():
    linear, x = nn.Linear(256, 512, bias=False), torch.randn(4, 256, requires_grad=True)
    layer, quantized = NF4Linear.from_linear(linear), quantize(linear.weight)
    assert measured_activations(layer, lambda: layer(x)) == []
    naive = measured_activations(layer, lambda: F.linear(x, quantized.dequantize()))
    assert [tensor.nbytes for tensor in naive] == [4 * 256 * 512]  # the control: four bytes a weight


def test_the_full_weight_is_gone(tiny_gpt):
    weights = [weakref.ref(layer.weight) for path, layer in tiny_gpt.named_modules()
               if isinstance(layer, nn.Linear) and path != "lm_head"]  # fmt: skip
    quantize_linears(tiny_gpt, skip="lm_head")  # one name, and not its letters
    gc.collect()
    assert len(weights) == 12 and all(weight() is None for weight in weights)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_under_autocast_the_product_is_in_its_type(dtype):
    layer = NF4Linear.from_linear(nn.Linear(64, 32))
    layer.bias.requires_grad_(True)
    x = torch.ones(4, 64, requires_grad=True)
    with torch.autocast("cpu", dtype=dtype):
        y = layer(x)
        layer(x).sum().backward()  # backward inside autocast works too
    expected = F.linear(x.to(dtype), layer.dequantize().to(dtype), layer.bias.to(dtype))
    assert y.dtype == dtype and torch.equal(y, expected)
    assert x.grad.dtype == layer.bias.grad.dtype == torch.float32 and layer.bias.grad.tolist() == [4.0] * 32
    asked = NF4Linear(layer.quantized, layer.bias, compute_dtype=dtype)
    assert torch.equal(asked(x), expected.float())


@pytest.mark.parametrize("double_quant", [True, False])
def test_a_state_is_saved_loaded_and_cast_with_its_constants_exact(double_quant):
    layer = NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant)
    before, state = layer.dequantize(), layer.state_dict()
    constants = {"absmax", "absmax_absmax", "absmax_offset"} if double_quant else {"absmax"}
    assert state.keys() == {"codes", "bias"} | constants
    model = nn.Sequential(nn.ReLU(), NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant))
    state = {f"1.{name}": tensor for name, tensor in state.items()}
    model.load_state_dict(state, assign=True)
    assert torch.equal(model[1].dequantize(), before) and model.state_dict().keys() == state.keys()
    layer.to(torch.bfloat16)
    assert torch.equal(layer.dequantize(), before) and layer.bias.dtype == torch.bfloat16
    other = NF4Linear.from_linear(nn.Linear(50, 33), double_quant=not double_quant)
    with pytest.raises(ValueError, match="absmax"):
        other.load_state_dict(layer.state_dict())


@pytest.mark.parametrize("double_quant", [True, False])
def test_an_empty_layer_filled_from_a_file(double_quant):
    """As large models are loaded: built on the meta device, emptied onto the real one, filled. No copy shares."""
    layer = NF4Linear.from_linear(nn.Linear(50, 33), double_quant=double_quant)
    on_meta = NF4Linear.from_linear(nn.Linear(50, 33, device="meta"), double_quant=double_quant)
    assert all(tensor.is_meta for tensor in on_meta.state_dict().values())
    before, x = layer.dequantize(), torch.randn(3, 50, requires_grad=True)
    for empty in (on_meta, copy.deepcopy(layer).to("meta"), copy.deepcopy(layer)):
        empty.to_empty(device="cpu")
        empty.quantized.codes.zero_()
        assert torch.equal(layer.dequantize(), before) and not torch.equal(empty.dequantize(), before)
        empty.load_state_dict(layer.state_dict())
        (grad,), (expected,) = (torch.autograd.grad(side(x).sum(), x) for side in (empty, layer))
        assert torch.equal(empty(x), layer(x)) and torch.equal(grad, expected)


def test_trainable_summary_counts_weights_not_bytes(tiny_gpt):
    total = trainable_summary(tiny_gpt).total
    assert trainable_summary(quantize_linears(tiny_gpt)) == (0, total)


# --- states of something else ----------------------------------------------------------------------------------------

OTHERS = {
    "exchanged sides": dict(linear=nn.Linear(33, 50, bias=False)),
    "another shape of this size": dict(linear=nn.Linear(25, 66, bias=False)),
    "another type": dict(linear=nn.Linear(50, 33, bias=False).bfloat16()),
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
    next(iter(lora_layers(other).values())).scaling = 4.0  # the first as in the file: it must not change either
    with refused(other, ValueError, "was saved with .*'scaling': 4.0"):
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
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name.replace("proj.", "proj.base.")])


def test_only_adapters_on_four_bits_are_merged_by_lot():
    model = nn.ModuleDict({"coarse": NF4Linear.from_linear(nn.Linear(64, 8)), "fine": nn.Linear(64, 8)})
    add_lora(model, rank=2, alpha=8, targets="all-linear")
    hook = model["coarse"].base.register_forward_hook(lambda *_: None)
    with refused(model, ValueError, "cannot be merged"):
        merge_into_nf4(model)
    hook.remove()
    assert set(lora_layers(merge_into_nf4(model))) == {"fine"}
    with pytest.raises(ValueError, match="no layer in 4 bits has an adapter"):
        merge_into_nf4(model)
