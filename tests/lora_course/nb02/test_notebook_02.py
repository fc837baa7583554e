"""The statements of notebook 02 that a number can guard, each beside the one that would be wrong."""

import numpy as np

from lora_course.experiments import load_results
from lora_course.nb02 import lab


def test_a_row_of_A_is_not_fixed_by_the_update():
    layer = lab.lora(4)[0]
    A, B = lab.turned(layer)
    assert np.allclose(layer.scaling * B @ A, layer.delta_weight())
    assert not np.allclose(np.abs(A @ layer.lora_A.T), np.diag(np.diag(np.abs(A @ layer.lora_A.T))), atol=0.1)


def test_with_plain_descent_the_best_rate_follows_s_and_under_adam_the_two_recipes_cannot_be_told_apart():
    stored, moves = load_results("digit-rates"), {}
    for name, arm in stored["arms"].items():
        best = lab.best_rates(arm, stored["settings"][name]["rates"])
        moves[name] = best[8] / best[2]
    assert moves["plain descent, alpha = 8"] >= 2 and moves["plain descent, alpha = 2r"] == 1
    assert all(0.5 <= moves[f"Adam, alpha = {recipe}"] <= 2 for recipe in ("8", "2r"))  # one step of the grid
