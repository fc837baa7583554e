"""Notebook 12: what its stored runs say beside what its cells print and assert, and the memory that it needs."""

import re
import subprocess
import sys

import pytest
from conftest import NOTEBOOKS

from lora_course.experiments import load_results
from lora_course.nb12 import pictures

PATH = NOTEBOOKS / "12_real_model.ipynb"
ARMS = load_results("real-model")["arms"] | load_results("real-model-rivals")["arms"]


def test_most_of_the_gain_is_learning():
    """The old page said that training repairs: the arm without rounding falls by more than half as much."""
    losses = pictures.square(ARMS, "Bible")
    assert (losses["as loaded"] - losses["LoRA"]).mean() > (losses["NF4"] - losses["QLoRA"]).mean() / 2


@pytest.mark.parametrize(("text", "low", "high"), [("Bible", 0.15, 0.30), ("addresses", 0.34, 0.74)])
def test_a_part_of_what_comes_back_needs_no_repair(text, low, high):
    """LoRA's adapter, which never saw the rounding, on the NF4 base: the page had said "a quarter", of three seeds."""
    losses = pictures.square(ARMS, text)
    before, after = pictures.rounding_cost(losses)
    free = (before - losses["LoRA onto NF4"] + losses["LoRA"]) / (before - after)
    assert (free.min(), free.max()) == pytest.approx((low, high), abs=0.005)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no getrusage")
def test_the_notebook_needs_less_than_three_gigabytes():
    code = (
        "import resource, sys; from pathlib import Path; from lora_course.setup.report import execute;"
        "execute(Path(sys.argv[1])); print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    run = subprocess.run([sys.executable, "-c", code, str(PATH)], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024
    assert 0.5e9 < int(re.search(r"peak (\d+)", run.stdout)[1]) * unit < 3e9
