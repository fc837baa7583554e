"""Models of `transformers`: loading with clear errors, and the functions of the course unchanged on tiny ones.

The real one is that of notebook 12, whose cells assert what it is made of.
"""

import copy
import json
import shutil
from unittest.mock import Mock

import pytest
import torch

from lora_edu import adapter_state, add_lora, quantize_linears
from lora_edu.downloads import DownloadError
from lora_edu.models.pretrained import load_pretrained, next_token_loss, tokenize
from lora_edu.texts import Text
from lora_edu.training import train
from tests.other_models import tiny_llama

TOKENS = torch.randint(0, 60, (2, 12), generator=torch.Generator().manual_seed(2))
LETTERS = "abcdefghijklmnopqrstuvwxyz .\n"


def tiny_tokenizer():
    """One token a letter: a vocabulary of 29, and one for the unknown."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {letter: number for number, letter in enumerate(["?", *LETTERS])}
    engine = Tokenizer(models.WordLevel(vocabulary, unk_token="?"))
    engine.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    engine.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=engine, unk_token="?")


def text_of(word):
    return torch.tensor(list(word.encode()), dtype=torch.uint8)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A folder as `save_pretrained` writes it, and the model in it."""
    folder = tmp_path_factory.mktemp("saved")
    torch.manual_seed(0)
    model = tiny_llama()
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder, model


@pytest.fixture
def copied(saved, tmp_path):
    """The same, in a folder that a test may damage."""
    return shutil.copytree(saved[0], tmp_path / "model")


# --- loading -------------------------------------------------------------------------------------------------------


def test_a_local_folder(saved):
    folder, model = saved
    loaded = load_pretrained(folder, device="cpu")
    assert torch.equal(loaded.model(TOKENS).logits, model(TOKENS).logits) and not loaded.model.training
    assert tokenize(loaded.tokenizer, text_of("low rank.\n")).tolist() == [1 + LETTERS.index(c) for c in "low rank.\n"]


def test_sixteen_bits_are_computed_in_thirty_two(saved, copied):
    copy.deepcopy(saved[1]).bfloat16().save_pretrained(copied)
    model, _ = load_pretrained(copied, device="cpu")
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere/at/all", "a b/c", ""])
def test_what_is_no_folder_and_no_hub_id(name):
    with pytest.raises((FileNotFoundError, ValueError), match="use 'smollm2'|holds no model"):
        load_pretrained(name)


def test_a_pickle_is_not_opened(copied):
    (copied / "model.safetensors").unlink()
    torch.save({}, copied / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pickles \(pytorch_model.bin\) are not opened"):
        load_pretrained(copied)


@pytest.mark.parametrize("name", ["model.safetensors", "x.gguf"])
def test_a_file_instead_of_its_folder(copied, name):
    (copied / "x.gguf").touch()
    with pytest.raises(ValueError, match=f"{name} is a file: pass the folder that it lies in, .*model$"):
        load_pretrained(copied / name)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "x.gguf"])
def test_damaged_files(copied, name):
    (copied / "x.gguf").write_bytes(b"GGUF and then nothing of the kind") if name == "x.gguf" else None
    path = copied / name
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cannot be read as a language model .* copy or download it again"):
        load_pretrained(copied)


def test_code_that_comes_with_a_model_is_not_run(copied):
    own = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (copied / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": own}))
    (copied / "own.py").write_text(f"open({str(copied / 'was_run')!r}, 'w')")
    with pytest.raises(ValueError, match="cannot be read as a language model"):
        load_pretrained(copied)
    assert not (copied / "was_run").exists()


def test_an_encoder_is_not_taken_for_a_language_model(copied, saved):
    """Its missing head would be filled with random numbers."""
    from transformers import BertConfig, BertModel

    sizes = dict(hidden_size=24, intermediate_size=40, num_hidden_layers=1, num_attention_heads=2, vocab_size=60)
    BertModel(BertConfig(**sizes)).save_pretrained(copied)
    with pytest.raises(ValueError, match=r"is not a causal language model: it has no weights for cls\."):
        load_pretrained(copied)


def test_a_hub_that_does_not_answer(monkeypatch):
    from transformers import AutoTokenizer

    monkeypatch.setattr(AutoTokenizer, "from_pretrained", Mock(side_effect=OSError("no answer")))
    with pytest.raises(DownloadError, match=r"'owner/name' could not be loaded .* pass its folder; 'smollm2' comes"):
        load_pretrained("owner/name")


# --- the functions of the course on a model of transformers -----------------------------------------------------------


def test_the_loss_is_that_of_transformers():
    model = tiny_llama()
    with torch.no_grad():
        theirs = model(TOKENS, labels=TOKENS).loss  # moves the labels on by one itself
        ours = next_token_loss(model, TOKENS[:, :-1], TOKENS[:, 1:])
        twice = model(TOKENS[:, :-1], labels=TOKENS[:, 1:]).loss
    assert torch.allclose(ours, theirs, rtol=1e-6) and abs(twice - theirs) > 1e-4


def test_training_an_adapter_on_a_quantized_model():
    model, tokenizer = tiny_llama(initializer_range=0.3), tiny_tokenizer()
    tokens = tokenize(tokenizer, text_of("the king said unto him. " * 40))
    quantize_linears(model)
    frozen = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, rank=3, alpha=7, targets="all-linear")
    run = dict(lr=2e-2, batch_size=4, seq_len=32, device="cpu", loss_fn=next_token_loss, progress=False)
    history = train(model, Text(tokens[:600], tokens[600:]), 25, **run)
    assert history.validation_loss[-1][1] < history.validation_loss[0][1] - 0.5
    after = {name.replace(".base.", "."): value for name, value in model.state_dict().items()}
    assert all(torch.equal(after[name], value) for name, value in frozen.items())
    assert all(value.any() for name, value in adapter_state(model).items() if name.endswith("lora_B"))
