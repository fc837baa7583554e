"""One adapter, six clients: what a model says with it here, it says wherever else the folder is loaded."""

import importlib.util
import os

import gguf
import peft
import pytest
import torch
import transformers
from conftest import moved

from lora_course.programs.inspecting import inspect_adapter
from lora_course.running import llama_cpp
from lora_edu import load_adapter, load_pretrained, save_adapter
from lora_edu.downloads import DownloadError, model_folder
from lora_edu.models.pretrained import next_token_loss
from lora_edu.variants import add_variant
from tests.other_models import tiny_gpt2, tiny_llama

PROMPT, ANSWER = "The old pilot said:", " low rank is a promise, and the kettle keeps it until Thursday."


def by_transformers(folder, base):
    model = transformers.AutoModelForCausalLM.from_pretrained(base)
    model.load_adapter(str(folder))
    return model


LOADERS = {
    "ours": lambda folder, base: load_adapter(transformers.AutoModelForCausalLM.from_pretrained(base), folder),
    "PEFT": lambda folder, base: peft.PeftModel.from_pretrained(
        transformers.AutoModelForCausalLM.from_pretrained(base), folder
    ),
    "transformers": by_transformers,
    "AutoPeft": lambda folder, base: peft.AutoPeftModelForCausalLM.from_pretrained(folder),
}


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("variant", ["LoRA", "rsLoRA", "DoRA"])
def test_the_same_logits_wherever_it_is_loaded(tmp_path, loader, variant):
    tiny_llama().save_pretrained(tmp_path / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    tokens = torch.arange(12)[None]
    before = model(tokens).logits
    folder = save_adapter(moved(add_variant(model, variant, 4, 6), 0.3), tmp_path / "adapter")
    with torch.no_grad():
        there = LOADERS[loader](folder, tmp_path / "base").eval()(tokens).logits
    torch.testing.assert_close(there, model(tokens).logits, rtol=0, atol=1e-5)
    assert (there - before).abs().max() > 1e-2


# --- with llama.cpp: `make clients` ----------------------------------------------------------------------------------


def or_skip(found, what: str):
    """What only `make clients` promises: there it must be had; elsewhere a test without it is skipped."""
    if not found:
        (pytest.fail if os.environ.get("LORA_EDU_CLIENTS") else pytest.skip)(f"{what}: run make clients")


def convert(adapter, base, into):
    try:
        return llama_cpp.convert(adapter, base, into)
    except DownloadError as error:
        or_skip(None, str(error))


def greedy(model, tokenizer, tokens):
    """What a model says after the prompt, always the likeliest token."""
    ids = tokenizer(PROMPT, return_tensors="pt")["input_ids"]
    start = ids.shape[1]
    with torch.no_grad():
        for _ in range(tokens):
            ids = torch.cat([ids, model(ids, use_cache=False).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokenizer.decode(ids[0, start:])


def without_quantization(config):
    """transformers would not save what came out of a GGUF file."""
    return {name: value for name, value in config.to_dict().items() if name != "quantization_config"}


@pytest.fixture(scope="module")
def pilot(tmp_path_factory):
    """SmolLM2 and an adapter that has learned one sentence: their folders, the GGUF of the base, how long it speaks."""
    try:
        packed = next(model_folder("smollm2").glob("*.gguf"))
    except DownloadError as error:
        or_skip(None, f"SmolLM2 is not here ({error})")
    folder = tmp_path_factory.mktemp("pilot")
    loaded, tokenizer = load_pretrained("smollm2", device="cpu")
    plain = transformers.LlamaForCausalLM(transformers.LlamaConfig.from_dict(without_quantization(loaded.config)))
    plain.load_state_dict(loaded.state_dict())
    plain.save_pretrained(folder / "base")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder / "base")
    torch.manual_seed(0)
    add_variant(model, "rsLoRA", 8, 6)  # the kind that llama.cpp heard at a fraction, by its flag
    ids = tokenizer(PROMPT + ANSWER, return_tensors="pt")["input_ids"]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3)
    for _ in range(25):
        optimizer.zero_grad()
        next_token_loss(model, ids[:, :-1], ids[:, 1:]).backward()
        optimizer.step()
    tokens = len(tokenizer(ANSWER)["input_ids"])
    said = greedy(model.eval(), tokenizer, tokens)
    assert said == ANSWER != greedy(loaded, tokenizer, tokens)
    return save_adapter(model, folder / "adapter"), folder / "base", packed, tokenizer, tokens


@pytest.mark.slow
@pytest.mark.parametrize("loader", LOADERS)
def test_the_same_bytes_from_a_real_model(pilot, loader):
    folder, base, _, tokenizer, tokens = pilot
    assert greedy(LOADERS[loader](folder, base).eval(), tokenizer, tokens).encode() == ANSWER.encode()


@pytest.mark.slow
def test_the_same_bytes_from_llama_cpp(pilot, tmp_path):
    or_skip(importlib.util.find_spec("xllamacpp"), "xllamacpp is not here")
    folder, base, packed, _, tokens = pilot
    done = convert(folder, base, tmp_path / "adapter.gguf")
    assert done.returncode == 0, done.stderr
    assert llama_cpp.speak(packed, [PROMPT], tokens, tmp_path / "adapter.gguf") == [ANSWER]
    assert llama_cpp.speak(packed, [PROMPT], tokens) != [ANSWER]  # the control: the base alone


@pytest.mark.slow
def test_llama_cpp_does_what_inspect_says(tmp_path):
    """The rules of lora_course/programs/clients.py beside the converter itself."""

    def tried(name, base=tiny_llama, **settings):
        base = base()
        base.save_pretrained(tmp_path / f"{name}-base")
        config = peft.LoraConfig(r=4, lora_alpha=8, init_lora_weights=False, **settings)
        peft.get_peft_model(base, config).save_pretrained(tmp_path / name)
        said = inspect_adapter(tmp_path / name, programs=["llama.cpp"]).programs["llama.cpp"]
        done = convert(tmp_path / name, tmp_path / f"{name}-base", tmp_path / f"{name}.gguf")
        return {one.level for one in said} - {"llama.cpp asks for more"}, done

    q = {"target_modules": ["q_proj"]}
    for name, settings in {"dora": {"use_dora": True}, "head": {"modules_to_save": ["lm_head"]}}.items():
        said, done = tried(name, **q, **settings)
        assert said == {"llama.cpp refuses it"} and done.returncode and "Not a lora_A or lora_B tensor" in done.stderr
    for name, settings in {"plain": {}, "ranks": {"rank_pattern": {"layers.0.self_attn.q_proj": 2}}}.items():
        said, done = tried(name, **q, **settings)
        assert not said and done.returncode == 0, done.stderr
    said, done = tried("rslora", **q, use_rslora=True)
    assert said == {"llama.cpp hears it otherwise"} and done.returncode == 0
    assert gguf.GGUFReader(tmp_path / "rslora.gguf").fields["adapter.lora.alpha"].contents() == 8  # and no flag
    said, done = tried("norms", **q, modules_to_save=["input_layernorm"])
    assert said == {"llama.cpp hears it otherwise"} and done.returncode == 0
    said, done = tried("gpt2", tiny_gpt2, target_modules=["c_attn"], fan_in_fan_out=True)
    assert said == {"llama.cpp refuses it"} and done.returncode == 0
    A = next(one for one in gguf.GGUFReader(tmp_path / "gpt2.gguf").tensors if one.name.endswith("lora_a"))
    assert 24 not in A.shape and 72 in A.shape  # A is (4, 24), and what was written is as wide as B is tall
