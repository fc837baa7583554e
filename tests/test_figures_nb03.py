"""Notebook 03's pictures: what the cursor shows is what the model computes, and the words say the numbers drawn."""

import io

import numpy as np
import pytest
import torch
from matplotlib.patches import Rectangle
from PIL import Image

from lora_edu.figures import nb03 as pictures
from lora_edu.figures import plots
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


def test_attention_rows_sum_to_one_and_nothing_comes_from_the_future(view):
    for bytes_read in range(1, len(TEXT)):
        rows = view.values(bytes_read)["attention"]
        assert np.allclose(rows.sum(axis=1), 1, atol=1e-5) and not rows[:, bytes_read:].any()


def test_the_guess_knows_nothing_of_the_bytes_that_follow(model):
    other = pictures.guess_view(model, TEXT[:7] + "Congress!", heads=((0, 1), (1, 0)))
    same = pictures.guess_view(model, TEXT, heads=((0, 1), (1, 0)))
    assert np.allclose(other.values(7)["shares"], same.values(7)["shares"], atol=1e-6)


def test_every_setting_is_drawn_and_read_out(view):
    pictures_seen = set()
    for bytes_read in range(1, len(TEXT)):
        png, readout = view.render(bytes_read=bytes_read)
        assert png.startswith(b"\x89PNG") and readout.startswith(f"After “{TEXT[:bytes_read]}” comes “")
        pictures_seen.add(np.asarray(Image.open(io.BytesIO(png))).tobytes())
    assert len(pictures_seen) == len(TEXT) - 1  # each differs from the others


def test_a_space_is_visible():
    assert [pictures.glyph(byte) for byte in b" a\n"] == ["␣", "a", "0a"]


def test_attention_weights_are_those_of_the_module(model):
    tokens = encode(TEXT)[None]
    stream = pictures.streams(model, tokens)
    layer, h = model.blocks[1].attention, model.blocks[1].attention_norm(stream[1])
    values = layer.split_heads(layer.v_proj(h))[0]
    heads = [pictures.attention_weights(model, stream, 1, head) @ values[head] for head in range(2)]
    assert torch.allclose(layer.o_proj(torch.cat(heads, dim=-1)), layer(h)[0], atol=1e-4)


@pytest.mark.parametrize("highlight", [pictures.SIX, ("q_proj", "v_proj"), ()])
def test_the_block_fills_the_layers_that_are_asked_for(highlight):
    figure, words = pictures.block_diagram(highlight)
    pale = plots.light(plots.WEIGHT)["facecolor"]
    filled = [patch for patch in figure.axes[0].patches if np.allclose(patch.get_facecolor(), pale)]
    assert len(filled) == len(highlight)
    assert words.endswith(f"Filled: {', '.join(highlight) or 'none'}.") and len(words.split()) <= 60
    plots.plt.close(figure)


def test_the_block_says_which_layers_it_has():
    with pytest.raises(ValueError, match="q_proj, k_proj, v_proj, o_proj, up_proj, down_proj, got 'lm_head'"):
        pictures.block_diagram(["lm_head"])


def test_the_areas_of_the_block_are_true_to_scale():
    figure, _ = pictures.block_diagram()
    areas = sorted(p.get_width() * p.get_height() for p in figure.axes[0].patches if isinstance(p, Rectangle))
    assert areas == [1] * 4 + [4] * 2  # d_model^2 four times, 4 d_model^2 twice
    plots.plt.close(figure)


def test_words_say_the_numbers():
    figures = [
        pictures.ripening([2.4, 1.61, 0.92], [1.76, 1.37, 0.94], [4.81, 1.66, 1.18], 2.34),
        pictures.missing_mask({"with": torch.full((4,), 2.0), "without": torch.tensor([0.1, 0.1, 0.1, 2.6])}),
        pictures.attention_maps({"the byte before": torch.eye(3)}, "a b"),
    ]
    for (figure, words), number in zip(figures, ("2.40, 1.61, 0.92", "2.60", "a b"), strict=True):
        assert number in words and len(words.split()) <= 60
        plots.plt.close(figure)


def test_the_title_names_the_block_that_the_numbers_name():
    figure, _ = pictures.ripening([2, 1], [1.5, 1], [1.2, 4.8], 2.3)
    assert figure.axes[1].get_title(loc="left") == "Block 2 is missed most"
    plots.plt.close(figure)


def test_three_measures_of_one_loss():
    header, rows = pictures.three_measures({"a bit": np.log(2)}, "on a text")
    assert header == ["on a text", "nats per byte", "bits per byte", "perplexity"]
    assert rows == [["a bit", "0.69", "1.00", "2.0"]]
