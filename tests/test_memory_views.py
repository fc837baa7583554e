import io
import itertools
import re

import numpy as np
import pytest
from PIL import Image

from lora_edu.figures.nb14 import PARTS, RANKS, TOKENS, TOP, memory_view
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
    for model, rank, bits, tokens, checkpointing in itertools.product(
        ARCHITECTURES, RANKS.values(), BITS, TOKENS[::8], (False, True)
    ):
        line = view.update(model=model, rank=rank, bits=bits, tokens=tokens, checkpointing=checkpointing)
        total = float(re.search(r"checkpointing: ([\d,.]+) GiB, fi(?:t|ll)s", line)[1].replace(",", ""))
        how = dict(bits=bits, rank=rank) if rank else dict(bits=max(bits, 16))
        length = min(tokens, 512)
        needed = training_bytes(
            ARCHITECTURES[model], **how, batch_size=tokens // length, seq_len=length, checkpointing=checkpointing
        )
        assert total == pytest.approx(sum(needed.values()) / GIB, rel=0.006, abs=0.006)


def test_every_number_of_tokens_is_drawn(view):
    totals = []
    for tokens in TOKENS:
        view.render(**(START | {"tokens": tokens}))
        totals.append(sum(columns(view)[len(CARDS_GB) - 1]))
    assert totals == sorted(totals)


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
    assert all(line.get_visible() for line in breaks(view))  # a bar that is cut off says so


def test_a_bar_that_is_drawn_in_full_has_no_break(view):
    view.update(**(START | {"model": "LLaMA 13B"}))
    needed = sum(training_bytes(ARCHITECTURES["LLaMA 13B"], bits=4, rank=64, checkpointing=True).values())
    assert [line.get_visible() for line in breaks(view)] == [needed / card / GIB > TOP for card in CARDS_GB]


def breaks(view):
    return [part for part in view.moving if hasattr(part, "get_linestyle") and hasattr(part, "get_xydata")]


def test_the_shares_are_written_over_the_columns(view):
    view.update(**START)
    needed = sum(training_bytes(ARCHITECTURES["LLaMA 7B"], bits=4, rank=64, checkpointing=True).values())
    written = [part.get_text() for part in view.moving if hasattr(part, "get_text")]
    assert [f"{needed / card / GIB:.0%}" for card in CARDS_GB] == written[: len(CARDS_GB)]
    assert written[len(CARDS_GB)] == f"{needed / GIB:.2f} GiB"


def visible(view):
    """Whether each part is drawn: name -> one answer for each column."""
    drawn = [part.get_visible() for part in view.moving if hasattr(part, "get_height")]
    return {name: drawn[i :: len(PARTS)] for i, name in enumerate(PARTS)}


def test_a_part_is_drawn_if_it_has_a_height_and_only_then(view):
    """Full fine-tuning in 16 bits has no codes, no constants and no adapters."""
    view.update(**(START | {"model": "GPT-2", "rank": 0, "bits": 16}))
    shown = visible(view)
    assert not any(shown["codes"]) and not any(shown["constants"]) and not any(shown["adapters"])
    assert all(shown["weights"]) and all(shown["optimizer state"])
    view.update(**START)
    shown = visible(view)
    assert all(shown["adapters"]) and all(shown["codes"]) and any(shown["constants"])


def test_each_part_carries_its_own_number(view):
    view.update(**(START | {"rank": 0}))
    needed = training_bytes(ARCHITECTURES["LLaMA 7B"], bits=16, checkpointing=True)
    written = [part.get_text() for part in view.moving if hasattr(part, "get_text")][len(CARDS_GB) + 1 :]
    shown = dict(zip(PARTS, written, strict=True))
    for name in ("gradients", "optimizer state", "adapters", "activations"):
        assert shown[name] == f"{needed[name] / GIB:.2f} GiB"


def test_the_readout(view):
    assert view.update(**START) == (
        "LLaMA 7B, rank 64, 4 bits, 512 tokens, with checkpointing: 6.29 GiB, fits a card of 8 GB"
    )


def test_what_fills_a_card_nearly_is_said(view):
    line = view.update(**(START | {"model": "LLaMA 65B"}))
    assert line.endswith("fills 93.6% of a card of 48 GB: on paper it fits, but leave 10% to spare")
    line = view.update(**(START | {"model": "LLaMA 13B"}))
    assert line.endswith("fills 90.2% of a card of 12 GB: on paper it fits, but leave 10% to spare")


def test_rank_0_is_called_full():
    assert RANKS["full"] == 0 and RANKS["64"] == 64 and "0" not in RANKS


def test_the_picture_follows_the_controls(view):
    def pixels(**change):
        return np.asarray(Image.open(io.BytesIO(view.render(**(START | change))[0])))

    first = pixels()
    assert (first == pixels()).all()
    for change in ({"rank": 8}, {"bits": 16}, {"tokens": 65536}, {"model": "GPT-2"}, {"checkpointing": False}):
        assert not (first == pixels(**change)).all(), change
