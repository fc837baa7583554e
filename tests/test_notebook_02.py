"""The statements of notebook 02 that a number can guard, each beside the one that would be wrong."""

import numpy as np
import pytest

from lora_edu.experiments import nb02 as lab
from lora_edu.experiments.runs import EXPERIMENTS, load_results
from lora_edu.figures.nb02 import best_rates
from lora_edu.lora_numpy import Linear

SEEDS = range(3)


@pytest.fixture(scope="module")
def best():
    stored = load_results("digit-rates")
    return {name: best_rates(arm, stored["settings"][name]["rates"]) for name, arm in stored["arms"].items()}


def test_a_factor_moves_to_the_other_side_of_the_sum_and_is_transposed():
    rng = np.random.default_rng(0)
    G, X, A = rng.normal(size=(4, 6)), rng.normal(size=(4, 2)), rng.normal(size=(2, 6))
    by_indices = sum(G[i, j] * X[i, k] * A[k, j] for i, j, k in np.ndindex(4, 6, 2))
    assert np.isclose((G * (X @ A)).sum(), by_indices) and np.isclose(((G @ A.T) * X).sum(), by_indices)


def test_a_row_of_A_is_not_fixed_by_the_update():
    layer = lab.lora(4)[0]
    A, B = lab.turned(layer)
    assert np.allclose(layer.scaling * B @ A, layer.delta_weight())
    assert not np.allclose(np.abs(A @ layer.lora_A.T), np.diag(np.diag(np.abs(A @ layer.lora_A.T))), atol=0.1)


def test_divided_by_the_root_of_d_in_what_B_sees_has_one_size_at_every_width():
    rng = np.random.default_rng(0)
    spread = {}
    for width in (64, 4096):
        x, A = rng.normal(size=(200, width)), rng.uniform(-1, 1, size=(4, width))
        spread[width] = (x @ A.T).std()
    assert spread[4096] / spread[64] > 6  # undivided it grows with the root of the width
    assert abs(spread[4096] / 64 - spread[64] / 8) < 0.05


def test_what_is_kept_depends_on_the_size_of_the_update_and_not_on_the_way():
    """At size 6 full fine-tuning and rank 8, at two rates each, keep about as much; a random update keeps far more."""
    tasks, moments = lab.load_tasks(), (25, 50, 100, 200, 400, 800)
    ways = [(lambda seed: lab.copied(), rate) for rate in (0.1, 0.3)]
    ways += [(lambda seed: lab.adapted(8, 16, seed), rate) for rate in (0.03, 0.1)]

    def look(layers):
        return lab.accuracy(layers, tasks.rotated), lab.accuracy(layers, tasks.upright), lab.size(layers)

    learned, kept = [], []
    for make, rate in ways:
        runs = [lab.watched(make(seed), tasks.rotated, look, moments, rate, seed) for seed in SEEDS]
        new, old, size = np.mean(runs, axis=0).T
        learned.append(np.interp(6, size, new))
        kept.append(np.interp(6, size, old))
    assert np.ptp(kept) < 0.08 and min(learned[:2]) > max(learned[2:]) + 0.05  # LoRA has learned less there
    random = [lab.accuracy(lab.thrown(6, seed), tasks.upright) for seed in range(3)]
    assert min(random) > max(kept) + 0.2
    assert lab.size(lab.thrown(6)) == pytest.approx(6)


def test_the_largest_ranks_close_a_part_of_the_gap_and_not_all():
    """ "It has too few directions" would be right if they closed it."""
    tasks, moments = lab.load_tasks(), (25, 50, 100, 200, 400)
    ways = {"full": (lambda seed: lab.copied(), 0.1), "largest": (lab.largest, 0.03)}
    ways["rank 8"] = lambda seed: lab.adapted(8, 16, seed), 0.03

    def kept(make, lr):
        def both(layers):
            return lab.accuracy(layers, tasks.rotated), lab.accuracy(layers, tasks.upright)

        new, old = np.mean(
            [lab.watched(make(seed), tasks.rotated, both, moments, lr, seed) for seed in SEEDS], axis=0
        ).T
        return np.interp(0.9, new, old)

    found = {name: kept(*way) for name, way in ways.items()}
    assert found["rank 8"] + 0.05 < found["largest"] < found["full"] - 0.1


