"""What notebook 10 says about places, ranks and directions, each with the stored number that would prove it wrong."""

import itertools

import numpy as np
import pytest
import torch

from lora_edu import load_base
from lora_edu.experiments import load_results, nb10_batch, nb10_directions, nb10_sizes
from lora_edu.experiments import nb10_runs as records
from lora_edu.experiments.nb10 import BEST_PLACE_RATES, BEST_RANK_RATE, PLACES, RANK_RATES
from lora_edu.figures import nb10 as pictures

RUNS = records.all_runs()


@pytest.fixture(scope="module")
def spectra():
    return load_results("lora-spectra")["arms"]


def losses(way):
    return [run.plays for run in records.at_best(RUNS, way)]


# --- the runs -------------------------------------------------------------------------------------------------------


def test_the_base_is_that_of_notebook_09():
    arm = load_results("qlora-quality")["arms"]["lora, not trained"]
    assert records.base_losses() == (arm["after"], arm["addresses"])


def test_updates_are_compared_at_the_best_rate():
    for way, (_, _, lr) in nb10_directions.WAYS.items():
        assert records.best_rate(RUNS, way) == lr, way


def test_seeds_are_run_at_the_best_rates():
    for way, lr in BEST_PLACE_RATES.items():
        assert records.best_rate(RUNS, way) == lr and len(losses(way)) == 3, way
    for rank in RANK_RATES:
        assert records.best_rate(RUNS, f"lora r{rank}") == BEST_RANK_RATE, rank


@pytest.mark.parametrize("way", ["full", "blocks", "lora r8", "lora r64", *PLACES])
def test_the_best_rate_is_not_the_last_one_tried(way):
    losses = records.of_way(RUNS, way).sweep()
    lowest = min(losses, key=losses.get)
    assert min(losses) < lowest < max(losses)


# --- where, which rank, at which rate ---------------------------------------------------------------------------------


def test_down_alone_and_rank_1_everywhere_beat_all_of_attention_with_every_seed():
    assert max(losses("down")) < min(losses("lora r1")) and max(losses("lora r1")) < min(losses("q k v o"))
    assert records.at_best(RUNS, "lora r1")[0].numbers == 18_432 < records.at_best(RUNS, "down")[0].numbers / 2
    means = {way: np.mean(losses(way)) for way in PLACES}
    assert max(means, key=means.get) == "q"
    attention = {way: means[way] for way in pictures.ATTENTION}
    assert min(attention, key=attention.get) == "q k v o" and means["q k v o"] == pytest.approx(1.916, abs=1e-3)
    assert means["q v"] < min(means["q"], means["v"])  # within attention two beat one of these
    assert means["o"] < means["v"] and means["down"] < means["up"]  # the two that write to the stream


def test_place_counts_for_more_than_rank_per_number_and_not_beside_more_numbers():
    """Not "place counts for more than rank": without q and v places span as much as 64 times the numbers do."""
    some = [np.mean(losses(way)) for way in ("o", "q k v o", "up", "down", "up down")]
    ranks = [np.mean(losses(f"lora r{rank}")) for rank in pictures.RANKS]
    assert 0.9 < np.ptp(some) / np.ptp(ranks) < 1  # and all of the places train as many numbers
    assert len({records.at_best(RUNS, way)[0].numbers for way in ("o", "q k v o", "up", "down", "up down")}) == 1


def test_all_four_of_attention_lead_the_best_one_by_hardly_more_than_two_rates_differ():
    lead = np.mean(losses("o")) - np.mean(losses("q k v o"))
    assert 1 < lead / max(records.two_best(RUNS, PLACES).values()) < 1.3


def test_what_cannot_be_told_apart():
    means = [np.mean(losses(way)) for way in ("down", "up down", "all six")]
    assert max(means) - min(means) < max(records.two_best(RUNS, PLACES).values())


def test_a_frozen_A_costs_less_than_a_frozen_B_and_both_more_than_none():
    for both, B_alone, A_alone in zip(*map(losses, ("lora r8", "A frozen", "B frozen")), strict=True):
        assert both < B_alone - 0.02 and B_alone < A_alone - 0.05  # at equal numbers


def test_loss_falls_with_the_rank_and_ends_near_the_same_matrices_in_full():
    means = [np.mean(losses(f"lora r{rank}")) for rank in pictures.RANKS]
    assert (means[0], means[-1]) == pytest.approx((1.875, 1.731), abs=1e-3)
    assert means == sorted(means, reverse=True)
    assert abs(means[-1] - np.mean(losses("blocks"))) < 0.03 and np.mean(losses("full")) < means[-1] - 0.04


