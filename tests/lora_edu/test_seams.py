"""Where two parts meet: nothing is computed on a fast path that the plain one would not compute, and what a state or an
update cannot hold is said, or held, before a number has changed. Each test failed once."""

import copy
import json
import threading
import warnings
from unittest.mock import Mock

import pytest
import torch
from conftest import TINY, moved, random_gpt
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from stopped_runs import refused
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from lora_edu import GPT, adapters_off, load_adapter, merge_into_nf4, peft_io, quantize_linears, save_adapter
from lora_edu.gpt import MLP, Attention, Block, KVCache, encode
from lora_edu.lora import add_lora, lora_layers, merge, unmerge
from lora_edu.variants import add_variant


class Louder(Block):
    def forward(self, x):
        return 2 * super().forward(x)


class Shifted(MLP):
    def forward(self, x):
        return super().forward(x - x.roll(1, 1))


class Backwards(nn.Module):
    def forward(self, x):
        return x.cumsum(1)


def by_position(place, x, y):
    return y * torch.arange(1, y.shape[1] + 1)[:, None]


def split_by_position(x):
    return by_position(0, 0, x).unflatten(-1, (TINY.n_heads, -1)).transpose(1, 2)


# A model that is not what is written in gpt.py, in one of the ways in which a reader changes one.
CHANGES = {
    "a hook on a block": lambda model: model.blocks[0].register_forward_hook(lambda place, x, y: 0 * y),
    "a hook on an attention": lambda model: model.blocks[1].attention.register_forward_hook(lambda place, x, y: 0 * y),
    "a hook on an embedding": lambda model: model.token_embedding.register_forward_hook(by_position),
    "a hook on a linear layer": lambda model: model.blocks[0].mlp.up_proj.register_forward_hook(by_position),
    "a hook before a norm": lambda model: model.final_norm.register_forward_pre_hook(lambda place, x: x[0].cumsum(1)),
    "an MLP that looks back": lambda model: setattr(model.blocks[0], "mlp", Shifted(TINY)),
    "an attention for an MLP": lambda model: setattr(model.blocks[0], "mlp", Attention(TINY)),
    "an MLP's forward replaced": lambda model: setattr(model.blocks[1].mlp, "forward", lambda x: x.roll(1, 1)),
    "another norm": lambda model: setattr(model, "final_norm", Backwards()),
    "what runs a block replaced": lambda model: setattr(model, "_run_block", lambda block, x: block(x).roll(1, 1)),
    "heads split in another way": lambda model: setattr(model.blocks[0].attention, "split_heads", split_by_position),
    "a block's forward replaced": lambda model: setattr(model.blocks[0], "forward", lambda x: 2 * x),
    "a block of another class": lambda model: model.blocks.__setitem__(1, Louder(TINY)),
    "a model of another class": lambda model: setattr(model, "__class__", type("Other", (GPT,), {"forward": backward})),
    "no change": lambda model: None,
    "4 bits and adapters, no change": lambda model: moved(add_lora(quantize_linears(model), 4, 8, "all-linear")),
}


def backward(self, tokens, targets=None):
    logits, loss = GPT.forward(self, tokens, targets)
    return -logits, loss


