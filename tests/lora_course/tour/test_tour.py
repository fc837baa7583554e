"""The tour's own pictures say what their numbers say, and its exercises are those of other pages."""

import re

import nbformat
import pytest
import torch
from conftest import NOTEBOOKS, code_cell

from lora_course.checking.grading import WrongAnswer
from lora_course.nb09 import check as nb09
from lora_course.tour import check, pictures
from lora_edu.memory.calculator import training_bytes
from lora_edu.memory.shapes import ARCHITECTURES


@pytest.fixture(scope="module")
def bill():
    """What the cell of section 9 counts, run on its own."""
    shown = {"my_bill": None}
    lines = code_cell("tour", "in_blocks = 80").source.splitlines()
    exec("\n".join(line for line in lines if not line.startswith(("plots.", "check."))), shown)
    return shown["bill"]


def test_the_bill_agrees_with_the_calculator_of_memory(bill):
    """Which counts the norms besides, and activations, left out here."""
    for name, how in {"full": {}, "LoRA": {"rank": 8}, "QLoRA": {"rank": 8, "bits": 4}}.items():
        needed = training_bytes(ARCHITECTURES["LLaMA 65B"], adapter_bits=16, **how)
        kept = sum(size for kind, size in needed.items() if kind not in ("activations", "logits"))
        assert sum(bill[name].values()) == pytest.approx(kept / 1e9, rel=0.001)


def test_the_words_of_the_bill_are_its_numbers():
    words = pictures.bill({"full": {"weights": 20, "gradients": 20}, "LoRA": {"weights": 20, "adapters": 5}})[1]
    assert words.startswith("Full fine-tuning takes 2 times") and "full 40, LoRA 25 GB" in words


def test_the_levels_are_counted_where_they_are():
    weight = torch.linspace(-1, 1, 6400).view(64, 100).T.reshape(100, 64)  # each block from -1 to 1
    assert pictures.sixteen(weight, torch.linspace(-1, 1, 5))[1].startswith("1 of 5 levels lie in the middle half")


def test_an_exercise_done_on_the_tour_is_done_on_its_page():
    here, there = check.input_gradient, nb09.input_gradient
    assert here.number == there.number and here.reference is there.reference and here.cases is there.cases


# What each belief is told on the tour: the section, and its heading there.
SECTIONS = {
    "largest_saving_rank": "2. What a rank is",
    "lora_layer": "3. The layer",
    "input_gradient": "7. Decode, multiply, forget",
}


@pytest.mark.parametrize("name", check.__all__[1:])
def test_a_message_points_to_a_section_of_the_tour(name):
    asked = getattr(check, name)
    told = " ".join([*asked.taught.values(), *asked.noticed])
    pointed = set(re.findall(r"section \d+", asked._with_sections(told)))
    assert pointed == ({f"section {SECTIONS[name].partition('.')[0]}"} if name in SECTIONS else set())
    cells = nbformat.read(NOTEBOOKS / "tour.ipynb", as_version=4).cells
    headings = "\n".join(cell.source for cell in cells).splitlines()
    assert name not in SECTIONS or f"## {SECTIONS[name]}" in headings


def test_a_section_that_the_other_page_lacks_is_named_with_its_notebook():
    asked = nb09.input_gradient.on_page({})
    with pytest.raises(WrongAnswer, match="still passes one on to x: section 3 of notebook 09"):
        asked(lambda grad_y, W, A, B, alpha: alpha / len(A) * (grad_y @ B) @ A)
    with pytest.raises(WrongAnswer, match=r"still passes one on to x: section 3\. An"):
        nb09.input_gradient(lambda grad_y, W, A, B, alpha: alpha / len(A) * (grad_y @ B) @ A)
