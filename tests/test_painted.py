"""The painted line: a bar as long as the surprise, for every byte."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lora_edu import GPT, GPTConfig, evaluate, load_text
from lora_edu.figures import painted
from lora_edu.observing import surprise
from lora_edu.texts import ADDRESS_LINE, PLAY_LINE


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return GPT(GPTConfig(context=128, n_layers=1, n_heads=2, d_model=32))


def test_surprise_is_the_loss_byte_by_byte(model):
    """Its mean is what `evaluate` gives for one window of the same bytes."""
    text = "To be, or not to be"
    tokens = torch.tensor(list(("\n" + text).encode()))
    losses = surprise(model, text)
    assert losses.shape == (len(text),)
    assert losses.mean() == pytest.approx(evaluate(model, tokens, seq_len=len(text), max_windows=1), rel=1e-5)


def test_a_byte_knows_only_what_stands_before_it(model):
    first, second = surprise(model, "abcdef"), surprise(model, "abcxyz")
    assert np.allclose(first[:3], second[:3], atol=1e-6) and not np.allclose(first[3:], second[3:], atol=1e-3)
    assert not np.allclose(first, surprise(model, "abcdef", before="so "), atol=1e-3)
    with pytest.raises(ValueError, match="at least one byte"):
        surprise(model, "abc", before="")


def test_one_bar_for_each_byte_and_long_ones_end_in_a_point():
    line = painted.PaintedLine(plt.figure().subplots(), "é!", "a")
    line.set(np.array([0.5, 2.0, 12.0]))
    assert line.title.get_text() == "a: 4.83 nats per byte"
    assert [path.vertices[:, 1].min() for path in line.bars.get_paths()] == [-0.5, -2.0, -painted.DEEPEST]
    assert line.cut.get_xdata().tolist() == [2] and line.cut.get_marker() == "v"


@pytest.mark.parametrize(("name", "line"), [("shakespeare", PLAY_LINE), ("speeches", ADDRESS_LINE)])
def test_the_two_lines_are_held_out(name, line):
    assert line.encode() in bytes(load_text(name).validation.tolist())
