import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from lora_edu.architectures import ARCHITECTURES
from lora_edu.calculator import ALL_KINDS, BITS, CARDS_GB, training_bytes
from lora_edu.memory_views import BATCHES, CONTEXTS, RANKS, TOP, memory_view

START = dict(model="LLaMA 7B", rank=64, bits=4, batch=1, context=512, checkpointing=True)


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
    for model, rank, bits, batch, context, checkpointing in itertools.product(
        ARCHITECTURES, RANKS, BITS, BATCHES[::3], CONTEXTS[::5], (False, True)
    ):
        line = view.update(
            model=model, rank=rank, bits=bits, batch=batch, context=context, checkpointing=checkpointing
        )  # fmt: skip
        total = float(re.search(r"checkpointing: ([\d,.]+) GB, fits", line)[1].replace(",", ""))
        how = dict(bits=bits, rank=rank) if rank else dict(bits=max(bits, 16))
        needed = training_bytes(
            ARCHITECTURES[model], **how, batch_size=batch, seq_len=context, checkpointing=checkpointing
        )
        assert total == pytest.approx(sum(needed.values()) / 1e9, rel=0.006, abs=0.006)


def test_every_batch_and_context_is_drawn(view):
    totals = []
    for batch, context in itertools.product(BATCHES, CONTEXTS):
        view.render(**(START | {"batch": batch, "context": context}))
        totals.append((batch * context, sum(columns(view)[len(CARDS_GB) - 1])))
    totals.sort()
    assert all(before <= after + 1e-9 for (_, before), (_, after) in itertools.pairwise(totals))


def test_the_columns_are_the_shares_of_the_cards(view):
    view.update(**START)
    needed = training_bytes(ARCHITECTURES["LLaMA 7B"], bits=4, rank=64, checkpointing=True)
    found = columns(view)
    for place, card in enumerate(CARDS_GB):
        assert found[place] == pytest.approx([number / card / 1e9 for number in needed.values()])
    (mix,) = (heights for place, heights in found.items() if place < 0)
    assert sum(mix) == pytest.approx(1) and len(mix) == len(ALL_KINDS)


def test_what_does_not_fit_is_cut_off_and_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B", "rank": 0, "batch": 16}))
    assert "full fine-tuning, 16 bits" in line and "fits none of these cards" in line
    assert all(sum(heights) == pytest.approx(TOP) for place, heights in columns(view).items() if place >= 0)


def test_the_readout(view):
    assert view.update(**START) == (
        "LLaMA 7B, rank 64, 4 bits, batch 1 of 512 tokens, with checkpointing: 6.70 GB, fits a card of 8 GB"
    )


def test_the_picture_follows_the_controls(view):
    def pixels(**change):
        return np.asarray(Image.open(io.BytesIO(view.render(**(START | change))[0])))

    first = pixels()
    assert (first == pixels()).all()
    for change in ({"rank": 8}, {"bits": 16}, {"batch": 64}, {"context": 4096}, {"model": "GPT-2"}):
        assert not (first == pixels(**change)).all(), change
