"""What the comparisons of notebook 10 lean on. What it says of its stored runs, its own cells print and assert."""

import itertools

import numpy as np

from lora_course.nb10 import lab_directions as nb10_directions
from lora_course.nb10 import lab_runs as records

RUNS = records.all_runs()


def test_updates_are_compared_at_the_best_rate():
    for way, (_, _, lr) in nb10_directions.WAYS.items():
        assert lr in RUNS.where(way=way).tied(), way


def test_two_rates_tie_within_what_moves_between_seeds():
    """Runs with one seed share their batches: a small difference of two rates is paired, and moves by less than TIE."""
    moves = []
    for way in ("full", "blocks", "lora r8", "lora r64"):
        plays = {(run.lr, run.seed): run.plays for run in RUNS.where(way=way)}
        rates = sorted({lr for lr, _ in plays})
        for lr, larger in itertools.combinations(rates, 2):
            seeds = [seed for seed in range(3) if {(lr, seed), (larger, seed)} <= plays.keys()]
            gaps = [plays[lr, seed] - plays[larger, seed] for seed in seeds]
            if np.abs(gaps).max() < 5 * records.TIE:  # the others are no ties, whatever moves
                moves.append(np.ptp(gaps))
    assert 0.005 < max(moves) < records.TIE


def test_no_range_of_best_rates_is_open_above():
    for rank, scaling in itertools.product(records.COMPARED, records.SCALINGS):
        some = records.swept(RUNS, rank, scaling)
        assert some.tied()[-1] < max(some.sweep())
