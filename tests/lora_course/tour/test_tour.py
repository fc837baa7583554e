"""The tour's own pictures say what their numbers say, and its exercises are those of other pages."""

import pytest
import torch
from conftest import code_cell

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
    assert check.input_gradient is nb09.input_gradient
