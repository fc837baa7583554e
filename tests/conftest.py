"""What several tests share: a tiny model, a tiny text, and the same random state at the start of each test."""

import pytest
import torch

from lora_edu.gpt import GPT, GPTConfig
from lora_edu.texts import Text

TINY = GPTConfig(context=32, n_layers=2, n_heads=2, d_model=16)


@pytest.fixture(autouse=True)
def same_random_state():
    torch.manual_seed(0)


@pytest.fixture
def tiny_gpt():
    """A GPT with random weights in which no layer is square on both sides of the MLP."""
    return GPT(TINY).eval()


@pytest.fixture
def tiny_text():
    """A text that a tiny model can learn: two words, over and over."""
    tokens = torch.tensor(list(b"low rank. " * 60), dtype=torch.uint8)
    return Text(train=tokens[:500], validation=tokens[500:])
