"""The checks of notebook 10, what LoRA learns: subspaces and forgetting. The others are in `nb10_updates`."""

import numpy as np

from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb10_updates import amplification, count_intruders

__all__ = ["amplification", "beside", "count_intruders", "extra_forgetting", "shared"]

# --- 10.1: what two subspaces share ----------------------------------------------------------------------------------


def _factors() -> list[tuple]:
    """Cases (M, N, i, j): two factors that share some directions; i, j and the rank differ."""
    cases = []
    for seed, (rank, d, i, j) in enumerate([(5, 9, 2, 3), (4, 12, 3, 2), (6, 10, 1, 4)]):
        rng = np.random.default_rng(seed)
        M, N = rng.normal(size=(2, rank, d))
        cases.append((M, N + 0.8 * M[::-1], i, j))
    return cases


def _both(new: str) -> str:
    """The edit that takes something else of both factors."""
    return f"svd(M)[2] -> {new.format('M')} & svd(N)[2] -> {new.format('N')}"


END = "return together / most"


@exercise(
    "10.1",
    _factors(),
    taught={
        _both("svd({})[0].T"): "Your answer takes left singular vectors, combinations of the rows. Directions of the "
        "input are the right ones: rows of Vt.",
        _both("svd({})[2].T"): "Your answer takes columns of NumPy's Vt, coordinates of all directions. It has a "
        "direction in each *row*.",
        "np.linalg.svd(M)[2] -> M & np.linalg.svd(N)[2] -> N": "Your answer takes the rows of the factors as they are. "
        "Take singular vectors: of length 1, at right angles, the strongest first.",
        "cosines**2).sum() -> np.diag(cosines) ** 2).sum()": "Your answer compares the first direction with the first, "
        "the second with the second. Each of M's {i} is compared with each of N's {j}.",
        "min(i, j) -> max(i, j)": "Your answer divides by the larger of i and j. A subspace inside of the other one "
        "must give 1: divide by {most}.",
        f"{END} -> {END} - max(i, j) / M.shape[1]": "Your answer subtracts what chance gives. phi itself is asked for: "
        "the control stands beside it.",
        "(cosines**2).sum() -> np.linalg.norm(cosines, 2) ** 2": "Your answer takes the largest cosine of an angle "
        "between the two (`ord=2`). phi takes the Frobenius norm: all entries.",
    },
    also=(
        "np.linalg.svd(M)[2] -> M / np.linalg.norm(M, axis=1, keepdims=True) & np.linalg.svd(N)[2] -> N / "
        "np.linalg.norm(N, axis=1, keepdims=True)",
        _both("svd({}, full_matrices=False)[2].T"),
        "np.linalg.svd(M)[2] -> np.linalg.qr(M.T)[0].T & np.linalg.svd(N)[2] -> np.linalg.qr(N.T)[0].T",
        "np.linalg.svd(M)[2] -> np.linalg.svd(M)[1][:, None] * np.linalg.svd(M, full_matrices=False)[2] & "
        "np.linalg.svd(N)[2] -> np.linalg.svd(N)[1][:, None] * np.linalg.svd(N, full_matrices=False)[2]",
        *(f"one[:i] @ other[:j].T -> {taken}" for taken in (
            "one[:j] @ other[:i].T", "one[: (i := i + 1)] @ other[: (j := j + 1)].T", "one[: (i := j)] @ other[:j].T",
            "one[:i] @ other[: (j := i)].T", "one[: (i := len(M))] @ other[: (j := len(N))].T",
            "one[len(M) - i : len(M)] @ other[len(N) - j : len(N)].T")),
        *(f"(cosines**2).sum() -> {measure}" for measure in (
            "np.linalg.norm(cosines)", "np.abs(cosines).sum()", "np.trace(cosines)",
            "np.linalg.norm(cosines, 'nuc')", "np.linalg.norm(cosines, 2)")),
        *(f"{END} -> {end}" for end in ("return 1 - together / most", "return (together / most) ** 0.5",
          f"{END} / max(i, j) * M.shape[1]")),
        *(f"min(i, j) -> {by}" for by in ("i * j", "i + j", "(i * j) ** 0.5", "M.shape[1]", "len(M)")),
        f"{END} -> return max(i, j) / M.shape[1]",
    ),
    noticed={
        "this is a table. One number is asked for: add up all squared cosines.": lambda got, *case: got.ndim > 0,
        "phi lies between 0 and 1. This is larger.": lambda got, *case: got > 1 + 1e-6,
        "phi is a sum of squares: it cannot be below 0.": lambda got, *case: got < -1e-6,
    },
)  # fmt: skip
def shared(M, N, i, j):
    one = np.linalg.svd(M)[2]  # the directions of M
    other = np.linalg.svd(N)[2]  # the directions of N
    cosines = one[:i] @ other[:j].T  # which directions are compared
    together = (cosines**2).sum()  # what is made of all cosines
    most = min(i, j)  # the largest value that there can be
    return together / most  # what stands above and below the line


