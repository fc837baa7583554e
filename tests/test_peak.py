import copy

import pytest
import torch

from lora_edu.activations import predicted_activation_bytes, recomputed_bytes
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.peak import PeakMemory
from lora_edu.qlora import quantize_linears


def test_what_is_freed_leaves_and_what_is_shared_counts_once():
    with PeakMemory() as memory:
        a = torch.zeros(1000)
        b = a.view(10, 100) + 1
        assert memory.now == 8000
        del b
        assert memory.now == 4000
        a.mul_(2)
        c = a.to(torch.float64)
    assert memory.now == 12_000 == memory.peak
    del a, c
    assert memory.now == 0 and memory.peak == 12_000


def test_temporary_tensors_are_in_the_peak():
    x = torch.ones(1000)
    with PeakMemory([x]) as memory:
        y = (x * 2 + 1).sum()
    assert memory.peak == 8000 and memory.now == y.nbytes


def test_what_was_there_does_not_count_and_a_resized_tensor_does():
    x = torch.ones(1000)
    with PeakMemory([x]) as memory:
        x.add_(1)
        assert memory.peak == 0
        buffer = torch.empty(0).resize_(500)
        assert memory.now == buffer.nbytes == 2000


@pytest.mark.parametrize("nf4", [False, True])
def test_a_step_needs_what_is_predicted_and_little_more(nf4):
    """Activations and gradients are in the peak; temporary tensors add a part. Checkpointing lowers the true peak."""
    config = GPTConfig(context=64, n_layers=6, n_heads=2, d_model=64)
    tokens, targets = torch.randint(0, 256, (2, 8, 64))
    peaks = {}
    for checkpointing in ("none", "non-reentrant"):
        model = GPT(config, checkpointing=checkpointing)
        model = add_lora(quantize_linears(model) if nf4 else model, 4, 8, "all-linear")
        with PeakMemory([*model.parameters(), *model.buffers(), tokens]) as memory:
            model(tokens, targets)[1].backward()
        predicted = predicted_activation_bytes(config, 8, 64, rank=4, checkpointing=checkpointing != "none")
        if checkpointing != "none":
            predicted += recomputed_bytes(config, 8, 64, rank=4)
        assert predicted < memory.peak < 1.6 * predicted
        peaks[checkpointing] = memory.peak
    assert peaks["non-reentrant"] < 0.5 * peaks["none"]


def test_the_model_is_not_changed_by_watching(tiny_gpt):
    tokens = torch.randint(0, 256, (2, 20))
    watched, plain = tiny_gpt, copy.deepcopy(tiny_gpt)
    with PeakMemory():
        watched(tokens, tokens)[1].backward()
    plain(tokens, tokens)[1].backward()
    pairs = zip(watched.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(mine.grad, other.grad) for mine, other in pairs)