def test_two_rates_tie_within_what_moves_between_seeds():
    """Runs with one seed share their batches: a small difference of two rates is paired, and moves by less than TIE."""
    moves = []
    for way in ("full", "blocks", "lora r8", "lora r64"):
        plays = {(run.lr, run.seed): run.plays for run in records.of_way(RUNS, way)}
        rates = sorted({lr for lr, _ in plays})
        for lr, larger in itertools.combinations(rates, 2):
            seeds = [seed for seed in range(3) if {(lr, seed), (larger, seed)} <= plays.keys()]
            gaps = [plays[lr, seed] - plays[larger, seed] for seed in seeds]
            if np.abs(gaps).max() < 5 * records.TIE:  # the others are no ties, whatever moves
                moves.append(np.ptp(gaps))
    assert 0.005 < max(moves) < records.TIE


def test_the_multiple_of_the_rate_is_a_range_and_falls_with_the_rank():
    """Beside the same six matrices, not "1.5 to 30" beside full fine-tuning of everything, whose best rate is a tie."""
    assert records.of_way(RUNS, "full").tied() == [0.001, 0.002] and records.of_way(RUNS, "blocks").tied() == [0.002]
    found = {rank: [float(part) for part in text.split(" to ")] for rank, text in records.multiples(RUNS).items()}
    assert found[8] == pytest.approx([5]) and found[1] == pytest.approx([10, 15])
    assert found[64][0] == pytest.approx(1.5) and max(map(max, found.values())) == pytest.approx(15)
    assert found[64][-1] < found[1][0]  # whatever one takes of each tie


def test_with_rslora_one_rate_does_as_well_as_with_alpha_fixed():
    regret = records.regret(RUNS, 0.01)
    assert all(max(regret[scaling].values()) < records.TIE for scaling in ("alpha = 16", "alpha / sqrt r"))
    assert regret["alpha = 2r"][1] > 0.03 and regret["alpha = 2r"][64] > 0.1


def test_at_alpha_2r_neither_rate_that_was_tried_at_all_ranks_serves_all():
    """Not "it fails at both ends": one more rate might serve; two were run everywhere."""
    tried = [set(records.swept(RUNS, rank, "alpha = 2r").sweep()) for rank in (1, 8, 64)]
    assert set.intersection(*tried) == {3e-3, 1e-2}
    assert all(max(records.regret(RUNS, lr)["alpha = 2r"].values()) > 0.1 for lr in (3e-3, 1e-2))


def test_rank_1_keeps_no_less_in_the_larger_model_and_at_one_rate_the_sign_depends():
    """Not "a larger model needs a lower rank", nor a higher one: at one rate rank 8 says one thing, rank 64 another."""
    kept = {(model, of): nb10_sizes.kept(model, 1, of) for model in nb10_sizes.READING for of in (8, 64)}
    assert kept["smollm2", 8][0] < kept["gpt", 8][0] and kept["smollm2", 64][0] > kept["gpt", 64][0]
    assert all(kept["smollm2", of][1] > kept["gpt", of][1] for of in (8, 64))


def test_the_larger_model_had_little_to_learn_and_its_best_rates_are_edges():
    """Not "size needs no more rank": a rival is that SmolLM2 won little, and at the last rates tried."""
    (_, little), (_, much) = map(nb10_sizes.most_won, ("smollm2", "gpt"))
    assert little < 0.19 and much > 0.55
    tried = nb10_sizes.TIMES["smollm2"]
    assert [nb10_sizes.best_times("smollm2", rank) for rank in (1, 64)] == [max(tried), min(tried)]
    assert min(nb10_sizes.TIMES["gpt"]) < nb10_sizes.best_times("gpt", 1) < max(nb10_sizes.TIMES["gpt"])


# --- the batch --------------------------------------------------------------------------------------------------------

BATCHES = nb10_batch.batch_runs()


def missed(way, batch, steps):
    return nb10_batch.shares_missed(BATCHES, way, batch, steps)


def test_the_batches_read_equally_much_and_their_best_rates_are_bracketed_with_three_seeds():
    assert len({batch * steps for batch, steps in nb10_batch.EQUAL_TOKENS}) == 1
    for (way, batch, steps), (_, best) in nb10_batch.RATES.items():
        some = nb10_batch.of(BATCHES, way, batch, steps)
        rates = list(some.sweep())
        assert some.best_rate() == best and rates[0] < best < rates[-1], (way, batch, steps)
        three = {lr: [run.loss for run in some.where(lr=lr)] for lr in rates}
        means = {lr: np.mean(found) for lr, found in three.items() if len(found) == 3}
        assert len(means) == 3 and min(means, key=means.get) == best  # three seeds choose as seed 0 did


def test_both_ranks_fall_behind_at_the_largest_batch_with_every_seed_and_rank_lowers_the_line():
    """Not "LoRA's lag does not depend on the batch", nor "a larger rank takes the rise away"."""
    for way in ("lora r8", "lora r64"):
        assert min(missed(way, 64, 32)) > max(missed(way, 4, 512) + missed(way, 16, 128))
    for cell in nb10_batch.EQUAL_TOKENS:
        assert max(missed("lora r64", *cell)) < min(missed("lora r8", *cell))


