"""The tools behind what questions.md says of a foreign cache, of packing and of training twice."""

from statistics import mean

import pytest
import torch

from lora_course.nb00.lab import set_strength
from lora_course.nb18.lab_cached import SKIP, WAYS, loss_of, words
from lora_course.nb18.lab_packed import rows
from lora_course.running.sweeps import stored_runs
from lora_edu import data_file, load_adapter, load_base
from lora_edu.gpt import KVCache, encode


@pytest.mark.parametrize(("way", "before", "behind"), [("base's cache", 0, 1), ("adapter's cache", 1, 0)])
@torch.no_grad()
def test_one_pass_says_what_a_cache_read_by_the_other_says(way, before, behind):
    """The cache reads the first half with one model and the rest with the other, byte by byte."""
    model = load_adapter(load_base("laptop", device="cpu"), data_file("shakespeare-adapter")).eval()
    rows = encode("My lord, the king is").long()[None]
    targets = rows[:, 1:].masked_fill(torch.arange(rows.shape[1] - 1) < 10, SKIP)
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
    assert torch.equal(targets[:, 4:], inputs[:, :4]) and (targets[:, :4] == SKIP).all()
    assert len(inputs.unique(dim=0)) == 32


def test_packed_or_alone_the_same_is_asked():
    (alone, asked), (one_row, same) = next(rows(False, 0)), next(rows(True, 0))
    assert torch.equal(asked[asked != SKIP], same[same != SKIP]) and one_row.shape[0] == 1 and alone.shape[0] == 5
    assert (one_row[same == SKIP] == 0).sum() == 5, "only behind an END is nothing asked"


@pytest.mark.parametrize("arms", ["merge", "go on", "alone", "packed"])
def test_the_best_rate_lies_inside_of_its_grid(arms):
    """What came of it, the boxes of questions.md print."""
    stored = stored_runs("packed", "loss") + stored_runs("trained-twice", "then")
    runs = [run for run in stored if arms == getattr(run, "plan", "packed" if getattr(run, "together", 0) else "alone")]
    losses = {run.lr: run.loss if "together" in vars(run) else run.loss["verses"] for run in runs if run.seed == 0}
    assert min(losses) < min(losses, key=losses.get) < max(losses)
