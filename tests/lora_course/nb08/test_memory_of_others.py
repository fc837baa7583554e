"""What notebook 08 says about PEFT and bitsandbytes, held against them."""

import pytest
import torch
from conftest import PRECISIONS, library
from other_models import tiny_llama
from torch.utils._python_dispatch import TorchDispatchMode

from lora_edu import GPT, GPTConfig, measured_activation_bytes, predicted_activation_bytes, quantize_linears
from lora_edu.memory.shapes import Architecture


def peft():
    return library("peft")


CONFIG = GPTConfig(context=40, n_layers=3, n_heads=2, d_model=48)


@pytest.mark.parametrize("targets", [("q_proj", "v_proj"), tuple(Architecture.of_gpt(GPTConfig()).linears)], ids=len)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_adapters_of_peft_keep_what_ours_keep(precision, targets):
    model = GPT(CONFIG)
    model = model.to(torch.bfloat16) if precision.startswith("bfloat16") else model
    peft().inject_adapter_in_model(peft().LoraConfig(r=4, lora_alpha=8, target_modules=list(targets)), model)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(torch.bfloat16 if precision == "bfloat16" else torch.float32)
    tokens, labels = torch.randint(0, 256, (3, 21)), torch.randint(0, 256, (3, 21))
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        measured = measured_activation_bytes(model.train(), tokens, labels)
    assert measured == predicted_activation_bytes(CONFIG, 3, 21, rank=4, targets=targets, precision=precision)


def types(model, choose):
    return {parameter.dtype for name, parameter in model.named_parameters() if choose(name)}


def test_peft_makes_float32_adapters_in_a_bfloat16_model():
    model = peft().get_peft_model(tiny_llama().to(torch.bfloat16), peft().LoraConfig(r=4, target_modules=["q_proj"]))
    assert types(model, lambda name: "lora_" in name) == {torch.float32}
    assert types(model, lambda name: "lora_" not in name) == {torch.bfloat16}


def test_peft_casts_what_is_not_quantized_to_32_bits():
    model = quantize_linears(tiny_llama().to(torch.bfloat16))
    model.is_loaded_in_4bit = True  # as transformers marks a model that bitsandbytes has quantized
    assert types(model, bool) == {torch.bfloat16}
    prepared = peft().prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    assert types(prepared, bool) == {torch.float32}


def test_the_means_of_bitsandbytes_are_float32_for_weights_in_16_bits():
    bitsandbytes = library("bitsandbytes")
    weight = torch.nn.Parameter(torch.ones(5000, dtype=torch.bfloat16))
    weight.grad = torch.ones_like(weight)
    optimizer = bitsandbytes.optim.AdamW([weight])
    optimizer.init_state(optimizer.param_groups[0], weight, 0, 0)
    assert optimizer.state[weight]["state1"].dtype == optimizer.state[weight]["state2"].dtype == torch.float32


class Called(TorchDispatchMode):
    """Notes which of bitsandbytes' operations run."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.namespace == "bitsandbytes":
            self.names.append(operation.overloadpacket.__name__)
        return operation(*args, **(kwargs or {}))


def test_bitsandbytes_calls_its_fused_product_in_training_and_decodes_in_the_backward_pass():
    """In 0.50.2, whether a gradient is asked for or not. For how many tokens CUDA fuses it needs a GPU to be seen."""
    bitsandbytes = library("bitsandbytes")
    layer = bitsandbytes.nn.Linear4bit(128, 64, quant_type="nf4", compute_dtype=torch.float32)
    layer.weight = layer.weight.to("cpu")  # this quantizes
    layer(torch.ones(3, 128))
    with Called() as forward:
        y = layer(torch.ones(3, 128, requires_grad=True))
    with Called() as backward:
        y.sum().backward()
    assert "gemm_4bit" in forward.names and not any("dequantize_4bit" in name for name in forward.names)
    assert "dequantize_4bit" in backward.names and "gemm_4bit" not in backward.names
