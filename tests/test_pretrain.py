import dataclasses
import json
import math
import os
import shutil

import pytest
import torch

from lora_edu import files
from lora_edu.__main__ import guarded
from lora_edu.lora import add_lora
from lora_edu.memory.shapes import measured_bytes, predicted_bytes
from lora_edu.models import pretrain as pretrain_module
from lora_edu.models.pretrain import SIZES, load_base, pick_size, pretrain, train_adapter
from lora_edu.qlora import quantize_linears
from lora_edu.texts import load_text
from lora_edu.training import evaluate, train
from tests.conftest import TINY


def test_the_shipped_base_is_the_one_in_its_log():
    log = json.loads(files.data_file("base-laptop.json").read_text())
    model = load_base("laptop", device="cpu")
    assert sum(p.numel() for p in model.parameters()) == 3_356_160
    assert log["recipe"]["steps"] == log["validation_loss"][-1][0] and not log["interrupted"]
    loss = evaluate(model, load_text("speeches").validation, max_windows=64)
    assert loss == pytest.approx(log["validation_loss"][-1][1], abs=0.01)  # a quarter of its windows; storage rounds


def test_a_short_run_writes_weights_and_log(tmp_path, monkeypatch, tiny_text):
    monkeypatch.setitem(SIZES, "laptop", dataclasses.replace(SIZES["laptop"], config=TINY, batch_size=2))
    monkeypatch.setattr(pretrain_module, "load_text", lambda name: tiny_text)
    model = pretrain("laptop", steps=2, folder=tmp_path, device="cpu")
    log = json.loads((tmp_path / "base-laptop.json").read_text())
    assert log["command"] == "lora-edu pretrain --size laptop --steps 2 --seed 0"
    assert [done for done, _ in log["validation_loss"]] == [0, 2]
    from safetensors.torch import load_file

    stored = load_file(tmp_path / "base-laptop.safetensors")
    assert all(torch.equal(stored[name], value.bfloat16()) for name, value in model.state_dict().items())


@pytest.mark.slow
def test_the_gpu_preset_on_the_cpu(tmp_path, monkeypatch):
    """One step of pre-training and of QLoRA with the GPU's shape, on a batch that the CPU can bear."""
    monkeypatch.setitem(SIZES, "gpu", dataclasses.replace(SIZES["gpu"], batch_size=1))
    monkeypatch.setattr(pretrain_module, "base_path", lambda size: tmp_path / "base-gpu.safetensors")
    pretrain("gpu", steps=1, device="cpu", eval_every=10)
    model = add_lora(quantize_linears(load_base("gpu", device="cpu")), rank=8, alpha=16, targets="all-linear")
    assert predicted_bytes(model.config, nf4=True, rank=8, trained=False) == measured_bytes(model)
    text = load_text("shakespeare")
    history = train(model, text, 1, batch_size=1, seq_len=512, device="cpu", eval_windows=2, progress=False)
    assert all(math.isfinite(loss) for _, loss in history.validation_loss)


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


@pytest.fixture
def stopped_at(monkeypatch, tiny_text, stop_in_update):
    """Pre-training of a tiny model on a tiny text that is stopped in a step (counted from 0)."""
    recipe = dataclasses.replace(SIZES["laptop"], config=TINY, batch_size=2)
    monkeypatch.setitem(SIZES, "laptop", recipe)
    monkeypatch.setattr(pretrain_module, "load_text", lambda name: tiny_text)
    return stop_in_update


def test_a_stopped_pretraining_overwrites_nothing_and_goes_on(tmp_path, stopped_at):
    made = stopped_at(-1)
    whole = pretrain("laptop", steps=6, folder=tmp_path / "whole", device="cpu")
    out = tmp_path / "out"
    out.mkdir()
    for name in ("base-laptop.safetensors", "base-laptop.json"):
        (out / name).write_bytes(b"the shipped file")
    made = stopped_at(1)
    options = {"steps": 6, "folder": out, "device": "cpu", "checkpoint": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt, match="stopped after 2 of 6 steps, so no weights were written"):
        pretrain("laptop", **options)
    assert {path.read_bytes() for path in out.iterdir()} == {b"the shipped file"} and len(made) == 2
    made = stopped_at(-1)
    model = pretrain("laptop", **options)
    assert len(made) == 4 and all(map(torch.equal, model.parameters(), whole.parameters()))
    assert (out / "base-laptop.safetensors").read_bytes() != b"the shipped file"


