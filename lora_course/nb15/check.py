"""The checks of notebook 15, forgetting: what is forgotten at equal KL, and the intruders of an update."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "count_intruders", "extra_forgetting"]

# --- 15.1: forgetting at equal KL ------------------------------------------------------------------------------------

# Not in order, and yet with the first and the last run at their places: so all ways to leave them unsorted agree.
_FULL = [(0.755, 0.092), (1.064, 0.222), (0.97, 0.151), (1.098, 0.294)]
BETWEEN, INSIDE, LINE = "np.interp(kl, x, y)", "between if x[0] <= kl <= x[-1] else np.nan", "np.polyfit"


@exercise(
    "15.1",
    [
        (0.993, 0.283, _FULL),
        (0.9, 0.177, _FULL),
        (0.6, 0.13, _FULL),
        (1.2, 0.5, _FULL),
        (0.8, 0.05, [(0.3, 0.02), (0.6, 0.05), (0.5, 0.06), (0.9, 0.3)]),
    ],
    taught={
        "sorted(runs) -> runs": "Your answer leaves the runs in the order in which they come. `np.interp` wants them "
        "sorted by their KL, and says nothing if they are not.",
        f"{INSIDE} -> between": "Outside of the runs your answer goes on with the last one, as `np.interp` does by "
        "itself. Nothing was measured there: `np.nan`.",
        f"{BETWEEN} -> y[abs(x - kl).argmin()]": "Your answer takes the nearest run. Between two runs, go along "
        "the straight line that joins them.",
        f"else np.nan -> else np.polyval({LINE}(x[:2], y[:2], 1) if kl < x[0] else {LINE}(x[-2:], y[-2:], 1), kl)": ""
        "Your answer draws the line on beyond the last run. Nothing was measured there: `np.nan`.",
        f"{BETWEEN} -> np.polyval({LINE}(x, y, 1), kl)": "Your answer fits one line to all runs. Between two "
        "neighbors, go along the line that joins these two.",
        f"{BETWEEN} -> y.mean()": "Your answer compares with the mean of all runs, whatever their KL. Compare with "
        "one whose KL is {kl} as well.",
        "in_order = sorted(runs) -> (kl, forgotten), in_order = (forgotten, kl), sorted((b, a) for a, b in runs)": ""
        "Your answer compares the KL at equal forgetting. Compare what was forgotten at equal KL.",
    },
    noticed={
        "one number is asked for, and these are several.": lambda got, *case: got.ndim > 0,
        "outside of the runs nothing was measured: the answer there is `np.nan`.": lambda got, kl, b, runs: (
            not min(runs)[0] <= kl <= max(runs)[0]
        ),
        "this is not a number (NaN), though runs were made on both sides.": lambda got, *case: np.isnan(got),
    },
)
def extra_forgetting(kl, forgotten, runs):
    in_order = sorted(runs)  # the order of the runs
    x, y = np.array(in_order).T  # the KL of each run, and what it forgot
    between = np.interp(kl, x, y)  # what is forgotten between two runs
    there = between if x[0] <= kl <= x[-1] else np.nan  # where something was measured, and where not
    return forgotten - there  # how the two are compared


# --- 15.2: intruders -------------------------------------------------------------------------------------------------


def _with_intruders():
    """Cases (W, dW, k, bound): W's strengths fall, dW has three directions; in the last case one where W has none."""
    for seed, d_out, d_in, k, bound, size in [
        (377, 16, 23, 5, 0.45, 8.0),
        (421, 18, 23, 8, 0.6, 8.0),
        (970, 16, 11, 5, 0.45, 3.0),
        (488, 15, 9, 7, 0.55, 8.0),
        # Counts are small numbers: more cases tell more apart.
        (1, 20, 26, 12, 0.17, 9.0),
        (2, 20, 26, 7, 0.45, 5.0),
        (3, 20, 26, 12, 0.5, 9.0),
    ]:
        rng = np.random.default_rng(seed)
        U, V = (np.linalg.qr(rng.normal(size=(side, side)))[0] for side in (d_out, d_in))
        least = min(d_out, d_in)
        W = (U[:, :least] * np.linspace(8, 1, least)) @ V[:, :least].T
        u, v = (m / np.linalg.norm(m, axis=0) for m in (rng.normal(size=(d_out, 3)), rng.normal(size=(d_in, 3))))
        if seed == 488:
            u[:, 0] = 2 * np.linalg.svd(W)[0][:, -1]
        yield W, size * u @ v.T, k, bound


OWN, NEW = "np.linalg.svd(W, full_matrices=False)[0]", "np.linalg.svd(W + dW, full_matrices=False)[0]"
NEAREST = "cosines.max(axis=1)"


@exercise(
    "15.2",
    list(_with_intruders()),
    taught={
        "np.abs(strongest.T @ own) -> strongest.T @ own": "Your answer counts a direction that points the other way as "
        "new. u and -u are one direction: take magnitudes.",
        "strongest.T @ own -> strongest.T @ own[:, :k]": "Your answer compares with the {k} strongest directions of W. "
        "A direction of W is old, however weak it was.",
        f"{NEAREST} -> np.diag(cosines)": "Your answer compares the first direction with the first, the second with "
        "the second. One that has changed its place is not new.",
        f"{NEW} -> {NEW.replace('W + dW', 'dW')}": "Your answer looks at the directions of dW. An intruder is one of "
        "W + dW.",
        f"{OWN} -> {OWN.replace(', full_matrices=False', '')}": "Your answer takes all columns of a square U. Some "
        "belong to no component of W: `full_matrices=False` leaves them out.",
        f"{OWN} -> {OWN.replace('[0]', '[2].T')} & {NEW} -> {NEW.replace('[0]', '[2].T')}": "Your answer takes right "
        "singular vectors, directions of the input. The left ones are asked for.",
    },
    noticed={
        "this is a list. How many are there?": lambda got, *case: got.ndim > 0,
        "this is no whole number: directions are counted.": lambda got, *case: got % 1 != 0,
        "there are at most k.": lambda got, W, dW, k, bound: got > k,
    },
)
def count_intruders(W, dW, k, bound):
    own = np.linalg.svd(W, full_matrices=False)[0]  # W's own directions
    new = np.linalg.svd(W + dW, full_matrices=False)[0]  # the directions that there are now
    strongest = new[:, :k]  # which of these are looked at
    cosines = np.abs(strongest.T @ own)  # how similar each is to each of W's
    nearest = cosines.max(axis=1)  # what is taken of all cosines of a direction
    return int((nearest < bound).sum())  # which are counted
