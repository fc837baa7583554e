"""The page on several devices: its numbers are measured, its removed lines are ours, its new names exist."""

import inspect
import json
import re
from pathlib import Path

import pytest
import torch
from conftest import NOTEBOOKS, ROOT
from matplotlib.patches import Rectangle
from test_distributed import torchrun
from two_processes import METHODS, build, first_gradients

from book import devices as pictures
from lora_edu.layers import trainable_summary

PAGE = (NOTEBOOKS / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_on_the_page(method):
    row = re.search(rf"^\| `{method}`.*\| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.M)
    trainable = trainable_summary(build(method, "cpu")).trainable
    assert row.groups() == (f"{trainable:,}", f"{4 * trainable:,}")  # test_distributed measures that it is 4 times


def test_the_picture_is_drawn_from_the_numbers_of_the_page():
    rows = {method: pictures.bytes_of(method) for method in METHODS}
    figure, words = pictures.devices(rows)
    assert f"![{words}](figures/devices.png)" in PAGE and (NOTEBOOKS / "figures" / "devices.png").exists()
    for axes, parts in zip(figure.axes, rows.values(), strict=True):
        squares = [patch for patch in axes.patches if isinstance(patch, Rectangle)]
        areas = [round(1e6 * patch.get_width() * patch.get_height()) for patch in squares]
        held = [size for size in (parts["weights"], parts["codes"], parts["adapters"]) if size]
        assert areas == [*held, *held, parts["gradients"]]  # true to scale, all of them
        assert f"{parts['gradients']:,}" in PAGE


def test_the_removed_lines_are_in_the_program():
    source = "".join((ROOT / name).read_text() for name in ("lora_edu/training.py", "lora_course/programs/train.py"))
    removed = [line[1:] for block in re.findall(r"```diff\n(.*?)```", PAGE, re.S) for line in block.splitlines()
               if line.startswith(("-", " "))]  # fmt: skip
    assert len(removed) == 9 and all(f"{line}\n" in source for line in removed)


def test_the_names_exist_in_the_libraries_that_are_installed():
    from accelerate import Accelerator, FullyShardedDataParallelPlugin
    from accelerate.utils import DataLoaderConfiguration
    from peft.utils.other import fsdp_auto_wrap_policy
    from torch.distributed.fsdp import fully_shard
    from transformers import BitsAndBytesConfig

    assert all(hasattr(Accelerator, name) for name in ("prepare", "backward", "clip_grad_norm_"))
    assert DataLoaderConfiguration(split_batches=True).split_batches
    assert callable(fsdp_auto_wrap_policy) and callable(fully_shard)
    plugin = inspect.signature(FullyShardedDataParallelPlugin).parameters
    assert {"use_orig_params", "cpu_ram_efficient_loading"} <= set(plugin)
    settings = re.findall(r"\+        (\w+)=", PAGE)
    assert len(settings) == 5 and set(settings) <= set(inspect.signature(BitsAndBytesConfig).parameters)


def test_the_storage_type_of_bitsandbytes_changes_no_byte():
    import bitsandbytes as bnb

    weight, outputs = torch.randn(64, 128), []
    for storage in (torch.uint8, torch.bfloat16):
        layer = bnb.nn.Linear4bit(128, 64, bias=False, quant_type="nf4", quant_storage=storage)
        layer.weight = bnb.nn.Params4bit(weight.clone(), requires_grad=False, quant_type="nf4", quant_storage=storage)
        layer = layer.to("cpu")
        assert isinstance(layer.weight, torch.nn.Parameter) and layer.weight.dtype == storage
        outputs.append((layer.weight.detach().view(torch.uint8).flatten(), layer(torch.ones(1, 128))))
    assert all(torch.equal(a, b) for a, b in zip(*outputs, strict=True))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "method"), [("accelerate", "qlora"), ("fsdp", "lora"), ("fsdp", "qlora")])
def test_the_other_engines_compute_the_same(tmp_path, name, method):
    run = torchrun(Path(__file__).with_name("other_engines.py"), name, method, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    result = json.loads(run.stdout.splitlines()[-1])
    _, gradients, _ = first_gradients(build(method, "cpu"), torch.device("cpu"))
    norm = torch.cat([gradient.flatten() for gradient in gradients.values()]).norm().item()
    assert result["norm"] == pytest.approx(norm, rel=1e-5)
    if name == "fsdp":
        assert 2 * result["kept"] == result["whole"]
        numbers = [result["whole"], result["kept"]] if method == "lora" else [result["buffers"]]
        assert all(f"{number:,}" in PAGE for number in numbers)
