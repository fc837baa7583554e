"""What notebook 15 says about forgetting, each with the stored number that would prove it wrong."""

import numpy as np
import pytest

from lora_edu import data_file, load_adapter, load_base, load_text
from lora_edu.calibration import and_biases, one_temperature
from lora_edu.experiments import load_results, nb15_runs
from lora_edu.experiments.nb10_runs import all_runs, at_best
from lora_edu.experiments.nb15 import BLOCKS, BOLD, DIALS, FINE_DIAL, FULL, LORA, STEPS
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


LEARNED = (0.5, 0.65, 0.8, 0.88, 0.93, 0.95)


def test_at_the_same_setting_of_the_dial_both_forgot_alike_and_full_had_learned_more():
    """Not "beyond it full forgot less", as a sentence about LoRA: setting by setting nobody forgot less."""
    ours, theirs = nb15_runs.dialed(LORA), nb15_runs.dialed(FULL)
    assert ours.keys() == theirs.keys() == {*FINE_DIAL, 1.0}
    assert all(0 < theirs[share][1] - ours[share][1] < 0.01 for share in ours)
    more = [theirs[share][0] / ours[share][0] - 1 for share in ours]
    assert (round(min(more), 2), round(max(more), 2)) == (0.06, 0.11)
    for seed in SEEDS:  # the order of what was learned holds in each seed
        lines = [nb15_runs.road("dial", way, seed)[1:, 0] for way in (LORA, FULL)]
        assert (lines[1] > lines[0]).all()


@pytest.mark.parametrize("way", [LORA, FULL, BOLD, BLOCKS])
def test_half_of_the_dial_keeps_four_fifths_of_the_learning_and_a_fifth_of_the_forgetting(way):
    gain, cost = nb15_runs.kept(way, 0.5)
    assert 0.79 < gain < 0.86 and 0.19 < cost < 0.25


def test_the_last_quarter_brings_little_learning_and_half_of_the_forgetting():
    for way in (LORA, FULL):
        gain, cost = nb15_runs.kept(way, 0.75)
        assert 0.95 < gain < 0.97 and 0.5 < cost < 0.53
    ours, theirs = (np.array([nb15_runs.kept(way, share) for share in FINE_DIAL]) for way in (LORA, FULL))
    assert np.abs(ours - theirs).max() < 0.035  # as shares of its own end each run goes the same way


def test_at_equal_learning_rank_8_is_read_nearer_to_its_end():
    """Why it forgot more at .95 nats: not that its updates forget more."""
    ends = [nb15_runs.dialed(way)[1.0][0] for way in (LORA, FULL)]
    assert 0.95 / ends[0] > 0.96 and 0.95 / ends[1] < 0.89
    for seed in SEEDS:
        lines = [nb15_runs.road("dial", way, seed) for way in (LORA, FULL)]
        ours, theirs = ([nb15_runs.forgotten_at(line, x) for x in LEARNED] for line in lines)
        gaps = np.subtract(ours, theirs)
        assert gaps.min() > -0.001 and gaps[-1] > 0.04
    gaps = [nb15_runs.by_dial(LORA, x) - nb15_runs.by_dial(FULL, x) for x in LEARNED]
    assert max(gaps[:2]) < 0.003 and (np.diff(gaps)[1:] > 0).all()
    share = 0.95 / ends[1]  # at one share of its own end it forgot less
    assert nb15_runs.by_dial(LORA, share * ends[0]) < nb15_runs.by_dial(FULL, 0.95) - 0.01


def test_at_equal_learning_rank_8_forgot_more_by_rate_and_dial_and_by_steps_nothing_is_to_tell():
    """Not "LoRA forgets more": one seed of three says the opposite by steps."""
    for name in ("rate", "dial"):
        gaps = nb15_runs.at_the_run(name, LORA, FULL)
        assert len(gaps) == 3 and min(gaps) > 0.05, name
    gaps = nb15_runs.at_the_run("steps", LORA, FULL)
    assert -0.03 < min(gaps) < 0 < max(gaps) < 0.04


def test_beside_the_larger_rate_the_sign_turns_by_steps_alone():
    assert nb15_runs.at_the_run("rate", LORA, BOLD) == nb15_runs.at_the_run("rate", LORA, FULL)
    assert min(nb15_runs.at_the_run("dial", LORA, BOLD)) > 0
    assert max(nb15_runs.at_the_run("steps", LORA, BOLD)) < -0.1


def test_beside_the_same_matrices_the_gap_at_the_end_is_smaller():
    for name in ("rate", "dial"):
        for rival in (FULL, BOLD):
            same, whole = (nb15_runs.at_the_run(name, LORA, other) for other in (BLOCKS, rival))
            assert all(0 < one < other for one, other in zip(same, whole, strict=True))


def test_at_these_rates_stopping_early_forgets_more_than_the_dial():
    """Not "few steps are a waste": they cost half of the compute or less, and other rates were not tried."""
    for way, least, most in ((LORA, 2.7, 3.1), (FULL, 5, 6.5)):
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


def test_learning_is_half_doubt_and_forgetting_hardly():
    """The base's temperatures, as the page computes them live; not "forgetting is a matter of confidence"."""
    before = {"shakespeare": (1.8, 2.77081, 2.30310), "speeches": (1.0, 1.00818, 1.00818)}
    for way in (LORA, FULL, BOLD):
        learned, calibrated, forgotten, left = nb15_runs.confidence(way, before)
        assert 0.5 < calibrated / learned < 0.62 and 0 <= 1 - left / forgotten < 0.15, way


def test_how_common_each_byte_is_explains_more_than_a_quarter_of_the_forgetting():
    """Not "what a temperature leaves was lost": biases were a rival that page 00 had taught."""
    addresses = load_text("speeches").validation
    base = load_base("laptop", device="cpu")
    adapted = load_adapter(load_base("laptop", device="cpu"), data_file("shakespeare-adapter"))
    ends = [one_temperature(m, addresses, max_windows=16)[1:] for m in (base, adapted)]
    forgot, calibrated = np.subtract(ends[1], ends[0])
    biased = np.subtract(*(and_biases(m, addresses, max_windows=16) for m in (adapted, base)))
    assert calibrated > 0.9 * forgot and 0.2 < 1 - biased / forgot < 0.45


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
