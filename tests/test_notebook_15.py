"""What notebook 15 says about forgetting, each with the stored number that would prove it wrong."""

import numpy as np
import pytest

from lora_edu.experiments import load_results, nb15_runs
from lora_edu.experiments.nb10_runs import all_runs, at_best
from lora_edu.experiments.nb15 import BLOCKS, BOLD, DIALS, FULL, LORA, STEPS, WIDE
from lora_edu.experiments.sweeps import SEEDS
from lora_edu.figures import nb15 as pictures

RUNS = all_runs()


@pytest.fixture(scope="module")
def arms():
    return load_results("intruders")["arms"]


# --- the runs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", DIALS)
def test_a_road_ends_at_the_run_that_is_turned_down(way):
    for seed in SEEDS:
        ends = [nb15_runs.road(name, way, seed)[-1] for name in ("rate", "dial")]
        assert ends[0] == pytest.approx(ends[1], abs=1e-4)
        if way in STEPS:
            assert nb15_runs.road("steps", way, seed)[-1].tolist() == ends[0].tolist()


def test_outside_the_runs_there_is_no_number():
    points = np.array([(0.9, 0.2), (0.5, 0.1), (1.0, 0.4), (0.95, 0.9)])  # the last one forgot and learned no more
    assert nb15_runs.forgotten_at(points, 0.7) == pytest.approx(0.15)
    assert np.isnan(nb15_runs.forgotten_at(points, 0.49)) and np.isnan(nb15_runs.forgotten_at(points, 1.01))


def test_the_curves_are_convex_so_that_interpolating_overstates_forgetting():
    """What "at least" stands on: leaving a point out moves full fine-tuning's line up, never down."""
    for name, way in (("dial", FULL), ("dial", BOLD), ("rate", FULL)):
        for seed in SEEDS:
            line = nb15_runs.road(name, way, seed)
            for k in range(1, line[:, 0].argmax()):
                assert nb15_runs.forgotten_at(np.delete(line, k, axis=0), line[k, 0]) > line[k, 1], (name, way, seed)


# --- the price --------------------------------------------------------------------------------------------------------


def test_at_its_best_rate_rank_8_forgets_less_than_full_at_its_own():
    """The sentence that the page takes apart is true of our own table."""
    prices = {
        way: np.mean([(run.learned, run.forgotten) for run in at_best(RUNS, way)], axis=0)
        for way in ("lora r8", "full")
    }
    assert prices["lora r8"] == pytest.approx((0.980, 0.281), abs=1e-3)
    assert prices["full"] == pytest.approx((1.088, 0.448), abs=1e-3)


def test_the_table_hangs_on_a_tie():
    """At half the rate full learns as much, forgets as little as rank 8 does, and has learned more than that."""
    (less, more), (ours,) = nb15_runs.at_tied_rates(RUNS, ["full"]), nb15_runs.at_tied_rates(RUNS, ["lora r8"])
    learned, forgotten = (float(row) for row in less[2:4])
    assert abs(learned - float(more[2])) < 0.02 and float(more[3]) > 1.5 * forgotten
    assert forgotten < float(ours[3]) + 0.03 and learned > float(ours[2]) + 0.08


def test_at_equal_learning_rank_8_forgot_more_by_rate_and_dial_and_by_steps_nothing_is_to_tell():
    """Not "LoRA forgets more": one seed of three says the opposite by steps."""
    for name in ("rate", "dial"):
        gaps = nb15_runs.at_the_run(name, LORA, FULL)
        assert len(gaps) == 3 and min(gaps) > 0.05, name
        assert nb15_runs.curve(name, LORA, FULL)[:, 1].min() > -0.005, name
    gaps = nb15_runs.at_the_run("steps", LORA, FULL)
    assert -0.03 < min(gaps) < 0 < max(gaps) < 0.04


def test_beside_the_larger_rate_the_sign_turns_by_steps_alone():
    assert nb15_runs.at_the_run("rate", LORA, BOLD) == nb15_runs.at_the_run("rate", LORA, FULL)
    assert min(nb15_runs.at_the_run("dial", LORA, BOLD)) > 0
    assert max(nb15_runs.at_the_run("steps", LORA, BOLD)) < -0.1


def test_beside_the_same_matrices_it_forgot_more_by_less_and_turned_down_slightly_less():
    for name in ("rate", "dial"):
        same, whole = (nb15_runs.at_the_run(name, LORA, rival) for rival in (BLOCKS, BOLD))
        assert all(0 < one < other for one, other in zip(same, whole, strict=True))
    assert all(-0.03 < nb15_runs.extra("dial", LORA, BLOCKS, seed)[-3, 1] < 0 for seed in SEEDS)
    assert max(nb15_runs.at_the_run("rate", WIDE, BLOCKS)) < 0


def test_the_gap_at_the_end_is_not_the_rank():
    """Not "LoRA forgets more": the same six matrices, not turned down either, lie farther above full with each seed."""
    for name in ("rate", "dial"):
        ours, theirs = (nb15_runs.at_the_run(name, way, FULL) for way in (LORA, BLOCKS))
        assert all(0.05 < one < other - 0.03 for one, other in zip(ours, theirs, strict=True)), name


LEARNED = (0.5, 0.65, 0.8, 0.88, 0.93, 0.95)


