"""The doctor for adapters: healthy ones, as PEFT writes them, are accused of nothing; each damage is named."""

import dataclasses
import json
import re
import typing
from functools import partial

import pytest
import torch
from damaged_files import added, each, renamed, without
from safetensors.torch import load_file, save_file

from lora_edu import inspect_adapter
from lora_edu.figures.inspected import card, lines, main
from lora_edu.models import adapter_settings as settings
from lora_edu.peft_io import CONFIG, PREFIX, WEIGHTS

transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")
SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2}


def model(name, head, **sizes):
    return getattr(transformers, name + head)(getattr(transformers, f"{name}Config")(**sizes))


gpt2 = partial(model, "GPT2", "LMHeadModel", n_layer=2, n_embd=32, n_head=2, vocab_size=50, n_positions=16)
llama = partial(model, "Llama", "ForCausalLM", num_hidden_layers=3, num_key_value_heads=1, **SIZES)
bert = partial(model, "Bert", "ForSequenceClassification", num_hidden_layers=2, **SIZES)
mixtral = partial(model, "Mixtral", "ForCausalLM", num_hidden_layers=2, num_local_experts=2, **SIZES)


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


ONE = {"target_modules": ["q_proj"]}


def said(folder, base=None):
    return inspect_adapter(folder, base).verdict


