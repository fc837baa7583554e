"""What notebook 14 counts beside what its cells print and assert."""

import pytest
import torch
import torch.nn.functional as F

from lora_course.nb14 import pictures
from lora_edu.memory.calculator import training_bytes
from lora_edu.memory.peak import PeakMemory
from lora_edu.memory.shapes import ARCHITECTURES, BASE, CONSTANTS

SEVEN = ARCHITECTURES["LLaMA 7B"]
QLORA = {"rank": 64, "bits": 4, "checkpointing": True}
LINEARS = SEVEN.parameters()["block linears"]


def test_a_loss_takes_12_bytes_a_logit_if_nobody_holds_the_logits_and_else_16():
    head, x, words = torch.randn(2048, 32), torch.randn(256, 32, requires_grad=True), torch.randint(0, 2048, (256,))
    for held, size in ((False, 12), (True, 16)):
        x.grad = None
        with PeakMemory([head, x, words]) as memory:
            logits = x @ head.T
            loss = F.cross_entropy(logits, words)
            logits = logits if held else None
            loss.backward()
        assert memory.peak / (256 * 2048) == pytest.approx(size, rel=1e-3)


def test_a_part_of_a_bar_is_named_after_its_kind():
    needed = training_bytes(SEVEN, **QLORA)
    parts = pictures.parts_of(needed, codes=LINEARS / 2)
    assert parts["codes"] + parts["weights"] == needed[BASE] and parts["constants"] == needed[CONSTANTS]
    others = "adapters", "gradients", "optimizer state", "activations", "logits"
    assert all(parts[name] == needed[name] for name in others)