# --- 10.2: forgetting at equal learning ------------------------------------------------------------------------------

# Not in order, and yet with the first and the last run at their places: so all ways to leave them unsorted agree.
_FULL = [(0.755, 0.092), (1.064, 0.222), (0.97, 0.151), (1.098, 0.294)]
BETWEEN, INSIDE, LINE = "np.interp(learned, x, y)", "between if x[0] <= learned <= x[-1] else np.nan", "np.polyfit"
LEFT_OF, RIGHT_OF = "y[max(0, sum(x <= learned) - 1)]", "y[min(sum(x < learned), len(y) - 1)]"


@exercise(
    "10.2",
    [
        (0.993, 0.283, _FULL),
        (0.9, 0.177, _FULL),
        (0.6, 0.13, _FULL),
        (1.2, 0.5, _FULL),
        (0.8, 0.05, [(0.3, 0.02), (0.6, 0.05), (0.5, 0.06), (0.9, 0.3)]),
    ],
    taught={
        "sorted(runs) -> runs": "Your answer leaves the runs in the order in which they come. `np.interp` wants them "
        "sorted by what they learned, and says nothing if they are not.",
        f"{INSIDE} -> between": "Outside of the runs your answer goes on with the last one, as `np.interp` does by "
        "itself. Nothing was measured there: `np.nan`.",
        f"{BETWEEN} -> y[abs(x - learned).argmin()]": "Your answer takes the nearest run. Between two runs, go along "
        "the straight line that joins them.",
        f"else np.nan -> else np.polyval({LINE}(x[:2], y[:2], 1) if learned < x[0] else {LINE}(x[-2:], y[-2:], 1), "
        "learned)": "Your answer draws the line on beyond the last run. Nothing was measured there: `np.nan`.",
        f"{BETWEEN} -> np.polyval({LINE}(x, y, 1), learned)": "Your answer fits one line to all runs. Between two "
        "neighbors, go along the line that joins these two.",
        f"{BETWEEN} -> y.mean()": "Your answer compares with the mean of all runs, whatever they learned. Compare with "
        "one that has learned {learned} as well.",
        "in_order = sorted(runs) -> (learned, forgotten), in_order = (forgotten, learned), sorted((b, a) for a, b in "
        "runs)": "Your answer compares what was learned at equal forgetting. Compare what was forgotten at equal "
        "learning.",
    },
    also=(
        "sorted(runs) -> sorted(runs, key=lambda run: run[1])",
        *(f"else np.nan -> else {outside}" for outside in ("forgotten", "-np.inf", "0")),
        *(f"{INSIDE} -> between if {kept} else np.nan" for kept in (
            "x[0] <= learned", "learned <= x[-1]", "x[0] < learned < x[-2]", "x[1] < learned < x[-2]")),
        *(f"{BETWEEN} -> {other}" for other in (
            LEFT_OF, RIGHT_OF, f"({LEFT_OF} + {RIGHT_OF}) / 2", "y.min()", "y.max()", "runs[0][1]",
            "np.interp(learned, x[[0, -1]], y[[0, -1]])", "np.interp(learned, [0, *x], [0, *y]) & x[0] <= -> 0 <=",
            f"np.polyval({LINE}(x, y, 2), learned)")),
        *(f"return forgotten - there -> return {end}" for end in (
            "forgotten / there", "forgotten / there - 1", "(forgotten - there) / learned", "np.nan")),
    ),
    noticed={
        "one number is asked for, and these are several.": lambda got, *case: got.ndim > 0,
        "outside of the runs nothing was measured: the answer there is `np.nan`.": lambda got, learned, b, runs: (
            not min(runs)[0] <= learned <= max(runs)[0]
        ),
        "this is not a number (NaN), though runs were made on both sides.": lambda got, *case: np.isnan(got),
    },
)  # fmt: skip
def extra_forgetting(learned, forgotten, runs):
    in_order = sorted(runs)  # the order of the runs
    x, y = np.array(in_order).T  # what each run learned, and what it forgot
    between = np.interp(learned, x, y)  # what is forgotten between two runs
    there = between if x[0] <= learned <= x[-1] else np.nan  # where something was measured, and where not
    return forgotten - there  # how the two are compared
