from dataclasses import replace

import pytest
import torch
from conftest import library
from other_models import twin

from lora_edu import GPTConfig, predicted_bytes, training_bytes
from lora_edu.memory.activations import predicted_peak_bytes
from lora_edu.memory.calculator import ACTIVATIONS, CONSTANT_BITS, LOGITS, smallest_card
from lora_edu.memory.shapes import ADAPTERS, ARCHITECTURES, BASE, CONSTANTS, GRADIENTS, KINDS, OPTIMIZER, Architecture

SEVEN = ARCHITECTURES["LLaMA 7B"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parameter_counts_are_those_of_the_real_models(name):
    transformers = library("transformers")
    shape = ARCHITECTURES[name]
    with torch.device("meta"):  # shapes without memory
        if shape.gated:
            model = twin(shape)
        else:
            config = transformers.GPT2Config(n_layer=shape.n_layers, n_embd=shape.d_model, n_head=shape.n_heads)
            model = transformers.GPT2LMHeadModel(config)
    assert shape.n_parameters == sum(parameter.numel() for parameter in model.parameters())
    if shape.gated:
        linears = {path.rpartition(".")[-1]: layer for path, layer in model.named_modules() if path.endswith("_proj")}
        assert {name: (layer.in_features, layer.out_features) for name, layer in linears.items()} == shape.linears


@pytest.mark.parametrize("way", [{}, {"rank": 8}, {"rank": 4, "targets": ("q_proj", "v_proj")}])
def test_it_agrees_with_the_exact_account_of_the_small_gpt(way):
    exact = predicted_bytes(GPTConfig(), **way)
    needed = training_bytes(Architecture.of_gpt(GPTConfig()), bits=32, **way)
    steps = exact[OPTIMIZER] - needed[OPTIMIZER]  # AdamW's step counts, four bytes a tensor
    assert 0 < steps < 400 and steps % 4 == 0
    assert all(needed[kind] == exact[kind] for kind in KINDS if kind != OPTIMIZER)


def test_the_numbers_of_the_papers():
    sixty_five = ARCHITECTURES["LLaMA 65B"]
    full = training_bytes(sixty_five)
    assert sum(full.values()) - full[ACTIVATIONS] - full[LOGITS] == 12 * sixty_five.n_parameters > 780e9
    qlora = training_bytes(sixty_five, bits=4, rank=64, checkpointing=True, adapter_bits=16)
    assert sum(qlora.values()) < 48e9
    assert SEVEN.n_parameters * (4 + CONSTANT_BITS) / 8 / 1e9 == pytest.approx(3.48, abs=0.005)
    stored = training_bytes(SEVEN, bits=4, rank=1)
    assert (stored[BASE] + stored[CONSTANTS]) / 1e9 == pytest.approx(3.87, abs=0.005)


@pytest.mark.parametrize("bits", [4, 8, 16, 32])
@pytest.mark.parametrize("adapter_bits", [16, 32])
def test_what_each_number_of_bits_costs(bits, adapter_bits):
    needed = training_bytes(SEVEN, bits=bits, rank=8, adapter_bits=adapter_bits)
    numbers, trained = SEVEN.parameters(), SEVEN.adapter_numbers(8, tuple(SEVEN.linears))
    linear = numbers["block linears"]
    others = (SEVEN.n_parameters - linear) * (4 if bits == 32 else 2)
    assert needed[BASE] == linear * bits / 8 + others
    # double quantization: a byte for 64 weights, a float32 for 64 * 256
    assert needed[CONSTANTS] == (linear / 64 + 4 * linear / 64 / 256 if bits < 16 else 0)
    assert needed[ADAPTERS] == needed[GRADIENTS] == trained * adapter_bits / 8
    assert needed[OPTIMIZER] == 8 * trained
    precision = "float32" if bits == 32 else "bfloat16" if adapter_bits == 16 else "bfloat16, float32 adapters"
    assert needed[ACTIVATIONS] + needed[LOGITS] == predicted_peak_bytes(SEVEN, 1, 512, rank=8, precision=precision)


MIXTURE = ARCHITECTURES["Qwen3 30B-A3B"]


def test_bitsandbytes_rounds_of_a_mixture_what_the_calculator_says():
    """Linear layers only: the experts of a block are two tensors of three dimensions (bitsandbytes#1849)."""
    library("bitsandbytes")
    transformers = library("transformers")
    from transformers.integrations import replace_with_bnb_linear

    how = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    with torch.device("meta"):  # shapes without memory
        model = twin(MIXTURE)
    replace_with_bnb_linear(model, modules_to_not_convert=["lm_head"], quantization_config=how)
    rounded = [layer for layer in model.modules() if type(layer).__name__ == "Linear4bit"]
    assert sum(layer.in_features * layer.out_features for layer in rounded) == MIXTURE.parameters()["block linears"]


def test_preparing_a_mixture_for_training_casts_its_experts(tmp_path):
    peft, transformers = library("peft"), library("transformers")
    library("bitsandbytes")
    sizes = {"n_layers": 1, "d_model": 64, "n_heads": 2, "d_ff": 32, "vocab_size": 60, "head_dim": 32}
    twin(replace(MIXTURE, **sizes, n_kv_heads=1, n_experts=4)).to(torch.bfloat16).save_pretrained(tmp_path)
    how = transformers.BitsAndBytesConfig(load_in_4bit=True)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=how)
    experts = [tensor for name, tensor in model.named_parameters() if ".experts." in name]
    assert {tensor.dtype for tensor in experts} == {torch.bfloat16}
    peft.prepare_model_for_kbit_training(model)
    experts = [tensor for name, tensor in model.named_parameters() if ".experts." in name]
    assert len(experts) == 2 and {tensor.dtype for tensor in experts} == {torch.float32}


def test_the_experts_of_a_mixture_stay_in_16_bits_and_have_no_adapters():
    numbers = MIXTURE.parameters()
    needed = training_bytes(MIXTURE, bits=4, rank=16, checkpointing=True)
    linear = numbers["block linears"]
    assert needed[BASE] == linear / 2 + 2 * (MIXTURE.n_parameters - linear)
    assert needed[CONSTANTS] == linear * CONSTANT_BITS / 8
    cast = training_bytes(MIXTURE, bits=4, rank=16, checkpointing=True, float32_rest=True)
    assert cast[BASE] == linear / 2 + 4 * (MIXTURE.n_parameters - linear)
    assert needed[ADAPTERS] == 4 * 48 * 16 * (2 * (2048 + 4096) + 2 * (2048 + 512))
    with pytest.raises(ValueError, match="no linear layer is named up_proj"):
        training_bytes(MIXTURE, rank=16, targets=("up_proj",))


def test_cards():
    """A tenth of each stays free."""
    assert [smallest_card(n * 2**30) for n in (0.1, 7.2, 7.21, 21.6, 21.61, 72, 72.1)] == [8, 8, 12, 24, 32, 80, None]
    assert smallest_card(23e9) == 24  # a "24 GB" card has 24 * 2**30 bytes
