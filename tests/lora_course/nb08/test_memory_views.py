import itertools
import re

import pytest
from matplotlib.lines import Line2D

from lora_course.nb14.pictures import PARTS, RANKS, TOKENS, TOP, memory_view
from lora_edu.memory.calculator import BITS, CARDS_GB, GIB, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES

START = dict(model="LLaMA 7B", rank=64, bits=4, tokens=512, checkpointing=True)


@pytest.fixture(scope="module")
def view():
    return memory_view()


def columns(view):
    """The heights in each column of the picture, by its place."""
    found = {}
    for part in view.moving:
        if hasattr(part, "get_height"):
            found.setdefault(round(part.get_x() + 0.33, 6), []).append(part.get_height())
    return found


def test_a_sweep_over_all_values_of_the_controls(view):
    settings = itertools.product(ARCHITECTURES, RANKS.values(), BITS, TOKENS[::9], (False, True))
    for model, rank, bits, tokens, checkpointing in settings:
        line = view.update(model=model, rank=rank, bits=bits, tokens=tokens, checkpointing=checkpointing)
        total = float(re.search(r"checkpointing: ([\d,.]+) GiB, fi(?:t|ll)s", line)[1].replace(",", ""))
        how = dict(bits=bits, rank=rank) if rank else dict(bits=max(bits, 16))
        how |= {"batch_size": max(tokens // 512, 1), "seq_len": min(tokens, 512), "checkpointing": checkpointing}
        needed = training_bytes(ARCHITECTURES[model], **how)
        assert total == pytest.approx(sum(needed.values()) / GIB, rel=0.006, abs=0.006)


def test_the_columns_are_the_shares_of_the_cards(view):
    view.update(**START)
    seven = ARCHITECTURES["LLaMA 7B"]
    needed = training_bytes(seven, bits=4, rank=64, checkpointing=True)
    codes = seven.parameters()["block linears"] / 2
    found = columns(view)
    for place, card in enumerate(CARDS_GB):
        assert sum(found[place]) == pytest.approx(sum(needed.values()) / card / GIB)
        assert found[place][1] == pytest.approx(codes / card / GIB)
    (mix,) = (heights for place, heights in found.items() if place < 0)
    assert sum(mix) == pytest.approx(1) and len(mix) == len(PARTS)


def test_what_does_not_fit_is_cut_off_and_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B", "rank": 0, "tokens": 8192}))
    assert "full fine-tuning, 16 bits" in line and "fits none of these cards" in line
    assert all(sum(heights) == pytest.approx(TOP) for place, heights in columns(view).items() if place >= 0)
    assert all(part.get_visible() for part in view.moving if isinstance(part, Line2D))  # a bar that is cut off says so


def test_what_fills_a_card_nearly_is_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B"}))
    assert line.endswith("fills 93.6% of a card of 48 GB: on paper it fits, but leave 10% to spare")
