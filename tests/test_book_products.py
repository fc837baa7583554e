"""The factors of notebook 01's picture, a letter a number, multiply to what the Python view shows, at any rank."""

from pathlib import Path

import numpy as np
import pytest
import torch

from book import live, products
from book.svg import SVGRenderer
from lora_edu.figures import nb01, nb05
from lora_edu.figures.sliders import View

ROOT = Path(__file__).parent.parent
SETTINGS = [{"rank": rank} for rank in range(171)]


@pytest.fixture(scope="module")
def view():
    return nb01.portrait_view(nb01.portrait())


def decoded(text, step, length):
    return step * (np.array([ord(letter) for letter in text]) - products.ZERO).reshape(-1, length)


def test_the_letters_multiply_to_the_picture(view):
    stored = products.factors(view, SETTINGS)
    columns_of_B = decoded(stored["B"], stored["steps"][0], stored["rows"])  # (170, 200)
    rows_of_A = decoded(stored["A"], stored["steps"][1], stored["columns"])  # (170, 170)
    assert len(live.packed(stored)) < 60_000
    for rank in np.linspace(0, 170, 20).round().astype(int):
        shown = columns_of_B[:rank].T @ rows_of_A[:rank]
        error = np.abs(shown - view.values(int(rank))["whole"])
        assert error.max() < 0.05 and np.sqrt(np.mean(error**2)) < 1 / 128  # of black to white
    wrong = columns_of_B[::-1].T @ rows_of_A  # control: the columns in another order
    assert np.abs(wrong - view.values(170)["whole"]).max() > 0.5


def test_an_image_says_which_part_it_shows(view):
    view.update(rank=24)
    values = view.values(24)
    said = [products.attributes(artist, values) for artist in view.moving]
    assert [text.split()[0] for text in said if text] == ['data-part="whole"', 'data-part="B"', 'data-part="A"']
    assert all('data-rank="24"' in text for text in said if text)
    assert said[0].endswith('data-low="0" data-high="1"')
    fragment = SVGRenderer(view.figure, "x").fragment([view.moving[0]], said[0])
    assert fragment.startswith("<foreignObject ") and f"<canvas {said[0]}></canvas>" in fragment


def test_other_views_have_no_product(view):
    block = torch.randn(64, generator=torch.Generator().manual_seed(0))
    settings = [{"size": size, "shared": nb05.ONE_CONSTANT} for size in (1, 3, 5)]
    assert products.factors(nb05.outlier_view(block), settings) is None

    def backward(rank):
        return {**view.values(rank), "B": view.values(rank)["B"][:, ::-1]}

    turned = View(view.figure, backward, print)
    assert products.factors(turned, SETTINGS) is None  # a smaller rank is not the first columns
