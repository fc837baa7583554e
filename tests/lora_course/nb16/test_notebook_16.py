"""What notebook 16 says about rewards, each with the stored number that would prove it wrong."""

import itertools

import numpy as np
import pytest

from lora_course.nb16 import lab_runs as records

RANKS = ("lora r1", "lora r8", "lora r64", "full", "qlora r8")


def test_with_100_steps_rank_1_leaves_the_constants_behind_and_those_by_the_last_byte_stay():
    below = lambda way: records.below(records.bias_line(), records.at_best(way))  # noqa: E731
    assert min(below("film")) > 0.009 > max(below("constants")) > max(below("constants, longer"))
    tables, longer = below("by last byte"), below("by last byte, longer")
    assert len(longer) == 3 and abs(longer.mean() - tables.mean()) < np.ptp(tables)
    assert abs(below("film").mean() - longer.mean()) < np.ptp(tables)
    assert below("lora r1, longest") > max(below("film")) > 0.006 > below("constants, longest")
    assert len(records.looks_of("film")) > 5


def test_constants_by_the_last_byte_beat_every_way_with_each_seed_and_keep_words_as_adapters_do():
    """Not "real words say so earlier", that rank 1 begins to know words: the byte before is enough."""
    tables, line = records.at_best("by last byte"), records.bias_line("words")
    for way in (*RANKS, "constants"):
        assert min(records.lead("by last byte", way)) > 0, way
        assert all(table.loss < run.loss for table, run in zip(tables, records.at_best(way), strict=True)), way
    kept = {way: -records.below(line, records.at_best(way), "words") for way in ("by last byte", *RANKS)}
    assert min(kept["lora r1"]) < min(kept["by last byte"]) and max(kept["by last byte"]) < max(kept["lora r64"])


def test_the_bias_is_a_frontier_and_its_line_overstates_it_at_most_a_little():
    line = records.bias_line()
    assert (np.diff(line[:, 1]) < 0).all()
    for k in range(1, len(line) - 1):  # convex: a straight line between two points lies above
        assert np.interp(line[k, 0], *np.delete(line, k, axis=0).T) > line[k, 1] - 1e-4


def test_picking_needs_far_less_and_its_words_stay_real():
    for kl in (0.02, 0.05, 0.08):
        for which, sign in (("e", 1), ("words", -1)):
            bias, picked = (np.interp(kl, *line(which).T) for line in (records.bias_line, records.picked_line))
            assert sign * picked < sign * bias


@pytest.mark.parametrize("way", RANKS)
def test_every_way_ends_a_little_below_one_bias(way):
    runs = records.at_best(way)
    assert all(0 < gap < 0.01 for gap in records.below(records.bias_line(), runs))


def test_the_ranks_cannot_be_told_apart():
    """Each two ways' leads, seed by seed: none is larger than its seeds differ."""
    for one, other in itertools.combinations(RANKS, 2):
        gaps = records.lead(one, other)
        assert abs(np.mean(gaps)) < 2.48 * np.std(gaps, ddof=1), (one, other)  # 4.30 / sqrt(3): a 95% interval


def test_256_constants_come_as_far_below_one_bias_as_any_way():
    constants = records.at_best("constants")
    assert min(records.below(records.bias_line(), constants)) > 0.003
    for way in RANKS:
        gaps = records.lead("constants", way)
        assert abs(np.mean(gaps)) < min(0.0015, 2.48 * np.std(gaps, ddof=1)), way


@pytest.mark.parametrize("control", ["coin", "shuffled", "imitated"])
def test_no_control_gets_below_one_bias_and_the_first_two_keep_their_e_s(control):
    runs = records.at_best(control)
    below = records.below(records.bias_line(), runs)
    assert len(runs) == 3 and max(below) < 0.001 and below.mean() < -0.001
    assert all(run.kl > 0.005 and (run.e > 0.1 or control == "imitated") for run in runs)


def test_a_bias_writes_more_th_and_constants_as_few_as_rank_1():
    """Not "who looks farther knows words": 256 constants look farther, too. At a smaller KL the best writes fewer."""
    th, kl = ({name: row[k] for name, *row in records.th_rows()} for k in (0, 1))
    assert th["one bias"] > 1.05 * th["base"] and th["base"] > 1.2 * max(th["256 constants"], th["by the last byte"])
    assert abs(th["256 constants"] - th["rank 1"]) < 2
    assert th["best possible"] < min(th["rank 1"], th["256 constants"]) and kl["best possible"] < kl["rank 1"]
