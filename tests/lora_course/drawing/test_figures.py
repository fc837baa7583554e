"""Pictures of the notebooks, and the painted line: what is drawn is what is computed, or stored."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from conftest import random_gpt

from lora_course.drawing import painted
from lora_course.experiments import load_results
from lora_course.nb03 import pictures as nb03
from lora_course.nb04 import pictures as nb04
from lora_course.nb04.lab import SETTINGS, setting_name
from lora_course.nb07 import pictures as nb07
from lora_edu.gpt import GPT, GPTConfig, encode
from lora_edu.observing import surprise
from lora_edu.training import evaluate

TEXT = "to the Treasury."


@pytest.fixture
def model():
    return random_gpt()


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


DIAL, TWO_ERRORS = (load_results(name)["arms"] for name in ("dial", "two-errors"))


@pytest.fixture(scope="module")
def dial_view():
    return nb04.dial_view(DIAL)


@pytest.mark.parametrize("weight", SETTINGS)
@pytest.mark.parametrize("way", nb04.WAYS)
def test_the_dial_tells_what_is_stored(dial_view, weight, way):
    values = dial_view.values(plays=weight, way=way)
    stored = DIAL[setting_name(weight, how=nb04.WAYS[way])]
    assert values["losses"] == {"plays": stored["plays"], "verses": stored["verses"]}
    assert f"loss on plays {stored['plays']:.2f}" in values["readout"] and values["sample"] == stored["sample"]


def test_the_kept_gain_is_one_for_the_adapter_itself():
    assert nb04.kept_gain(DIAL, setting_name(1))["plays"] == 1
    assert nb04.kept_gain(DIAL, setting_name(0))["verses"] == 1
    assert nb04.kept_gain(DIAL, "base, seed 0") == {"plays": 0, "verses": 0}


@pytest.mark.parametrize("bits", nb07.WIDTHS)
@pytest.mark.parametrize("name", TWO_ERRORS)
def test_the_triangle_has_the_stored_errors_as_sides(bits, name):
    view = nb07.triangle(TWO_ERRORS[name])
    readout, (axes,) = view.update(constants=bits), view.figure.axes
    c, k, both = (100 * TWO_ERRORS[name][bits][source] for source in ("codes", "constants", "both"))
    lines = [line.get_xydata().tolist() for line in axes.lines]
    assert lines[:3] == [[[0, 0], [c, 0]], [[c, 0], [c, k]], [[0, 0], [c, k]]]
    assert lines[4:] == [[[both, 0]], [[c + k, 0]]]
    assert np.allclose(np.hypot(*np.transpose(lines[3])), np.hypot(c, k))  # the arc
    assert axes.get_aspect() == 1  # a right angle looks like one
    assert readout == f"constants in {bits}: {c:.1f}% and {k:.1f}% make {both:.1f}%"


# --- the painted line: a bar as long as the surprise, for every byte ------------------------------------------------


@pytest.fixture(scope="module")
def wide():
    torch.manual_seed(0)
    return GPT(GPTConfig(context=128, n_layers=1, n_heads=2, d_model=32))


def test_surprise_is_the_loss_byte_by_byte(wide):
    """Its mean is what `evaluate` gives for one window of the same bytes."""
    text = "To be, or not to be"
    tokens = torch.tensor(list(("\n" + text).encode()))
    losses = surprise(wide, text)
    assert losses.shape == (len(text),)
    assert losses.mean() == pytest.approx(evaluate(wide, tokens, seq_len=len(text), max_windows=1), rel=1e-5)


def test_a_byte_knows_only_what_stands_before_it(wide):
    first, second = surprise(wide, "abcdef"), surprise(wide, "abcxyz")
    assert np.allclose(first[:3], second[:3], atol=1e-6) and not np.allclose(first[3:], second[3:], atol=1e-3)
    assert not np.allclose(first, surprise(wide, "abcdef", before="so "), atol=1e-3)
    with pytest.raises(ValueError, match="at least one byte"):
        surprise(wide, "abc", before="")


def test_one_bar_for_each_byte_and_long_ones_end_in_a_point():
    line = painted.PaintedLine(plt.figure().subplots(), "é!", "a")
    line.set(np.array([0.5, 2.0, 12.0]))
    assert line.title.get_text() == "a: 4.83 nats per byte"
    assert [path.vertices[:, 1].min() for path in line.bars.get_paths()] == [-0.5, -2.0, -painted.DEEPEST]
    assert line.cut.get_xdata().tolist() == [2] and line.cut.get_marker() == "v"