def test_rank_10_is_slow_on_inverted_digits_and_at_the_mercy_of_the_seed():
    base, tasks = lab.trained_base(), lab.load_tasks()
    inverted = {part: -x for part, x in tasks.upright.items()}
    assert lab.accuracy([base[0], Linear(-base[1].weight)], inverted) == lab.accuracy(base, tasks.upright)

    def path(layers, moments, lr, seed):
        return lab.watched(layers, inverted, lambda trained: lab.accuracy(trained, inverted), moments, lr, seed)

    assert all(path(lab.copied(), [400], 0.3, seed)[0] > 0.85 for seed in SEEDS)
    found = [path(lab.adapted(10, 20, seed), range(200, 2001, 200), 0.1, seed) for seed in (0, 1)]
    assert all(accuracies[1] < 0.6 for accuracies in found)  # slow
    ends = [accuracies[-1] for accuracies in found]
    assert max(ends) > 0.8 and min(ends) < 0.6  # "rank 10 cannot learn it" would be wrong, and "it can" as well


def test_with_plain_descent_the_best_rate_follows_s(best):
    assert best["plain descent, alpha = 8"][8] >= 2 * best["plain descent, alpha = 8"][2]
    assert best["plain descent, alpha = 2r"][8] == best["plain descent, alpha = 2r"][2]


def test_under_adam_the_two_recipes_cannot_be_told_apart(best):
    shifts = [best[f"Adam, alpha = {recipe}"][8] / best[f"Adam, alpha = {recipe}"][2] for recipe in ("8", "2r")]
    assert all(0.5 <= shift <= 2 for shift in shifts)  # one step of the grid either way


def test_alpha_moves_the_rate_of_B_only_by_its_square_or_under_adam_by_itself():
    def two_rates(optimizer, factor):
        for_A, for_B = optimizer(), optimizer()

        def update(parameters, gradients, lr):
            for_A(parameters[0::2], gradients[0::2], lr)
            for_B(parameters[1::2], gradients[1::2], factor * lr)

        return update

    def doubled(optimizer, lr):
        """How far the losses with alpha doubled are from those with 1, 2 and 4 times the rate for B."""

        def losses(alpha, factor):
            layers, update = lab.adapted(4, alpha), two_rates(optimizer, factor)
            return np.array(lab.train(layers, tasks.rotated["train"], tasks.labels["train"], 100, lr, update=update))

        return [np.abs(losses(16, 1) - losses(8, factor)).max() for factor in (1, 2, 4)]

    tasks = lab.load_tasks()
    plain, adam = doubled(lambda: lab.descend, 0.02), doubled(lab.adam, 0.004)
    assert plain[2] < 1e-9 < 0.1 < min(plain[:2])
    assert adam[1] < 1e-4 < 0.1 < min(adam[0], adam[2])


def test_the_stored_search_is_the_one_of_the_code_and_comes_out_again():
    stored = load_results("digit-rates")
    assert stored["settings"] == EXPERIMENTS["digit-rates"].arms
    for name, arm in stored["arms"].items():
        assert arm.keys() == {"2", "4", "8"}
        assert all(len(row) == 8 for rows in arm.values() for row in rows), name
    again = lab.losses_at_rates("descend", "2r", [0.032, 0.512], ranks=[4], seeds=2)["4"]
    there = stored["arms"]["plain descent, alpha = 2r"]["4"]
    assert np.allclose(again[0], there[2][:2], atol=0.02) and again[1] == [None, None] == there[6][:2]
