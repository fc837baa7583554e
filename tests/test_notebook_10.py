"""What notebook 10 says about learning and forgetting, each with the stored number that would prove it wrong."""

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

from lora_edu.experiments import load_results, nb10_spectra
from lora_edu.experiments import nb10_runs as records
from lora_edu.experiments.nb10 import BEST_PLACE_RATES, BEST_RANK_RATE, PLACES, RANK_RATES
from lora_edu.figures import nb10 as pictures
from lora_edu.figures import nb10_price as price
from lora_edu.figures import nb10_updates as updates

RUNS = records.all_runs()


@pytest.fixture(scope="module")
def spectra():
    return load_results("lora-spectra")["arms"]


@pytest.fixture(autouse=True)
def no_figures_left():
    yield
    plt.close("all")


def mean(way):
    return np.mean([run.plays for run in records.at_best(RUNS, way)])


# --- the runs -------------------------------------------------------------------------------------------------------


def test_the_base_is_that_of_notebook_09():
    arm = load_results("qlora-quality")["arms"]["lora, not trained"]
    assert records.base_losses() == (arm["after"], arm["addresses"])


def test_a_run_that_both_notebooks_made_is_the_same(spectra):
    """Notebook 09's loss at rank 8, rate 0.01, and that of the run which was taken apart here."""
    (run,) = [run for run in records.of_way(RUNS, "lora r8") if (run.lr, run.seed) == (1e-2, 0)]
    assert [run.plays, run.addresses] == spectra["lora r8, seed 0"]["losses"]


def test_updates_are_taken_apart_at_the_best_rate():
    for way, (_, _, lr) in nb10_spectra.WAYS.items():
        if "lr" not in way:
            assert records.best_rate(RUNS, way) == lr, way


def test_seeds_are_run_at_the_best_rates():
    for way, lr in BEST_PLACE_RATES.items():
        assert records.best_rate(RUNS, way) == lr, way
    for rank in RANK_RATES:
        assert records.best_rate(RUNS, f"lora r{rank}") == BEST_RANK_RATE, rank


@pytest.mark.parametrize("way", ["full", "blocks", "lora r8", "lora r64"])
def test_the_best_rate_is_not_the_last_one_tried(way):
    tried = sorted(run.lr for run in records.of_way(RUNS, way) if run.seed == 0)
    assert tried[0] < records.best_rate(RUNS, way) < tried[-1]


# --- where, which rank, at which rate ---------------------------------------------------------------------------------


def test_queries_alone_learn_least_and_the_mlp_most():
    losses = {way: mean(way) for way in [*PLACES, "all six"]}
    assert max(losses, key=losses.get) == "q"
    assert losses["o"] < losses["q v"]
    assert max(losses[way] for way in ("down", "up down", "all six")) < losses["q k v o"] - 0.03


def test_a_frozen_A_costs_less_than_a_frozen_B_and_both_more_than_none():
    both, B_alone, A_alone = (records.at_best(RUNS, way)[0].plays for way in ("lora r8", "A frozen", "B frozen"))
    assert both < B_alone - 0.02 and B_alone < A_alone - 0.05  # with seed 0, at equal numbers


def test_loss_falls_with_the_rank_and_ends_near_the_same_matrices_in_full():
    losses = [mean(f"lora r{rank}") for rank in pictures.RANKS]
    assert losses == sorted(losses, reverse=True)
    assert abs(losses[-1] - mean("blocks")) < 0.03 and mean("full") < losses[-1] - 0.04


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
    """Not "from ten to 1.5", nor "rank 8 wants five on all plays": full's best rate is a tie of two."""
    assert records.of_way(RUNS, "full").tied() == [0.001, 0.002]
    found = {rank: [float(part) for part in text.split(" to ")] for rank, text in records.multiples(RUNS).items()}
    assert found[8] == pytest.approx([5, 10]) and found[1] == pytest.approx([10, 30])
    assert found[64][-1] < found[1][0]  # whatever one takes of each tie


def test_with_rslora_one_rate_does_as_well_as_with_alpha_fixed():
    regret = records.regret(RUNS, 0.01)
    assert all(max(regret[scaling].values()) < records.TIE for scaling in ("alpha = 16", "alpha / sqrt r"))
    assert regret["alpha = 2r"][1] > 0.03 and regret["alpha = 2r"][64] > 0.1


# --- the price --------------------------------------------------------------------------------------------------------


