"""The runs of notebook 10 on a tiny model: what is trained, what is measured, what is cut."""

import copy
import json

import pytest
import torch

from lora_edu.experiments import finetune, nb09, nb10_spectra
from lora_edu.experiments import nb10 as learning
from lora_edu.lora import add_lora, lora_layers
from lora_edu.observing import block_linears
from lora_edu.training import evaluate, train


@pytest.fixture
def tiny(tiny_gpt, tiny_text, monkeypatch):
    """Both experiments on a tiny model and a tiny text, with windows of 32 tokens."""
    for module in (learning, nb09, nb10_spectra):
        monkeypatch.setattr(module, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    for module in (finetune, nb09):
        monkeypatch.setattr(module, "load_text", lambda name: tiny_text)
    monkeypatch.setattr(finetune, "train", lambda *a, **k: train(*a, **k, seq_len=32))
    monkeypatch.setattr(finetune, "evaluate", lambda m, t, **_: evaluate(m, t, seq_len=32, max_windows=2))
    return tiny_gpt


def run(method, **options):
    return learning.adapted_loss(method, 1e-2, rank=2, steps=4, progress=False, **options)


@pytest.mark.parametrize("method", ["full", "blocks", "lora", "qlora"])
def test_each_way_learns_and_gives_the_same_numbers_again(tiny, tiny_text, method):
    result = run(method)
    assert set(result) == {"plays", "addresses", "trained", "norm"} and result["norm"] > 0
    assert result["plays"] < evaluate(tiny, tiny_text.validation, seq_len=32, max_windows=2)
    assert run(method) == result and run(method, repeat=1) != result
    json.dumps(result)


def test_the_protocol_is_that_of_notebook_09(tiny):
    """The same way, rate and seed give the same number: only so may the runs of both be compared."""
    for method in ("full", "blocks", "lora", "qlora"):
        theirs = nb09.fine_tuned_loss(method, "all plays", 1e-2, steps=4, rank=2, progress=False)
        ours = run(method)
        assert (ours["plays"], ours["addresses"]) == (theirs["after"], theirs["addresses"])


def test_a_frozen_factor_stands_still_and_halves_the_trained_numbers(tiny):
    whole = run("lora")
    for frozen in "AB":
        model = finetune.prepared(copy.deepcopy(tiny), "lora", 4, frozen=frozen)
        trained = [name for name, value in model.named_parameters() if value.requires_grad]
        assert all(name.endswith({"A": "lora_B", "B": "lora_A"}[frozen]) for name in trained)
        assert all((layer.delta_weight() == 0).all() for layer in lora_layers(model).values())
        frozen_run = learning.adapted_loss("lora", 1e-2, rank=4, steps=4, frozen=frozen, progress=False)
        assert frozen_run["trained"] == whole["trained"] and frozen_run["norm"] > 0


def test_the_budget_of_each_place_is_the_same():
    sides = {"q_proj": 512, "k_proj": 512, "v_proj": 512, "o_proj": 512, "up_proj": 1280, "down_proj": 1280}
    assert {rank * sum(sides[name] for name in names) for names, rank in learning.PLACES.values()} == {10_240}
    assert 2 * sum(sides.values()) == 9_216


def test_the_scalings_meet_at_rank_8():
    assert {scale(8) for scale in learning.SCALINGS.values()} == {2.0}


def test_a_run_that_diverges_is_a_result(tiny, monkeypatch):
    def explode(*arguments, **options):
        raise FloatingPointError

    monkeypatch.setattr(finetune, "train", explode)
    assert run("full") == {"diverged": True}


def test_updates_are_what_merging_would_add(tiny):
    before = learning.block_weights(tiny)
    model = add_lora(copy.deepcopy(tiny), rank=2, alpha=4, targets=("q_proj",))
    with torch.no_grad():
        for layer in lora_layers(model).values():
            layer.lora_B.normal_()
    after = learning.block_weights(model)
    assert before.keys() == after.keys() == {f"blocks.{path}" for path in block_linears(tiny)}
    changed = {path for path in before if not torch.equal(before[path], after[path])}
    assert changed == set(lora_layers(model))
    assert learning.relative_norm(before, before) == 0 < learning.relative_norm(before, after)


# --- what lies in the updates ----------------------------------------------------------------------------------------


def test_a_subspace_is_like_itself_and_chance_is_max_over_d():
    generator = torch.Generator().manual_seed(0)
    one = nb10_spectra.random_directions(64, 8, generator)
    assert nb10_spectra.similarity(one, one) == pytest.approx(1, abs=1e-5)
    assert nb10_spectra.similarity(one[:, :2], one) == pytest.approx(1, abs=1e-5)  # one inside the other
    draws = [
        nb10_spectra.similarity(*(nb10_spectra.random_directions(64, n, generator) for n in (4, 16))) for _ in range(60)
    ]
    assert sum(draws) / 60 == pytest.approx(16 / 64, rel=0.05)


def test_turned_at_random_keeps_the_strengths_alone():
    dW = torch.randn(12, 3) @ torch.randn(3, 8)
    turned = nb10_spectra.turned_at_random(dW, torch.Generator().manual_seed(0))
    assert torch.allclose(torch.linalg.svdvals(turned), torch.linalg.svdvals(dW), atol=1e-4)
    assert abs((turned * dW).sum() / dW.norm() ** 2) < 0.5


def test_spread_keeps_the_norm_and_has_so_many_equal_components():
    dW = torch.randn(12, 8)
    for components in (1, 4, 256):  # never more than the matrix has
        strengths = torch.linalg.svdvals(nb10_spectra.spread(dW, components, torch.Generator().manual_seed(0)))
        held = min(components, 8)
        assert torch.allclose(strengths[:held], dW.norm() / held**0.5, atol=1e-4) and strengths[held:].sum() < 1e-4


def test_a_planted_intruder_is_found_and_no_other():
    U, V = (torch.linalg.qr(torch.randn(40, 40))[0] for _ in range(2))
    W = (U[:, :20] * torch.linspace(5, 1, 20)) @ V[:, :20].T
    dW = 9 * torch.outer(U[:, 30], V[:, 30])  # a direction that W does not have
    assert nb10_spectra.new_directions(W, dW) == 1 and nb10_spectra.new_directions(W, 0.3 * W) == 0
    new, old = nb10_spectra.intruders(W, dW)
    assert torch.allclose(new, dW, atol=1e-4) and torch.linalg.matrix_rank(old, tol=1e-3) == 9


def test_cuts_of_one_size_take_the_same_norm_away(tiny):
    weights = learning.block_weights(tiny)
    updates = {path: 0.3 * torch.randn_like(W) for path, W in weights.items()}
    cuts = nb10_spectra.cut_losses(tiny, weights, updates)
    assert set(map(len, cuts.values())) == {3}
    assert cuts["dial, 0.5"][2] == pytest.approx(0.5, abs=1e-3)
    for share in ("0.1", "0.25"):
        assert cuts[f"rest of dW, {share}"][2] <= cuts[f"intruders, {share}"][2] + 1e-3


def test_arms_fit_into_json_and_the_layer_is_stored(tiny, tmp_path, monkeypatch):
    whole_run = nb10_spectra.trained.__wrapped__

    def quick(way, seed):
        return whole_run(way, seed, steps=3)

    ways = {way: (method, min(rank, 2), lr) for way, (method, rank, lr) in nb10_spectra.WAYS.items()}
    monkeypatch.setattr(nb10_spectra, "WAYS", ways)
    monkeypatch.setattr(nb10_spectra, "trained", quick)
    one = nb10_spectra.anatomy("lora r8")
    assert set(one) == {"losses", "norm", "rank for 90%", "intruders"}
    path = "blocks.0.attention.q_proj"
    both = nb10_spectra.alike(store=path, folder=tmp_path)
    assert all(0 <= value <= 1.001 for pair in both.values() for side in pair.values() for row in side for value in row)
    assert (tmp_path / "lora-spectra.safetensors").exists()
    controls = nb10_spectra.spectra_arm("lora r8", control=True), nb10_spectra.spectra_arm(control=True)
    assert set(controls[0]["intruders"]) == {"1", "8", "64", "256"} and controls[0]["norm"] == one["norm"]
    assert set(controls[1]["blocks, blocks"]) == {"output", "input"}
    json.dumps([one, both, controls])
