"""The doctor for adapters: healthy ones, as PEFT writes them, are accused of nothing; each damage is named."""

import dataclasses
import itertools
import json
import re
import typing
from functools import partial

import pytest
import torch
from conftest import library, moved
from damaged_files import added, each, renamed, without
from safetensors.torch import load_file, save_file

from lora_course.programs.adapter_files import CHOICES, SETTINGS
from lora_course.programs.clients import PROGRAMS
from lora_course.programs.inspected import lines, main
from lora_course.programs.inspecting import inspect_adapter
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS, save_adapter
from lora_edu.variants import add_variant


def peft():
    return library("peft")


def model(name, head, **sizes):
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2} | sizes
    return getattr(library("transformers"), name + head)(getattr(library("transformers"), f"{name}Config")(**sizes))


gpt2 = partial(model, "GPT2", "LMHeadModel", n_layer=2, n_positions=16)
llama = partial(model, "Llama", "ForCausalLM", num_hidden_layers=3, num_key_value_heads=1)
bert = partial(model, "Bert", "ForSequenceClassification", num_hidden_layers=2)
mixtral = partial(model, "Mixtral", "ForCausalLM", num_hidden_layers=2, num_local_experts=2)


def saved(folder, make=llama, trained=0.02, **settings):
    """An adapter as PEFT writes it, and the base beside it: two folders."""
    torch.manual_seed(0)
    base = make()
    base.save_pretrained(folder / "base")
    options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | settings
    wrapped = peft().get_peft_model(base, peft().LoraConfig(**options))
    for name, parameter in wrapped.named_parameters():
        if ("lora_B" in name or "lora_embedding_A" in name) and trained:  # what starts at zero
            torch.nn.init.normal_(parameter, std=trained)
    wrapped.save_pretrained(folder / "adapter")
    return folder / "adapter", folder / "base"


@pytest.fixture
def adapter(tmp_path):
    return saved(tmp_path, target_modules=["q_proj", "v_proj"])[0]


def said(folder, base=None):
    return inspect_adapter(folder, base).verdict


