"""What notebook 16 says about rewards, each with the stored number that would prove it wrong."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lora_edu.experiments import load_results, nb16
from lora_edu.experiments import nb16_runs as records
from lora_edu.experiments.nb16_rivals import WAYS
from lora_edu.figures import nb16 as pictures

RANKS = ("lora r1", "lora r8", "lora r64", "full", "qlora r8")


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


@pytest.mark.parametrize("way", WAYS)
def test_the_best_rate_of_each_sweep_is_the_one_that_three_seeds_ran(way):
    assert len(records.at_best(way)) == 3 and records.at_best(way)[0].lr == WAYS[way][2]


def test_without_a_price_sixteen_steps_take_the_text():
    looks = pictures.looks_of("no price")
    assert looks[16]["e"] < 0.001 and looks[16]["words"] < 0.1 < looks[12]["words"] and looks[16]["addresses"] > 4


def test_the_filmed_run_walks_down_the_line_of_one_bias_first_and_leaves_it_afterwards():
    path, bias = pictures.looks_of("film"), records.bias_line()
    below = {step: records.at_kl(bias, look["kl"]) - look["e"] for step, look in path.items() if step}
    luck = bias[0, 1] - path[0]["e"]  # looks are at 256 roll-outs, the line and the end at 512
    assert all(abs(below[step]) <= abs(luck) < 0.0035 for step in (8, 12, 16, 20))
    assert below[100] > 2.5 * abs(luck) and below[40] > 0


def test_the_bias_is_a_frontier_and_its_line_overstates_it_at_most_a_little():
    line = records.bias_line()
    assert (np.diff(line[:, 1]) < 0).all()
    for k in range(1, len(line) - 1):  # convex: a straight line between two points lies above
        assert records.at_kl(np.delete(line, k, axis=0), line[k, 0]) > line[k, 1] - 1e-4


def test_picking_needs_far_less_and_its_words_stay_real():
    for kl in (0.02, 0.05, 0.08):
        bias, picked = (records.at_kl(line, kl) for line in (records.bias_line(), records.picked_line()))
        assert picked < 0.75 * bias
        assert records.at_kl(records.picked_line("words"), kl) > records.at_kl(records.bias_line("words"), kl)


@pytest.mark.parametrize("way", RANKS)
def test_every_way_ends_a_little_below_one_bias_with_more_real_words(way):
    runs = records.at_best(way)
    assert all(0 < gap < 0.01 for gap in records.below_bias(runs))
    assert not any(records.way_there(run.e, run.kl) > 0.25 for run in runs)  # NaN where nothing was picked
    *_, words, spoiled = records.beside(runs)
    assert words > spoiled + 0.004


def test_the_ranks_cannot_be_told_apart():
    """Each two ways' leads, seed by seed: none is larger than its seeds differ."""
    for one, other in itertools.combinations(RANKS, 2):
        gaps = records.lead(one, other)
        assert abs(np.mean(gaps)) < 2.48 * np.std(gaps, ddof=1), (one, other)  # 4.30 / sqrt(3): a 95% interval


def test_controls():
    coin, imitated = records.at_best("coin"), records.at_best("imitated")
    assert all(run.e > 0.1 and gap < 0 for run, gap in zip(coin, records.below_bias(coin), strict=True))
    assert max(records.below_bias(imitated)) < 0
    for run in records.all_runs():
        if run.random:
            assert run.random["e"] > 0.1 and run.random["kl"] < run.kl / 5


def test_paid_for_both_words_stay_real_at_as_few_e_s():
    both, plain = records.beside(records.at_best("words")), records.beside(records.at_best("lora r8"))
    assert both[4] > max(plain[4], records.bias_line("words")[0, 1] - 0.005) and abs(both[1] - both[2]) < 0.005
    assert both[4] > both[5] + 0.03


def test_the_leave_one_out_baseline_keeps_the_mean():
    """The page's table, on roll-outs whose e's are drawn: exact means over all pairs of two roll-outs."""
    generator = torch.Generator().manual_seed(0)
    p = torch.rand(2000, 6, generator=generator)
    is_e = (torch.rand(p.shape, generator=generator) < p).float()
    plain = nb16.gradients(lambda r: r.flip(1).cumsum(1).flip(1), -is_e, is_e - p)
    less = nb16.gradients(nb16.advantages, -is_e, is_e - p)
    assert abs(plain[0] - less[0]) < 3 * plain[1] and less[2] < 0.8 * plain[2]


def test_the_stored_state_is_that_of_the_filmed_run():
    assert load_results("reward")["settings"]["film, lr 0.003, seed 0"]["steps"] > nb16.KEPT_AT


def test_words_stay_short():
    _, words = pictures.frontier_figure({way: records.at_best(way) for way in RANKS[:2]})
    assert len(words.split()) <= 85 and "nan" not in words
