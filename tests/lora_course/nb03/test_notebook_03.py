"""Notebook 03: its slider shows the heads that it speaks of."""

import itertools

from lora_course.nb03 import pictures
from lora_edu import load_base
from lora_edu.gpt import encode


def test_the_slider_s_heads_are_those_that_the_page_measures():
    tokens, model = encode("I am the servant of the nation.")[None], load_base("laptop", device="cpu")
    stream = pictures.streams(model, tokens)
    places = itertools.product(range(4), range(4))
    heads = {place: pictures.attention_weights(model, stream, *place) for place in places}
    before = max(heads, key=lambda head: heads[head].diagonal(-1).mean())
    spaces = max(heads, key=lambda head: heads[head][8:, tokens[0] == ord(" ")].sum(dim=1).mean())
    assert (before, spaces) == pictures.HEADS
