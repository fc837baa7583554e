"""The capstone: a reader's own text becomes an adapter and a page, and a text that proves nothing is refused."""

import random
from types import SimpleNamespace

import pytest
import torch

from lora_course.programs import voice
from lora_course.programs.own_text import held_out_line, read_own_text
from lora_course.programs.speak import speak
from lora_course.programs.voice import make_voice
from lora_edu import GPT, GPTConfig, add_lora, load_adapter, load_base, load_text, quantize_linears, save_adapter
from lora_edu.records import read_record
from lora_edu.training import evaluate

WORDS = "keel gull oar brine tide rope mast fog reef net hull drift anchor stern wake shoal harbor lantern".split()


def log_of_a_ship(n_bytes, seed=0):
    """Entries of a log that nobody wrote: the course has no rights to ask for."""
    draw, lines = random.Random(seed), []
    while sum(map(len, lines)) < n_bytes:
        words = " ".join(draw.choices(WORDS, k=draw.randint(5, 8)))
        lines.append(f"[{draw.randint(0, 23):02d}:{draw.randint(0, 59):02d}] {words}\n")
    return "".join(lines)


@pytest.fixture
def own(tmp_path):
    path = tmp_path / "log.txt"
    path.write_text(log_of_a_ship(110_000), encoding="utf-8")
    return path


def test_from_a_text_to_an_adapter_that_a_classmate_can_load(own, tmp_path, capsys):
    made = make_voice(own, rights="made by a test", name="A ship", folder=tmp_path / "log", steps=5, windows=2)
    assert len(capsys.readouterr().out.splitlines()) == 4  # no silent minutes
    before, after, shuffled = (made.losses[name]["own"] for name in ("before", "after", "shuffled"))
    assert after < before - 0.3 and shuffled > after + 0.3  # it learned, and the control did not
    assert {path.name for path in made.folder.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "voice.html", "voice.json",
    }  # fmt: skip
    page, stored = (made.folder / "voice.html").read_text("utf-8"), read_record(made.folder / "voice.json")
    assert "The voice of A ship<" in page and "made by a test" in page
    assert len(page.encode()) < 4_000_000 and "http" not in page.replace("http-equiv", "")
    assert "keel" not in page.replace(stored["line"], "")
    zero, one = speak(made.folder, "I have ", (0.0, 1.0), 20)
    assert zero.startswith("I have ") and zero != one and len(zero) == 27
    assert sum(path.stat().st_size for path in made.folder.glob("adapter*")) < 700_000
    assert f"gains {before - after:.2f} nats per byte" in made.words
    assert f"shuffled it gains {before - shuffled:.2f}." in made.words
    assert stored["rights"] == "made by a test" and stored["after"] == made.losses["after"]
    classmate = load_adapter(quantize_linears(load_base("laptop", device="cpu"), double_quant=True), made.folder)
    loss = evaluate(classmate, read_own_text(own).validation, max_windows=2)
    assert loss == pytest.approx(after, abs=1e-3)


def test_the_split_loses_nothing_and_begins_a_line(own):
    text = read_own_text(own)
    assert bytes(torch.cat(text).tolist()) == own.read_bytes()
    assert len(text.validation) == pytest.approx(11_000, rel=0.02)
    assert bytes(text.validation[:1].tolist()) == b"["
    assert 28 <= len(held_out_line(text)) <= 52


ADDRESSES = bytes(load_text("speeches").train[:120_000].tolist())
REFUSED = {
    "too short": (log_of_a_ship(9_000).encode(), "has 9,0.. bytes: at least 100,000 are needed"),
    "not UTF-8": (log_of_a_ship(110_000).encode("utf-16"), "is not text in UTF-8"),
    "a document": (log_of_a_ship(110_000).encode() + b"\0", "holds zero bytes"),
    "said twice": (2 * log_of_a_ship(60_000).encode(), "stands in its first nine tenths"),
    "read by the base": (ADDRESSES, "of own.txt stands in the addresses that the base has read"),
}


@pytest.mark.parametrize(("data", "sentence"), REFUSED.values(), ids=REFUSED)
def test_a_text_that_would_prove_nothing_is_refused(data, sentence, tmp_path):
    (tmp_path / "own.txt").write_bytes(data)
    with pytest.raises(ValueError, match=sentence):
        read_own_text(tmp_path / "own.txt")


def test_the_text_is_looked_at_first_then_rights_then_the_folder(own, tmp_path, monkeypatch):
    monkeypatch.setattr(voice, "load_base", lambda *_: pytest.fail("too late"))
    with pytest.raises(FileNotFoundError, match="there is no file .*none.txt"):
        make_voice(tmp_path / "none.txt", rights=" ")
    with pytest.raises(ValueError, match='rights must say why you may train .* such as --rights "written by me"'):
        make_voice(own, rights=" ")
    with pytest.raises(FileExistsError, match="is there already: move it away, or name another folder"):
        make_voice(own, rights="made by a test", folder=tmp_path)
    with pytest.raises(NotADirectoryError, match="cannot write to the folder .*--output"):
        make_voice(own, rights="made by a test", folder=own / "below a file")


def test_a_stopped_run_writes_nothing(own, tmp_path, monkeypatch):
    monkeypatch.setattr(voice, "train", lambda *arguments, **options: SimpleNamespace(interrupted=True))
    with pytest.raises(KeyboardInterrupt, match="nothing was written"):
        make_voice(own, rights="made by a test", folder=tmp_path / "log", windows=1)
    assert not (tmp_path / "log").exists()


def test_an_adapter_of_another_base_does_not_speak(tmp_path):
    other = add_lora(GPT(GPTConfig(context=16, d_model=32, n_layers=1, n_heads=2)), rank=2, alpha=4)
    with pytest.raises(ValueError, match="is no adapter of the course's base"):
        list(speak(save_adapter(other, tmp_path / "other"), "a", (1.0,)))
    with pytest.raises(ValueError, match="strength"):
        list(speak(tmp_path / "other", "a", (-1.0,)))
