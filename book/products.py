"""Pictures that are a product of two thin matrices: the factors are stored, one byte a number, and static/live.js
multiplies them, for every rank.

A view takes part if its values hold B (d_out, r), A (r, d_in) and whole = B A, and a smaller rank is the first columns
of B and the first rows of A: notebook 01 is about nothing else.
"""

import base64

import numpy as np
from matplotlib.artist import Artist
from matplotlib.image import AxesImage

from lora_edu.figures.sliders import View

PARTS = ("B", "A", "whole")


def factors(view: View, settings: list[dict]) -> dict | None:
    """B and A at the last setting, as static/live.js reads them; None for a view that shows no product."""
    if view.values is None:
        return None
    largest, middle = (view.values(**setting) for setting in (settings[-1], settings[len(settings) // 2]))
    if not all(isinstance(largest.get(part), np.ndarray) for part in PARTS):
        return None
    (B, A), rank = (largest["B"], largest["A"]), middle["A"].shape[0]
    if not (np.allclose(B[:, :rank], middle["B"]) and np.allclose(A[:rank], middle["A"])):
        return None
    (left, left_scale), (right, right_scale) = to_bytes(B.T), to_bytes(A)
    return {"rows": B.shape[0], "columns": A.shape[1], "B": left, "A": right, "scales": [left_scale, right_scale]}


def to_bytes(rows: np.ndarray) -> tuple[str, list[float]]:
    """Each row in int8 with a constant of its own, as notebook 05 does it: the codes in base64, and the constants."""
    step = np.maximum(np.abs(rows).max(axis=1, keepdims=True), 1e-30) / 127
    codes = np.rint(rows / step).astype(np.int8)
    return base64.b64encode(codes.tobytes()).decode("ascii"), [float(f"{value:.6g}") for value in step.flat]


def attributes(artist: Artist, values: dict) -> str:
    """What an image says of itself: which part it shows, at which rank, and which values are black and white."""
    if isinstance(artist, AxesImage):
        shown = np.ma.getdata(artist.get_array())
        for part in PARTS:
            if shown.shape == values[part].shape and np.array_equal(shown, values[part]):
                low, high = artist.get_clim()
                return (
                    f'data-part="{part}" data-rank="{values["A"].shape[0]}" data-low="{low:.5g}" data-high="{high:.5g}"'
                )
    return ""