ONE = {"target_modules": ["q_proj"]}
HEALTHY = {
    "LoRA": {},
    "rsLoRA": {"use_rslora": True, "lora_alpha": 4},
    "DoRA": {"use_dora": True},
    "ranks by layer": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}, "alpha_pattern": {"v_proj": 16}},
    "some layers": {"target_modules": ["q_proj"], "layers_to_transform": [0, 2]},
    "the head, whole": {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
    "biases": {"target_modules": ["q_proj"], "bias": "lora_only", "exclude_modules": ["k_proj"]},
    "the embedding": {"target_modules": ["q_proj", "embed_tokens"]},
    "the head": {"target_modules": ["q_proj", "lm_head"]},
    "all but one kind": {"exclude_modules": ["o_proj"]},
    "all but one kind, of few": {"exclude_modules": ["o_proj"], "make": partial(llama, num_hidden_layers=2)},
    "all but a pattern": {"exclude_modules": r".*\.mlp\..*"},
    "all but a pattern, of few": {"exclude_modules": r".*\.mlp\..*", "make": partial(llama, num_hidden_layers=2)},
    "all but those of a block": {
        "target_modules": ["q_proj", "up_proj"],
        "exclude_modules": [f"layers.{i}.mlp.up_proj" for i in range(3)],
    },
    "a pattern": {"target_modules": r".*\.[02]\.self_attn\.[qv]_proj"},
    "weights the other way round": {"make": gpt2, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    "one of PEFT's two heads": {"make": bert, "target_modules": ["query"], "task_type": "SEQ_CLS"},
    "no experts": {"make": mixtral, "target_modules": ["q_proj"]},
    "experts": {"make": mixtral, "target_modules": ["q_proj"], "target_parameters": ["experts.down_proj"]},
    "experts, all": {"make": mixtral, "target_modules": [], "target_parameters": ["gate_up_proj", "down_proj"]},
    "some tokens": {"target_modules": ["q_proj"], "trainable_token_indices": {"embed_tokens": [1, 2]}},
}


@pytest.mark.parametrize("options", HEALTHY.values(), ids=HEALTHY)
def test_what_peft_writes_is_accused_of_nothing(options, tmp_path):
    folder, base = saved(tmp_path, **options)
    alone, report = inspect_adapter(folder), inspect_adapter(folder, base)
    assert alone.verdict == report.verdict and report.verdict.startswith("alive"), (alone.findings, report.findings)
    assert all(0.9 < layer.bf16 < 1.1 and layer.nf4 is not None for layer in report.layers)
    assert not [finding for finding in report.findings if finding.level != "note"]
    bare = options.get("make") is mixtral and "target_parameters" not in options
    assert bare == ("experts.w1 (4)" in str(report.findings))


def test_a_start_that_moves_the_base_is_named_by_the_config_or_by_the_numbers(tmp_path):
    folder, base = saved(tmp_path, trained=0, init_lora_weights="pissa", target_modules=["q_proj"])
    assert "started with pissa" in said(folder)
    change_config(folder, {"init_lora_weights": True})
    assert said(folder).startswith("alive") and "point along their weights" in said(folder, base)


def test_of_other_methods_names_and_numbers_are_read(tmp_path):
    config = peft().IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[])
    peft().get_peft_model(llama(), config).save_pretrained(tmp_path)
    assert said(tmp_path).startswith("has not learned: ia3_l is 1 throughout")
    save_file(each(lambda one: one + torch.randn_like(one))(load_file(tmp_path / WEIGHTS)), tmp_path / WEIGHTS)
    assert said(tmp_path).startswith("another method: peft_type is IA3")
    save_file({"prompt_embeddings": torch.randn(3, 32)}, tmp_path / WEIGHTS)
    change_config(tmp_path, {"peft_type": "PROMPT_TUNING", "num_virtual_tokens": 8})
    assert "promises 8 num_virtual_tokens, and the file has 3" in said(tmp_path)


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
    report = inspect_adapter(*saved(tmp_path / "small", trained=1e-3, target_modules=["down_proj"]))
    assert all(layer.relative < 0.1 and layer.nf4 < 0.9 < layer.bf16 for layer in report.layers)


Q = "model.layers.1.self_attn.q_proj"
TENSORS = [  # what is said first, and what was done to the file
    ("has not learned: lora_B is zero throughout, in every layer", each(torch.zeros_like, "lora_B")),
    ("has not learned: lora_B has hardly left zero", each(lambda value: value * 1e-7, "lora_B")),
    ("odd: lora_B is zero throughout in 1 of 6 layers", each(torch.zeros_like, f"{Q}.lora_B")),
    (f"broken: the update of {Q} has the norm 2.62e+29", each(lambda value: value * 1e30, f"{Q}.lora_B")),
    (f"odd: the update of {Q} is 13", each(lambda value: value * 1e4, f"{Q}.lora_B")),
    ("alive", each(lambda value: value * 30, f"{Q}.lora_B")),
    ("ends in zeros", each(lambda value: torch.cat([value[:2], 0 * value[2:]]), "2.self_attn.v_proj.lora_A")),
    ("holds inf", each(lambda value: value / 0, f"{Q}.lora_A")),
    ("weights have fractions", each(lambda value: value.to(torch.int8))),
    ("bit for bit, in 3 layers", lambda all: {name: all[re.sub(r"s\.\d", "s.0", name)].clone() for name in all}),
    ("repeat, 2 of 4 differ", each(lambda one: torch.cat([one[:2]] * 2) if len(one) == 4 else one[:, [0, 1, 0, 1]])),
    (f"odd: the config promises an adapter of {Q}, and the file has none", without(Q)),
    ("alive", renamed(".weight", ".default.weight")),
    ("promises model.layers.2.self_attn.v_proj.lora_B, and the file lacks", without("2.self_attn.v_proj.lora_B")),
    ("has the shape [32, 4], transposed", each(lambda value: value.T.contiguous(), "lora_A")),
    ("holds base_model.model.lm_head.weight", added("lm_head.weight", torch.randn(50, 32))),
    ("PEFT passes by it, as use_dora is off", added(f"{Q}.lora_magnitude_vector", torch.randn(32))),
    ("holds an adapter's name", renamed(".weight", ".mine.weight")),
    ("kohya", renamed("lora_A", "lora_down")),
]  # fmt: skip
CONFIGS = [  # and to the config
    ("lora_magnitude_vector, and the file lacks it", {"use_dora": True}),
    ("promises lm_head of modules_to_save", {"modules_to_save": ["lm_head"]}),
    ("promises a head for SEQ_CLS", {"task_type": "SEQ_CLS"}),
    ("init_lora_weights is 'pisa', expected", {"init_lora_weights": "pisa"}),
    ("is 'use_rslora' meant", {"use_rs_lora": True}),
    ("r is '4', expected a number", {"r": "4", "lora_alpha": "8"}),
    ("odd: the config promises an adapter of gate_proj", {"target_modules": ["q_proj", "v_proj", "gate_proj"]}),
    ("target_modules (q_proj,v_proj) does not name it", {"target_modules": "q_proj,v_proj"}),
]


