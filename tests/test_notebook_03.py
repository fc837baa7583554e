"""Notebook 03: each claim of the page that a number can guard, on a quarter of its windows."""

import copy
import itertools
from pathlib import Path

import nbformat
import pytest
import torch
from torch.nn import functional as F

from lora_edu import evaluate, load_base, load_text
from lora_edu.figures import nb03 as pictures
from lora_edu.gpt import encode

ROOT = Path(__file__).parent.parent
LINE = "to you by the Secretary of the Treasury."


@pytest.fixture(scope="module")
def page():
    cells = nbformat.read(ROOT / "notebooks" / "03_small_gpt.ipynb", as_version=4).cells
    return " ".join(" ".join(cell.source.split()) for cell in cells)


@pytest.fixture(scope="module")
def model():
    return load_base("laptop", device="cpu").requires_grad_(False)


@pytest.fixture(scope="module")
def speeches():
    return load_text("speeches")


@pytest.fixture(scope="module")
def windows(speeches):
    """16 windows of the held-out addresses: inputs and targets, each (16, 256)."""
    starts = torch.linspace(0, len(speeches.validation) - 257, 16).long()[:, None]
    found = speeches.validation[starts + torch.arange(257)].long()
    return found[:, :-1], found[:, 1:]


@pytest.fixture(scope="module")
def stream(model, windows):
    return pictures.streams(model, windows[0])


@pytest.fixture(scope="module")
def readings(model, stream):
    return [model.lm_head(model.final_norm(x)) for x in stream]


def loss(logits, windows):
    return F.cross_entropy(logits.flatten(0, 1), windows[1].flatten()).item()


def test_the_cursor_s_line_is_held_out(speeches):
    held_out, seen = (bytes(text.tolist()).decode() for text in (speeches.validation, speeches.train))
    assert LINE in held_out and "I am the servant of the nation." in held_out
    assert "I am the servant of the nation." not in seen


def test_the_last_block_decides_some_bytes_and_not_most(readings):
    """Against "the last layer decides": four first choices in five stand before it."""
    stands = [(z.argmax(-1) == readings[-1].argmax(-1)).float().mean().item() for z in readings]
    assert stands == sorted(stands) and 0.7 < stands[3] < 0.9


def test_block_1_is_little_ahead_of_counted_pairs(readings, windows, speeches):
    """How often each agrees with the first choice of the whole model."""
    text = speeches.train.long()
    pairs = (256 * text[:-1] + text[1:]).bincount(minlength=256**2).view(256, 256)
    final = readings[-1].argmax(-1)
    after_1, counted = ((c == final).float().mean() for c in (readings[1].argmax(-1), pairs.argmax(dim=1)[windows[0]]))
    assert 0.3 < counted < after_1 < counted + 0.1


def test_the_last_block_makes_the_model_surer_where_the_first_choice_stays(readings, windows):
    """More than half of what block 4 takes off the loss it takes off there."""
    before, after = (z.log_softmax(-1) for z in readings[3:])
    stays = before.argmax(-1) == after.argmax(-1)
    gain = (after - before).gather(-1, windows[1][..., None])[..., 0]
    assert 0.5 < gain[stays].sum() / gain.sum() < 0.6
    surest = (z.exp().amax(-1)[stays].mean() for z in (before, after))
    assert next(surest) + 0.02 < next(surest)


def test_the_loss_falls_from_block_to_block(readings, windows):
    losses = [loss(z, windows) for z in readings]
    assert all(earlier - later > 0.15 for earlier, later in itertools.pairwise(losses))


def test_the_first_block_is_missed_most_and_the_last_by_a_quarter_of_a_nat(model, stream, readings, windows):
    without = []
    for left_out in range(4):
        x = stream[left_out]
        for block in model.blocks[left_out + 1 :]:
            x = block(x)
        without.append(loss(model.lm_head(model.final_norm(x)), windows) - loss(readings[-1], windows))
    assert without == sorted(without, reverse=True)
    assert 3.3 < without[0] < 4.5 and 0.15 < without[3] < 0.35


def test_the_model_s_readout_shows_a_steeper_fall_than_the_stream_holds(model, stream, readings, windows, speeches):
    """Against reading the slider as it stands: a readout trained for block 1 closes about half of the gap."""
    starts = torch.linspace(0, len(speeches.train) - 257, 32).long()[:, None]
    practice = speeches.train[starts + torch.arange(257)].long()
    x = pictures.streams(model, practice[:, :-1])[1].flatten(0, 1)
    own = copy.deepcopy(model.lm_head).requires_grad_(True)
    optimizer = torch.optim.Adam(own.parameters(), lr=5e-3)
    for _ in range(150):
        some = torch.randint(len(x), (1024,))
        optimizer.zero_grad()
        F.cross_entropy(own(model.final_norm(x[some])), practice[:, 1:].flatten()[some]).backward()
        optimizer.step()
    with torch.no_grad():
        trained = loss(own(model.final_norm(stream[1])), windows)
    last = loss(readings[-1], windows)
    assert 0.4 < (trained - last) / (loss(readings[1], windows) - last) < 0.7


def test_the_slider_s_heads_are_those_that_the_page_measures(model):
    tokens = encode("I am the servant of the nation.")[None]
    stream = pictures.streams(model, tokens)
    heads = {
        (b, h): pictures.attention_weights(model, stream, b, h)
        for b in range(model.config.n_layers)
        for h in range(model.config.n_heads)
    }
    before = max(heads, key=lambda head: heads[head].diagonal(-1).mean())
    spaces = max(heads, key=lambda head: heads[head][8:, tokens[0] == ord(" ")].sum(dim=1).mean())
    assert (before, spaces) == pictures.HEADS


def test_the_slider_starts_where_the_last_block_decides(model):
    view = pictures.guess_view(model, LINE)
    assert bytes(view.values(31)["letters"][1:, 0].tolist()) == b"UUST"
    assert view.values(31)["of_truth"][3] < 0.1 < 0.4 < view.values(31)["of_truth"][4]
    assert view.values(35)["of_truth"][2] > 0.8  # "Trea" -> "s": decided after block 2


def test_bits_per_byte_are_compared_on_the_same_text(page, model):
    """One model, two texts: their bits differ by more than any two models of the course on one text."""
    plays = evaluate(model, load_text("shakespeare").validation, max_windows=16)
    addresses = evaluate(model, load_text("speeches").validation, max_windows=16)
    assert plays - addresses > 1.4
    assert "for two models *on the same text*" in page
    assert "can be compared between any two models" not in page