HEALTHY = {
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
    "a start that is not zero": {"target_modules": ["q_proj"], "init_lora_weights": False, "lora_alpha": 64},
    "a pattern": {"target_modules": r".*\.[02]\.self_attn\.[qv]_proj"},
    "weights the other way round": {"make": gpt2, "target_modules": ["c_attn"], "fan_in_fan_out": True},
    "one of PEFT's two heads": {"make": bert, "target_modules": ["query"], "task_type": "SEQ_CLS"},
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
    bare = options.get("make") is mixtral and options["target_modules"]
    seen = "".join(finding.seen for finding in report.findings)
    assert ("experts" in seen) == bool(bare) and "tied" not in seen and "the base's" not in seen


def test_a_start_that_moves_the_base_is_named_and_whether_loading_repeats_it(tmp_path):
    for start, repeated in (("pissa", True), ("olora", True), ("pissa_niter_4", False)):
        folder, base = saved(tmp_path / start, init_lora_weights=start, target_modules=["q_proj"])
        load = transformers.LlamaForCausalLM.from_pretrained
        loads = [peft.PeftModel.from_pretrained(load(base), folder)(torch.arange(8)[None]).logits for _ in range(2)]
        assert torch.equal(*loads) == repeated == ("PEFT repeats" in inspect_adapter(folder).verdict), start


@pytest.mark.parametrize(("word", "options", "config"), [
    ("is 2 x 32, for 1 tokens", HEALTHY["some tokens"], {"trainable_token_indices": {"embed_tokens": [1]}}),
    ("the bias of transformer.h.0.attn.c_attn", HEALTHY["weights the other way round"], {"bias": "lora_only"}),
    ("rank 4 for each of the base's 4 experts", HEALTHY["experts, all"], {}),
    ("points along its weight", ONE | {"trained": 0, "init_lora_weights": "pissa"}, {"init_lora_weights": True}),
])  # fmt: skip
def test_a_promise_that_only_the_base_knows_is_kept(word, options, config, tmp_path):
    folder, base = saved(tmp_path, **options)
    (folder / CONFIG).write_text(json.dumps(json.loads((folder / CONFIG).read_text()) | config))
    (base / "config.json").write_text('{"num_local_experts": 4}')
    assert word in inspect_adapter(folder, base).verdict


@pytest.mark.parametrize(("kind", "options", "change", "word"), [
    ("AdaLora", ONE | {"total_step": 9}, lambda tensors: without("lora_E")(tensors), "3 lora_A, 3 lora_B, 0 lora_E"),
    ("IA3", ONE | {"feedforward_modules": []}, lambda tensors: each(torch.ones_like)(tensors), "ia3_l is 1 throughout"),
    ("Vera", ONE, lambda tensors: without("vera_A")(tensors), "0 vera_A"),
    ("PromptTuning", {"num_virtual_tokens": 8}, lambda tensors: each(lambda value: value[:3])(tensors), "has 3"),
])  # fmt: skip
def test_of_other_methods_names_and_numbers_are_read(kind, options, change, word, tmp_path):
    wrapped = peft.get_peft_model(llama(), getattr(peft, f"{kind}Config")(task_type="CAUSAL_LM", **options))
    for parameter in wrapped.parameters():
        parameter.data += 0.01 * torch.randn_like(parameter)
    wrapped.save_pretrained(tmp_path)
    assert inspect_adapter(tmp_path).verdict.startswith("another method")
    save_file(change(load_file(tmp_path / WEIGHTS)), tmp_path / WEIGHTS)
    assert word in inspect_adapter(tmp_path).verdict


def test_another_head_of_the_base_is_no_target(tmp_path):
    folder, base = saved(tmp_path, make=bert, target_modules=["query", "dense"], task_type="SEQ_CLS")
    tensors = load_file(base / "model.safetensors") | {"cls.predictions.transform.dense.weight": torch.ones(32, 32)}
    save_file(tensors, base / "model.safetensors")
    assert inspect_adapter(folder, base).verdict.startswith("alive")


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
TENSORS = [
    ("has not learned", "every layer", each(torch.zeros_like, "lora_B")),
    ("has not learned", "hardly moved", each(lambda value: value * 1e-7, "lora_B")),
    ("odd", "in 1 of 6 layers", each(torch.zeros_like, f"{Q}.lora_B")),
    ("broken", "holds infinity", each(lambda value: value / 0, "2.self_attn.v_proj.lora_A")),
    ("odd", "times as loud as most", each(lambda value: value * 500, f"{Q}.lora_B")),
    ("odd", "as large as", each(lambda value: value * 1e6, "lora_B")),
    ("odd", "float8_e4m3fn", each(lambda value: value.to(torch.float8_e4m3fn))),
    ("broken", "A of model.layers.0.self_attn.q_proj is zero as well as B", each(torch.zeros_like)),
    ("broken", "ends in zeros", each(
        lambda value: torch.cat([value[:2], 0 * value[2:]]), "2.self_attn.v_proj.lora_A")),
    ("broken", "has no lora_B", without("2.self_attn.v_proj.lora_B")),
    ("odd", f"layers 1 of 0 to 2, such as {Q[15:]}", without(Q)),
    ("broken", "as if transposed, rows of A must be columns", each(lambda value: value.T.contiguous(), "lora_A")),
    ("broken", "have fractions", each(lambda value: value.to(torch.int8))),
    ("broken", "does not begin with", renamed(PREFIX, "")),
    ("odd", "under the name default", renamed(".weight", ".default.weight")),
    ("broken", "holds the adapter's name", renamed(".weight", ".mine.weight")),
    ("broken", "torch.compile", renamed(PREFIX, f"{PREFIX}_orig_mod.")),
    ("broken", "does not end in .weight", renamed(".weight", "")),
    ("broken", "kohya", renamed("lora_A", "lora_down")),
    ("broken", "no tensor belongs to LoRA", renamed("lora_", "ia3_")),
    ("broken", "no tensors", lambda tensors: {}),
    ("broken", "has no numbers", each(lambda value: value[:0])),
    ("broken", "one piece of FSDP", each(lambda value: value[: len(value) // 2])),
    ("broken", "the last rows of B are zero", each(lambda value: torch.cat([value[:8], 0 * value[8:]]), "lora_B")),
    ("odd", "A has 2 different rows of 4", lambda tensors: each(lambda value: torch.cat([value[:2]] * 2), "lora_A")(
        each(lambda value: torch.cat([value[:, :2]] * 2, 1), "lora_B")(tensors))),
    ("odd", "bit for bit, in 3 of 6 layers", lambda tensors: {
        name: tensors[re.sub(r"layers\.\d", "layers.0", name)].clone() for name in tensors}),
    ("has not learned", "lora_A is 1 throughout", each(torch.ones_like, "lora_A")),
    ("broken", "float16 ends at 65,504", each(lambda value: (value * 1e8).half(), "lora_B")),
    ("broken", "lm_head.weight is uint8", added("lm_head.weight", torch.ones(800, 1, dtype=torch.uint8))),
    ("broken", "state of a model", added("lm_head.modules_to_save.default.weight", torch.randn(50, 32))),
    ("odd", "modules_to_save, in 1:", added("lm_head.weight", torch.randn(50, 32))),
    ("odd", "modules_to_save, in 12:", lambda tensors: tensors | {
        name.replace("lora_", "of_base."): value.clone() for name, value in tensors.items()}),
    ("broken", "use_dora is off", added(f"{Q}.lora_magnitude_vector", torch.ones(32))),
]  # fmt: skip
CONFIGS = [
    ("another method", "names and numbers only", {"peft_type": "HRA"}),
    ("broken", "has peft_type 'lora'", {"peft_type": "lora"}),
    ("broken", "config.json of a whole model", {"peft_type": None, "model_type": "llama"}),
    ("broken", "gives rank 16", {"r": 16}),
    ("broken", "gives rank 8", {"r": ...}),  # left out: PEFT's default
    ("has not learned", "adds nothing", {"lora_alpha": 0}),
    ("odd", "s is -2", {"lora_alpha": -8}),
    ("broken", "no lora_magnitude_vector", {"use_dora": True}),
    ("broken", "lm_head of modules_to_save is asked for", {"modules_to_save": ["lm_head"]}),
    ("broken", "is 'pissa' meant", {"init_lora_weights": "pisa"}),
    ("odd", "its head is not in the file", {"task_type": "SEQ_CLS"}),
    ("odd", "its head", {"auto_mapping": {"base_model_class": "LlamaForSequenceClassification"}}),
    ("odd", "is 'use_rslora' meant", {"use_rs_lora": True}),
    ("odd", "is 'q_proj' meant", {"alpha_pattern": {"qproj": 64}}),
    ("odd", "the target gate_proj", {"target_modules": ["q_proj", "v_proj", "gate_proj"]}),
    ("broken", "does not name", {"target_modules": ["q_proj"]}),
    ("broken", "expected a list of names", {"target_modules": "q_proj,v_proj"}),
    ("broken", "leaves out", {"layers_to_transform": [0]}),
    ("alive", "bias is all, and the file has none", {"bias": "all"}),
    ("broken", "is a pattern", {"target_modules": ".*(q|v)_proj", "layers_to_transform": [0, 1, 2]}),
    ("alive", "a path that is not here", {"base_model_name_or_path": "/elsewhere/llama"}),
    ("alive", "a newer PEFT", {"mix": True, "peft_version": "99.0.0"}),
]


@pytest.mark.parametrize(("level", "word", "change"), TENSORS + CONFIGS)
def test_damage_is_named(level, word, change, adapter, tmp_path):
    if callable(change):
        save_file(change(load_file(adapter / WEIGHTS)), adapter / WEIGHTS)
    config = json.loads((adapter / CONFIG).read_text()) | {"base_model_name_or_path": "a/base"}
    config |= change if isinstance(change, dict) else {}
    (adapter / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value is not ...}))
    report = inspect_adapter(adapter)
    assert report.verdict.startswith(level) and word in report.verdict + str(report.findings)
    assert level == "alive" or word in report.verdict


def test_what_only_the_base_can_tell(adapter, tmp_path):
    tensors = load_file(tmp_path / "base" / "model.safetensors")
    codes = {name.replace("proj.weight", "proj.qweight"): value.int() for name, value in tensors.items()}
    save_file(codes, tmp_path / "codes.safetensors")
    assert "q_proj.qweight in codes (I32)" in str(inspect_adapter(adapter, tmp_path / "codes.safetensors").findings)
    tied = {name: value for name, value in tensors.items() if name != "lm_head.weight"}
    save_file(tied, tmp_path / "tied.safetensors")
    head = saved(tmp_path / "head", target_modules=["q_proj"], modules_to_save=["lm_head"])[0]
    assert "it is tied to another" in str(inspect_adapter(head, tmp_path / "tied.safetensors").findings)
    several = json.loads((adapter / CONFIG).read_text()) | {"target_modules": ["q_proj", "v_proj", "c_attn"]}
    (adapter / CONFIG).write_text(json.dumps(several))
    assert inspect_adapter(adapter).verdict.startswith("odd: no tensor belongs to the target c_attn")
    assert inspect_adapter(adapter, tmp_path / "base").verdict.startswith("alive")
    whole = load_file(adapter / WEIGHTS)
    for word, change in (
        ("is a target, and has no adapter", without("layers.2")),
        ("has no lora_B", without("layers.2.self_attn.v_proj.lora_B")),
        ("the update is far larger than its weight", each(lambda value: value * 100, "lora_B")),
        ("the base has no model.layers.5", renamed("layers.2", "layers.5")),
        ("the base calls", renamed("model.layers", "model.language_model.layers")),
        ("one piece of a tensor-parallel run", each(lambda value: value[:8], "v_proj.lora_B")),
        ("is saved as 60 x 32", added("lm_head.weight", torch.randn(60, 32))),
    ):
        save_file(change(whole), adapter / WEIGHTS)
        found = str(inspect_adapter(adapter, tmp_path / "base").findings)
        assert word in found and (word != "has no lora_B" or "has no adapter" not in found)
    save_file(whole, adapter / WEIGHTS)
    (adapter / CONFIG).write_text(json.dumps(several | {"task_type": "SEQ_2_SEQ_LM"}))
    assert "the base is a LlamaForCausalLM" in inspect_adapter(adapter, tmp_path / "base").verdict
    (adapter / CONFIG).write_text(json.dumps(several))
    (adapter / "added_tokens.json").write_text('{"<x>": 50}')
    assert "token 50, the embedding has 50 rows" in inspect_adapter(adapter, tmp_path / "base").verdict
    save_file(tied, tmp_path / "base" / "model.safetensors")  # and the config beside it says: not tied
    assert "it is tied to another" not in str(inspect_adapter(head, tmp_path / "base").findings)


def test_no_value_of_a_setting_stops_it_and_what_peft_refuses_is_named(adapter):
    config = json.loads((adapter / CONFIG).read_text())
    for name in settings.SETTINGS:
        for value in ("x", [[1]], {"q_proj": 0}, -1):
            (adapter / CONFIG).write_text(json.dumps(config | {name: value}))
            verdict = inspect_adapter(adapter).verdict
            if value == "x" and name in {*settings.EXPECTED, *settings.CHOICES}:
                assert verdict.startswith(f"broken: {name} is 'x', expected")


def test_another_base_is_named(adapter, tmp_path):
    assert "trained beside another model" in inspect_adapter(adapter, saved(tmp_path / "b", gpt2)[1]).verdict
    assert "wants 32 x 32" in inspect_adapter(adapter, saved(tmp_path / "c", partial(llama, hidden_size=64))[1]).verdict
    for given, word in ((tmp_path, "no safetensors"), (adapter, "an adapter itself"), (tmp_path / "x", "not here")):
        with pytest.raises(ValueError, match=word):
            inspect_adapter(adapter, given)
    for name in ("config.json", "model.safetensors"):
        (adapter / name).touch()
    assert "a whole model lies beside it" in inspect_adapter(adapter).verdict
    (tmp_path / "base" / "model.safetensors.index.json").write_text('{"weight_map": {"x": "model-2.safetensors"}}')
    with pytest.raises(ValueError, match=r"lacks model-2\.safetensors"):
        inspect_adapter(adapter, tmp_path / "base")


def test_a_file_is_known_by_its_content(adapter, tmp_path):
    weights, config = (adapter / WEIGHTS).read_bytes(), (adapter / CONFIG).read_text()
    for encoding in ("utf-8-sig", "utf-16"):
        (adapter / CONFIG).write_text(config, encoding=encoding)
        assert said(adapter).startswith("broken") and "save it as plain UTF-8" in said(adapter)
    (adapter / CONFIG).write_text(config)
    unreadable = (weights[:-9], "cut short"), (b"", "empty"), (b"version h", "Git LFS"), (b"<html>", "web page")
    of_others = (b"GGUF", "llama.cpp"), (b"PK\x03\x04x", "zip archive"), (b"PK\x03\x04 data.pkl", "pickle")
    for content, word in unreadable + of_others:
        (adapter / WEIGHTS).write_bytes(content)
        assert said(adapter).startswith("broken") and word in said(adapter)
        with pytest.raises(ValueError, match=rf"{WEIGHTS}.*{word}"):
            inspect_adapter(adapter, adapter / WEIGHTS)
    (adapter / WEIGHTS).unlink()
    torch.save({}, adapter / "adapter_model.bin")
    assert "too few for weights" in said(adapter)
    torch.save({"a": torch.ones(999)}, adapter / "adapter_model.bin")
    assert said(adapter).startswith("not opened: adapter_model.bin is a pickle")
    (adapter / "adapter_model.bin").write_bytes(weights)
    assert "adapter_model.bin is safetensors" in said(adapter)
    (adapter / CONFIG).write_text("{")
    assert "not valid JSON" in said(adapter) and "is a file" in said(adapter / CONFIG)


def test_what_lies_there_instead_is_said(adapter, tmp_path):
    assert "whole model" in said(tmp_path / "base") and "no folder" in said(tmp_path / "nowhere")
    assert "one folder deeper: name adapter" in said(tmp_path)
    (adapter / WEIGHTS).unlink()
    assert "copy it here" in said(adapter)
    instead = "x.gguf m.bin pytorch_model.bin pytorch_model_fsdp_0 global_step5 adapter_model-1-of-2.safetensors"
    for name in (*instead.split(), f"deep/{WEIGHTS}"):
        (adapter / name).parent.mkdir(exist_ok=True)
        (adapter / name).touch()
        assert ("a shard is missing, 1 of 2 is there" if "-of-" in name else name.partition("/")[0]) in said(adapter)
    (adapter / WEIGHTS).symlink_to("gone")
    assert "is a link to gone" in said(adapter)
    save_file({"lora_unet_x.alpha": torch.ones(1)}, adapter / "deep" / WEIGHTS)
    assert "kohya" in said(adapter / "deep")


def test_its_lists_are_those_of_the_peft_that_is_installed():
    assert set(settings.SETTINGS) == {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert set(settings.CHOICES["task_type"]) == set(peft.TaskType)
    starts = set(typing.get_args(typing.get_args(typing.get_type_hints(peft.LoraConfig)["init_lora_weights"])[1]))
    assert starts - set(settings.CHOICES["init_lora_weights"]) == {"pissa_niter_[number of iters]"}
    assert settings.VERSION == peft.__version__


def test_it_is_said_drawn_and_written_as_json(adapter, tmp_path, capsys):
    report = inspect_adapter(adapter, tmp_path / "base")
    figure, words = card(report)
    assert words.startswith("Alive") and len(figure.axes[0].lines) == 2
    assert any("3 x q_proj" in line for line in lines(report))
    with pytest.raises(SystemExit, match="0"):
        main([str(adapter), "--base", str(tmp_path / "base"), "--json", "--card", str(tmp_path / "card.png")])
    written = json.loads(capsys.readouterr().out)
    assert written["verdict"] == report.verdict and written["layers"][0]["place"] == f"{report.layers[0].path}.weight"
    assert (tmp_path / "card.png").read_bytes().startswith(b"\x89PNG")
