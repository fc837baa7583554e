import copy

import pytest
import torch

from lora_edu.gpt import GPT, GPTConfig
from lora_edu.memory.activations import predicted_peak_bytes
from lora_edu.memory.peak import PeakMemory


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


def test_full_fine_tuning_peaks_below_the_sum_of_its_kinds():
    """Gradients of the weights come while the activations go. (LoRA's peak: tests/test_activations.py.)"""
    config = GPTConfig(context=64, n_layers=6, n_heads=2, d_model=64)
    model, (tokens, targets) = GPT(config), torch.randint(0, 256, (2, 8, 64))
    tokens, targets = tokens.clone(), targets.clone()
    with PeakMemory([*model.parameters(), tokens, targets]) as memory:
        model(tokens, targets)[1].backward()
    gradients = sum(parameter.grad.nbytes for parameter in model.parameters())
    predicted = predicted_peak_bytes(config, 8, 64)
    assert 0.93 * predicted < memory.peak < predicted + gradients / 10
    assert memory.now == pytest.approx(gradients, rel=0.01)  # what is left: the gradients, and the loss


def test_the_model_is_not_changed_by_watching(tiny_gpt):
    tokens = torch.randint(0, 256, (2, 20))
    watched, plain = tiny_gpt, copy.deepcopy(tiny_gpt)
    with PeakMemory():
        watched(tokens, tokens)[1].backward()
    plain(tokens, tokens)[1].backward()
    pairs = zip(watched.parameters(), plain.parameters(), strict=True)
    assert all(torch.equal(mine.grad, other.grad) for mine, other in pairs)
