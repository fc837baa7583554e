import dataclasses
import json
import os
import shutil

import pytest
import torch
from safetensors.torch import load_file

from lora_course.__main__ import guarded
from lora_course.programs import pretrain as pretrain_module
from lora_course.programs.pretrain import pretrain
from lora_edu import evaluate, files, load_base, load_text, pick_size
from lora_edu.models import base
from lora_edu.models.base import SIZES
from tests.conftest import TINY


def test_the_shipped_base_is_the_one_in_its_log():
    log = json.loads(files.data_file("base-laptop.json").read_text())
    model = load_base("laptop", device="cpu")
    assert sum(p.numel() for p in model.parameters()) == 3_356_160
    assert log["recipe"]["steps"] == log["validation_loss"][-1][0] and not log["interrupted"]
    loss = evaluate(model, load_text("speeches").validation, max_windows=64)
    assert loss == pytest.approx(log["validation_loss"][-1][1], abs=0.01)  # a quarter of its windows; storage rounds


@pytest.fixture
def in_tiny(monkeypatch, tiny_text):
    """Pre-training is that of a tiny model on a tiny text."""
    monkeypatch.setitem(SIZES, "laptop", dataclasses.replace(SIZES["laptop"], config=TINY, batch_size=2))
    monkeypatch.setattr(pretrain_module, "load_text", lambda name: tiny_text)


def test_a_short_run_writes_weights_and_log(tmp_path, in_tiny):
    model = pretrain("laptop", steps=2, folder=tmp_path, device="cpu")
    log = json.loads((tmp_path / "base-laptop.json").read_text())
    assert log["command"] == "lora-edu pretrain --size laptop --steps 2 --seed 0"
    assert [done for done, _ in log["validation_loss"]] == [0, 2]
    stored = load_file(tmp_path / "base-laptop.safetensors")
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in model.state_dict().items())


def test_sizes(monkeypatch):
    monkeypatch.delenv("LORA_EDU_SIZE", raising=False)
    assert pick_size() == "laptop"
    monkeypatch.setenv("LORA_EDU_SIZE", "gpu")
    assert pick_size() == "gpu"
    with pytest.raises(ValueError, match="unknown size 'huge': choose one of laptop, gpu"):
        load_base("huge")
    config = SIZES["gpu"].config
    assert 24e6 < 12 * config.n_layers * config.d_model**2 < 27e6


# --- a run that is stopped -----------------------------------------------------------------------------------------


def test_a_stopped_pretraining_overwrites_nothing_and_goes_on(tmp_path, in_tiny, stop_in_update, monkeypatch, capsys):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "cache"))
    whole, out, stored = tmp_path / "whole", tmp_path / "out", tmp_path / "cache" / "runs" / "laptop-6-0"
    pretrain("laptop", steps=6, folder=whole, device="cpu")
    out.mkdir()
    for name in ("base-laptop.safetensors", "base-laptop.json"):
        (out / name).write_bytes(b"the shipped file")
    arguments = ["--steps", "6", "--folder", str(out), "--device", "cpu", "--replace"]
    made = stop_in_update(1)
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: pretrain_module.main(arguments))
    assert stop.value.code == 130
    assert "stopped after 2 of 6 steps, so no weights were written" in capsys.readouterr().err
    assert {path.read_bytes() for path in out.iterdir()} == {b"the shipped file"} and len(made) == 2 and stored.is_dir()
    made = stop_in_update(-1)
    pretrain_module.main(arguments)
    assert len(made) == 4 and not stored.exists()  # nobody needs it any more
    assert (out / "base-laptop.safetensors").read_bytes() == (whole / "base-laptop.safetensors").read_bytes()
    logs = [json.loads((folder / "base-laptop.json").read_text()) for folder in (out, whole)]
    assert logs[0]["validation_loss"] == logs[1]["validation_loss"]  # whose last digits are not rounded


# --- a damaged base ------------------------------------------------------------------------------------------------


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "garbage": lambda path: path.write_bytes(b"no weights"),
    "a value": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\x01\x02"),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "no log": lambda path: path.with_suffix(".json").unlink(),
    "no checksum": lambda path: without_checksum(path.with_suffix(".json")),
    "a silent log": lambda path: path.with_suffix(".json").write_text("{}"),
    "a pipe as its log": lambda path: (path.with_suffix(".json").unlink(), os.mkfifo(path.with_suffix(".json"))),
    "a digit of its log": lambda path: one_digit(path.with_suffix(".json")),
}


def one_digit(log):
    log.write_text(log.read_text().replace('"steps": 12000', '"steps": 12001'))


def without_checksum(log):
    log.write_text(json.dumps({k: v for k, v in json.loads(log.read_text()).items() if k != "checksum"}))


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the shipped base, which is the one that is loaded; its log lies beside it."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(files.data_file(f"base-laptop{suffix}"), tmp_path)
    monkeypatch.setattr(base, "base_path", lambda size: tmp_path / "base-laptop.safetensors")
    assert load_base("laptop", "cpu") is not None  # the control
    return tmp_path / "base-laptop.safetensors"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_base_is_refused(copied, damage):
    damage(copied)
    with pytest.raises(ValueError, match=r"base-laptop\.safetensors is .*: copy it again, or train it: lora-edu"):
        load_base("laptop", "cpu")