def test_at_equal_learning_every_adapter_forgets_more_than_full():
    for way in ("lora r1", "lora r2", "lora r4", "lora r8", "qlora r8", "lora r64", "blocks"):
        gaps = price.extra(RUNS, way, "full")
        assert gaps and min(gaps.values()) > (0.005 if way == "blocks" else 0.02), way


def test_at_its_best_rate_rank_8_forgets_less_than_full_at_its_own():
    """The sentence that the page takes apart is true of our own table."""
    ours, full = (np.mean([run.forgotten for run in records.at_best(RUNS, way)]) for way in ("lora r8", "full"))
    assert ours < full - 0.1


def test_the_table_hangs_on_a_tie():
    """At half the rate full learns as much, forgets as little as rank 8 does, and has learned more than that."""
    (less, more), (ours,) = price.at_tied_rates(RUNS, ["full"]), price.at_tied_rates(RUNS, ["lora r8"])
    learned, forgotten = (float(row) for row in less[2:4])
    assert abs(learned - float(more[2])) < 0.02 and forgotten < float(more[3]) - 0.1
    assert forgotten < float(ours[3]) + 0.03 and learned > float(ours[2]) + 0.08


def test_by_the_dial_the_gap_is_small_below_and_large_near_full_strength():
    """Not "the dial closes the gap": that read two points and left those of rank 8 near its best rate out."""
    below = price.dial_gaps("lora r8", "full", 0.5, read_at="full")
    near = {share: price.dial_gaps("lora r8", "full", share, read_at="lora r8") for share in (0.9, 1.0)}
    assert len(below) >= 2 and all(abs(gap) < 0.03 and learned < 0.96 for learned, gap in below.values())
    assert min(gap for _, gap in near[0.9].values()) > 0.04 and min(gap for _, gap in near[1.0].values()) > 0.1
    wide = price.dial_gaps("lora r64", "full", 0.5, read_at="full").values()
    assert max(gap for _, gap in wide) < 0  # rank 64 lies below full from its lowest loss
    same = price.dial_gaps("lora r8", "blocks", 0.5, read_at="blocks").values()
    assert max(gap for _, gap in same) < 0  # beside the same matrices it forgets less there
    for way in ("lora r8", "lora r64"):  # from half its rate full forgets less than adapters
        other = price.dial_gaps(way, price.HALF, 0.9, read_at=way).values()
        assert other and min(gap for _, gap in other) > 0.03
    half, tenth = price.dialed("lora r8"), records.front(RUNS, "lora r8")[0]
    learned, forgotten = half[np.abs(half[:, 0] - 0.82).argmin()]
    assert learned > tenth[0] and forgotten < tenth[1] / 2


def test_lines_along_the_dial_sag_so_that_straight_ones_lie_above():
    """What "at most" and "at least" in the table stand on: leaving a point out moves the line up, never down."""
    for whole in [whole for way in ("full", "blocks", "lora r8") for whole in price.dial_of(way).values()]:
        line = whole[: whole[:, 1].argmax() + 1, 1:]
        for k in range(1, len(line) - 1):
            assert records.forgotten_at(np.delete(line, k, axis=0), line[k, 0]) > line[k, 1]


def test_outside_the_runs_there_is_no_number():
    points = np.array([(0.9, 0.2), (0.5, 0.1), (1.0, 0.4)])  # in the order of the rates, not of what was learned
    assert records.forgotten_at(points, 0.7) == pytest.approx(0.15)
    assert np.isnan(records.forgotten_at(points, 0.49)) and np.isnan(records.forgotten_at(points, 1.01))


# --- what lies in the updates -----------------------------------------------------------------------------------------


def test_runs_agree_on_where_they_write_more_than_on_what_they_read(spectra):
    for run in updates.of_seeds(spectra, "alike"):
        writes, reads, A = (np.array(run["r8, r64"][side]) for side in ("output", "input", "A"))
        assert (writes > 1.3 * reads).all() and (writes > 1.3 * A).all()
        assert reads[0, 0] > 10 / 256  # the strongest one is above chance, too
        assert run["r8, r64, same seed"]["output"][0][0] > 1.4 * writes[0, 0]
        assert run["r8, W"]["output"][0][0] < writes[0, 0] / 2


