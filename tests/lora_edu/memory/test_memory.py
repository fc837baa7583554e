import copy

import pytest
import torch
from conftest import WAYS, in_precision

from lora_edu import GPT, GPTConfig, measured_bytes, predicted_bytes, quantize_linears
from lora_edu.memory.shapes import BASE, CONSTANTS
from lora_edu.quantization import DoubleQuant
from lora_edu.training import trainable_parameters, training_step

CONFIG = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=48)  # 48 is no multiple of 64: ragged blocks
MORE_WAYS = WAYS | {
    "LoRA on q, by its name": {"rank": 4, "targets": "q_proj"},
    "QLoRA without double quantization": {"rank": 4, "nf4": True, "double_quant": False, "block_size": 96},
}


@pytest.mark.parametrize("way", MORE_WAYS.values(), ids=MORE_WAYS)
def test_the_prediction_equals_the_measurement_to_the_byte(way):
    model = in_precision(GPT(CONFIG), **way)
    assert measured_bytes(model) == predicted_bytes(CONFIG, trained=False, **way)
    optimizer = torch.optim.AdamW(trainable_parameters(model))
    tokens = torch.randint(0, 256, (2, 16))
    training_step(model, tokens, tokens, optimizer)
    assert measured_bytes(model, optimizer) == predicted_bytes(CONFIG, **way)


def test_a_tensor_in_two_places_counts_once():
    model = GPT(CONFIG)
    before = measured_bytes(model)[BASE]
    model.lm_head.weight = model.token_embedding.weight
    assert measured_bytes(model)[BASE] == before - 4 * 256 * 48


def all_storages(model):
    tensors = [*model.parameters(), *model.buffers()]
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def test_nothing_is_left_out_but_the_two_codebooks():
    model = in_precision(GPT(CONFIG), **WAYS["QLoRA"])
    measured = measured_bytes(model)
    assert all_storages(model) == sum(measured.values()) + 4 * (16 + 256)
    assert all_storages(copy.deepcopy(model)) == all_storages(model)
    assert all_storages(model.to(torch.bfloat16)) < sum(measured.values()) + 4 * (16 + 256)
    assert len({layer.codebook.data_ptr() for layer in model.modules() if hasattr(layer, "codebook")}) == 2


@pytest.mark.parametrize(
    "how", [DoubleQuant(block_size=16), DoubleQuant(subtract_mean=False), DoubleQuant("int8"), DoubleQuant("int4")]
)
def test_another_double_quantization_to_the_byte(how):
    model = quantize_linears(GPT(CONFIG), double_quant=how)
    predicted = predicted_bytes(CONFIG, nf4=True, double_quant=how, rank=1, trained=False)
    assert measured_bytes(model)[CONSTANTS] == predicted[CONSTANTS]


def test_a_model_on_the_meta_device_has_as_many_bytes():
    with torch.device("meta"):
        model = GPT(CONFIG)
    assert measured_bytes(model) == measured_bytes(GPT(CONFIG))
