"""What notebook 08 says about PEFT and bitsandbytes, held against them."""

import pytest
import torch
from conftest import PRECISIONS, library
from other_models import tiny_llama

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