def test_the_command_goes_on_from_the_cache(tmp_path, stopped_at, monkeypatch, capsys):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "cache"))
    arguments = ["--steps", "6", "--folder", str(tmp_path / "out"), "--device", "cpu"]
    stopped_at(1)
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: pretrain_module.main(arguments))
    assert stop.value.code == 130 and "stopped after 2 of 6 steps" in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and (tmp_path / "cache" / "runs" / "laptop-6-0").is_dir()
    made = stopped_at(-1)
    pretrain_module.main(arguments)
    assert len(made) == 4 and (tmp_path / "out" / "base-laptop.safetensors").exists()
    assert not (tmp_path / "cache" / "runs" / "laptop-6-0").exists()  # nobody needs it any more


def test_a_stopped_adapter_is_not_written(tmp_path, stopped_at, tiny_gpt, monkeypatch):
    monkeypatch.setattr(pretrain_module, "load_base", lambda *_, **__: tiny_gpt)
    monkeypatch.setattr(pretrain_module, "train", lambda *a, **k: train(*a, **(k | {"seq_len": 16, "progress": False})))
    stopped_at(1)
    with pytest.raises(KeyboardInterrupt, match="stopped after 2 of 6 steps.*with checkpoint= it could go on"):
        train_adapter(folder=tmp_path / "adapter", steps=6)
    assert not (tmp_path / "adapter").exists()


# --- a damaged base ------------------------------------------------------------------------------------------------

DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "garbage": lambda path: path.write_bytes(b"no weights"),
    "a value": lambda path: path.write_bytes(path.read_bytes()[:-2] + b"\x01\x02"),
    "pipe": lambda path: (path.unlink(), os.mkfifo(path)),
    "NaN": lambda path: rewritten(path, lambda t: t * float("nan")),
    "whole numbers": lambda path: rewritten(path, lambda t: t.to(torch.int16)),
    "a shape that broadcasts": lambda path: rewritten(path, lambda t: t[:1].clone()),
    "a missing tensor": lambda path: rewritten(path, lambda t: None),
    "no log": lambda path: path.with_suffix(".json").unlink(),
    "a silent log": lambda path: path.with_suffix(".json").write_text("{}"),
    "a pipe as its log": lambda path: (path.with_suffix(".json").unlink(), os.mkfifo(path.with_suffix(".json"))),
    "a digit of its log": lambda path: one_digit(path.with_suffix(".json")),
}


def one_digit(log):
    log.write_text(log.read_text().replace('"steps": 12000', '"steps": 12001'))


def rewritten(path, change):
    from safetensors.torch import load_file, save_file

    tensors = load_file(path)
    tensors["lm_head.weight"] = change(tensors["lm_head.weight"])
    save_file({name: tensor for name, tensor in tensors.items() if tensor is not None}, path)


@pytest.fixture
def copied(tmp_path, monkeypatch):
    """A copy of the shipped base, which is the one that is loaded; its log lies beside it."""
    for suffix in (".safetensors", ".json"):
        shutil.copy(files.data_file(f"base-laptop{suffix}"), tmp_path)
    monkeypatch.setattr(pretrain_module, "base_path", lambda size: tmp_path / "base-laptop.safetensors")
    assert load_base("laptop", "cpu") is not None  # the control
    return tmp_path / "base-laptop.safetensors"


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_base_is_refused(copied, damage):
    damage(copied)
    with pytest.raises(ValueError, match=r"base-laptop\.safetensors is .*: copy it again, or train it: lora-edu"):
        load_base("laptop", "cpu")


def test_a_log_from_before_the_checksum_will_do(copied):
    log = copied.with_suffix(".json")
    log.write_text(json.dumps({k: v for k, v in json.loads(log.read_text()).items() if k != "checksum"}))
    assert load_base("laptop", "cpu") is not None