def test_on_its_best_road_full_is_never_worse_and_equal_where_little_was_learned():
    ours, full, same = (
        np.array([nb15_runs.least_forgotten(ways, x) for x in LEARNED]) for ways in ((LORA,), (FULL, BOLD), (BLOCKS,))
    )
    assert (full <= ours).all() and (ours - full)[:2].max() < 0.003 and (np.diff(ours - full)[1:] > 0).all()
    assert (ours < same).all()
    for seed in SEEDS:  # none of the seeds says otherwise
        lines = [nb15_runs.road("dial", way, seed) for way in (LORA, FULL)]
        gaps = [one - other for one, other in zip(*([nb15_runs.forgotten_at(line, x) for x in LEARNED]
                                                    for line in lines), strict=True)]  # fmt: skip
        assert min(gaps) > -0.001 and gaps[-1] > 0.04


@pytest.mark.parametrize("ways", [(LORA,), (FULL, BOLD), (BLOCKS,)])
def test_the_best_road_is_the_dial(ways):
    for learned in LEARNED:
        dials = [[nb15_runs.forgotten_at(nb15_runs.road("dial", way, seed), learned) for seed in SEEDS] for way in ways]
        assert nb15_runs.least_forgotten(ways, learned) == pytest.approx(np.mean(dials, axis=1).min())


def test_few_steps_are_a_waste():
    for way, least, most in ((LORA, 2.7, 3), (FULL, 5, 6.5)):
        learned, forgotten, by_dial = nb15_runs.stopped_early(way)
        assert least < forgotten / by_dial < most and 0.7 < learned < 0.9, way


def test_the_base_owes_as_much_doubt_to_each_run_and_less_to_a_shrunken_one():
    """Not "no comparison changes": notebook 01's updates, shrunk to the norm of rank 1, win less by doubt."""
    before = {"shakespeare": (1.8, 2.77081, 2.30310), "speeches": (1.0, 1.00818, 1.00818)}
    ends = [nb15_runs.confidence(way, before) for way in (LORA, FULL, BOLD)]
    owed = [learned - calibrated for learned, calibrated, _, _ in ends]
    assert max(owed) - min(owed) < 0.005 < 0.46 < min(owed)
    for arm in load_results("calibrated-cuts")["arms"].values():
        base, whole = arm["base"][0], arm["whole"][0]
        doubts = [(base[1] - loss) - (base[2] - calibrated) for _, loss, calibrated in (whole, *arm["shrunk"])]
        assert doubts[0] > 0.46 and doubts[1] < 0.42  # all of it, and at the norm of rank 1
        assert abs(doubts[2] - doubts[0]) < 0.01  # at the norm of rank 8


def test_even_twenty_steps_at_the_larger_rate_forget_nearly_as_much():
    early, late = ([nb15_runs.road("steps", BOLD, seed)[k, 1] for seed in SEEDS] for k in (0, -1))
    assert all(before > 0.85 * after for before, after in zip(early, late, strict=True))
    assert all(nb15_runs.road("steps", FULL, seed)[0, 1] < early[seed] - 0.1 for seed in SEEDS)


def test_learning_is_half_doubt_and_forgetting_hardly():
    """The base's temperatures, as the page computes them live; not "forgetting is a matter of confidence"."""
    before = {"shakespeare": (1.8, 2.77081, 2.30310), "speeches": (1.0, 1.00818, 1.00818)}
    for way in (LORA, FULL, BOLD):
        learned, calibrated, forgotten, left = nb15_runs.confidence(way, before)
        assert 0.5 < calibrated / learned < 0.62 and 0 <= 1 - left / forgotten < 0.15, way


# --- intruders --------------------------------------------------------------------------------------------------------


def test_counts_of_new_directions_hang_on_the_threshold(arms):
    """Not "their own directions add little": that holds at the paper's threshold alone."""
    trained, turned = ([pictures.count_below(arms, "lora r8", kind, t) for t in (0.5, 0.6, 0.7, 0.8)]
                       for kind in ("trained", "turned"))  # fmt: skip
    assert abs(trained[0] - turned[0]) < 5 and trained[2] > 1.3 * turned[2] and trained[3] > 1.3 * turned[3]
    assert pictures.count_below(arms, "lora r8", "spread", 0.5) < 2 < 10 < trained[0]
    assert pictures.count_below(arms, "blocks", "trained", 0.5) < 5


def test_the_dial_wins_back_more_than_cutting_intruders(arms):
    dial = pictures.cut_line(arms, "dial")
    for lost, won in pictures.cut_line(arms, "intruders")[1:3]:
        assert won > 0 and np.interp(max(lost, 0), *dial.T) > 1.5 * won
    assert pictures.cut_table(arms)["old directions, 0.25"][1] < 0  # the control that must fail


def test_three_quarters_of_an_update_forget_half(arms):
    lost, won, _ = pictures.cut_table(arms)["dial, 0.75"]
    forgotten = np.mean([run.forgotten for run in at_best(RUNS, "lora r8")])
    assert lost < 0.04 and 0.45 < won / forgotten < 0.55


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_words_stay_short(arms):
    _, words = pictures.intruders_figure(arms)
    assert len(words.split()) <= 85 and "nan" not in words