def test_as_few_steps_alone_do_as_much_at_rank_64_and_half_of_it_at_rank_8():
    """Not "it is the batch": at equal tokens a larger batch has fewer steps, and these alone make LoRA fall behind."""
    (rise, by_steps), (small_rise, small_by_steps) = (nb10_batch.rises(BATCHES, f"lora r{rank}") for rank in (8, 64))
    assert 0.06 < rise < 0.08 and 0.4 < by_steps / rise < 0.7
    assert 0.02 < small_rise < small_by_steps < 0.05
    pairs = zip(missed("lora r8", 64, 32), missed("lora r8", 16, 32), strict=True)
    assert all(at_64 > at_16 for at_64, at_16 in pairs)  # a part is left to the batch, or to what was read
    assert nb10_batch.mean_missed(BATCHES, "lora r8", 4, 32) < 0.09  # where little is read, few steps do not do it


# --- directions -------------------------------------------------------------------------------------------------------


def test_runs_agree_on_where_they_write_more_than_on_what_they_read(spectra):
    for seed in range(3):
        run = spectra[f"alike, seed {seed}"]
        writes, reads, A = (np.array(run["r8, r64"][side]) for side in ("output", "input", "A"))
        assert (writes > 1.3 * reads).all() and (writes > 1.3 * A).all()
        assert reads[0] > 10 / 256  # the strongest one is above chance, too
        times = np.array(run["r8, r64, same seed"]["output"]) / writes
        assert 1.35 < times.min() < 1.5 < times.max() < 1.8  # "more than half again" was false at eight directions
        assert run["r8, W"]["output"][0] < writes[0] / 2


def test_two_of_one_rank_write_alike_more_than_they_read_too(spectra):
    """Is it that the two adapters of the picture differ in rank and rate? Two of rank 8 say nearly the same."""
    for seed in range(3):
        run = spectra[f"alike, one rank, seed {seed}"]["r8, r8"]
        lead = np.array(run["output"]) / np.array(run["A"])
        assert lead[0] > 1.1 and (lead[1:] > 1.3).all()  # at one direction not "as much more": one pair has 1.15
    for one, two in (("two of rank 8 write", "adapters write"), ("two of rank 8 read", "adapters read")):
        assert np.abs(pictures.shared(spectra, one) - pictures.shared(spectra, two)).max() < 0.05
    gaps = {name: pictures.shared(spectra, f"{name} write") - pictures.shared(spectra, f"{name} read")
            for name in ("adapters", "two of rank 8")}  # fmt: skip
    assert gaps["two of rank 8"][0] < gaps["adapters"][0] - 0.02


def test_in_full_the_lead_of_writing_is_small(spectra):
    """Not "what is read differs from run to run": with no random start, two runs read nearly the same directions."""
    for seed in range(3):
        run = spectra[f"alike, no start, seed {seed}"]["blocks, blocks"]
        writes, reads = (np.array(run[side]) for side in ("output", "input"))
        assert (1 < writes / reads).all() and (writes / reads < 1.3).all()
    whole, moved = pictures.shared(spectra, "adapters read"), pictures.shared(spectra, "A minus its start")
    assert moved[-1] > 1.9 * whole[-1] and moved[0] < 1.25 * whole[0]
    assert (pictures.shared(spectra, "full training reads") > pictures.shared(spectra, "adapters write")).all()


def test_adapters_lean_on_the_strongest_of_W_and_that_is_little_of_what_two_share(spectra):
    """Not "the directions are not W's own strongest": they share five to ten times what chance gives."""
    times = pictures.shared(spectra, "W, write") / pictures.chance()
    assert 9 < times[0] < 12 and 4.5 < times[-1] < 5.5
    W, layer = (
        load_base("laptop").get_submodule(nb10_directions.STORED_LAYER).weight.detach(),
        pictures.stored_factors(),
    )
    U = torch.linalg.svd(W)[0][:, :8]
    updates = [layer[f"{run} B"] @ layer[f"{run} A"] for run in ("r8", "r64 again")]
    found = []
    for out in (0 * U, U):
        one, other = (torch.linalg.svd(dW - out @ (out.T @ dW))[0][:, :8] for dW in updates)
        found.append(nb10_directions.similarity(one, other))
    assert 0.85 < found[1] / found[0] < 0.95


def test_untrained_factors_are_at_chance(spectra):
    found = np.mean([spectra[f"alike, seed {seed}"]["r8, r64"]["A, untrained"] for seed in range(3)], axis=0)
    assert np.abs(found - pictures.chance()).max() < 0.02


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_budget_marks_its_place():
    view = pictures.budget_view(RUNS)
    assert view.values(place="q v")["mark"] == (40_960, pytest.approx(2.016, abs=1e-3))


def test_words_stay_short(spectra):
    drawn = [pictures.places_figure(RUNS), pictures.rates_figure(RUNS), pictures.directions_figure(spectra)]
    assert all(len(words.split()) <= 85 and "nan" not in words for _, words in drawn)