@pytest.mark.parametrize("change", CHANGES)
def test_generate_computes_what_the_model_computes(change):
    model = random_gpt()
    CHANGES[change](model)
    tokens = encode("low rank")[None].long()
    for _ in range(6):
        tokens = torch.cat([tokens, model(tokens)[0][:, -1].argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(model.generate(encode("low rank")[None], 6, temperature=0), tokens)
    assert KVCache(model).is_plain == change.endswith("no change")


@pytest.mark.parametrize(("kind", "name"), [(Attention, "forward"), (MLP, "forward"), (GPT, "_run_block")])
def test_generate_hears_a_class_that_was_changed(kind, name, monkeypatch):
    assert KVCache(GPT(TINY)).is_plain
    monkeypatch.setattr(kind, name, lambda self, x: 0 * x)
    assert not KVCache(GPT(TINY)).is_plain
    monkeypatch.undo()
    assert KVCache(GPT(TINY)).is_plain


def test_generate_hears_a_hook_on_all_modules():
    model = random_gpt()
    hook = nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not KVCache(model).is_plain
    hook.remove()
    assert KVCache(model).is_plain


@pytest.mark.parametrize("double_quant", [False, True])
@pytest.mark.parametrize("std", [0.02, 0.3])
def test_an_update_that_outgrows_its_blocks_arrives_in_4_bits(std, double_quant):
    """With the old constants, the larger update was cut off: 0.8 of it was lost."""
    linear = nn.Linear(128, 96, bias=False)
    nn.init.normal_(linear.weight, std=0.02)
    model = add_lora(quantize_linears(nn.Sequential(linear), double_quant=double_quant), 4, 8, ["0"])
    moved(model, std)
    wanted, size = model[0].base.dequantize() + model[0].delta_weight(), model[0].base.quantized.nbytes
    merge_into_nf4(model)
    lost = (model[0].dequantize() - wanted).norm() / wanted.norm()
    assert lost < 0.21 and model[0].quantized.nbytes == size


def test_blocks_that_have_room_keep_their_constants():
    model = add_lora(quantize_linears(nn.Sequential(nn.Linear(256, 128)), double_quant=False), 1, 1, ["0"])
    model[0].lora_B.data[0] = 100  # one row: four blocks of its 256 columns
    before = model[0].base.quantized.block_scales().clone()
    after = merge_into_nf4(model)[0].quantized.block_scales()
    assert torch.equal(before[4:], after[4:]) and (after[:4] > before[:4]).all()


def test_factors_alone_do_not_go_into_a_merged_layer():
    model, other = (moved(add_lora(GPT(TINY), 2, 4)) for _ in range(2))
    merge(model)
    alone = {name: tensor for name, tensor in other.state_dict().items() if name.endswith(("lora_A", "lora_B"))}
    with refused(model, ValueError, match="is merged, and A and B come alone: call unmerge"):
        model.load_state_dict(alone, strict=False)
    model.load_state_dict(model.state_dict())  # the control: with its base


@pytest.mark.parametrize("what", [quantize_linears, lambda model: add_lora(model, 2, 4, "all-linear")])
def test_a_model_with_adapters_of_peft_is_refused(what):
    model = get_peft_model(GPT(TINY), LoraConfig(r=2, target_modules=["q_proj"]))
    with refused(model, ValueError, match="PEFT has put an adapter on base_model"):
        what(model)


def test_the_same_adapter_is_the_same_file_and_a_wrapper_for_several_devices_no_part_of_a_name(tmp_path):
    model = moved(add_lora(GPT(TINY), 2, 4))
    folders = [save_adapter(one, tmp_path / str(n)) for n, one in enumerate([model, nn.DataParallel(model)] * 3)]
    assert len({(folder / "adapter_model.safetensors").read_bytes() for folder in folders}) == 1


def test_of_two_that_save_into_one_folder_one_waits(tmp_path, monkeypatch):
    one, two = (moved(add_lora(GPT(TINY), rank, 4)) for rank in (2, 3))
    other, save_file, waited = threading.Thread(target=save_adapter, args=(two, tmp_path)), peft_io.save_file, []

    def slow(*arguments, **options):
        save_file(*arguments, **options)
        if not waited:
            waited.append(other.start())
            other.join(timeout=0.3)
            waited.append(other.is_alive())

    monkeypatch.setattr(peft_io, "save_file", slow)
    save_adapter(one, tmp_path)
    other.join()
    assert waited[1] and lora_layers(load_adapter(GPT(TINY), tmp_path))["blocks.0.attention.q_proj"].rank == 3
    assert {path.name for path in tmp_path.iterdir()} == {"adapter_config.json", "adapter_model.safetensors"}


def test_a_full_disk_is_said_in_words(tmp_path, monkeypatch):
    monkeypatch.setattr(peft_io, "save_file", Mock(side_effect=SafetensorError("No space left on device")))
    with pytest.raises(OSError, match=r"cannot write .*adapter_model\.safetensors \(No space left.*make room there"):
        save_adapter(add_lora(GPT(TINY), 2, 4), tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_layer_that_the_config_does_not_name_is_refused(tmp_path):
    """PEFT computes without it."""
    folder = save_adapter(moved(add_lora(GPT(TINY), 2, 4, ["q_proj", "v_proj"])), tmp_path)
    file, config = (folder / f"adapter_{name}" for name in ("model.safetensors", "config.json"))
    save_file(load_file(file), file)  # without our seal, as PEFT writes it
    config.write_text(config.read_text().replace('"v_proj"', '"o_proj"'))
    model = GPT(TINY)
    with refused(model, ValueError, match=r"v_proj, which its config does not name"):
        load_adapter(model, folder)


def test_slices_of_one_tensor_are_not_tied():
    """As FSDP and some loaders lay weights out."""
    flat, model = torch.randn(2 * 8 * 8), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    for number, layer in enumerate(model):
        layer.weight = nn.Parameter(flat[64 * number : 64 * (number + 1)].view(8, 8))
    unmerge(merge(moved(add_lora(model, 2, 4, ["0", "1"]))))


def test_what_stays_in_full_precision_is_said():
    class Experts(nn.Module):
        def __init__(self):
            super().__init__()
            self.router, self.weight = nn.Linear(8, 4), nn.Parameter(torch.randn(4, 16, 8))

    with pytest.warns(UserWarning, match=r"9\d% of this model's numbers are in no linear layer, such as weight"):
        quantize_linears(Experts())
    with warnings.catch_warnings(action="error"):  # the control
        quantize_linears(copy.deepcopy(GPT(TINY)))


def test_every_program_hears_an_rslora_adapter_at_its_strength(tmp_path):
    """llama.cpp knows lora_alpha / r alone: with a flag instead, it computed with a quarter of the update."""
    model = moved(add_variant(GPT(TINY), "rsLoRA", 16, 16, ["q_proj"]))
    config = json.loads((save_adapter(model, tmp_path) / "adapter_config.json").read_text())
    assert config["lora_alpha"] / config["r"] == 4 and "use_rslora" not in config


ON_A_PART = {
    "a regex": {"target_modules": r"blocks\.1\..*(q|v)_proj"},
    "all but": {"target_modules": "all-linear", "exclude_modules": ["o_proj", "lm_head"]},
    "a layer": {"target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "blocks"},
}


@pytest.mark.parametrize("how", ON_A_PART.values(), ids=ON_A_PART)
def test_an_adapter_of_peft_on_a_part_of_the_layers_is_loaded(how, tmp_path):
    base, tokens = random_gpt(), torch.arange(8)[None]
    theirs = get_peft_model(copy.deepcopy(base), LoraConfig(r=2, init_lora_weights=False, **how))
    theirs.save_pretrained(tmp_path)
    ours = load_adapter(copy.deepcopy(base), tmp_path)
    torch.testing.assert_close(ours(tokens)[0], theirs(tokens)[0])
    again = load_adapter(copy.deepcopy(base), save_adapter(ours, tmp_path / "again"))
    assert lora_layers(again).keys() == lora_layers(ours).keys()
    assert torch.equal(again(tokens)[0], ours(tokens)[0])


def test_the_base_and_its_task_are_named(tmp_path):
    config = LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2)
    model = LlamaForCausalLM(config)
    model.config._name_or_path = "somebody/small"
    written = json.loads((save_adapter(add_lora(model, 2, 4), tmp_path) / "adapter_config.json").read_text())
    assert (written["base_model_name_or_path"], written["task_type"]) == ("somebody/small", "CAUSAL_LM")


@pytest.mark.parametrize("kind", ["LoRA", "DoRA"])
def test_adapters_are_off_for_a_while(kind):
    base, tokens = random_gpt(), torch.arange(8)[None]
    model = moved(add_variant(copy.deepcopy(base), kind, 2, 4, ["q_proj"]).eval())
    on = model(tokens)[0]
    with pytest.raises(KeyError), adapters_off(model):
        assert torch.equal(model(tokens)[0], base(tokens)[0]) and not torch.equal(on, base(tokens)[0])
        raise KeyError  # an error inside puts them back, too
    assert torch.equal(model(tokens)[0], on)
    with pytest.raises(ValueError, match="are merged"), adapters_off(merge(model)):
        pass


def test_a_layer_with_an_adapter_has_the_sizes_of_its_base():
    layer = add_lora(nn.Sequential(nn.Linear(6, 4)), 2, 4, ["0"])[0]
    assert (layer.in_features, layer.out_features) == (6, 4)
