"""benchmarks/gpu.py, rehearsed: it refuses a CPU, compares equal work, judges its goals, and says what it is."""

import dataclasses
import re

import nbformat
import pytest
from conftest import NOTEBOOKS, library, load_benchmark

from lora_edu.models.base import SIZES


@pytest.fixture(scope="module")
def bench():
    for peer in ("bitsandbytes", "peft", "torchao"):
        library(peer)
    return load_benchmark("gpu")


@pytest.fixture(scope="module")
def sides(bench):
    return load_benchmark("gpu_sides")


@pytest.mark.slow
def test_a_rehearsal_from_end_to_end(bench, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "TINY", dataclasses.replace(bench.TINY, backend="eager", rounds=1))
    bench.main(["--device", "cpu", "--tiny", "--folder", str(tmp_path)])
    text = (tmp_path / "gpu-rehearsal.md").read_text()
    assert text.startswith("# Rehearsal on the CPU: these numbers say nothing about a GPU\n") and "No GPU." in text
    for part in ("Goals", "Memory", "Time", "Quantization"):
        assert f"\n## {part}\n" in text
    assert len(re.findall(r"\| (?:met|missed) \|$", text, re.M)) == 4 and "this course, compiled" in text
    assert re.search(r"\| peak memory, ratio to the prediction \| (0\.9[5-9]|1\.0[0-4])\d \|.*\| met \|", text)
    assert "losses of the first 3 steps agree" in text and "measured copy bandwidth" in text
    assert "| dequantize, compiled, fresh output |" in text
    assert "bitsandbytes 0." in text and text.strip() in capsys.readouterr().out


def test_the_setting_is_that_of_the_notebook(sides):
    code = "\n".join(cell.source for cell in nbformat.read(NOTEBOOKS / "09_qlora_gpt.ipynb", as_version=4).cells)
    batch_size, seq_len = re.search(r'"gpu": dict\(steps=\d+, batch_size=(\d+), seq_len=(\d+)', code).groups()
    setting = sides.Setting()
    assert (setting.batch_size, setting.config.context) == (int(batch_size), int(seq_len))
    assert setting.config == SIZES["gpu"].config and setting.tokens == 32 * 512
    assert f"rank={setting.rank}, alpha={setting.alpha}" in code


def test_both_sides_start_and_train_alike(sides, bench):
    base = bench.GPT(sides.TINY.config)
    models = {name: build(sides.TINY, base) for name, build in sides.BUILDERS.items()}
    sides.same_start(*models.values())
    layer = models[sides.THEIRS].get_submodule("base_model.model.blocks.0.mlp.up_proj")
    assert type(layer).__module__ == "peft.tuners.lora.bnb"  # as their users have it
    trainers = {name: sides.Trainer(sides.TINY, model) for name, model in models.items()}
    for trainer in trainers.values():
        for _ in range(5):
            trainer.step()
    assert "first 5 steps agree" in sides.check_same_losses(trainers)
    assert len({sum(p.numel() for p in sides.trainable_parameters(model)) for model in models.values()}) == 1
    trainers[sides.THEIRS].losses[3] *= 1.05
    with pytest.raises(RuntimeError, match="does not train"):
        sides.check_same_losses(trainers)
