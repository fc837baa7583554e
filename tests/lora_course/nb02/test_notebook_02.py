"""The statements of notebook 02 that a number can guard, each beside the one that would be wrong."""

import numpy as np

from lora_course.experiments import load_results
from lora_course.nb02 import lab


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


def test_with_plain_descent_the_best_rate_follows_s_and_under_adam_the_two_recipes_cannot_be_told_apart():
    stored, moves = load_results("digit-rates"), {}
    for name, arm in stored["arms"].items():
        best = lab.best_rates(arm, stored["settings"][name]["rates"])
        moves[name] = best[8] / best[2]
    assert moves["plain descent, alpha = 8"] >= 2 and moves["plain descent, alpha = 2r"] == 1
    assert all(0.5 <= moves[f"Adam, alpha = {recipe}"] <= 2 for recipe in ("8", "2r"))  # one step of the grid


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
