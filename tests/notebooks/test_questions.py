"""The page of questions: every line runs and prints what the page says, and every link leads to a heading."""

import contextlib
import io
import re

import pytest
import torch
from conftest import NOTEBOOKS, library

from lora_course.nb06.lab_floats import four_over_six, mxfp4, nvfp4

PAGE = (NOTEBOOKS / "questions.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.+?)```", PAGE, re.DOTALL)
NUMBER = re.compile(r"-?\d+\.\d+(?:e[+-]?\d+)?")


@pytest.fixture(scope="module")
def names():
    """The names that the page defines, one block after the other."""
    return {}


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_page_says(names, number):
    for name, mark in {"peft": "from peft", "bitsandbytes": "BitsAndBytesConfig"}.items():
        if mark in BLOCKS[number]:
            library(name)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(BLOCKS[number], names)
    got, said = printed.getvalue().strip().splitlines(), re.findall(r"^# -> (.+)$", BLOCKS[number], re.M)
    assert [NUMBER.sub("n", line) for line in got] == [NUMBER.sub("n", line) for line in said], got
    for mine, theirs in zip(got, said, strict=True):  # another processor may have another last digit
        pairs = zip(NUMBER.findall(mine), NUMBER.findall(theirs), strict=True)
        assert all(float(a) == pytest.approx(float(b), rel=0.03, abs=0.011) for a, b in pairs), (mine, theirs)


def test_twenty_six_questions_each_with_a_line_and_a_place():
    questions = re.split(r"^## ", PAGE, flags=re.M)
    numbered = [part for part in questions if re.match(r"\d+\. ", part)]
    assert [int(part.split(".")[0]) for part in numbered] == list(range(1, 27))
    for part in numbered:
        assert ".ipynb#" in part and ("```python" in part or "(18_clinic" in part), part[:60]  # there it is a sick run


def test_the_formats_keep_their_promises():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    for change in (mxfp4, nvfp4, four_over_six):
        once = change(weight)
        assert torch.allclose(change(once), once, atol=1e-6)  # twice is once
    errors = [(weight - change(weight)).view(-1, 16).norm(dim=1) for change in (nvfp4, four_over_six)]
    assert 0.4 < (errors[1] < errors[0]).float().mean() and errors[1].norm() < 0.95 * errors[0].norm()
    scales = weight.view(-1, 32).abs().amax(1) / mxfp4(weight).view(-1, 32).abs().amax(1)
    assert scales.max() < 4 / 3 + 1e-6 and scales.min() > 0.79  # between 6 and 8 it saturates; else the nearest of E2M1
