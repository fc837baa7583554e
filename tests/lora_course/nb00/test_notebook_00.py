"""What notebook 00 says, held against the stored measurements; its dial, at every setting."""

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb00 import pictures
from lora_course.nb00.lab import STRENGTHS, arm_name, set_strength
from lora_edu import LoRALinear

ARMS = load_results("adapter-dial")["arms"]


def loss(text, strength, shuffle=None):
    return ARMS[arm_name(strength, shuffle)][text]


def test_half_strength_brings_most_of_the_gain_for_little_of_the_price():
    """ "An adapter is a switch" would be 0 and 0, an even trade 50% and 50%."""
    assert 0.7 < pictures.share(ARMS, 0.5, "plays") < 0.8
    assert 0.15 < pictures.share(ARMS, 0.5, "addresses") < 0.22
    assert pictures.share(ARMS, 0.25, "plays") > 0.4 and pictures.share(ARMS, 0.25, "addresses") < 0.05


def test_above_strength_1_both_texts_suffer():
    above = [s for s in STRENGTHS if s >= 1]
    for text in ("plays", "addresses"):
        losses = [loss(text, s) for s in above]
        assert losses == sorted(losses) and losses[-1] > losses[0] + 0.5
    assert min(loss("plays", s) for s in STRENGTHS) == loss("plays", 1)


def test_a_shuffled_adapter_never_helps():
    draws = [(s, draw) for s in STRENGTHS for draw in range(3) if arm_name(s, draw) in ARMS]
    assert len(draws) == 8
    assert all(loss("plays", s, draw) > loss("plays", 0) for s, draw in draws)


def test_the_writing_turns_from_a_president_into_a_play():
    stars = ["**" in ARMS[arm_name(s)]["sample"] for s in STRENGTHS]
    assert stars[:3] == [False] * 3 and stars[STRENGTHS.index(1)]


@pytest.mark.parametrize("strength", [0, 0.5, 2])
def test_strength_multiplies_alpha_over_r(strength):
    layer = LoRALinear(torch.nn.Linear(6, 4), rank=2, alpha=8)
    torch.nn.init.normal_(layer.lora_B)
    as_trained = layer.delta_weight()
    set_strength(torch.nn.Sequential(layer), strength)
    assert torch.allclose(layer.delta_weight(), strength * as_trained)
