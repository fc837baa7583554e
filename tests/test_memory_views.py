import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from lora_edu.figures.nb08 import BATCHES, CONTEXTS, RANKS, TOP, memory_view
from lora_edu.memory.calculator import ALL_KINDS, BITS, CARDS_GB, GIB, training_bytes
from lora_edu.memory.shapes import ARCHITECTURES

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
        ARCHITECTURES, RANKS.values(), BITS, BATCHES[::3], CONTEXTS[::5], (False, True)
    ):
        line = view.update(
            model=model, rank=rank, bits=bits, batch=batch, context=context, checkpointing=checkpointing
        )  # fmt: skip
        total = float(re.search(r"checkpointing: ([\d,.]+) GiB, fi(?:t|ll)s", line)[1].replace(",", ""))
        how = dict(bits=bits, rank=rank) if rank else dict(bits=max(bits, 16))
        needed = training_bytes(
            ARCHITECTURES[model], **how, batch_size=batch, seq_len=context, checkpointing=checkpointing
        )
        assert total == pytest.approx(sum(needed.values()) / GIB, rel=0.006, abs=0.006)


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
        assert found[place] == pytest.approx([number / card / GIB for number in needed.values()])
    (mix,) = (heights for place, heights in found.items() if place < 0)
    assert sum(mix) == pytest.approx(1) and len(mix) == len(ALL_KINDS)


def test_what_does_not_fit_is_cut_off_and_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B", "rank": 0, "batch": 16}))
    assert "full fine-tuning, 16 bits" in line and "fits none of these cards" in line
    assert all(sum(heights) == pytest.approx(TOP) for place, heights in columns(view).items() if place >= 0)


def test_the_shares_are_written_over_the_columns(view):
    view.update(**START)
    needed = sum(training_bytes(ARCHITECTURES["LLaMA 7B"], bits=4, rank=64, checkpointing=True).values())
    written = [part.get_text() for part in view.moving if hasattr(part, "get_text")]
    assert [f"{needed / card / GIB:.0%}" for card in CARDS_GB] == written[: len(CARDS_GB)]
    assert written[-1] == f"{needed / GIB:.2f} GiB"


def visible(view):
    """Whether each part is drawn: kind -> one answer for each column."""
    drawn = [part.get_visible() for part in view.moving if hasattr(part, "get_height")]
    return {kind: drawn[i :: len(ALL_KINDS)] for i, kind in enumerate(ALL_KINDS)}


def test_a_part_is_drawn_if_it_has_a_height_and_only_then(view):
    """Full fine-tuning in 16 bits has no constants and no adapters: two parts of six, in all seven columns."""
    view.update(**(START | {"model": "GPT-2", "rank": 0, "bits": 16}))
    shown = visible(view)
    assert not any(shown["quantization constants"]) and not any(shown["adapters"])
    assert all(shown["base weights"]) and all(shown["optimizer state"])
    view.update(**START)
    shown = visible(view)
    assert all(shown["adapters"]) and all(shown["base weights"]) and any(shown["quantization constants"])


def test_the_readout(view):
    assert view.update(**START) == (
        "LLaMA 7B, rank 64, 4 bits, batch 1 of 512 tokens, with checkpointing: 6.29 GiB, fits a card of 8 GB"
    )


def test_what_fills_a_card_nearly_is_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B"}))
    assert line.endswith("fills 93.6% of a card of 48 GB: it fits on paper, but leave 10% to spare")


def test_a_context_that_the_model_was_not_trained_with_is_said(view):
    assert "of 2048 tokens (more than the 1024 it was trained with)" in view.update(
        **(START | {"model": "GPT-2", "context": 2048})
    )
    assert "trained with" not in view.update(**(START | {"context": 2048}))
    assert "trained with" in view.update(**(START | {"context": 4096}))


def test_rank_0_is_called_full():
    assert RANKS["full"] == 0 and RANKS["64"] == 64 and "0" not in RANKS


def test_the_picture_follows_the_controls(view):
    def pixels(**change):
        return np.asarray(Image.open(io.BytesIO(view.render(**(START | change))[0])))

    first = pixels()
    assert (first == pixels()).all()
    for change in ({"rank": 8}, {"bits": 16}, {"batch": 64}, {"context": 4096}, {"model": "GPT-2"}):
        assert not (first == pixels(**change)).all(), change
