"""What questions.md says of a foreign cache and of training twice: the tools, and the stored runs."""

from statistics import mean

import pytest
import torch

from lora_course.experiments import load_results
from lora_course.nb00.lab import set_strength
from lora_course.nb18.lab_cached import SKIP, WAYS, loss_of, words
from lora_course.nb18.lab_packed import rows
from lora_course.nb18.lab_twice import RATES
from lora_course.running.sweeps import paired, stored_runs
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


def kept(run: dict, way: str = "base's cache") -> float:
    """The share of the gain in nats that is left."""
    return (run["base"] - run[way]) / (run["base"] - run["adapter"])


def test_plays_are_spoken_on_the_base_s_cache_and_a_made_up_word_is_not_found_there():
    arms = load_results("cached")["arms"]
    assert kept(arms["plays, seed 0"]) > 0.98 and kept(arms["plays, seed 0"], "adapter's cache") < 0.05
    for seed in range(2):
        assert (
            0.75 < kept(arms[f"telegrams, seed {seed}"]) < 0.9
            and kept(arms[f"telegrams, seed {seed}"], "adapter's cache") > 0.5
        )
    runs = {how: [arms[f"words{how}, seed {seed}"] for seed in range(3)] for how in ("", ", switched")}
    assert all(run["adapter"] < 0.1 and run["base's cache"] > 2 for run in runs[""])
    assert all(run["base's cache"] < 0.1 and run["adapter"] > 2 for run in runs[", switched"]), "served as trained"
    assert mean(run["base's cache"] for run in runs[""]) > 3.26, "26 letters by lot cost ln 26 = 3.26"


def test_stacking_is_merging_first_and_going_on_is_ahead_on_verses_alone():
    arms = load_results("trained-twice")["arms"]
    ends = {name: arm["then"] for name, arm in arms.items()}
    assert ends["stack, lr 0.005, seed 0"] == pytest.approx(ends["merge, lr 0.005, seed 0"], abs=2e-3)
    for plan in ("merge", "go on"):
        assert min(RATES, key=lambda lr: ends[f"{plan}, lr {lr:g}, seed 0"]["verses"]) == RATES[1], "inside of the grid"
    runs = {plan: [ends[f"{plan}, lr 0.005, seed {seed}"] for seed in range(3)] for plan in ("merge", "go on")}
    gaps = {t: [b[t] - a[t] for a, b in zip(*runs.values(), strict=True)] for t in ("verses", "plays")}
    assert max(gaps["verses"]) < 0 and min(gaps["plays"]) < 0 < max(gaps["plays"])


def test_packing_without_a_mask_costs_a_little_in_every_seed():
    runs = stored_runs("packed", "loss")
    alone, packed = (runs.where(together=together) for together in (False, True))
    assert alone.best_rate() == packed.best_rate() == 2.5e-3, "inside of the grid"
    assert all(0.02 < gap < 0.05 for gap in paired(packed, alone))
