"""Notebook 01: its sliders and pictures, and what the page says against what was stored."""

import copy
import re

import numpy as np
import pytest

from lora_course.experiments import load_results
from lora_course.nb01 import lab as nb01
from lora_course.nb01 import pictures
from lora_edu import load_base, load_text, train
from lora_edu.calibration import one_temperature
from lora_edu.observing import block_linears

AT_NORM = ("components", "shrunk", "remainder")

# --- the sliders -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def portrait():
    return pictures.portrait()


def test_the_portrait(portrait):
    assert portrait.shape == (200, 170) and 0 <= portrait.min() < portrait.max() <= 1
    assert np.linalg.matrix_rank(portrait) == pictures.PORTRAIT_RANKS[-1]


@pytest.mark.parametrize("rank", [*pictures.PORTRAIT_RANKS, 92, 93])
def test_the_portrait_slider(portrait, rank):
    view = pictures.portrait_view(portrait)
    readout = view.update(rank=rank)
    numbers = int(re.match(rf"rank {rank}: ([\d,]+) numbers in B and A", readout)[1].replace(",", ""))
    assert numbers == rank * 370 and (numbers < portrait.size) == (rank < 92)
    now = view.values(rank)
    assert now["B"].shape == (200, rank) and now["A"].shape == (rank, 170)
    assert np.allclose(now["B"] @ now["A"], now["whole"])
    if rank == 170:
        assert np.allclose(now["whole"], portrait)


def test_the_factors_are_drawn_true_to_scale(portrait):
    view = pictures.portrait_view(portrait)
    view.render(rank=40)
    whole, B, A = view.moving[:3]
    sizes = [(right - left, bottom - top) for left, right, bottom, top in (i.get_extent() for i in (whole, B, A))]
    assert sizes == [(170, 200), (40, 200), (170, 40)]
    assert whole.axes.get_aspect() == 1


# --- what the page says, and what it said before ---------------------------------------------------------------------


STORED = load_results("update-rank")["arms"]
ARMS = [STORED[f"150 steps, seed {seed}"] for seed in range(3)]
AT_8 = ARMS[0]["ranks"].index(8)


def shares(kind):
    """(ranks, seeds): the share of the improvement."""
    won = [(arm["loss"]["base"] - np.atleast_1d(arm["loss"][kind]), arm["loss"]) for arm in ARMS]
    return np.array([won / (loss["base"] - loss["whole"]) for won, loss in won]).T


def test_at_equal_norm_the_strongest_components_beat_the_others_from_rank_2_on():
    """And lose to the whole update, as the cell asserts: the page once read "80% with 43%" as concentration."""
    assert (shares("components")[1:] > shares("remainder")[1:]).all()
    norms = [[arm["norm"][kind][AT_8] for arm in ARMS] for kind in AT_NORM]
    assert np.ptp(norms, axis=0).max() < 1e-4
    assert (np.abs(shares("components")[AT_8] - 0.8) < 0.03).all()  # "about 80%"
    assert max(norms[0]) < 0.5  # "with less than half of the squared norm"


def test_the_update_is_of_lower_rank_than_the_weight_in_most_layers_not_in_all():
    for arm in ARMS:
        pairs = np.array(list(arm["rank for 90%"].values()))
        lower = (pairs[:, 1] < pairs[:, 0]).sum()
        assert 15 <= lower < 24 and pairs[:, 1].min() > 8  # and none is of rank 8 by this measure


def test_what_is_trained_at_rank_8_beats_what_is_cut_to_it():
    for seed, arm in enumerate(ARMS):
        assert STORED[f"rank 8 trained, seed {seed}"]["loss"] < arm["loss"]["components"][AT_8] - 0.1


def test_the_strongest_direction_is_mostly_doubt_with_every_seed():
    arms = load_results("calibrated-cuts")["arms"]
    for arm in arms.values():
        rank_1, rank_8 = ({kind: nb01.calibrated_shares(arm, kind)[i] for kind in AT_NORM} for i in (0, 1))
        assert rank_1["components"][1] < 0.5 * rank_1["components"][0]
        assert rank_1["components"][1] < rank_1["remainder"][1] < rank_1["shrunk"][1]
        assert rank_8["remainder"][1] < rank_8["components"][1] < rank_8["shrunk"][1]
        assert abs(arm["whole"][0][0] - 1) < 0.1 < arm["base"][0][0] - 1  # trained, it is as sure as it should be
    assert len(arms) == 3


def test_the_stored_loss_of_the_base_is_found_again_with_and_without_a_temperature():
    stored = load_results("calibrated-cuts")["arms"]["150 steps, seed 0"]["base"][0]
    plays = load_text("shakespeare").validation
    found = one_temperature(load_base("laptop", device="cpu"), plays, max_windows=64)
    assert found == pytest.approx(stored, abs=1e-3)


# --- the pictures say what was found ---------------------------------------------------------------------------------


def test_the_entries_that_are_not_drawn_stay(tiny_gpt, tiny_text, monkeypatch):
    kept = {}

    def two_steps(model, steps, lr, seed, **options):
        kept["before"] = {path: layer.weight.detach().clone() for path, layer in block_linears(model).items()}
        train(model, tiny_text, 2, batch_size=2, seq_len=16, lr=lr, progress=False, device="cpu")
        kept["after"] = block_linears(model)

    monkeypatch.setattr(nb01, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    monkeypatch.setattr(nb01, "fine_tune", two_steps)
    monkeypatch.setattr(nb01, "loss_on", lambda *arguments: 0.0)
    nb01.trained_entries(0.01, rank=2)
    for path, before in kept["before"].items():
        moved = (kept["after"][path].weight != before).sum()
        assert 0 < moved <= 2 * sum(before.shape)
