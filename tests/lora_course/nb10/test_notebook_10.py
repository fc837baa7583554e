"""What notebook 10 says about places, ranks and directions, each with the stored number that would prove it wrong."""

import itertools

import numpy as np
import pytest

from lora_course.experiments import load_results
from lora_course.nb10 import lab_directions as nb10_directions
from lora_course.nb10 import lab_runs as records
from lora_course.nb10 import pictures
from lora_course.nb10.lab import PLACES

RUNS, SPECTRA = records.all_runs(), load_results("lora-spectra")["arms"]


def losses(way):
    return [run.plays for run in records.at_best(RUNS, way)]


# --- the runs -------------------------------------------------------------------------------------------------------


def test_updates_are_compared_at_the_best_rate():
    for way, (_, _, lr) in nb10_directions.WAYS.items():
        assert lr in RUNS.where(way=way).tied(), way


# --- where, which rank, at which rate ---------------------------------------------------------------------------------


def test_down_and_rank_1_everywhere_take_few_numbers_and_what_the_parts_of_attention_do():
    """That both beat all of attention, with every seed, the page's cell asserts."""
    assert records.at_best(RUNS, "lora r1")[0].numbers == 18_432 < records.at_best(RUNS, "down")[0].numbers / 2
    means = {way: np.mean(losses(way)) for way in PLACES}
    assert max(means, key=means.get) == "q"
    attention = {way: means[way] for way in pictures.ATTENTION}
    assert min(attention, key=attention.get) == "q k v o" and means["q k v o"] == pytest.approx(1.916, abs=1e-3)
    assert means["q v"] < min(means["q"], means["v"])  # within attention two beat one of these
    assert means["o"] < means["v"] and means["down"] < means["up"]  # the two that write to the stream


def test_all_four_of_attention_lead_the_best_one_by_hardly_more_than_two_rates_differ():
    lead = np.mean(losses("o")) - np.mean(losses("q k v o"))
    assert 1 < lead / max(records.two_best(RUNS, PLACES).values()) < 1.3


def test_what_cannot_be_told_apart():
    means = [np.mean(losses(way)) for way in ("down", "up down", "lora r2")]
    assert max(means) - min(means) < max(records.two_best(RUNS, PLACES).values())


def test_with_half_of_the_budget_the_mlp_alone_does_as_well_as_all_six():
    """Not "it is spreading over all six that makes rank 1 so good": its rival is the MLP alone."""
    half = losses("up down, rank 2")
    assert max(half) < min(losses("q k v o"))
    assert records.at_best(RUNS, "up down, rank 2")[0].numbers == 20_480


def test_loss_falls_with_the_rank_and_ends_near_the_same_matrices_in_full():
    means = [np.mean(losses(f"lora r{rank}")) for rank in pictures.RANKS]
    assert (means[0], means[-1]) == pytest.approx((1.875, 1.731), abs=1e-3)
    assert means == sorted(means, reverse=True)
    assert abs(means[-1] - np.mean(losses("blocks"))) < 0.03 and np.mean(losses("full")) < means[-1] - 0.04


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


def test_the_multiple_of_the_rate_falls_with_the_rank_at_alpha_2r_and_stays_with_a_fixed_alpha():
    """Beside the same six matrices, not beside full fine-tuning of everything, whose best rate is a tie."""
    assert RUNS.where(way="blocks").tied() == [0.002]
    found = {
        scaling: {rank: [float(part) for part in text.split(" to ")] for rank, text in of.items()}
        for scaling, of in records.multiples(RUNS).items()
    }
    falls, stays = found["alpha = 2r"], found["alpha = 16"]
    assert falls[64][-1] < falls[8][0] < falls[1][0]  # whatever one takes of each tie
    assert falls[1] == pytest.approx([10, 15]) and falls[64] == pytest.approx([1.5, 3])
    assert all(multiple[0] == pytest.approx(5) and multiple[-1] <= 10.01 for multiple in stays.values())
    for rank, scaling in itertools.product(records.COMPARED, found):  # no range is open above
        some = records.swept(RUNS, rank, scaling)
        assert some.tied()[-1] < max(some.sweep())


def test_one_rate_serves_all_ranks_with_a_fixed_alpha_and_none_that_was_tried_at_alpha_2r():
    assert max(records.regret(RUNS, 0.01)["alpha = 16"].values()) < records.TIE
    tried = [set(records.swept(RUNS, rank, "alpha = 2r").sweep()) for rank in records.COMPARED]
    assert set.intersection(*tried) == {3e-3, 1e-2}
    assert all(max(records.regret(RUNS, lr)["alpha = 2r"].values()) > 0.1 for lr in (3e-3, 1e-2))


# --- directions -------------------------------------------------------------------------------------------------------


def shares(name, side):
    """(3 pairs of seeds, 4)."""
    return np.array([SPECTRA[f"{name}, seed {seed}"][side] for seed in range(3)])


def test_two_adapters_agree_above_chance_and_more_on_where_they_write():
    writes, reads = (shares("adapters", side) for side in ("writes", "reads"))
    assert (
        (writes > 1.3 * reads).all()
        and (writes[:, -1] > 6 * 8 / 256).all()
        and (reads > 2 * np.array(nb10_directions.COUNTS) / 256).all()
    )


def test_what_two_adapters_read_hangs_on_where_they_started():
    """Its rival: that reading differs from batch to batch. With one start for both, eight directions hardly do."""
    (writes, reads), (one_writes, one_reads) = (
        [shares(name, side) for side in ("writes", "reads")] for name in ("adapters", "adapters, one start")
    )
    assert (one_reads[:, -1] > 4 * reads[:, -1]).all() and (one_writes[:, -1] < 1.3 * writes[:, -1]).all()
    assert (one_reads[:, 0] < 2 * reads[:, 0]).all()  # the strongest one is less the start's
