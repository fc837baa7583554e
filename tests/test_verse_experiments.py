"""The task with an accuracy: labels, split, padding, what is trained in each way, and the rival that counts words."""

import pytest
import torch

from lora_edu.experiments import load_results
from lora_edu.experiments import nb13 as task
from lora_edu.experiments.nb10_sizes import RANK_ARMS
from lora_edu.experiments.nb13 import LENGTH, NEW, OLD, VERSE_ARMS, Verses
from lora_edu.experiments.runs import EXPERIMENTS


@pytest.fixture(scope="module")
def sides():
    return task.verses()


def test_every_verse_has_its_testament(sides):
    labels = torch.cat([side.labels for side in sides])
    assert (labels == OLD).sum() == 23_145 and (labels == NEW).sum() == 7_957  # verses of the King James Bible
    seen, held_out = sides
    assert "generation of Jesus Christ" in held_out.texts[(held_out.labels == NEW).nonzero()[0, 0]]  # Matthew 1:1
    assert max(len(text.encode()) for text in seen.texts) <= LENGTH and not any(":1" in text for text in held_out.texts)


def test_draws_are_balanced_and_differ_by_seed(sides):
    one, again, other = (task.balanced(sides[1], 100, seed) for seed in (0, 0, 1))
    assert one.labels.double().mean() == 0.5 and len(set(one.texts)) > 95
    assert one.texts == again.texts != other.texts


def test_counting_words():
    trained = Verses(
        ["the lord of hosts", "the lord said", "jesus said", "christ jesus came"], torch.tensor([0, 0, 1, 1])
    )
    scores = task.bag_of_words(trained, Verses(["the lord", "Jesus!", "unheard words"], torch.tensor([0, 1, 0])))
    assert scores.argmax(1)[:2].tolist() == [OLD, NEW]
    assert torch.allclose(scores[2].exp(), torch.full((2,), 0.5, dtype=torch.float64))  # nothing known: one half each
    # by hand: 7 and 5 words, 8 different ones; "the lord": 3/15 * 3/15 against 1/13 * 1/13
    assert scores[0].exp()[0] == pytest.approx(0.04 / (0.04 + 1 / 169))


def test_padding_changes_nothing():
    model = task.prepared("gpt", "head")
    short, long = "And God said", "In the beginning God created the heaven and the earth."
    with torch.no_grad():
        together, alone = model.features([short, long])[0], model.features([short])[0]
    assert torch.allclose(together, alone, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "trained"), [("head", 514), ("lora", 514 + 147_456), ("qlora", 514 + 147_456), ("full", 3_291_138)]
)
def test_what_is_trained(method, trained):
    model = task.prepared("gpt", method)
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trained
    assert sum(getattr(module, "is_nf4", False) for module in model.modules()) == (24 if method == "qlora" else 0)


def test_a_few_steps_lower_the_loss():
    """One verse of each kind, again and again: if this is not learned, nothing is."""
    data = Verses(["The LORD of hosts spake"] * 8 + ["Jesus Christ our Saviour"] * 8, torch.tensor([0] * 8 + [1] * 8))
    data = Verses(data.texts * 3, data.labels.repeat(3))
    torch.manual_seed(0)
    model = task.prepared("gpt", "lora", rank=2)
    task.fit(model, data, 8, 3e-3, progress=False)
    with torch.no_grad():
        assert task.scored(model(data.texts[:16]), Verses(data.texts[:16], data.labels[:16]))["accuracy"] == 1


@pytest.mark.parametrize("name", ["verses", "rank-and-size"])
def test_the_stored_results_are_of_these_arms(name):
    stored, arms = load_results(name), EXPERIMENTS[name].arms
    assert arms in (VERSE_ARMS, RANK_ARMS)
    for arm in stored["arms"]:
        assert stored["settings"][arm] == arms[arm], arm
    for arm in stored["arms"].values():
        if "right" in arm:
            assert arm["accuracy"] == pytest.approx(arm["right"].count("1") / len(arm["right"]), abs=1e-4)


def test_the_best_rate_is_the_best():
    arms = load_results("verses")["arms"]
    for (model, method), rates in task.RATES.items():
        names = {lr: task.arm_name(model, method, lr) for lr in rates}
        losses = {lr: arms[name]["loss"] for lr, name in names.items() if name in arms}
        assert task.BEST[model, method] == min(losses, key=losses.get)
