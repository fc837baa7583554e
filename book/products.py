"""Pictures that are a product of two thin matrices: the factors are stored, a letter a number, and static/live.js
multiplies them, for every rank.

A view takes part if its values hold B (d_out, r), A (r, d_in) and whole = B A, and a smaller rank is the first columns
of B and the first rows of A: notebook 01 is about nothing else.
"""

import numpy as np
from matplotlib.artist import Artist
from matplotlib.image import AxesImage

from lora_course.drawing.sliders import View

PARTS = ("B", "A", "whole")
LEVELS, ZERO = 60, 256  # steps to the largest number; the letter for none, past those that JSON escapes


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
    (left, left_step), (right, right_step) = to_letters(B.T), to_letters(A)
    return {"rows": B.shape[0], "columns": A.shape[1], "B": left, "A": right, "steps": [left_step, right_step]}


def to_letters(rows: np.ndarray) -> tuple[str, float]:
    """Numbers rounded to multiples of one step, a letter each, and the step. Weak rows come to few letters, which pack
    well."""
    step = float(f"{max(np.abs(rows).max(), 1e-30) / LEVELS:.6g}")
    return "".join(chr(ZERO + round(value / step)) for value in rows.flat), step


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
