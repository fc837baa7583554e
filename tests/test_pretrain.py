import dataclasses
import json
import math

import pytest
import torch

from lora_edu import files
from lora_edu.lora import add_lora
from lora_edu.memory.shapes import measured_bytes, predicted_bytes
from lora_edu.models import pretrain as pretrain_module
from lora_edu.models.pretrain import SIZES, load_base, pick_size, pretrain
from lora_edu.qlora import quantize_linears
from lora_edu.texts import load_text
from lora_edu.training import evaluate, train


def test_the_shipped_base_is_the_one_in_its_log():
    log = json.loads(files.data_file("base-laptop.json").read_text())
    model = load_base("laptop", device="cpu")
    assert sum(p.numel() for p in model.parameters()) == 3_356_160
    assert log["recipe"]["steps"] == log["validation_loss"][-1][0] and not log["interrupted"]
    loss = evaluate(model, load_text("speeches").validation, max_windows=256)
    assert loss == pytest.approx(log["validation_loss"][-1][1], abs=0.01)  # bfloat16 storage and autocast round


def test_a_short_run_writes_weights_and_log(tmp_path):
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


def test_a_base_that_is_not_there_yet_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain_module, "base_path", lambda size: tmp_path / "no.safetensors")
    with pytest.raises(FileNotFoundError, match="lora-edu pretrain --size gpu"):
        load_base("gpu")
