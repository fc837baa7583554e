"""What notebook 15 says about forgetting, each with the stored number that would prove it wrong."""

import numpy as np
import pytest

from lora_course.experiments import load_results
from lora_course.nb10.lab_runs import all_runs, at_best
from lora_course.nb15 import lab_runs as nb15_runs
from lora_course.nb15 import pictures
from lora_course.nb15.lab import BOLD, DIALS, FINE_DIAL, FULL, LORA, STEPS, WIDE
from lora_course.running.sweeps import SEEDS

RUNS, ARMS = all_runs(), load_results("intruders")["arms"]


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
    """Leaving a point out moves full fine-tuning's line up, never down."""
    for name, way in (("dial", FULL), ("dial", BOLD), ("rate", FULL)):
        for seed in SEEDS:
            line = nb15_runs.road(name, way, seed)
            for k in range(1, line[:, 0].argmax()):
                assert nb15_runs.forgotten_at(np.delete(line, k, axis=0), line[k, 0]) > line[k, 1], (name, way, seed)


def test_at_the_same_size_rank_8_forgot_next_to_nothing_and_had_learned_half():
    """Not "its updates forget less": they teach less for their size, too."""
    assert nb15_runs.moved(LORA) > 4 * nb15_runs.moved(FULL)
    quarter, whole = nb15_runs.dialed(LORA)[0.25], nb15_runs.dialed(FULL)[1.0]
    assert quarter[1] < 0.05 * whole[1] and quarter[0] < 0.55 * whole[0]


def test_at_the_same_size_by_the_rate_rank_8_had_learned_four_fifths():
    """Not "at the same size it had learned half": that is the dial's."""
    size, learned, forgotten = nb15_runs.at_small_rate()
    whole = nb15_runs.dialed(FULL)[1.0]
    assert size == pytest.approx(nb15_runs.moved(FULL), rel=0.03)
    assert learned / whole[0] == pytest.approx(0.78, abs=0.01) and forgotten / whole[1] == pytest.approx(0.57, abs=0.01)


# --- the price --------------------------------------------------------------------------------------------------------


def test_at_its_best_rate_rank_8_forgets_less_than_full_at_its_own_and_that_hangs_on_a_tie():
    """At half the rate full learns as much, forgets as little as rank 8 does, and has learned more than that."""
    for ours, theirs in zip(at_best(RUNS, "lora r8"), at_best(RUNS, "full"), strict=True):
        assert ours.forgotten < theirs.forgotten - 0.1 and ours.learned < theirs.learned
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


@pytest.mark.parametrize("way", DIALS)
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


def test_at_equal_learning_rank_8_forgot_more_by_rate_and_dial_and_by_steps_nothing_is_to_tell():
    """Not "LoRA forgets more": one seed of three says the opposite by steps."""
    for name in ("rate", "dial"):
        gaps = nb15_runs.at_the_run(name, LORA, FULL)
        assert len(gaps) == 3 and min(gaps) > 0.05, name
    gaps = nb15_runs.at_the_run("steps", LORA, FULL)
    assert -0.03 < min(gaps) < 0 < max(gaps) < 0.04


def test_by_the_rate_rank_8_forgot_more_at_every_rate():
    """Not "because its end is dear": the dial stands at 1 everywhere."""
    for seed in SEEDS:
        line, theirs = (nb15_runs.road("rate", way, seed) for way in (LORA, FULL))
        within = line[line[:, 0] > theirs[0, 0]]
        assert len(within) == 4
        assert all(forgot - nb15_runs.forgotten_at(theirs, x) > 0.04 for x, forgot in within)


def test_rank_64_says_the_same_with_smaller_gaps():
    """Not "it is the rank": eight times the rank leaves more than half of the gap."""
    for name in ("rate", "dial"):
        wide, narrow = (nb15_runs.at_the_run(name, way, FULL) for way in (WIDE, LORA))
        assert all(0.5 < one / other < 0.9 for one, other in zip(wide, narrow, strict=True)), name
    assert min(nb15_runs.at_the_run("dial", WIDE, BOLD)) > 0 > -0.1 > max(nb15_runs.at_the_run("steps", WIDE, BOLD))


def test_beside_the_larger_rate_the_sign_turns_by_steps_alone():
    assert nb15_runs.at_the_run("rate", LORA, BOLD) == nb15_runs.at_the_run("rate", LORA, FULL)
    assert min(nb15_runs.at_the_run("dial", LORA, BOLD)) > 0
    assert max(nb15_runs.at_the_run("steps", LORA, BOLD)) < -0.1


def test_learning_is_half_doubt_and_forgetting_hardly():
    """The base's temperatures, as the page computes them live; not "forgetting is a matter of confidence"."""
    before = {"shakespeare": (1.8, 2.77081, 2.30310, 2.11215), "speeches": (1.0, 1.00818, 1.00818, 1.01092)}
    for way in (LORA, FULL):
        learned, calibrated, _, forgotten, left, with_biases = nb15_runs.confidence(way, before)
        assert 0.5 < calibrated / learned < 0.62 and 0 <= 1 - left / forgotten < 0.15, way
        assert 1 - with_biases / forgotten == pytest.approx(0.25, abs=0.03), "a quarter"


# --- intruders --------------------------------------------------------------------------------------------------------


def test_at_the_same_setting_the_tied_run_at_002_forgot_more():
    ours, bold = nb15_runs.dialed(LORA), nb15_runs.dialed(BOLD)
    assert all(bold[share][1] > 1.5 * ours[share][1] for share in DIALS[BOLD])


def test_counts_of_new_directions_hang_on_the_threshold():
    """Not "their own directions add little": that holds at the paper's threshold alone."""
    trained, turned, spread, full = np.array([row[1:] for row in pictures.count_table(ARMS)], dtype=float)
    assert full[0] == 0 and abs(trained[0] - turned[0]) < 5 and (trained > 1.3 * turned)[2:4].all()
    assert spread[0] < 2 < 10 < trained[0]


def test_the_dial_wins_back_more_than_cutting_intruders():
    dial = pictures.cut_line(ARMS, "dial")
    for lost, won in pictures.cut_line(ARMS, "intruders")[1:3]:
        assert won > 0 and np.interp(max(lost, 0), *dial.T) > 1.5 * won
    assert 0.038 < pictures.cut_line(ARMS, "intruders")[:, 1].max() < 0.041
    assert pictures.cut_table(ARMS)["old directions, 0.25"][1] < 0  # the control that must fail


def test_cut_from_the_update_alone_old_directions_win_back_as_well_and_the_dial_more():
    """The paper's cut takes W's own part away, too: that harm is not the intruders'."""
    cuts, dial = pictures.cut_table(ARMS), pictures.cut_line(ARMS, "dial")
    intruders, old = cuts["intruders in dW, 0.25"], cuts["old directions in dW, 1"]
    assert [round(n, 2) for n in (*old[1:], *intruders[1:])] == [0.04, 0.25, 0.06, 0.2]
    for lost, won, _ in (cuts[f"intruders in dW, {share:g}"] for share in (0.25, 0.5)):
        assert np.interp(lost, *dial.T) > 1.2 * won


def test_three_quarters_of_an_update_forget_half():
    lost, won, _ = pictures.cut_table(ARMS)["dial, 0.75"]
    forgotten = np.mean([run.forgotten for run in at_best(RUNS, "lora r8")])
    assert 0 < lost < 0.04 and 0.45 < won / forgotten < 0.55
