"""The page on several devices: its numbers are measured, its removed lines are ours."""

import re

import pytest
from conftest import NOTEBOOKS, ROOT
from matplotlib.patches import Rectangle
from two_processes import METHODS, build

from book import devices as pictures
from lora_edu.layers import trainable_summary

PAGE = (NOTEBOOKS / "scaling.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", METHODS)
def test_the_bytes_on_the_page(method):
    row = re.search(rf"^\| `{method}`.*\| ([\d,]+) \| ([\d,]+) \|$", PAGE, re.M)
    trainable = trainable_summary(build(method, "cpu")).trainable
    assert row.groups() == (f"{trainable:,}", f"{4 * trainable:,}")  # test_distributed measures that it is 4 times


def test_what_fsdp_could_share_out():
    """Parameters: half of them stays with each of two processes. The codes are buffers, and all of them do."""
    parameters = sum(parameter.nbytes for parameter in build("lora", "cpu").parameters())
    buffers = sum(buffer.nbytes for buffer in build("qlora", "cpu").buffers())
    assert all(f"{number:,} " in PAGE for number in (parameters, buffers)) and f"keeps {parameters // 2:,}." in PAGE


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