def test_in_full_the_lead_of_writing_is_small(spectra):
    """Not "what is read differs from run to run": with no random start, two runs read nearly the same directions."""
    for run in updates.of_seeds(spectra, "alike, no start"):
        writes, reads = (np.array(run["blocks, blocks"][side]) for side in ("output", "input"))
        assert (1 < writes / reads).all() and (writes / reads < 1.3).all()
    grids = updates.shared(spectra)
    assert grids["A minus its start"][3, 3] > 1.5 * grids["adapters read: A"][3, 3]
    assert grids["A minus its start"][0, 0] < 1.2 * grids["adapters read: A"][0, 0]
    assert (grids["in full, read"] > grids["adapters write"]).all()


def test_untrained_factors_are_at_chance(spectra):
    grid = updates.mean_grid(spectra, "r8, r64", "A, untrained")
    assert np.abs(grid - updates.chance()).max() < 0.02


def test_components_in_full_are_six_times_the_rank_that_an_adapter_is_given(spectra):
    """Biderman et al. compare with the configured rank: 6 is below their 10, "12 times" compared with another thing."""
    full = updates.mean_rank(spectra, "blocks")
    assert 5.5 < full / 8 < 7 and full / 64 < 1


def test_intruders_come_with_norm_in_few_components(spectra):
    """Not "with the norm": the norm of rank 8's updates over 256 components makes none, over 8 as many as trained."""
    trained, turned = (updates.count_curve(spectra, "lora r8", which)[:, 1] for which in (0, 1))
    assert (np.diff(trained) > 0).all() and abs(trained[1] - turned[1]) < 8
    everywhere, few = (updates.spread_curve(spectra, "lora r8", components)[:, 1] for components in (256, 8))
    assert everywhere[1] == 0 and everywhere[2] < 5 and few[1] > 15


def test_the_directions_of_the_update_in_full_do_count(spectra):
    """Not "turned at random it has about as many": that holds for adapters alone."""
    trained, turned = (updates.count_curve(spectra, "blocks", which)[2] for which in (0, 1))
    assert trained[0] < 0.35 and trained[1] > 2 * turned[1] > 0


def test_the_dial_wins_back_more_than_cutting_intruders(spectra):
    dial = updates.cut_line(spectra, "lora r8", "dial")
    for lost, won in updates.cut_line(spectra, "lora r8", "intruders")[1:3]:
        assert won > 0 and np.interp(max(lost, 0), *dial.T) > 1.5 * won
    table = updates.cut_table(spectra)
    assert table["old directions, 0.25"][1] < 0  # the control that must fail


def test_at_equal_cost_intruders_and_the_rest_change_places(spectra):
    """So the page compares cuts with the dial alone."""
    lines = [updates.cut_line(spectra, "lora r8", name) for name in ("intruders", "rest of dW")]
    small, large = ([np.interp(cost, *line.T) for line in lines] for cost in (0.002, 0.02))
    assert small[0] > 1.5 * small[1] and large[0] < large[1]


# --- pictures ---------------------------------------------------------------------------------------------------------


def test_the_cloud_answers_each_rank():
    view = pictures.cloud_view(RUNS)
    seen = [view.render(rank=rank) for rank in pictures.RANKS]
    assert len({picture for picture, _ in seen}) == len({readout for _, readout in seen}) == len(pictures.RANKS)
    assert "nan" not in " ".join(readout for _, readout in seen)
    values = view.values(rank=8)
    assert len(values["line"]) == 4 and len(values["rounded"]) >= 4


def test_words_stay_short(spectra):
    drawn = [
        pictures.places_figure(RUNS),
        pictures.ranks_figure(RUNS),
        price.price_figure(RUNS),
        updates.similarity_figure(spectra),
        updates.angles_figure(spectra),
        updates.spectrum_figure(updates.stored_layer(), {"rank 8": 4.0}),
        updates.intruders_figure(spectra),
    ]
    assert all(len(words.split()) <= 85 and "nan" not in words for _, words in drawn)


def test_the_stored_layer_is_what_the_experiment_says():
    layer = updates.stored_layer()
    assert layer["r8 A"].shape == (8, 256) and layer["r64 again B"].shape == (256, 64)
    assert layer["blocks dW"].shape == layer["W"].shape == (256, 256)
    dW = 2 * layer["r8 B"] @ layer["r8 A"]
    assert 0.1 < (dW.norm() / layer["W"].norm()).item() < 0.8 and torch.linalg.matrix_rank(dW) == 8
