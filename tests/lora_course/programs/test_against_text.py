"""An adapter on a text: each row says what the library says of it, and each rival finds what it is asked about."""

import json

import pytest
import torch
from conftest import library
from test_inspecting import llama, saved
from torch import nn

from lora_course.programs import against_text as at
from lora_course.programs import inspected
from lora_course.programs.inspected import main
from lora_edu import add_lora, data_file, evaluate, load_adapter, load_base, load_text, save_adapter
from lora_edu.lora import lora_layers
from lora_edu.measures import kl_and_flips

ADAPTER = data_file("shakespeare-adapter")


def base():
    return load_base("laptop", device="cpu")


@pytest.fixture
def tokens():
    """The fewest: as many windows to fit to as to measure."""
    return load_text("shakespeare").validation[: 2 * at.LEAST * (at.LENGTH + 1)]


@pytest.fixture
def text(tokens, tmp_path):
    (tmp_path / "plays.txt").write_bytes(bytes(tokens.tolist()))
    return str(tmp_path / "plays.txt")


def right(model, inputs, targets):
    return (model(inputs)[0].argmax(-1) == targets).float().mean()


def test_each_row_says_what_the_library_says(tokens):
    rows = at.against_text(base(), ADAPTER, tokens, progress=False)
    halved, second = load_adapter(base(), ADAPTER), tokens.tensor_split(2)[1]
    for layer in lora_layers(halved).values():
        layer.scaling /= 2
    for name, model in {at.BASE: base(), at.ADAPTER: load_adapter(base(), ADAPTER), at.HALF: halved}.items():
        loss, top1, kl, flips = rows[name].mean(0).tolist()
        assert loss == pytest.approx(evaluate(model, second), rel=1e-5)
        assert top1 == pytest.approx(evaluate(model, second, loss_fn=right), rel=1e-5)
        assert (kl, flips) == pytest.approx(kl_and_flips(model, base(), second), abs=1e-5)
    lost, error = at.gain(rows, at.SIZE)
    assert lost < -error < 0, "the same numbers in other places know no plays"
    better, error = at.gain(rows, at.ADAPTER, at.HABITS)
    assert better > error > 0 and at.gain(rows, at.ADAPTER, column=1)[0] > 0.05
    assert at.told(rows)[-2].startswith("beside a bonus a token, the adapter gains +")
    assert at.told(rows)[-2].endswith("it does better")


@pytest.mark.parametrize(("damage", "rival"), [("sure", at.SURE), ("words", at.HABITS)])
def test_each_rival_finds_what_it_is_asked_about(damage, rival, tokens, tmp_path):
    """On its own text the base is made too sure, or fond of e; an adapter that does nothing gains nothing."""
    tokens = load_text("speeches").validation[: len(tokens)]
    save_adapter(add_lora(base(), rank=2, alpha=4), tmp_path)
    model, meant = base(), evaluate(base(), tokens.tensor_split(2)[1])
    with torch.no_grad():
        if damage == "sure":
            model.lm_head.weight *= 2
        else:
            model.lm_head.bias = nn.Parameter(6.0 * (torch.arange(256) == ord("e")))
    rows = at.against_text(model, tmp_path, tokens, progress=False)
    loss = {name: row[:, 0].mean().item() for name, row in rows.items()}
    assert loss[at.BASE] == loss[at.ADAPTER] == loss[at.HALF] == loss[at.SIZE] > meant + 0.1
    assert loss[rival] < meant + 0.05 and (damage == "sure" or loss[at.SURE] > meant + 0.2)
    assert at.told(rows)[-2].endswith("it does worse")
    assert at.gain(rows, at.ADAPTER) == (0, 0)


def test_a_table_for_a_person_and_numbers_for_a_program(text, capsys, monkeypatch):
    kept = []  # measured once, said twice
    monkeypatch.setattr(inspected, "against_text", lambda *how: (kept or kept.append(at.against_text(*how)) or kept)[0])
    for more in ([], ["--json"]):
        with pytest.raises(SystemExit, match="0"):
            main([str(ADAPTER), "--base", "laptop", "--text", text, *more])
    said = capsys.readouterr()
    table, _, written = said.out.partition("\n{\n")
    assert "4 x q_proj" in table and "it does better" in table and "8/8" in said.err
    written = json.loads("{" + written)
    assert all(f"{name:35}{torch.tensor(row).mean(0)[0]:6.3f}" in table for name, row in written["text"].items())
    assert len(written["text"]) == 6 and written["layers"][0]["relative"] > 0.1


def test_a_model_of_transformers_with_its_own_tokens(text, tmp_path, capsys):
    tokenizers = library("tokenizers")
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE({one: i for i, one in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    folder, here = saved(tmp_path, lambda: llama(vocab_size=256, max_position_embeddings=300))
    library("transformers").PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(here)
    with pytest.raises(SystemExit, match="0"):
        main([str(folder), "--base", str(here), "--text", text])
    said = capsys.readouterr().out
    assert "-" not in said.split("3 x q_proj")[1].split("\n")[0] and "bonus a token, the adapter gains -" in said


def test_what_will_not_do_is_a_sentence(text, tmp_path, capsys):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        main([str(ADAPTER), "--base", "laptop", "--text", str(tmp_path / "missing")])
    for content, words in {
        b" \n": "bad.txt is empty",
        b"\0" * 9999: "holds zero bytes",
        b"\x89PNG" * 9999: "is not text in UTF-8",
        b"a line\n" * 500: "bad.txt has 3,500 tokens, and 4,112 are needed, .*: name a longer text",
    }.items():
        (tmp_path / "bad.txt").write_bytes(content)
        with pytest.raises(ValueError, match=words):
            main([str(ADAPTER), "--base", "laptop", "--text", str(tmp_path / "bad.txt")])
    with pytest.raises(FileNotFoundError, match="no name of a model"):
        main([str(ADAPTER), "--base", "smollm9", "--text", text])
    assert not capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main([str(ADAPTER), "--text", text])
    assert "--text needs --base" in capsys.readouterr().err
