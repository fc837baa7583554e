"""One temperature: what it finds, and that it finds nothing where there is nothing to find."""

import pytest
import torch
from torch import nn

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
