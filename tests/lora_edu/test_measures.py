"""KL and flips: by hand, of a model with itself, and from which side the divergence is taken."""

from math import log

import pytest
import torch
from torch import nn

from lora_edu.measures import kl_and_flips


class Says(nn.Module):
    """The same logits after a 0, and others after a 1: one row each. What came before does not matter."""

    def __init__(self, *probabilities):
        super().__init__()
        self.logits, self.dropout = nn.Parameter(torch.tensor(probabilities).log()), nn.Dropout(0.5)

    def forward(self, tokens):
        return self.dropout(self.logits)[tokens], None


BEFORE, AFTER = Says((0.5, 0.25, 0.25), (0.8, 0.1, 0.1)), Says((0.5, 0.25, 0.25), (0.4, 0.5, 0.1))
TEXT = torch.tensor([0, 1, 1, 1] * 3 + [0], dtype=torch.uint8)  # three windows: three of four places follow a 1
WINDOWS = {"seq_len": 4, "max_windows": 3, "batch_size": 2}


def test_by_hand():
    """Windows of one batch and a shorter last one weigh alike, by their places. Dropout is off in both meanwhile."""
    after_1 = 0.8 * log(0.8 / 0.4) + 0.1 * log(0.1 / 0.5)
    kl, flips = kl_and_flips(AFTER, BEFORE, TEXT, **WINDOWS)
    assert kl == pytest.approx(0.75 * after_1, rel=1e-5) and flips == 0.75
    assert AFTER.training and BEFORE.training


def test_the_reference_weighs():
    back = 0.4 * log(0.4 / 0.8) + 0.5 * log(0.5 / 0.1)
    assert kl_and_flips(BEFORE, AFTER, TEXT, **WINDOWS).kl == pytest.approx(0.75 * back, rel=1e-5)


def test_a_model_with_itself_is_unchanged():
    assert kl_and_flips(AFTER, AFTER, TEXT, **WINDOWS) == (0, 0)


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="the same tokens: 3 and 2"):
        kl_and_flips(AFTER, Says((0.5, 0.5), (0.5, 0.5)), TEXT, **WINDOWS)
    with pytest.raises(TypeError, match="reference must be a torch module, got Tensor"):
        kl_and_flips(AFTER, TEXT, TEXT)
