"""Notebook 03: each claim of the page that a number can guard, on a quarter of its windows."""

import copy
import itertools
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional as F

from lora_course.nb03 import pictures
from lora_edu import load_base, load_text
from lora_edu.gpt import encode


def windows(text, count):
    """Inputs and targets, each (count, 256), spread evenly over a text."""
    starts = torch.linspace(0, len(text) - 257, count).long()[:, None]
    found = text[starts + torch.arange(257)].long()
    return found[:, :-1], found[:, 1:]


@pytest.fixture(scope="module")
def seen():
    """The shipped model over 16 windows of the held-out addresses: its stream, and what its readout makes of it."""
    model, text = load_base("laptop", device="cpu").requires_grad_(False), load_text("speeches")
    inputs, targets = windows(text.validation, 16)
    stream = pictures.streams(model, inputs)
    readings = [model.lm_head(model.final_norm(x)) for x in stream]
    return SimpleNamespace(
        model=model, train=text.train, inputs=inputs, targets=targets, stream=stream, readings=readings
    )


def loss(logits, targets):
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


def test_block_1_is_little_ahead_of_counted_pairs(seen):
    """How often each agrees with the first choice of the whole model."""
    text = seen.train.long()
    pairs = (256 * text[:-1] + text[1:]).bincount(minlength=256**2).view(256, 256)
    final = seen.readings[-1].argmax(-1)
    after_1, counted = (
        (c == final).float().mean() for c in (seen.readings[1].argmax(-1), pairs.argmax(dim=1)[seen.inputs])
    )
    assert 0.3 < counted < after_1 < counted + 0.1


def test_the_last_block_makes_the_model_surer_where_the_first_choice_stays(seen):
    """More than half of what block 4 takes off the loss it takes off there."""
    before, after = (z.log_softmax(-1) for z in seen.readings[3:])
    stays = before.argmax(-1) == after.argmax(-1)
    gain = (after - before).gather(-1, seen.targets[..., None])[..., 0]
    assert 0.5 < gain[stays].sum() / gain.sum() < 0.6
    surest = (z.exp().amax(-1)[stays].mean() for z in (before, after))
    assert next(surest) + 0.02 < next(surest)


def test_the_model_s_readout_shows_a_steeper_fall_than_the_stream_holds(seen):
    """Against reading the slider as it stands: a readout trained for block 1 closes about half of the gap."""
    model, (inputs, targets) = seen.model, windows(seen.train, 32)
    x = pictures.streams(model, inputs)[1].flatten(0, 1)
    own = copy.deepcopy(model.lm_head).requires_grad_(True)
    optimizer = torch.optim.Adam(own.parameters(), lr=1e-2)
    for _ in range(100):
        some = torch.randint(len(x), (512,))
        optimizer.zero_grad()
        F.cross_entropy(own(model.final_norm(x[some])), targets.flatten()[some]).backward()
        optimizer.step()
    trained = loss(own(model.final_norm(seen.stream[1])).detach(), seen.targets)
    shared, last = (loss(seen.readings[depth], seen.targets) for depth in (1, -1))
    assert 0.4 < (trained - last) / (shared - last) < 0.7


def test_the_slider_s_heads_are_those_that_the_page_measures(seen):
    model, tokens = seen.model, encode("I am the servant of the nation.")[None]
    stream = pictures.streams(model, tokens)
    places = itertools.product(range(4), range(4))
    heads = {place: pictures.attention_weights(model, stream, *place) for place in places}
    before = max(heads, key=lambda head: heads[head].diagonal(-1).mean())
    spaces = max(heads, key=lambda head: heads[head][8:, tokens[0] == ord(" ")].sum(dim=1).mean())
    assert (before, spaces) == pictures.HEADS