def change_config(folder, change):
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | change))


@pytest.mark.parametrize(("word", "change"), TENSORS + CONFIGS)
def test_damage_is_named(word, change, adapter):
    if callable(change):
        save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    change_config(adapter, {} if callable(change) else change)
    assert word in said(adapter)


def test_what_only_the_base_can_tell(adapter, tmp_path):
    base, whole = tmp_path / "base", load_file(adapter / WEIGHTS)
    for word, change in (
        ("promises an adapter of model.layers.2.self_attn.q_proj", without("layers.2")),
        ("times as large as its weight", each(lambda value: value * 1000, "lora_B")),
        ("the base's files have no such layer", renamed("layers.2", "layers.5")),
        ("the base calls", renamed("model.layers", "model.language_model.layers")),
        ("has the shape [8, 4], by config and base it is [16, 4]", each(lambda one: one[:8], "v_proj.lora_B")),
        ("lm_head.weight is [60, 32], the base has [50, 32]", added("lm_head.weight", torch.randn(60, 32))),
    ):
        save_file(change(whole), adapter / WEIGHTS)
        assert word in said(adapter, base)
    save_file(whole, adapter / WEIGHTS)
    codes = {f"{name[6:-6]}qweight": one.int() for name, one in load_file(base / "model.safetensors").items()}
    save_file(codes, tmp_path / "codes.safetensors")
    assert said(adapter, tmp_path / "codes.safetensors").startswith("alive")
    save_file(whole | {f"{PREFIX}lm_head.weight": torch.randn(50, 32)}, adapter / WEIGHTS)
    change_config(adapter, {"modules_to_save": ["lm_head"]})
    assert "tied" in str(inspect_adapter(adapter, tmp_path / "codes.safetensors").findings)
    assert "the base's files have no such layer" in said(adapter, saved(tmp_path / "b", gpt2)[1])
    assert "it is [4, 64]" in said(adapter, saved(tmp_path / "c", partial(llama, hidden_size=64))[1])
    (adapter / "added_tokens.json").write_text('{"<x>": 50}')
    assert "token 50, the embedding has 50 rows" in said(adapter, base)
    change_config(adapter, {"trainable_token_indices": [51]})
    assert "trainable_token_indices goes to token 51" in str(inspect_adapter(adapter, base).findings)
    (base / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    refused = {base: "lacks model-2", tmp_path / "a": "not here", adapter: "an adapter", tmp_path / "b": "no safe"}
    for given, word in refused.items():
        with pytest.raises(ValueError, match=word):
            inspect_adapter(adapter, given)


def test_no_value_of_a_setting_stops_it_and_what_peft_refuses_is_named(tmp_path):
    adapter, base = saved(tmp_path, partial(llama, num_hidden_layers=1), target_modules=["q_proj"])
    config = json.loads((adapter / CONFIG).read_text())
    for name, value in itertools.product(SETTINGS, ("x", [[1]], {"q_proj": 0}, -1)):
        change_config(adapter, config | {name: value})
        inspect_adapter(adapter, base)
        assert said(adapter).startswith(f"broken: {name} is 'x', expected" if name in CHOICES and value == "x" else "")


def test_its_lists_are_those_of_the_peft_that_is_installed():
    assert set(SETTINGS) == {field.name for field in dataclasses.fields(peft().LoraConfig)}
    assert set(CHOICES["task_type"].split("|")) == set(peft().TaskType)
    starts = typing.get_args(typing.get_args(typing.get_type_hints(peft().LoraConfig)["init_lora_weights"])[1])
    names = (str(start).replace("[number of iters]", "4") for start in starts)
    assert not [name for name in names if not re.fullmatch(CHOICES["init_lora_weights"], name)]
    assert peft().__version__.startswith("0.21.")


def test_a_file_is_known_by_its_content(adapter, tmp_path):
    weights, file = (adapter / WEIGHTS).read_bytes(), adapter / WEIGHTS
    known = {b"": "empty", b"version h": "Git LFS", b"<html>": "web page", b"GGUF": "llama.cpp"}
    known |= {b"PK\3\4x": "zip archive", weights[:-9]: "cut short", b"PK\3\4 data.pkl": "a pickle"}
    for content, word in known.items():
        file.write_bytes(content)
        assert word in said(adapter) and said(adapter).startswith("not opened" if "pickle" in word else "broken")
        with pytest.raises(ValueError, match=rf"{WEIGHTS}.*{word}"):
            inspect_adapter(adapter, file)
    file.unlink()
    torch.save({"a": torch.ones(999)}, adapter / "adapter_model.bin")
    assert said(adapter).startswith("not opened: adapter_model.bin is a pickle")
    (adapter / "adapter_model.bin").write_bytes(weights)
    assert "adapter_model.bin is safetensors" in said(adapter)
    (adapter / "adapter_model.bin").unlink()
    assert f"there is no {file}" in said(adapter) and "whole model" in said(tmp_path / "base")
    for name in ("model.safetensors", "global_step5", "adapter_model-1-of-2.safetensors", f"deep/{WEIGHTS}"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).touch()
        assert name in said(adapter)
    file.symlink_to("gone")
    assert "is a link to gone" in said(adapter)
    (adapter / CONFIG).write_text("[1]")
    assert f"{CONFIG} is damaged" in said(adapter)
    save_file({"lora_unet_x.alpha": torch.ones(1)}, adapter / "deep" / WEIGHTS)
    assert "kohya" in said(adapter / "deep") and "one folder deeper" in said(tmp_path)


def test_it_is_said_and_written_as_json(adapter, tmp_path, capsys):
    report = inspect_adapter(adapter, tmp_path / "base")
    assert any("3 x q_proj" in line for line in lines(report))
    with pytest.raises(SystemExit, match="0"):
        main([str(adapter), "--base", str(tmp_path / "base"), "--json"])
    written = json.loads(capsys.readouterr().out)
    assert written["verdict"] == report.verdict and written["layers"][0]["path"] == report.layers[0].path


def test_of_two_layers_none_is_the_loud_one(tmp_path):
    folder, _ = saved(tmp_path, target_modules=["q_proj"], layers_to_transform=[0, 2])
    louder = each(lambda value: value * 1e3, "layers.2.self_attn.q_proj.lora_B")
    save_file(louder(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    assert said(folder).startswith("alive")


def test_what_the_config_lacks_and_what_the_file_notes(adapter):
    config = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if name != "r"}))
    assert "the config lacks r, and PEFT takes 8" in str(inspect_adapter(adapter).findings)
    model = add_variant(llama(), "rsLoRA", 16, 8, ["q_proj"])
    assert inspect_adapter(save_adapter(moved(model), adapter.parent / "ours")).facts["trained as"] == "rsLoRA, alpha 8"


