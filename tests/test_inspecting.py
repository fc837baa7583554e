"""The doctor for adapters: healthy ones, as PEFT writes them, are accused of nothing; each damage is named."""

import dataclasses
import json
import typing

import pytest
import torch
from safetensors.torch import load_file, save_file

from lora_edu import inspect_adapter
from lora_edu.figures.inspected import card, lines, main
from lora_edu.models import adapter_settings as settings
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def gpt2():
    sizes = {"n_layer": 2, "n_embd": 32, "n_head": 2, "vocab_size": 50, "n_positions": 16}
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def llama(width=32):
    sizes = SIZES | {"num_hidden_layers": 3, "hidden_size": width}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_key_value_heads=1, **sizes))


def mixtral():
    config = transformers.MixtralConfig(num_hidden_layers=2, num_key_value_heads=1, num_local_experts=2, **SIZES)
    return transformers.MixtralForCausalLM(config)


def saved(folder, make=llama, trained=0.02, **settings):
    """An adapter as PEFT writes it, and the base beside it: two folders."""
    torch.manual_seed(0)
    base = make()
    base.save_pretrained(folder / "base")
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings
    wrapped = peft.get_peft_model(base, peft.LoraConfig(**options))
    for name, parameter in wrapped.named_parameters():
        if ("lora_B" in name or "lora_embedding_A" in name) and trained:  # what starts at zero
            torch.nn.init.normal_(parameter, std=trained)
    wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter", folder / "base"


@pytest.fixture
def adapter(tmp_path):
    return saved(tmp_path, target_modules=["q_proj", "v_proj"])[0]


SETTINGS = {
    "LoRA": {},
    "rank 1": {"r": 1, "lora_alpha": 2},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 4},
    "DoRA": {"use_dora": True},
    "ranks by layer": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 16}},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
    "the head, whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "biases": {"target_modules": ["q_proj"], "bias": "lora_only"},
    "a bias of B": {"target_modules": ["q_proj"], "lora_bias": True},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "all but some": {"exclude_modules": ["k_proj", "o_proj"]},
    "a list for several models": {"target_modules": ["q_proj", "c_attn"]},
    "a start that is not zero": {"target_modules": ["q_proj"], "init_lora_weights": False, "lora_alpha": 64},
    "a pattern": {"target_modules": r".*\.[02]\.self_attn\.[qv]_proj"},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_what_peft_writes_is_accused_of_nothing(settings, tmp_path):
    report = inspect_adapter(*saved(tmp_path, **settings))
    assert report.verdict.startswith("alive"), report.findings
    assert all(0.9 < layer.bf16 < 1.1 and layer.nf4 is not None for layer in report.layers)


def test_another_architecture_has_its_weights_the_other_way_round(tmp_path):
    report = inspect_adapter(*saved(tmp_path, gpt2, target_modules=["c_attn"], fan_in_fan_out=True))
    assert report.verdict.startswith("alive") and report.layers[0].out_features == 96


def test_a_classifier_has_one_of_the_two_heads_that_peft_names(tmp_path):
    bert, sizes = transformers.BertForSequenceClassification, transformers.BertConfig(num_hidden_layers=2, **SIZES)
    settings = {"target_modules": ["query", "pooler.dense"], "task_type": "SEQ_CLS"}
    folder, base = saved(tmp_path, lambda: bert(sizes), **settings)
    assert inspect_adapter(folder, base).verdict.startswith("alive")
    save_file(without("pooler")(load_file(base / "model.safetensors")), base / "model.safetensors")
    assert inspect_adapter(folder, base).verdict.startswith("alive")


def test_experts_with_one_adapter_for_all_of_them_or_none(tmp_path):
    both = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    folder, base = saved(tmp_path, mixtral, target_modules=["q_proj"], target_parameters=both)
    report = inspect_adapter(folder, base)
    assert report.verdict == "alive: 6 layers carry an update" and len(report.layers) == 2
    for rank in (2, 3):
        (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | {"r": rank}))
        assert f"not rank {rank} for each of 2 experts" in str(inspect_adapter(folder, base).findings)
    report = inspect_adapter(*saved(tmp_path, mixtral, target_modules=["q_proj", "v_proj"]))
    assert report.verdict.startswith("alive") and "experts have no adapter" in str(report.findings)


def test_a_start_out_of_the_base_is_accused_where_loading_does_not_repeat_it(tmp_path):
    for start, repeated in (("pissa", True), ("olora", True), ("pissa_niter_4", False)):
        folder, base = saved(tmp_path / start, init_lora_weights=start, target_modules=["q_proj"])
        load = transformers.LlamaForCausalLM.from_pretrained
        loads = [peft.PeftModel.from_pretrained(load(base), folder)(torch.arange(8)[None]).logits for _ in range(2)]
        assert torch.equal(*loads) == repeated == inspect_adapter(folder).verdict.startswith("alive"), start


