"""Notebook 02: its digits, its slider at every setting, and the statements that a number can guard."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
from made_up_digits import DIGITS, LABELS, made_up

from lora_course.drawing import looks
from lora_course.experiments import load_results
from lora_course.nb02 import lab, pictures
from lora_course.nb02.lab import AS_TRAINED, SIZES, STRONGEST, best_rates, load_tasks


@pytest.fixture(scope="module")
def view():
    return pictures.rows_of_A(made_up, DIGITS, LABELS, most=3)


def test_the_digits_are_all_there_once_and_balanced():
    tasks, again = load_tasks(), load_tasks.__wrapped__()
    assert {name: len(rows) for name, rows in tasks.upright.items()} == SIZES
    images = np.concatenate(list(tasks.upright.values()))
    assert images.shape == (1797, 64) and images.min() == -1 and images.max() == 1
    for name, labels in tasks.labels.items():
        assert np.array_equal(tasks.upright[name], again.upright[name]) and np.array_equal(labels, again.labels[name])
        assert np.bincount(labels).min() > 0.06 * len(labels)  # ten digits, none of them rare
    assert len(np.unique(images, axis=0)) > 1790  # no part repeats another


@pytest.mark.parametrize("rank", range(4))
@pytest.mark.parametrize("kind", [AS_TRAINED, STRONGEST])
def test_the_rows_drawn_are_those_of_A_and_unused_places_stay_empty(view, rank, kind):
    values = view.values(rank=rank, rows=kind)
    view.draw(values)
    tiles = view.moving[:3]
    assert [tile.get_visible() for tile in tiles] == [k < rank for k in range(3)]
    if rank:
        rows = made_up(rank).rows[kind].reshape(-1, 8, 8)
        assert np.allclose(values["images"][:rank] * np.abs(rows).max(), rows)
        assert np.allclose(values["responses"][:rank].sum(axis=1), 0, atol=1e-9)
    texts = view.moving[-3:]
    assert texts[2].get_text() == ("(9)" if rank < 2 else "4")
    assert texts[2].get_color() == (looks.RED if rank < 2 else "black")


def falling(end, steps=40):
    """A loss that falls from 4 and stays at its end over the last steps."""
    return [*np.linspace(4, end, steps // 2), *np.full(steps // 2, end)]


def test_the_starts_are_drawn_as_means_and_named_beside_their_ends():
    losses = {"A random, B zero": falling(0.1), "A zero, B zero": [7.0] * 40, "A random, B random": falling(0.2)}
    figure, words = pictures.starts(losses, window=10)
    (axes,) = figure.axes
    for line, values in zip(axes.lines, losses.values(), strict=True):
        assert np.array_equal(line.get_xdata(), range(10, 41))
        assert np.isclose(line.get_ydata()[0], np.mean(values[:10]))
        assert np.isclose(line.get_ydata()[-1], values[-1])
    assert [label.get_text() for label in axes.texts] == list(losses)
    assert words.startswith(f"{axes.get_title(loc='left')}. ")
    assert "0.10 with A random, B zero; 7.00 with A zero, B zero; 0.20 with A random, B random." in words
    plt.close(figure)


def test_no_name_of_a_start_lies_on_another_or_on_the_axis():
    losses = {"A random, B zero": falling(0.13), "A zero, B zero": [7.5] * 40, "A random, B random": falling(0.25)}
    figure, _ = pictures.starts(losses)
    figure.canvas.draw()
    (axes,) = figure.axes
    low, zero, high = (label.get_window_extent() for label in axes.texts)
    assert axes.spines["bottom"].get_window_extent().y1 < low.y0
    assert low.y1 < high.y0 and high.y1 < zero.y0
    plt.close(figure)


def test_the_tables_have_a_row_for_each_start_and_each_search():
    start = {"largest change of W": 0.0, "norm of dA": 0.5, "upright digits right": 0.9719}
    header, rows = pictures.starts_table({"A random, B zero": start, "A zero, B zero": start | {"norm of dA": 0.0}})
    assert header == ["start", *start]
    assert rows == [["A random, B zero", 0.0, 0.5, "97.2%"], ["A zero, B zero", 0.0, 0.0, "97.2%"]]
    header, rows = pictures.best_rates_table(
        {"Adam, alpha = 8": {2: 0.1, 8: 0.4}, "Adam, alpha = 2r": {2: 0.2, 8: 0.2}}
    )
    assert header == ["best learning rate", "rank 2", "rank 8"]
    assert rows == [["Adam, alpha = 8", 0.1, 0.4], ["Adam, alpha = 2r", 0.2, 0.2]]


def test_a_rate_at_which_a_seed_diverges_is_never_the_best():
    arm = {rank: [[1.0, 1.2], [0.5, 0.6], [0.1, None]] for rank in ("2", "4", "8")}
    assert best_rates(arm, [0.1, 0.2, 0.4]) == {2: 0.2, 4: 0.2, 8: 0.2}


# --- what the page says, beside what would be wrong ------------------------------------------------------------------


def test_a_row_of_A_is_not_fixed_by_the_update():
    layer = lab.lora(4)[0]
    A, B = lab.turned(layer)
    assert np.allclose(layer.scaling * B @ A, layer.delta_weight())
    assert not np.allclose(np.abs(A @ layer.lora_A.T), np.diag(np.diag(np.abs(A @ layer.lora_A.T))), atol=0.1)


def test_with_plain_descent_the_best_rate_follows_s_and_under_adam_the_two_recipes_cannot_be_told_apart():
    stored, moves = load_results("digit-rates"), {}
    for name, arm in stored["arms"].items():
        best = best_rates(arm, stored["settings"][name]["rates"])
        moves[name] = best[8] / best[2]
    assert moves["plain descent, alpha = 8"] >= 2 and moves["plain descent, alpha = 2r"] == 1
    assert all(0.5 <= moves[f"Adam, alpha = {recipe}"] <= 2 for recipe in ("8", "2r"))  # one step of the grid
