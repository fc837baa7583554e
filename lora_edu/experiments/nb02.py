"""The handwritten digits of notebook 02: 1,797 scans of 8x8 pixels, which ship with scikit-learn.

They come from the UCI set "Optical recognition of digits".
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZES = {"train": 1000, "validation": 400, "test": 397}


class Digits(NamedTuple):
    """Some of the digits."""

    images: NDArray  # (n, 8, 8), 0 is paper and 1 is ink
    labels: NDArray  # (n,), 0 to 9


def load_digits() -> dict[str, Digits]:
    """The digits, shuffled once and for all, as "train" (1,000), "validation" (400) and "test" (397)."""
    from sklearn import datasets  # here, because scikit-learn takes a while to import

    data = datasets.load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images, labels = data.images[order] / 16, data.target[order]
    ends = np.cumsum(list(SIZES.values()))
    return {
        name: Digits(images[end - size : end], labels[end - size : end])
        for (name, size), end in zip(SIZES.items(), ends, strict=True)
    }