def test_numbers_are_those_of_the_update(tmp_path):
    folder, base = saved(tmp_path, target_modules=["q_proj"], use_rslora=True)
    layer = inspect_adapter(folder, base).layers[-1]
    tensors, weights = load_file(folder / WEIGHTS), load_file(base / "model.safetensors")
    A, B = (tensors[f"{PREFIX}{layer.path}.lora_{part}.weight"] for part in "AB")
    update, W = layer.scaling * B @ A, weights[f"{layer.path}.weight"]
    strengths = torch.linalg.svdvals(update).square()
    assert layer.scaling == 8 / 4**0.5 and layer.path.startswith("model.layers.2")
    assert layer.norm == pytest.approx(update.norm().item(), rel=1e-4)
    assert layer.relative == pytest.approx((update.norm() / W.norm()).item(), rel=1e-4)
    assert layer.directions == int((strengths.cumsum(0) < 0.9 * strengths.sum()).sum()) + 1


def test_a_small_update_is_lost_in_four_bits_and_kept_in_sixteen(tmp_path):
    report = inspect_adapter(*saved(tmp_path, trained=1e-3, target_modules=["down_proj"]))
    assert all(layer.relative < 0.1 and layer.nf4 < 0.9 < layer.bf16 for layer in report.layers)


# --- damage: a change of the tensors or of the config, and a word of the verdict -------------------------------------


def each(change, only=""):
    """A change of every tensor whose name holds a word."""
    return lambda tensors: {name: change(value) if only in name else value for name, value in tensors.items()}


def renamed(change):
    return lambda tensors: {change(name): value for name, value in tensors.items()}


def without(word):
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


def doubled(old, new):
    """Some tensors a second time, under other names."""
    return lambda tensors: tensors | {name.replace(old, new): tensors[name].clone() for name in tensors if old in name}


TENSORS = {
    "has not learned": each(torch.zeros_like, "lora_B"),
    "hardly moved": each(lambda value: value * 1e-7, "lora_B"),
    "in 1 of 6 layers": each(torch.zeros_like, "1.self_attn.q_proj.lora_B"),
    "NaN": each(lambda value: value / 0, "2.self_attn.v_proj.lora_A"),
    "training diverge": each(lambda value: value * 1e6, "lora_B"),
    "one direction": each(lambda value: value[:1].expand_as(value).clone(), "lora_A"),
    "the same numbers": doubled("layers.0", "layers.1"),
    "has no lora_B": without("2.self_attn.v_proj.lora_B"),
    "2 of 3 blocks": without("layers.1.self_attn.q_proj"),
    "belongs to the target v_proj": without("v_proj"),
    "is transposed": each(lambda value: value.T.contiguous(), "lora_A"),
    "its A has 2 rows": lambda tensors: {
        name: (value[:2] if "lora_A" in name else value[:, :2]).contiguous() for name, value in tensors.items()
    },
    "have fractions": each(lambda value: value.to(torch.int8)),
    "does not begin with": renamed(lambda name: name.removeprefix(PREFIX)),
    "holds the adapter's name": renamed(lambda name: name.replace(".weight", ".default.weight")),
    "wrapped the model twice": renamed(lambda name: PREFIX + name),
    "torch.compile": renamed(lambda name: name.replace(PREFIX, f"{PREFIX}_orig_mod.")),
    "FSDP": renamed(lambda name: name.replace("layers.", "_fsdp_wrapped_module.layers.")),
    "does not end in .weight": renamed(lambda name: name.removesuffix(".weight")),
    "kohya": renamed(lambda name: name.replace("lora_A", "lora_down")),
    "belongs to LoRA": renamed(lambda name: name.replace("lora_", "ia3_")),
    "no tensors": lambda tensors: {},
    "saved whole": lambda tensors: tensors | {f"{PREFIX}model.norm.weight": torch.randn(500)},
    "has no numbers": each(lambda value: value[:0]),
    "gather before saving": each(torch.flatten),
    "they are of LoHa": renamed(lambda name: name.replace("lora_", "hada_w1_")),
    "is there twice": doubled(".weight", ".default.weight"),
    "no adapter in model.layers 1 of 0 to 2": without("layers.1."),
    "the base lies among them": doubled("lora_A", "base_layer"),
    "PEFT loads it over the base's": lambda tensors: tensors | {f"{PREFIX}lm_head.weight": torch.randn(50, 32)},
    "base_layer.bias (": lambda tensors: tensors | {f"{min(tensors)[:-13]}base_layer.bias": torch.ones(32)},
    "has 5 numbers": lambda tensors: tensors | {f"{min(tensors)[:-13]}lora_magnitude_vector": torch.ones(5)},
    "use_dora is False": lambda tensors: tensors | {f"{min(tensors)[:-13]}lora_magnitude_vector": torch.ones(32)},
}  # fmt: skip


