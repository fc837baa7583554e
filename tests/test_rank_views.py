import io
import re

import numpy as np
import pytest
from PIL import Image

from lora_edu.figures.nb01 import rank_view
from lora_edu.measures import low_rank, relative_errors


@pytest.fixture(scope="module")
def matrices():
    rng = np.random.default_rng(0)
    return {
        "picture": rng.uniform(0, 1, size=(30, 20)),
        "wide": rng.normal(size=(8, 40)),
        "rank two": rng.normal(size=(12, 2)) @ rng.normal(size=(2, 25)),
    }


@pytest.fixture(scope="module")
def view(matrices):
    return rank_view(matrices)


def test_low_rank_is_the_best_of_its_rank(matrices):
    M = matrices["wide"]
    U, S, Vt = np.linalg.svd(M, full_matrices=False)
    for rank in range(9):
        approximation = low_rank(U, S, Vt, rank)
        assert np.linalg.matrix_rank(approximation) == rank
        error = np.linalg.norm(M - approximation) / np.linalg.norm(M)
        assert error == pytest.approx(relative_errors(S)[rank], abs=1e-12)
    assert np.allclose(low_rank(U, S, Vt, 8), M)
    B = np.random.default_rng(1).normal(size=(8, 3))
    assert np.linalg.norm(M - B @ np.linalg.pinv(B) @ M) / np.linalg.norm(M) > relative_errors(S)[3]


def test_relative_errors_fall_from_one_to_zero():
    errors = relative_errors(np.array([4.0, 2.0, 2.0, 1.0]))
    assert errors.tolist() == pytest.approx([1, (9 / 25) ** 0.5, (5 / 25) ** 0.5, (1 / 25) ** 0.5, 0])


def test_a_sweep_over_all_values_of_the_controls(view, matrices):
    for name, M in matrices.items():
        S = np.linalg.svd(M, compute_uv=False)
        for rank in range(31):
            png, readout = view.render(matrix=name, rank=rank)
            assert png.startswith(b"\x89PNG")
            said_rank, said_error = re.fullmatch(r".*, rank (\d+): error ([\d.]+), .* in the matrix", readout).groups()
            assert int(said_rank) == min(rank, len(S))
            assert float(said_error) == pytest.approx(relative_errors(S)[min(rank, len(S))], abs=6e-4)


def test_the_readout_counts_the_numbers(view):
    readout = view.update(matrix="wide", rank=3)
    assert readout.startswith("wide, rank 3: error 0.")
    assert readout.endswith(", 144 numbers in the two factors, 45.0% of the 320 in the matrix")


def test_what_is_shown(view, matrices):
    view.update(matrix="rank two", rank=1)
    shown, approximation, missing = (artist.get_array() for artist in view.moving[:3])
    assert np.allclose(shown, matrices["rank two"]) and np.linalg.matrix_rank(approximation) == 1
    assert np.allclose(approximation + missing, shown)
    view.update(matrix="rank two", rank=2)
    assert np.abs(view.moving[2].get_array()).max() < 1e-12
    left, right, bottom, top = view.moving[0].get_extent()
    assert right - left == pytest.approx(1) and top - bottom == pytest.approx(12 / 25)  # not stretched


def test_the_picture_follows_the_rank(view):
    def pixels(**values):
        return np.asarray(Image.open(io.BytesIO(view.render(**values)[0])))

    first = pixels(matrix="picture", rank=2)
    assert (first == pixels(matrix="picture", rank=2)).all()
    assert not (first == pixels(matrix="picture", rank=9)).all()


def test_what_cannot_be_shown(matrices):
    with pytest.raises(ValueError, match="shows 1 to 4 matrices, got 0"):
        rank_view({})
    with pytest.raises(ValueError, match=r"'zero' must be a matrix with entries other than zero, got shape \(3, 4\)"):
        rank_view({"zero": np.zeros((3, 4))})
    with pytest.raises(ValueError, match=r"'line' must be a matrix"):
        rank_view({"line": np.ones(3)})
