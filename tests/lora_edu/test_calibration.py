"""One temperature: what it finds, and that it finds nothing where there is nothing to find."""

import pytest
import torch
from torch import nn

from lora_edu import data_file, evaluate, load_adapter, load_base, load_text
from lora_edu.calibration import one_temperature


class Sure(nn.Module):
    """Knows that every byte is 0 with probability 3/4 and 1 else, and multiplies its logits by `confidence`."""

    def __init__(self, confidence):
        super().__init__()
        self.logits = nn.Parameter(confidence * torch.tensor([0.75, 0.25]).log())

    def forward(self, tokens):
        return self.logits.expand(*tokens.shape, 2), None


@pytest.mark.parametrize("confidence", [0.6, 1.0, 2.5])
def test_a_temperature_undoes_confidence(confidence):
    text = (torch.rand(200_000, generator=torch.Generator().manual_seed(0)) < 0.25).to(torch.uint8)
    temperature, before, after = one_temperature(Sure(confidence), text)
    assert temperature == pytest.approx(confidence, rel=0.1)
    assert after == pytest.approx(-(0.75 * torch.tensor(0.75).log() + 0.25 * torch.tensor(0.25).log()).item(), abs=0.02)
    assert before >= after - 1e-4


@pytest.mark.slow
def test_what_page_00_says_of_the_presidents_doubt():
    plays = load_text("shakespeare").validation
    base = load_base("laptop")
    temperature, before, after = one_temperature(base, plays, max_windows=16)
    assert before == pytest.approx(evaluate(base, plays[len(plays) // 2 :], max_windows=16), abs=1e-4)
    adapted = load_adapter(base, data_file("shakespeare-adapter"))
    trained_temperature, trained, _ = one_temperature(adapted, plays, max_windows=16)
    assert temperature > 1.5 and abs(trained_temperature - 1) < 0.15
    assert 0.33 < (before - after) / (before - trained) < 0.45