@pytest.mark.parametrize("word", TENSORS)
def test_damaged_tensors_are_named(word, adapter):
    save_file(TENSORS[word](load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    assert word in inspect_adapter(adapter).verdict


CONFIGS = {
    "peft_type is 'IA3'": {"peft_type": "IA3"},
    "r is 0": {"r": 0},
    "rank 16": {"r": 16},
    "lora_alpha is '16'": {"lora_alpha": "16"},
    "adds nothing": {"lora_alpha": 0},
    "subtracts": {"lora_alpha": -8},
    "s is 2500": {"lora_alpha": 10000},
    "lora_dropout is 1.5": {"lora_dropout": 1.5},
    "bias is 'yes'": {"bias": "yes"},
    "use_rslora is 'false'": {"use_rslora": "false"},
    "use_dora is True": {"use_dora": True},
    "started with pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "is 'pissa' meant": {"init_lora_weights": "pisa"},
    "is 'LORA' meant": {"peft_type": "LORRA"},
    "is 'CAUSAL_LM' meant": {"task_type": "CAUSAL"},
    "is 'use_rslora' meant": {"use_rs_lora": True},
    "is 'q_proj' meant": {"alpha_pattern": {"qproj": 64}},
    "changes nothing": {"rank_pattern": {"(": 4}},
    "its head is not in the file": {"task_type": "SEQ_CLS"},
    "config.json of a whole model": {"peft_type": None, "model_type": "llama"},
    "has 0 tensors of it": {"trainable_token_indices": [1]},
    "modules_to_save names lm_head": {"modules_to_save": ["lm_head"]},
    "the target gate_proj": {"target_modules": ["q_proj", "v_proj", "gate_proj"]},
    "target_modules does not name": {"target_modules": ["q_proj"]},
    "target_modules is None": {"target_modules": None},
    "does not name model.layers.0": {"target_modules": "q_proj,v_proj"},
    "leaves out model.layers.1": {"layers_to_transform": [0]},
    "exclude_modules takes out": {"exclude_modules": ["v_proj"]},
    "alpha_pattern is ['q_proj']": {"alpha_pattern": ["q_proj"]},
}


@pytest.mark.parametrize("word", CONFIGS)
def test_a_wrong_config_is_named(word, adapter):
    (adapter / CONFIG).write_text(json.dumps(json.loads((adapter / CONFIG).read_text()) | CONFIGS[word]))
    assert word in inspect_adapter(adapter).verdict


def test_what_is_no_adapter_is_said(adapter, tmp_path):
    def said(folder):
        return inspect_adapter(folder).verdict

    assert "whole model" in said(tmp_path / "base") and "no folder" in said(tmp_path / "nowhere")
    assert "one folder deeper: name adapter" in said(tmp_path) and "is a file" in said(adapter / CONFIG)
    weights = (adapter / WEIGHTS).read_bytes()
    unreadable = (weights[:-9], "damaged"), (b"", "empty"), (b"version h", "Git LFS"), (b"<html>", "web page")
    of_others = (b"GGUF", "llama.cpp"), (b"PK\x03\x04x", "zip archive"), (b"PK\x03\x04 data.pkl", "pickle")
    for content, word in unreadable + of_others:
        (adapter / WEIGHTS).write_bytes(content)
        assert word in said(adapter)
        with pytest.raises(ValueError, match=rf"{WEIGHTS}.*{word}"):
            inspect_adapter(adapter, adapter / WEIGHTS)
    (adapter / WEIGHTS).unlink()
    torch.save({"a": torch.ones(1)}, adapter / "adapter_model.bin")
    assert "not opened: adapter_model.bin is a pickle" in said(adapter)
    torch.save(peft.LoraConfig(), adapter / "adapter_model.bin")
    assert "a whole LoraConfig" in said(adapter)
    (adapter / "adapter_model.bin").write_bytes(weights)
    assert "adapter_model.bin is safetensors" in said(adapter)
    (adapter / CONFIG).write_text("{")
    assert "not valid JSON" in said(adapter)


def test_what_lies_there_instead_is_said(adapter):
    (adapter / WEIGHTS).unlink()
    assert "copy it here" in inspect_adapter(adapter).verdict
    instead = ("x.gguf", "model.bin", f"deep/{WEIGHTS}", "global_step5", "adapter_model-1-of-2.safetensors")
    for name in instead:
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).touch()
        assert name.partition("/")[0] in inspect_adapter(adapter).verdict
    (adapter / WEIGHTS).symlink_to("gone")
    assert "is a link to gone" in inspect_adapter(adapter).verdict
    save_file({"lora_unet_x.alpha": torch.ones(1)}, adapter / "deep" / WEIGHTS)
    assert "kohya" in inspect_adapter(adapter / "deep").verdict
    adapter.with_suffix(".zip").touch()
    assert "unpack it" in inspect_adapter(adapter.with_suffix(".zip")).verdict


NOTES = {
    "names no base": ({"base_model_name_or_path": None}, {}),
    "a path that is not here": ({"base_model_name_or_path": "/elsewhere/llama"}, {}),
    "wrote it, upgrade": ({"mix": True, "peft_version": "99.0.0"}, {}),
    "no bias is in the file": ({"bias": "all"}, {}),
    "is more than": ({"r": 4}, {f"{PREFIX}x.q_proj.lora_{part}.weight": torch.eye(4)[:rows, :columns] + 0.1
                                for part, rows, columns in (("A", 4, 3), ("B", 3, 4))}),
    "float64": ({}, {f"{PREFIX}x.q_proj.lora_{part}.weight": torch.eye(4).double() for part in "AB"}),
    "added tokens": ({}, {f"{PREFIX}{name}.weight": torch.randn(60, 32) for name in ("lm_head", "model.embed_tokens")}),
    "lora_dropout is 1": ({"lora_dropout": 1.0}, {}),
    "started with olora": ({"init_lora_weights": "olora"}, {}),
}  # fmt: skip


@pytest.mark.parametrize("word", NOTES)
def test_what_harms_nobody_is_a_note(word, adapter):
    config, tensors = NOTES[word]
    (adapter / CONFIG).write_text(json.dumps(json.loads((adapter / CONFIG).read_text()) | config))
    save_file(load_file(adapter / WEIGHTS) | tensors, adapter / WEIGHTS)
    (adapter / "adapter_model.bin").touch()
    report = inspect_adapter(adapter)
    assert report.verdict.startswith("alive"), report.findings
    assert all(any(one in text for _, text in report.findings) for one in (word, "adapter_model.bin lies beside"))


def test_its_lists_are_those_of_the_peft_that_is_installed():
    assert set(settings.SETTINGS) == {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert set(settings.TYPES) == set(peft.PeftType) and set(settings.CHOICES["task_type"]) == set(peft.TaskType)
    starts = set(typing.get_args(typing.get_args(typing.get_type_hints(peft.LoraConfig)["init_lora_weights"])[1]))
    assert starts - set(settings.CHOICES["init_lora_weights"]) == {"pissa_niter_[number of iters]"}
    assert ".".join(map(str, settings.VERSION)) == peft.__version__


BESIDE = {
    "is a target and has no adapter": without("layers.2"),
    "the update is larger than the weight": each(lambda value: value * 100, "lora_B"),
    "the base has no model.layers.5": renamed(lambda name: name.replace("layers.2", "layers.5")),
    "the base calls": renamed(lambda name: name.replace("model.layers", "model.language_model.layers")),
    "tokens were added, first call": lambda tensors: tensors | {f"{PREFIX}lm_head.weight": torch.randn(60, 32)},
}


@pytest.mark.parametrize("word", BESIDE)
def test_what_only_the_base_can_tell(word, adapter, tmp_path):
    save_file(BESIDE[word](load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    assert any(word in text for _, text in inspect_adapter(adapter, tmp_path / "base").findings)


def test_another_base_is_named(adapter, tmp_path):
    assert "trained beside another model" in inspect_adapter(adapter, saved(tmp_path / "b", gpt2)[1]).verdict
    assert "wants a weight of 32 x 32" in inspect_adapter(adapter, saved(tmp_path / "c", lambda: llama(64))[1]).verdict
    no_base = (tmp_path, "holds no safetensors"), (adapter, "an adapter itself"), (tmp_path / "x", "not here")
    for given, word in no_base:
        with pytest.raises(ValueError, match=word):
            inspect_adapter(adapter, given)
    dora, base = saved(tmp_path / "d", use_dora=True)
    llama().save_pretrained(tmp_path / "other")
    assert "another base of this shape" in str(inspect_adapter(dora, tmp_path / "other").findings)
    assert "another base of this shape" not in str(inspect_adapter(dora, base).findings)
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors"):
        inspect_adapter(dora, base)


def test_it_is_said_drawn_and_written_as_json(adapter, tmp_path, capsys):
    report = inspect_adapter(adapter, tmp_path / "base")
    figure, words = card(report)
    assert words.startswith("Alive") and len(figure.axes[0].lines) == 2
    assert any("3 x q_proj" in line for line in lines(report))
    with pytest.raises(SystemExit, match="0"):
        main([str(adapter), "--json", "--card", str(tmp_path / "card.png")])
    assert json.loads(capsys.readouterr().out)["verdict"] == inspect_adapter(adapter).verdict
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
