"""The digits of notebook 02, its slider at every setting, and its pictures: what each says is in its numbers."""

import io

import numpy as np
import pytest
from PIL import Image

from lora_edu.experiments.nb02 import AS_TRAINED, SIZES, STRONGEST, Outcome, best_rates, load_digits
from lora_edu.figures import nb02 as pictures
from lora_edu.figures import plots

LABELS = [3, 1, 4]
DIGITS = np.random.default_rng(0).uniform(-1, 1, size=(3, 64))


def made_up(rank):
    rng = np.random.default_rng(rank)
    kinds = (AS_TRAINED, STRONGEST) if rank else ()
    return Outcome(
        rows={kind: rng.normal(size=(rank, 64)) for kind in kinds},
        responses={kind: rng.normal(size=(rank, 10)) for kind in kinds},
        shares=np.array([0.9, 0.09, 0.01])[:rank],
        new=0.1 + 0.2 * rank,
        old=0.9 - 0.2 * rank,
        given=np.array([3, 1, 9 if rank < 2 else 4]),
    )


@pytest.fixture(scope="module")
def view():
    return pictures.rows_of_A(made_up, DIGITS, LABELS, most=3)


def settings():
    return [{"rank": rank, "rows": kind} for rank in range(4) for kind in (AS_TRAINED, STRONGEST)]


def test_the_digits_are_all_there_once_and_balanced():
    parts = load_digits()
    assert {name: len(part.images) for name, part in parts.items()} == SIZES
    images = np.concatenate([part.images for part in parts.values()])
    assert images.shape == (1797, 8, 8) and images.min() == 0 and images.max() == 1
    again = load_digits()
    for name, part in parts.items():
        assert np.array_equal(part.images, again[name].images) and np.array_equal(part.labels, again[name].labels)
        assert np.bincount(part.labels).min() > 0.06 * len(part.labels)  # ten digits, none of them rare
    flat = np.round(16 * images).reshape(len(images), 64)
    assert len(np.unique(flat, axis=0)) > 1790  # no part repeats another


def test_each_setting_gives_its_own_picture_and_readout(view):
    found = [view.render(**setting) for setting in settings()]
    shown = {np.asarray(Image.open(io.BytesIO(picture))).tobytes() for picture, _ in found}
    assert len(shown) == 7  # without an adapter there are no rows to choose
    assert found[0][1] == "no adapter: 10% of the rotated digits right, 90% of the upright ones"
    assert found[6][1] == "rank 3: 70% of the rotated digits right, 30% of the upright ones."
    assert found[7][1].endswith("2 of 3 components hold 98% of its squared norm.")


@pytest.mark.parametrize("setting", settings())
def test_the_rows_drawn_are_those_of_A_and_unused_places_stay_empty(view, setting):
    values = view.values(**setting)
    view.draw(values)
    rank = setting["rank"]
    tiles = view.moving[:3]
    assert [tile.get_visible() for tile in tiles] == [k < rank for k in range(3)]
    if rank:
        rows = made_up(rank).rows[setting["rows"]].reshape(-1, 8, 8)
        assert np.allclose(values["images"][:rank] * np.abs(rows).max(), rows)
        assert np.allclose(values["responses"][:rank].sum(axis=1), 0, atol=1e-9)
    texts = view.moving[-3:]
    assert texts[2].get_text() == ("(9)" if rank < 2 else "4")
    assert texts[2].get_color() == (plots.RED if rank < 2 else "black")


def test_the_controls_reach_every_setting():
    controls = pictures.rows_controls(most=8)
    assert (controls["rank"].min, controls["rank"].max) == (0, 8)
    assert controls["rows"].options == (AS_TRAINED, STRONGEST)
    assert all(control.description for control in controls.values())


def test_answers_marks_wrong_ones_without_relying_on_color():
    figure, words = pictures.answers({"upright": (DIGITS, LABELS), "rotated": (DIGITS, [3, 4, 4])}, LABELS)
    assert [axes.get_xlabel() for axes in figure.axes] == ["3", "1", "4", "3", "(4)", "4"]
    assert words.startswith("Upright: 3 of 3 right, 1 answered 4; rotated: 2 of 3 right, 2 answered 4.")
    plots.plt.close(figure)


def test_the_words_of_the_results_follow_the_numbers():
    new = {0: 0.1, 1: 0.6, 2: 0.9, 4: 0.95, 8: 0.96, "full": 0.97}
    old = {0: 0.97, 1: 0.1, 2: 0.1, 4: 0.2, 8: 0.3, "full": 0.4}
    figure, words = pictures.ranks(new, old)
    assert "From rank 4 on" in words and "10% to 30% with an adapter, 40% after full" in words
    plots.plt.close(figure)
    assert pictures.enough({**new, 2: 0.945}) == 2


def test_a_rate_at_which_a_seed_diverges_is_never_the_best():
    arm = {rank: [[1.0, 1.2], [0.5, 0.6], [0.1, None]] for rank in ("2", "4", "8")}
    assert best_rates(arm, [0.1, 0.2, 0.4]) == {2: 0.2, 4: 0.2, 8: 0.2}


def test_what_is_kept_at_one_size_is_compared_with_the_first_way():
    """Points over the first way, between its moments: half way from size 4 to 6 it keeps 50%, the other 80%."""
    paths = {"full": np.array([[0, 0.6, 4], [0, 0.4, 6]]), "rank 8": np.array([[0, 0.9, 4], [0, 0.7, 6]])}
    figure, words = pictures.price(paths, sizes=(5, 8))
    assert "Points over full at sizes 5, 8: rank 8 +30." in words  # it never got to size 8
    plots.plt.close(figure)
