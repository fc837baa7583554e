"""What notebook 16 says about rewards, beside what its cells print and assert."""

import itertools

import numpy as np

from lora_course.nb16 import lab_runs as records

WAYS = ("lora r1", "lora r8", "lora r64", "full", "qlora r8", "constants")


def test_the_bias_is_a_frontier_and_its_line_overstates_it_at_most_a_little():
    line = records.bias_line()
    assert (np.diff(line[:, 1]) < 0).all()
    for k in range(1, len(line) - 1):  # convex: a straight line between two points lies above
        assert np.interp(line[k, 0], *np.delete(line, k, axis=0).T) > line[k, 1] - 1e-4


def test_the_best_possible_lies_below_one_bias_at_every_kl():
    for kl in (0.02, 0.05, 0.08):
        assert np.interp(kl, *records.picked_line().T) < np.interp(kl, *records.bias_line().T)


def test_neither_ranks_nor_constants_can_be_told_apart():
    """Each two ways' leads, seed by seed: none is larger than its seeds differ."""
    for one, other in itertools.combinations(WAYS, 2):
        gaps = records.lead(one, other)
        assert abs(np.mean(gaps)) < 2.48 * np.std(gaps, ddof=1), (one, other)  # 4.30 / sqrt(3): a 95% interval
