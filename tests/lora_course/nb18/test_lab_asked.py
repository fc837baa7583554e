"""What questions.md says of a foreign cache and of training twice: the tools, and the stored runs."""

from statistics import mean

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb00.lab import set_strength
from lora_course.nb18.lab_cached import SKIP, WAYS, loss_of, words
from lora_course.nb18.lab_twice import PLANS, RATES, stacked
from lora_course.running.sweeps import stored_runs
from lora_edu import data_file, load_adapter, load_base
from lora_edu.gpt import KVCache, encode
from lora_edu.lora import lora_layers
from lora_edu.training import trainable_parameters


@pytest.fixture
def model():
    return load_adapter(load_base("laptop", device="cpu"), data_file("shakespeare-adapter")).eval()


@pytest.mark.parametrize(("way", "before", "behind"), [("base's cache", 0, 1), ("adapter's cache", 1, 0)])
@torch.no_grad()
def test_one_pass_says_what_a_cache_read_by_the_other_says(model, way, before, behind):
    """The cache reads the first half with one model and the rest with the other, byte by byte."""
    rows = encode("My lord, the king is").long()[None]
    targets = rows[:, 1:].clone()
    targets[:, :10] = SKIP
    asked = loss_of(model, rows[:, :-1], targets, way)
    cache, losses = KVCache(model), []
    set_strength(model, before)
    cache.read(rows[:, :10])
    set_strength(model, behind)
    for at in range(10, rows.shape[1] - 1):
        losses.append(-cache.read(rows[:, at : at + 1]).log_softmax(-1)[0, rows[0, at + 1]].item())
    assert mean(losses) == pytest.approx(asked.item(), abs=1e-4)
    others = [loss_of(model, rows[:, :-1], targets, other).item() for other in WAYS if other != way]
    assert all(abs(other - asked.item()) > 1e-3 for other in others)


def test_the_second_word_is_the_first_and_is_all_that_is_asked():
    inputs, targets = next(words(0))
    assert (
        (targets[:, 4:] == inputs[:, :4]).all() and (targets[:, :4] == SKIP).all() and len(inputs.unique(dim=0)) == 32
    )


def test_a_stacked_adapter_is_trained_alone_and_starts_as_nothing(model):
    tokens = encode("Exit").long()[None]
    before, top = model(tokens)[0], stacked(model, 0)
    assert torch.equal(top(tokens)[0], before)
    assert sum(p.numel() for p in trainable_parameters(top)) == 147_456
