"""The rank slider: a matrix, its best approximation of rank r, what is missing, and the error against the rank."""

import matplotlib.pyplot as plt
import numpy as np

from lora_edu.figures.plots import BLUE, GREEN, ORANGE, RED
from lora_edu.figures.sliders import View
from lora_edu.measures import low_rank, relative_errors

LOOKS = ((GREEN, "-."), (BLUE, "-"), (ORANGE, "--"), (RED, ":"))


def rank_view(matrices: dict[str, np.ndarray]) -> View:
    """A view with two controls: matrix (one of the names) and rank (0 up to the largest rank of any of them).

    At most four matrices. A rank above a matrix's own largest rank shows the whole matrix.
    """
    _check_matrices(matrices)
    pieces = {name: np.linalg.svd(np.float64(matrix), full_matrices=False) for name, matrix in matrices.items()}
    figure, (pictures, curve) = _panels()
    images = [_image(axes, title) for axes, title in zip(pictures, ("the matrix", "", "what is missing"), strict=True)]
    for (name, (_, S, _)), (color, style) in zip(pieces.items(), LOOKS, strict=False):
        curve.plot(relative_errors(S), color=color, ls=style, lw=1.6, label=name)
    curve.legend(frameon=False, fontsize=9, loc="upper right")
    (chosen,) = curve.plot([], [], color="black", lw=4, alpha=0.25)  # thick, under the curve of the chosen matrix
    (marker,) = curve.plot([], [], "o", color="black", ms=8)
    title = pictures[1].text(0.5, 1.04, "", ha="center", fontsize=10)
    cost = curve.text(0.5, 1.05, "", ha="center", fontsize=10, transform=curve.transAxes)

    def update(matrix: str, rank: int) -> str:
        M, (U, S, Vt) = matrices[matrix], pieces[matrix]
        rank = min(rank, len(S))
        approximation = low_rank(U, S, Vt, rank)
        error = np.linalg.norm(M - approximation) / np.linalg.norm(M)  # measured, not read off the curve
        center = M.mean() if M.min() >= 0 else 0.0  # a picture has no negative values
        reach = min(np.abs(M - center).max(), 3 * M.std())
        for image, shown, middle in zip(
            images, (M, approximation, M - approximation), (center, center, 0), strict=True
        ):
            _place(image, shown, middle - reach, middle + reach)
        chosen.set_data(range(len(S) + 1), relative_errors(S))
        marker.set_data([rank], [error])
        numbers = rank * sum(M.shape)
        title.set_text(f"rank {rank}")
        cost.set_text(f"error {error:.3f} with {numbers:,} of {M.size:,} numbers")
        return (
            f"{matrix}, rank {rank}: error {error:.3f}, {numbers:,} numbers in the two factors, "
            f"{numbers / M.size:.1%} of the {M.size:,} in the matrix"
        )

    update(next(iter(matrices)), 0)
    return View(figure, [*images, chosen, marker, title, cost], update)


def _panels():
    figure = plt.figure(figsize=(10, 2.9), dpi=96)
    pictures = [figure.add_axes([0.01 + 0.205 * i, 0.06, 0.195, 0.80]) for i in range(3)]
    curve = figure.add_axes([0.69, 0.18, 0.30, 0.70])
    curve.set(xlabel="rank r", ylabel="error, relative to the matrix", ylim=(-0.03, 1.05))
    curve.spines[["top", "right"]].set_visible(False)
    return figure, (pictures, curve)


def _image(axes: plt.Axes, title: str):
    """An empty image in a unit square, in which matrices of every shape find room."""
    axes.set_title(title, fontsize=10)
    image = axes.imshow(np.zeros((2, 2)), cmap="gray", extent=(0, 1, 0, 1), interpolation="nearest", aspect="equal")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.set_axis_off()
    return image


def _place(image, shown: np.ndarray, low: float, high: float) -> None:
    height, width = np.array(shown.shape) / max(shown.shape)
    image.set_data(shown)
    image.set_extent((0.5 - width / 2, 0.5 + width / 2, 0.5 - height / 2, 0.5 + height / 2))
    image.set_clim(low, high)


def _check_matrices(matrices: dict[str, np.ndarray]) -> None:
    if not 1 <= len(matrices) <= len(LOOKS):
        raise ValueError(f"the rank view shows 1 to {len(LOOKS)} matrices, got {len(matrices)}")
    for name, matrix in matrices.items():
        if np.ndim(matrix) != 2 or not np.any(matrix):
            raise ValueError(f"{name!r} must be a matrix with entries other than zero, got shape {np.shape(matrix)}")
