"""The digits of notebook 02 and its rank slider: every value of every control, without a notebook."""

import io

import numpy as np
import pytest
from PIL import Image

from lora_edu.experiments.nb02 import SIZES, load_digits
from lora_edu.figures import nb02 as digits
from lora_edu.figures import plots
from lora_edu.figures.nb02 import Outcome

LABELS = [3, 1, 4]
IMAGES = np.random.default_rng(0).uniform(size=(3, 8, 8))


@pytest.fixture(scope="module")
def outcomes():
    rng = np.random.default_rng(1)
    return {
        kind: {
            rank: Outcome(rng.normal(size=(6, 5)), 0.1 * rank + shift, 0.9 - 0.1 * rank, [3, 1, 9 if rank < 2 else 4])
            for rank in (1, 2, 3)
        }
        for kind, shift in {"trained": 0.2, "cut": 0.0}.items()
    }


@pytest.fixture(scope="module")
def view(outcomes):
    return digits.rank_view(outcomes, IMAGES, LABELS, base=0.1)


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


def test_each_value_of_the_controls_gives_its_own_picture_and_readout(view, outcomes):
    pictures = set()
    for kind, by_rank in outcomes.items():
        for rank, outcome in by_rank.items():
            picture, readout = view.render(kind=kind, rank=rank)
            pictures.add(np.asarray(Image.open(io.BytesIO(picture))).tobytes())
            shares = f"{outcome.new:.0%} of the rotated digits right, {outcome.old:.0%} of the upright ones"
            assert readout == f"{kind}, rank {rank}: {shares}"
    assert len(pictures) == 6


def test_the_markers_and_the_answers_follow_the_rank(view, outcomes):
    shown, new, old, *texts = view.moving
    view.update(kind="cut", rank=1)
    assert [text.get_text() for text in texts] == ["3", "1", "(9)"] and texts[2].get_color() == plots.RED
    assert np.array_equal(shown.get_array(), outcomes["cut"][1].delta)
    view.update(kind="trained", rank=3)
    assert [text.get_text() for text in texts] == ["3", "1", "4"] and texts[2].get_color() == "black"
    assert np.allclose([new.get_xydata()[0], old.get_xydata()[0]], [[3, 50], [3, 60]])


def test_answers_marks_wrong_ones_without_relying_on_color():
    figure = digits.answers({"upright": (IMAGES, LABELS), "rotated": (IMAGES, [3, 7, 4])}, LABELS)
    assert [axes.get_xlabel() for axes in figure.axes] == ["3", "1", "4", "3", "(7)", "4"]
    plots.plt.close(figure)