# --- other programs --------------------------------------------------------------------------------------------------


def told(folder, base=None):
    """What each program is said to do, without its name, by program."""
    report = inspect_adapter(folder, base, PROGRAMS)
    return {name: " | ".join(map(str, said)) for name, said in report.programs.items()}


NAMED = "somebody/small"
FOR_PROGRAMS = {  # settings of PEFT: what is said of llama.cpp, and of vLLM
    "LoRA": ({}, "", ""),
    "rsLoRA": ({"use_rslora": True, "r": 16, "lora_alpha": 8}, "otherwise: 1/4 of .* write lora_alpha 32", ""),
    "DoRA": ({"use_dora": True}, "refuses it: .* at .*magnitude_vector: merge", "refuses it: it has no DoRA"),
    "a head": ({"modules_to_save": ["lm_head"]}, "stops at .*lm_head.weight", r"modules_to_save, \['lm_head'\]"),
    "norms": ({"modules_to_save": ["input_layernorm"]}, "otherwise: it leaves out .*norm.weight", "modules_to_save"),
    "biases": ({"make": bert, "target_modules": ["query"], "bias": "all"}, "stops at .*bias", "it takes no biases"),
    "alphas": ({"alpha_pattern": {"v_proj": 2}}, "otherwise: it takes one alpha", "otherwise: it divides one alpha"),
    "ranks": ({"rank_pattern": {"v_proj": 2}}, "", "otherwise: it divides one alpha by one r"),
    "rank 24": ({"r": 24}, "", "asks for more: .*--max-lora-rank 32$"),
    "rank 600": ({"r": 600}, "", "refuses it: it goes to rank 512"),
    "GPT-2": ({"make": gpt2, "target_modules": ["c_attn"], "fan_in_fan_out": True}, "refuses it: .* GPT-2's", ""),
    "no name": ({"base_model_name_or_path": None}, "asks for more: the config names no base", ""),
    "a folder's": ({"base_model_name_or_path": "./a"}, "asks for more: the config names no base", ""),
}


