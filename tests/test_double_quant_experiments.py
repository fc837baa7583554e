import copy
import hashlib
import json

import pytest
import torch
from torch import nn

from lora_edu import experiments
from lora_edu.experiments import nb07 as dq
from lora_edu.experiments.nb07 import changed_weight, error_by_source, gpt_layers, normal_weights
from lora_edu.files import DownloadError
from lora_edu.models.pretrain import base_path
from lora_edu.quantization import DoubleQuant, quantize
from lora_edu.training import evaluate

HOW = DoubleQuant()


def test_the_error_by_source():
    weight = normal_weights(2**18)
    error = error_by_source(weight)
    assert error["codes"] == pytest.approx(0.092, rel=0.01)
    assert error["constants"] == pytest.approx(0.0021, rel=0.1)
    assert error["both"] == pytest.approx((error["codes"] ** 2 + error["constants"] ** 2) ** 0.5, rel=1e-3)


def test_an_exact_second_level_leaves_the_codes_alone():
    weight = torch.cat([torch.ones(64), -torch.ones(64), torch.full((64,), 0.5)])  # every absmax is 1 or 1/2
    error = error_by_source(weight, 64, DoubleQuant("int8", block_size=1))
    assert error["constants"] < 1e-6 and error["codes"] < 1e-6


def test_a_block_of_zeros_is_no_trouble():
    weight = torch.cat([torch.zeros(64), normal_weights(64)])
    assert error_by_source(weight, 64)["both"] < 0.2


def test_single_and_double_are_those_of_the_package():
    weight = normal_weights(48 * 100).view(48, 100)
    for change, how in (("single", False), ("double", HOW), ("double", DoubleQuant("e4m3", 16, False))):
        mine = changed_weight(weight, change, 64, how or HOW)
        wanted = quantize(weight, "nf4", 64, how).dequantize()
        assert torch.allclose(mine, wanted, rtol=1e-5, atol=1e-7) and mine.shape == (48, 100)
    assert torch.equal(changed_weight(weight, "none", 64, HOW), weight)


def test_the_wrong_ways():
    weight = normal_weights(2**14)
    generator = torch.Generator().manual_seed(0)
    error = {
        change: ((weight - changed_weight(weight, change, 64, HOW, generator)).norm() / weight.norm()).item()
        for change in ("single", "double", "noise", "no offset", "fp16")
    }
    assert error["no offset"] > 0.9
    assert error["noise"] == pytest.approx(error["double"], rel=0.01) and error["noise"] != error["double"]
    assert error["fp16"] == pytest.approx(error["single"], rel=1e-4)
    with pytest.raises(ValueError, match="unknown change 'triple': choose one of none, single, double"):
        changed_weight(weight, "triple", 64, HOW)


def test_the_inputs_of_a_gpt_layer(tiny_gpt):
    tokens = torch.arange(20)[None]
    layers = gpt_layers(tiny_gpt, tokens)
    assert len(layers) == 12
    path = "blocks.1.mlp.down_proj"
    weight, inputs = layers[path]
    assert weight.shape == (16, 64) and inputs.shape == (20, 64)
    assert not any(layer._forward_pre_hooks for layer in tiny_gpt.modules())  # nothing is left behind
    output = []
    tiny_gpt.get_submodule(path).register_forward_hook(lambda module, x, y: output.append(y))
    with torch.no_grad():
        tiny_gpt(tokens)
        assert torch.allclose(tiny_gpt.get_submodule(path)(inputs), output[0][0])


def test_the_encoder_is_that_of_transformers():
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=2, num_attention_heads=3, intermediate_size=40
    )
    model = transformers.BertModel(config, add_pooling_layer=False).eval()
    inputs = {}
    for path, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            layer.register_forward_pre_hook(lambda module, x, path=path: inputs.__setitem__(path, x[0][0]))
    ids = torch.tensor([3, 8, 40, 1, 9])
    with torch.no_grad():
        model(ids[None])
        layers = dq.bert_layers(model.state_dict(), ids, n_heads=3)
    assert set(layers) == set(inputs) and len(layers) == 12
    for path, (_, mine) in layers.items():
        assert torch.allclose(mine, inputs[path], atol=1e-5), path


def test_minilm():
    try:
        layers = dq.minilm_layers()
    except DownloadError:
        pytest.skip("MiniLM is not in the cache and there is no network")
    assert len(layers) == 36
    weight, inputs = layers["encoder.layer.5.output.dense"]
    assert weight.shape == (384, 1536) and inputs.shape == (len(dq.SENTENCE.split()) + 2, 1536)


def test_the_loss_after_a_change(tiny_gpt, tiny_text, monkeypatch):
    monkeypatch.setattr(dq, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    monkeypatch.setattr(dq, "load_text", lambda name: tiny_text)
    monkeypatch.setattr(dq, "evaluate", lambda m, t, max_windows: evaluate(m, t, seq_len=32, max_windows=max_windows))
    exact = dq.double_quant_loss("none", windows=2)
    assert exact == {"loss": round(evaluate(tiny_gpt, tiny_text.validation, seq_len=32, max_windows=2), 6), "error": 0}
    rounded = dq.double_quant_loss("double", windows=2)
    assert 0.05 < rounded["error"] < 0.15 and rounded["loss"] != exact["loss"]
    assert dq.double_quant_loss("double", windows=2) == rounded
    noise = [dq.double_quant_loss("noise", windows=2, noise_seed=seed)["error"] for seed in (0, 1)]
    assert noise[0] != noise[1]


def test_the_stored_result_belongs_to_the_shipped_base():
    stored = experiments.load_results("double-quantization")
    assert stored["settings"] == json.loads(json.dumps(dq.DOUBLE_QUANT_ARMS))
    assert set(stored["arms"]) == set(dq.DOUBLE_QUANT_ARMS)
    assert stored["base_sha256"] == hashlib.sha256(base_path("laptop").read_bytes()).hexdigest(), (
        "the base was trained anew: delete data/results/double-quantization.json and run the experiment again"
    )
