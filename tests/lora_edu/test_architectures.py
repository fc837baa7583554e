"""Six architectures of transformers, tiny: adapters and 4 bits go into models that nobody here wrote.

Some of them read a layer's `weight` and do not call it (Mamba), or ask for its type first (T5).
"""

import copy

import pytest
import torch
from conftest import moved

from lora_edu.lora import add_lora, lora_layers, merge, unload
from lora_edu.qlora import dequantize_linears, quantize_linears

TOKENS = torch.randint(0, 60, (2, 9), generator=torch.Generator().manual_seed(1))
SMALL = dict(vocab_size=60, hidden_size=16, num_hidden_layers=2)
HEADS = dict(intermediate_size=24, num_attention_heads=2)
T5 = dict(vocab_size=60, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2)
# name -> the settings of a tiny one
MODELS = {
    "Llama": SMALL | HEADS | {"num_key_value_heads": 1},
    "GPT2": dict(vocab_size=60, n_embd=16, n_layer=2, n_head=2, n_positions=32),
    "Bloom": SMALL | {"n_layer": 2, "n_head": 2, "pretraining_tp": 2, "slow_but_exact": True},
    "T5": T5,
    "Mamba": SMALL | {"state_size": 4, "time_step_rank": 3},
    "Rwkv": SMALL | {"attention_hidden_size": 16, "intermediate_size": 24, "context_length": 32},
}


def tiny(name, **options):
    import transformers

    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**(MODELS[name] | options))
    suffix = {"T5": "ForConditionalGeneration", "GPT2": "LMHeadModel"}.get(name, "ForCausalLM")
    return getattr(transformers, f"{name}{suffix}")(config).eval()


def logits(model):
    more = {"decoder_input_ids": TOKENS[:, :5]} if "T5" in type(model).__name__ else {}
    more |= {"use_cache": False} if "Rwkv" in type(model).__name__ or "Mamba" in type(model).__name__ else {}
    return model(TOKENS, **more).logits


def skip(model):
    """The output layer, which is tied to the embedding in most of them."""
    return tuple({"lm_head", "head", "embed_out"} & {path.rpartition(".")[-1] for path, _ in model.named_modules()})


@pytest.mark.parametrize("bits", [16, 4])
@pytest.mark.parametrize("name", MODELS)
def test_adapters_on_a_model_that_nobody_here_wrote(name, bits):
    model = tiny(name)
    left_out = skip(model)
    if bits == 4:
        before = logits(model)
        quantize_linears(model, skip=left_out)
        assert 0 < (logits(model) - before).norm() / before.norm() < 0.5
    before = logits(model).detach()
    add_lora(model, 2, 4, "all-linear", skip=left_out)
    assert torch.allclose(logits(model), before, atol=1e-6)  # nothing at the start

    logits(model).square().sum().backward()
    layers = lora_layers(model)
    assert len(layers) >= 4
    silent = [path for path, layer in layers.items() if layer.lora_B.grad is None or not layer.lora_B.grad.any()]
    assert not silent  # each adapter is heard
    assert not [n for n, p in model.named_parameters() if p.grad is not None and "lora" not in n]

    changed = logits(moved(model, 0.3)).detach()
    assert not torch.allclose(changed, before, atol=1e-3)
    assert torch.allclose(logits(merge(dequantize_linears(copy.deepcopy(model)))), changed, atol=1e-4)
    assert torch.allclose(logits(unload(model)), before, atol=1e-6)


def test_weights_that_a_model_rescales_are_left_alone():
    model = tiny("Rwkv", rescale_every=1)
    for work in (lambda: add_lora(model, 2, 4, "all-linear", skip="head"), lambda: quantize_linears(model, "head")):
        with pytest.raises(ValueError, match="config.rescale_every = 0"):
            work()
    assert len(lora_layers(add_lora(tiny("Rwkv", rescale_every=0), 2, 4, "all-linear", skip="head"))) == 14
