"""The runs of notebooks 10 and 15 on a tiny model: what is trained, what is measured, what is cut."""

import copy
import json

import pytest
import torch
from conftest import moved

from lora_course.nb09 import lab as nb09
from lora_course.nb10 import lab as learning
from lora_course.nb10 import lab_directions as nb10_directions
from lora_course.nb15 import lab_intruders as nb15_intruders
from lora_course.running import finetune
from lora_edu.lora import add_lora, lora_layers
from lora_edu.observing import block_linears


@pytest.fixture
def tiny(in_small):
    return in_small(learning, nb09, nb10_directions, nb15_intruders, finetune)


def run(method, **options):
    return learning.adapted_loss(method, 1e-2, rank=2, steps=4, progress=False, **options)


def test_the_protocol_is_that_of_notebook_09(tiny):
    """The same way, rate and seed give the same number: only so may the runs of both be compared."""
    for method in ("full", "blocks", "lora", "qlora"):
        theirs = nb09.fine_tuned_loss(method, "all plays", 1e-2, steps=4, rank=2, progress=False)
        ours = run(method)
        assert (ours["plays"], ours["addresses"]) == (theirs["after"], theirs["addresses"])


def test_the_budget_of_each_place_is_the_same():
    sides = {"q_proj": 512, "k_proj": 512, "v_proj": 512, "o_proj": 512, "up_proj": 1280, "down_proj": 1280}
    assert {rank * sum(sides[name] for name in names) for names, rank in learning.PLACES.values()} == {10_240}
    assert 2 * sum(sides.values()) == 9_216


def test_updates_are_what_merging_would_add(tiny):
    before = learning.block_weights(tiny)
    model = moved(add_lora(copy.deepcopy(tiny), rank=2, alpha=4, targets=("q_proj",)))
    after = learning.block_weights(model)
    assert before.keys() == after.keys() == {f"blocks.{path}" for path in block_linears(tiny)}
    changed = {path for path in before if not torch.equal(before[path], after[path])}
    assert changed == set(lora_layers(model))
    assert learning.relative_norm(before, before) == 0 < learning.relative_norm(before, after)


def test_the_dial_ends_at_the_base_and_one_temperature_is_measured_beside_it(tiny, monkeypatch):
    monkeypatch.setattr(learning, "and_biases", lambda model, tokens, **windows: (1.5, 2.0, 1.9, 1.8))
    result = run("lora", dial=(0.5, 0.0), calibrate=True)
    base = [finetune.loss_on(tiny, text) for text in ("shakespeare", "speeches")]
    assert result["dial"]["0"] == pytest.approx(base, abs=1e-4) and result["dial"]["0.5"] != result["dial"]["0"]
    assert result["confidence"] == {text: [1.5, 2.0, 1.9, 1.8] for text in ("shakespeare", "speeches")}


# --- what lies in the updates ----------------------------------------------------------------------------------------


def test_a_subspace_is_like_itself_and_chance_is_max_over_d():
    generator = torch.Generator().manual_seed(0)
    draw = nb15_intruders.random_directions
    one = draw(64, 8, generator)
    assert nb10_directions.similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert nb10_directions.similarity(one[:, :2], one) == pytest.approx(1, abs=1e-5)  # one inside the other
    draws = [nb10_directions.similarity(*(draw(64, n, generator) for n in (4, 16))) for _ in range(60)]
    assert sum(draws) / 60 == pytest.approx(16 / 64, rel=0.05)


def test_turned_at_random_keeps_the_strengths_alone_and_spread_the_norm():
    dW = torch.randn(12, 3) @ torch.randn(3, 8)
    generator = torch.Generator().manual_seed(0)
    turned = nb15_intruders.at_random(dW, torch.linalg.svdvals(dW), generator)
    assert torch.allclose(torch.linalg.svdvals(turned), torch.linalg.svdvals(dW), atol=1e-4)
    assert abs((turned * dW).sum() / dW.norm() ** 2) < 0.5
    strengths = torch.linalg.svdvals(nb15_intruders.at_random(dW, nb15_intruders.alike(dW), generator))
    assert torch.allclose(strengths, dW.norm() / 8**0.5, atol=1e-4)


def test_a_planted_intruder_is_found_and_no_other():
    U, V = (torch.linalg.qr(torch.randn(40, 40))[0] for _ in range(2))
    W = (U[:, :20] * torch.linspace(5, 1, 20)) @ V[:, :20].T
    dW = 9 * torch.outer(U[:, 30], V[:, 30])  # a direction that W does not have
    assert (nb15_intruders.nearest(W, dW) < 0.5).sum() == 1 and nb15_intruders.nearest(W, 0.3 * W).min() > 0.99
    new, old = nb15_intruders.intruders(W, dW)
    assert torch.allclose(new, dW, atol=1e-4) and torch.linalg.matrix_rank(old, tol=1e-3) == 9


@pytest.fixture
def quick(monkeypatch):
    """Runs of three steps at rank 2."""
    whole_run = nb10_directions.trained.__wrapped__
    ways = {way: (method, min(rank, 2), lr) for way, (method, rank, lr) in nb10_directions.WAYS.items()}
    monkeypatch.setattr(nb10_directions, "WAYS", ways)
    for module in (nb10_directions, nb15_intruders):
        monkeypatch.setattr(module, "trained", lambda *some, **text: whole_run(*some, steps=3, **text))


def test_two_seeds_are_compared_and_one_start_is_one(tiny, quick, monkeypatch):
    monkeypatch.setattr(nb10_directions, "COUNTS", (1, 2))
    found = {name: nb10_directions.alike(**how) for name, how in nb10_directions.PAIRS.items()}
    for pair in found.values():
        assert all(len(side) == 2 and 0 <= min(side) <= max(side) <= 1.001 for side in pair.values())
    assert found["adapters, one start"]["reads"][1] > found["adapters"]["reads"][1]  # A has hardly moved
    json.dumps(found)


def test_cosines_are_counted_at_any_threshold_and_cuts_take_norm_away(tiny, quick):
    found = nb15_intruders.intruder_arm("lora r8")
    assert all(found[kind] == sorted(found[kind]) for kind in ("trained", "turned", "spread")) and found["norm"] > 0
    cuts = nb15_intruders.intruder_arm("lora r8", cuts=True)["cuts"]
    assert set(map(len, cuts.values())) == {3} and cuts["dial, 0.5"][2] == pytest.approx(0.5, abs=1e-3)
    json.dumps([found, cuts])
