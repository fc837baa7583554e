"""Notebook 03's pictures: what the cursor shows is what the model computes, and the words say the numbers drawn."""

import numpy as np
import pytest
import torch

from lora_edu.figures import nb03 as pictures
from lora_edu.gpt import encode

TEXT = "to the Treasury."


@pytest.fixture
def model(tiny_gpt):
    for weight in tiny_gpt.requires_grad_(False).parameters():
        weight.normal_()  # so that each block moves the guess
    return tiny_gpt


@pytest.fixture
def view(model):
    return pictures.guess_view(model, TEXT, heads=((0, 1), (1, 0)))


def test_the_last_panel_is_the_model_s_guess_at_every_setting(view, model):
    logits = model(encode(TEXT)[None])[0][0]
    for bytes_read in range(1, len(TEXT)):
        found = view.values(bytes_read)
        probability = logits[bytes_read - 1].softmax(dim=-1)
        assert found["truth"] == ord(TEXT[bytes_read])
        assert found["letters"].shape == (3, pictures.TOP)  # no block, block 1, block 2
        assert found["letters"][-1].tolist() == probability.topk(pictures.TOP).indices.tolist()
        assert found["of_truth"][-1] == pytest.approx(probability[found["truth"]].item(), abs=1e-6)


def test_a_panel_before_the_last_is_the_guess_of_a_shorter_model(view, model):
    shown = view.values(7)["shares"]
    model.blocks = model.blocks[:1]
    probability = model(encode(TEXT)[None])[0][0, 6].softmax(dim=-1)
    assert np.allclose(shown[1], probability.topk(pictures.TOP).values, atol=1e-6)


def test_attention_weights_are_those_of_the_module(model):
    tokens = encode(TEXT)[None]
    stream = pictures.streams(model, tokens)
    layer, h = model.blocks[1].attention, model.blocks[1].attention_norm(stream[1])
    values = layer.split_heads(layer.v_proj(h))[0]
    heads = [pictures.attention_weights(model, stream, 1, head) @ values[head] for head in range(2)]
    assert torch.allclose(layer.o_proj(torch.cat(heads, dim=-1)), layer(h)[0], atol=1e-4)