@pytest.mark.parametrize(("options", "llama_cpp", "vllm"), FOR_PROGRAMS.values(), ids=FOR_PROGRAMS)
def test_what_other_programs_do_is_said_before_they_do_it(options, llama_cpp, vllm, tmp_path):
    """That llama.cpp does, tests/lora_edu/test_clients.py runs."""
    options = {"target_modules": ["q_proj", "v_proj"], "base_model_name_or_path": NAMED} | options
    name = options.pop("base_model_name_or_path")
    folder, base = saved(tmp_path, **options)
    change_config(folder, {"base_model_name_or_path": name})
    said = told(folder, base)
    for words, pattern in ((said["llama.cpp"], llama_cpp), (said["vllm"], vllm)):
        assert re.search(pattern, words) if pattern else words == ""


def test_a_program_that_lacks_a_setting_or_shares_a_head(tmp_path):
    folder, base = saved(tmp_path, target_modules=["q_proj", "lm_head"])
    change_config(folder, {"base_model_name_or_path": NAMED})
    assert told(folder, base)["llama.cpp"] == ""
    weights = load_file(base / "model.safetensors")
    save_file({name: one for name, one in weights.items() if name != "lm_head.weight"}, base / "model.safetensors")
    assert "stops at lm_head, which is tied to the embedding" in told(folder, base)["llama.cpp"]
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if name != "lora_alpha"}))
    assert "the config lacks lora_alpha" in told(folder)["vllm"]


def test_the_command_prints_the_report_and_says_what_programs_do(adapter, tmp_path, capsys):
    change_config(adapter, {"base_model_name_or_path": None})
    with pytest.raises(SystemExit, match="0"):
        main([str(adapter), "--base", str(tmp_path / "base"), "--for", "llama.cpp,vLLM"])
    out = capsys.readouterr().out
    assert out.startswith(said(adapter, tmp_path / "base")) and "3 x q_proj" in out
    assert "[llama.cpp asks for more] the config names no base" in out and "[vllm] no rule that is known" in out
    change_config(adapter, {"use_rslora": True})
    with pytest.raises(SystemExit, match="1"):
        main([str(adapter), "--for", "llama.cpp", "--json"])
    assert json.loads(capsys.readouterr().out)["programs"]["llama.cpp"][0]["level"] == "llama.cpp hears it otherwise"
    with pytest.raises(SystemExit, match="2"):
        main([str(adapter), "--for", "ollama"])
    assert "no rules are known of 'ollama': name some of llama.cpp, vllm" in capsys.readouterr().err
