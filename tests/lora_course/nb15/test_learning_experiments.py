"""The runs of notebooks 10 and 15 on a tiny model: what is trained, what is measured, what is cut."""

import copy
import json
from functools import partial

import pytest
import torch
from conftest import moved

from lora_course.nb09 import lab as nb09
from lora_course.nb10 import lab as learning
from lora_course.nb10 import lab_directions as nb10_directions
from lora_course.nb15 import lab as forgetting
from lora_course.running import finetune
from lora_edu.lora import add_lora, lora_layers
from lora_edu.measures import kl_and_flips
from lora_edu.observing import block_linears
from lora_edu.texts import Text
from lora_edu.training import evaluate


@pytest.fixture
def tiny(in_small):
    forgetting.of_the_base.cache_clear()
    yield in_small(learning, nb09, nb10_directions, forgetting, finetune)
    forgetting.of_the_base.cache_clear()


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


# --- what lies in the updates ----------------------------------------------------------------------------------------


def test_a_subspace_is_like_itself_and_chance_is_max_over_d():
    generator = torch.Generator().manual_seed(0)
    draw = lambda size, count, generator: torch.linalg.qr(torch.randn(size, count, generator=generator))[0]  # noqa: E731
    one = draw(64, 8, generator)
    assert nb10_directions.similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert nb10_directions.similarity(one[:, :2], one) == pytest.approx(1, abs=1e-5)  # one inside the other
    draws = [nb10_directions.similarity(*(draw(64, n, generator) for n in (4, 16))) for _ in range(60)]
    assert sum(draws) / 60 == pytest.approx(16 / 64, rel=0.05)


def test_two_seeds_are_compared_and_one_start_is_one(tiny, monkeypatch):
    """In runs of three steps at rank 2."""
    ways = {way: (method, min(rank, 2), lr) for way, (method, rank, lr) in nb10_directions.WAYS.items()}
    monkeypatch.setattr(nb10_directions, "WAYS", ways)
    monkeypatch.setattr(nb10_directions, "trained", partial(nb10_directions.trained.__wrapped__, steps=3))
    monkeypatch.setattr(nb10_directions, "COUNTS", (1, 2))
    found = {name: nb10_directions.alike(**how) for name, how in nb10_directions.PAIRS.items()}
    for pair in found.values():
        assert all(len(side) == 2 and 0 <= min(side) <= max(side) <= 1.001 for side in pair.values())
    assert found["adapters, one start"]["reads"][1] > found["adapters"]["reads"][1]  # A has hardly moved
    json.dumps(found)


# --- points ----------------------------------------------------------------------------------------------------------


def test_a_point_is_what_the_library_measures_on_the_same_windows(tiny, monkeypatch):
    """KL(trained || base) and back; learned and forgotten are differences of losses."""
    long = Text(*torch.randint(256, (2, 1500), generator=torch.Generator().manual_seed(1)).byte())
    monkeypatch.setattr(forgetting, "load_text", lambda name: long)
    other = moved(add_lora(copy.deepcopy(tiny), rank=2, alpha=4))
    point, windows = forgetting.looked_at(other, forgetting.NEW), {"seq_len": 32, "max_windows": forgetting.WINDOWS}
    assert point["kl"] == pytest.approx(kl_and_flips(tiny, other, long.validation, **windows).kl, abs=1e-5)
    assert point["kl_back"] == pytest.approx(kl_and_flips(other, tiny, long.validation, **windows).kl, abs=1e-5)
    rises = [evaluate(model, long.validation, **windows) for model in (other, tiny)]
    assert point["forgotten"] == -point["learned"] == pytest.approx(rises[0] - rises[1], abs=1e-5)  # one text is both
    assert forgetting.looked_at(tiny, forgetting.NEW) == pytest.approx(dict.fromkeys(point, 0.0), abs=1e-5)


def test_an_arm_looks_at_shares_and_cuts(tiny, monkeypatch):
    monkeypatch.setattr(forgetting, "one_temperature", lambda model, tokens, **windows: (1.5, 2.0, 1.9))
    found = forgetting.forgetting_arm("full", 1e-2, steps=4, cuts=forgetting.FULLS, calibrate=True, progress=False)
    points = found["points"]
    assert list(points) == ["1", "0.75", "0.5", "0.25", *forgetting.FULLS]
    assert points["0.5"]["norm"] == pytest.approx(points["1"]["norm"] / 2, abs=1e-4)
    assert points["blocks alone"]["norm"] == points["1"]["norm"] > points["its 8 components"]["norm"] > 0
    assert points["shrunk to their norm"]["norm"] == pytest.approx(points["its 8 components"]["norm"], abs=1e-5)
    assert points["blocks alone"]["kl"] != points["1"]["kl"] > points["0.25"]["kl"] > 0
    assert found["confidence"] == {text: [1.5, 2.0, 1.9] for text in (forgetting.NEW, forgetting.OLD)}
    json.dumps(found)


def test_a_planted_intruder_is_found_and_no_other():
    U, V = (torch.linalg.qr(torch.randn(side, side, dtype=torch.float64))[0] for side in (40, 20))
    strengths = torch.linspace(5, 1, 20, dtype=torch.float64)
    strengths[19] = 1e-7  # not 0: what W does not have at all, its decomposition fills as it likes
    W = (U[:, :20] * strengths) @ V.T
    new = 9 * torch.outer(U[:, 30], V[:, 19])  # a direction that W does not have
    dW = new + 0.3 * W
    assert torch.allclose(forgetting.along_intruders(W, dW), new, atol=1e-4)
    assert not forgetting.along_intruders(W, 0.3 * W).any()
    cut = {name: change(W, dW) for name, change in forgetting.CUTS.items()}
    assert torch.allclose(cut["without intruders"], 0.3 * W, atol=1e-4)
    assert torch.allclose(cut["half of intruders"], 0.5 * new + 0.3 * W, atol=1e-4)
    assert torch.allclose(cut["3/4 of the rest"], new + 0.225 * W, atol=1e-4)
    assert torch.allclose(cut["half of the rest"], new + 0.15 * W, atol=1e-4)
