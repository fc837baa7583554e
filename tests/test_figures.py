"""Pictures of notebooks 03, 04 and 07: what is drawn is what the model computes, or what is stored."""

import numpy as np
import pytest
import torch

from lora_edu.experiments import load_results
from lora_edu.experiments.nb04 import SETTINGS, setting_name
from lora_edu.figures import nb03, nb04, nb07, plots
from lora_edu.gpt import encode

TEXT = "to the Treasury."


@pytest.fixture
def model(tiny_gpt):
    for weight in tiny_gpt.requires_grad_(False).parameters():
        weight.normal_()  # so that each block moves the guess
    return tiny_gpt


@pytest.fixture
def view(model):
    return nb03.guess_view(model, TEXT, heads=((0, 1), (1, 0)))


def test_the_last_panel_is_the_model_s_guess_at_every_setting(view, model):
    logits = model(encode(TEXT)[None])[0][0]
    for bytes_read in range(1, len(TEXT)):
        found = view.values(bytes_read)
        probability = logits[bytes_read - 1].softmax(dim=-1)
        assert found["truth"] == ord(TEXT[bytes_read])
        assert found["letters"].shape == (3, nb03.TOP)  # no block, block 1, block 2
        assert found["letters"][-1].tolist() == probability.topk(nb03.TOP).indices.tolist()
        assert found["of_truth"][-1] == pytest.approx(probability[found["truth"]].item(), abs=1e-6)


def test_a_panel_before_the_last_is_the_guess_of_a_shorter_model(view, model):
    shown = view.values(7)["shares"]
    model.blocks = model.blocks[:1]
    probability = model(encode(TEXT)[None])[0][0, 6].softmax(dim=-1)
    assert np.allclose(shown[1], probability.topk(nb03.TOP).values, atol=1e-6)


def test_attention_weights_are_those_of_the_module(model):
    tokens = encode(TEXT)[None]
    stream = nb03.streams(model, tokens)
    layer, h = model.blocks[1].attention, model.blocks[1].attention_norm(stream[1])
    values = layer.split_heads(layer.v_proj(h))[0]
    heads = [nb03.attention_weights(model, stream, 1, head) @ values[head] for head in range(2)]
    assert torch.allclose(layer.o_proj(torch.cat(heads, dim=-1)), layer(h)[0], atol=1e-4)


@pytest.fixture(scope="module")
def dial():
    return load_results("dial")["arms"]


@pytest.fixture(scope="module")
def dial_view(dial):
    return nb04.dial_view(dial)


@pytest.mark.parametrize("weight", SETTINGS)
@pytest.mark.parametrize("way", nb04.WAYS)
def test_the_dial_tells_what_is_stored(dial_view, dial, weight, way):
    values = dial_view.values(plays=weight, way=way)
    stored = dial[setting_name(weight, how=nb04.WAYS[way])]
    assert values["losses"] == {"plays": stored["plays"], "verses": stored["verses"]}
    assert f"loss on plays {stored['plays']:.2f}" in values["readout"] and values["sample"] == stored["sample"]


def test_the_kept_gain_is_one_for_the_adapter_itself(dial):
    assert nb04.kept_gain(dial, setting_name(1))["plays"] == 1
    assert nb04.kept_gain(dial, setting_name(0))["verses"] == 1
    assert nb04.kept_gain(dial, "base, seed 0") == {"plays": 0, "verses": 0}


SHARES = {1: 1.0, 0.3: 0.8, 0.1: 0.2, 0.03: 0.0}


SHARES = {1: 1.0, 0.3: 0.8, 0.1: 0.2, 0.03: 0.0}
FIGURES = [
    nb04.gap,
    lambda arms: nb04.training([2.7, 2.2, 1.9, 1.8], 2.7, 1.8),
    lambda arms: nb04.kept_after_rounding({n: SHARES for n in "abcd"}),
]


@pytest.mark.parametrize("made", FIGURES)
def test_a_figure_has_words_and_labels_on_both_axes(dial, made):
    figure, words = made(dial)
    assert 10 < len(words.split()) <= 85
    assert all(axes.get_xlabel() for axes in figure.axes) and plots.png(figure)


@pytest.fixture(scope="module")
def two_errors():
    return load_results("two-errors")["arms"]


@pytest.mark.parametrize("bits", nb07.WIDTHS)
def test_the_triangles_have_the_stored_errors_as_sides(two_errors, bits):
    view = nb07.triangles(two_errors)
    readout = view.update(constants=bits)
    for axes, (name, ways) in zip(view.figure.axes, two_errors.items(), strict=True):
        error = {source: 100 * e for source, e in ways[bits].items()}
        lines = [line.get_xydata().tolist() for line in axes.lines]
        c, k = error["codes"], error["constants"]
        assert lines[:3] == [[[0, 0], [c, 0]], [[c, 0], [c, k]], [[0, 0], [c, k]]]
        assert lines[4:] == [[[error["both"], 0]], [[c + k, 0]]]
        assert np.allclose(np.hypot(*np.transpose(lines[3])), np.hypot(c, k))  # the arc
        assert axes.get_title(loc="left") == name and axes.get_aspect() == 1  # a right angle looks like one
        assert f"{name} {c:.3f}% and {k:.3f}% make {error['both']:.3f}%" in readout


def test_the_growth_is_drawn_from_the_stored_errors_and_lies_on_the_lower_line(two_errors):
    figure, words = nb07.growth(two_errors)
    (axes,) = figure.axes
    assert axes.get_xscale() == axes.get_yscale() == "log"
    for line, ways in zip(axes.lines[2:], two_errors.values(), strict=True):
        for ratio, more in line.get_xydata():
            assert any(e["constants"] / e["codes"] == pytest.approx(ratio) for e in ways.values())
            assert 0.75 < more / 100 / (np.hypot(1, ratio) - 1) < 1.35 and more < 80 * ratio
    assert f"marks for {sum(len(line.get_xydata()) for line in axes.lines[2:])} roundings" in words
