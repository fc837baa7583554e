"""`make gpu` without a GPU: it times a notebook, and what the notebook does for "gpu" fits together."""

import dataclasses
import inspect
import re

import nbformat
from conftest import TINY, code_cells
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from lora_course.programs import pretrain
from lora_course.setup import hosted, report
from lora_edu.engine import compiling
from lora_edu.models import base
from lora_edu.training import train


def test_the_report_says_on_which_machine_and_in_what_time(tmp_path, monkeypatch):
    cells = [new_markdown_cell("# A title"), new_code_cell("from lora_edu import pick_size; print(pick_size('gpu'))")]
    nbformat.write(hosted.add(new_notebook(cells=cells)), tmp_path / "small.ipynb")
    monkeypatch.setenv("LORA_EDU_SIZE", "laptop")
    monkeypatch.setattr("sys.argv", ["report", f"{tmp_path}/small.ipynb", "--time", "--folder", f"{tmp_path}/out"])
    report.main()
    executed = nbformat.read(tmp_path / "out/small.ipynb", as_version=4)
    nbformat.validate(executed)
    assert executed.cells[2].outputs[0].text == "laptop\n" and executed.cells[2].execution_count == 1
    assert re.search(r"> .*: the notebook took 0 min \d+ s", executed.cells[1].source)


def test_the_notebook_at_the_gpu_size(tmp_path, monkeypatch):
    """Its first cells with a tiny "gpu" model: pre-trained on first use, kept, loaded; its settings fit `train`."""
    tiny = dataclasses.replace(pretrain.SIZES["gpu"], config=TINY, steps=2, batch_size=2)
    monkeypatch.setitem(pretrain.SIZES, "gpu", tiny)
    for module in (pretrain, base):
        monkeypatch.setattr(module, "base_path", lambda size: tmp_path / f"base-{size}.safetensors")
    monkeypatch.setenv("LORA_EDU_SIZE", "gpu")
    monkeypatch.setenv("LORA_EDU_DEVICE", "cpu")
    cells = [cell.source for cell in code_cells("09_qlora_gpt") if not hosted.is_hosted(cell)]
    names = {}
    for cell in cells[:2]:
        exec(cell, names)
    assert names["size"] == "gpu" and names["model"].config == TINY and (tmp_path / "base-gpu.safetensors").exists()
    inspect.signature(train).bind(names["model"], None, **names["run"])
    call = re.search(r"train\(model, plays, (.*)\)", "\n".join(cells))[1]
    assert not [name for name in names["run"] if re.search(rf"\b{name}=", call)]  # no setting is given twice


def test_only_the_long_run_is_compiled(tmp_path, monkeypatch):
    asked, compiled = [], compiling.compiled
    monkeypatch.setattr(compiling, "compiled", lambda *arguments: asked.append(arguments) or compiled(*arguments))
    for size in ("laptop", "gpu"):
        recipe = dataclasses.replace(pretrain.SIZES[size], config=TINY, batch_size=2)
        monkeypatch.setitem(pretrain.SIZES, size, recipe)
        pretrain.pretrain(size, steps=1, folder=tmp_path, device="cpu")
        assert len(asked) == (size == "gpu")
