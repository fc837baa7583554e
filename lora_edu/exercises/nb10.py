"""The checks of notebook 10, what LoRA learns."""

import numpy as np

from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.mistakes import combinations
from lora_edu.exercises.nb10_updates import amplification, count_intruders

__all__ = ["amplification", "beside", "count_intruders", "extra_forgetting", "shared"]

# --- 10.1: what two subspaces share ----------------------------------------------------------------------------------


def _shared(M, N, i, j, which="right", taken="strongest", measure="squares", by="min", besides="nothing"):
    """The answer with a mistake in one part or several."""
    one, other = (_vectors(matrix, which) for matrix in (M, N))  # columns
    i, j = {"swapped": (j, i), "all": (len(M), len(M)), "more": (i + 1, j + 1), "i twice": (i, i),
            "j twice": (j, j)}.get(taken, (i, j))  # fmt: skip
    if taken == "weakest":
        one, other = one[:, ::-1], other[:, ::-1]
    cosines = one[:, :i].T @ other[:, :j]
    value = {
        "squares": lambda: (cosines**2).sum(),
        "norm": lambda: np.linalg.norm(cosines),
        "magnitudes": lambda: np.abs(cosines).sum(),
        "sum": lambda: cosines.sum(),
        "largest": lambda: (cosines**2).max(),
        "spectral": lambda: np.linalg.norm(cosines, 2) ** 2,
        "diagonal": lambda: (np.diag(cosines) ** 2).sum(),
        "fourth": lambda: (cosines**2).sum() ** 2,
        "trace": lambda: np.trace(cosines),
        "nuclear": lambda: np.linalg.svd(cosines)[1].sum(),
        "ord 2": lambda: np.linalg.norm(cosines, 2),
        "one": lambda: np.abs(cosines).max() * min(i, j),
    }[measure]()
    value = value / {"min": min(i, j), "max": max(i, j), "nothing": 1, "i": i, "j": j, "product": i * j,
                     "d": M.shape[1], "sum": i + j, "root": min(i, j) ** 0.5, "rank": len(M),
                     "mean": (i * j) ** 0.5}[by]  # fmt: skip
    chance = max(i, j) / M.shape[1]
    return {"nothing": value, "chance off": value - chance, "times chance": value / chance, "angle": 1 - value,
            "root": max(0, value) ** 0.5}[besides]  # fmt: skip


def _vectors(matrix, which):
    U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
    rows = matrix / np.linalg.norm(matrix, axis=1, keepdims=True)
    return {"right": Vt.T, "left": U, "rows": rows.T, "raw": matrix.T, "scaled": Vt.T * S, "Vt": Vt,
            "full": np.linalg.svd(matrix)[2], "qr": np.linalg.qr(matrix.T)[0]}[which]  # fmt: skip


def _factors() -> list[tuple]:
    """Cases (M, N, i, j): two factors that share some directions; i, j and the rank differ."""
    cases = []
    for seed, (rank, d, i, j) in enumerate([(5, 9, 2, 3), (4, 12, 3, 2), (6, 10, 1, 4)]):
        rng = np.random.default_rng(seed)
        M, N = rng.normal(size=(2, rank, d))
        cases.append((M, N + 0.8 * M[::-1], i, j))
    return cases


SHARED_CASES = _factors()
SHARED_MEASURE = {
    "norm": "this is the norm itself: phi takes its square.",
    "magnitudes": "this adds up the magnitudes of all cosines. Add up their squares.",
    "sum": "this adds up the cosines, where plus and minus cancel. Add up their squares.",
    "largest": "this is the largest squared cosine alone. All of them count.",
    "spectral": "this is the spectral norm (`ord=2`). phi takes the Frobenius norm, all entries.",
    "diagonal": "this compares direction 1 with 1, 2 with 2. Each direction of M is compared with each of N.",
    "fourth": "this squares twice.",
    "trace": "this is a trace: the diagonal alone, where signs cancel. All squared cosines count.",
}
SHARED_MEASURE |= {
    "nuclear": "this adds up the cosines of the angles between the subspaces. Add up their squares.",
    "ord 2": "this takes the spectral norm (`ord=2`). phi takes the Frobenius norm, all entries, squared.",
    "one": "this is the largest cosine alone. The squares of all of them count.",
}
SHARED_BY = {
    "max": "this divides by the larger of i and j. A subspace inside the other one must give 1.",
    "nothing": "this is not divided by min(i, j): phi lies between 0 and 1.",
    "product": "this divides by i * j. Divide by min(i, j), the largest value that there can be.",
    "i": "this divides by i. Which of i and j is smaller depends on the case.",
    "j": "this divides by j. Which of i and j is smaller depends on the case.",
    "d": "this divides by d. Divide by min(i, j), the largest value that there can be.",
    "sum": "this divides by i + j. Divide by min(i, j).",
    "root": "this divides by the root of min(i, j).",
    "rank": "this divides by the rank. Divide by min(i, j): only so many directions are compared.",
    "mean": "this divides by the root of i * j. Divide by min(i, j).",
}
SHARED_WHICH = {
    "left": "these are left singular vectors, combinations of the rows. Directions of the input are the right ones.",
    "rows": "these are the rows of the factors, of length 1. They are not at right angles: take singular vectors.",
    "raw": "these are the rows of the factors as they are. Take singular vectors: of length 1, at right angles.",
    "scaled": "here each direction is as long as its singular value. Take them of length 1.",
}
SHARED_TAKEN = {
    "swapped": "this takes j directions of M and i of N.",
    "all": "this takes all directions. Only the i and j strongest are asked for.",
    "more": "this takes one direction too many of each.",
    "i twice": "this takes i directions of both. Of N there are j.",
    "j twice": "this takes j directions of both. Of M there are i.",
    "weakest": "these are the weakest directions: NumPy sorts singular values from large to small.",
}
SHARED_BESIDES = {
    "chance off": "this subtracts what chance gives. phi itself is asked for: the control stands beside it.",
    "times chance": "this divides by what chance gives. phi itself is asked for: the control stands beside it.",
    "angle": "this is 1 - phi: what the two do not share.",
    "root": "this is the root of phi.",
}
SHARED_PARTS = {
    "measure": ("squares", SHARED_MEASURE),
    "by": ("min", SHARED_BY),
    "which": ("right", SHARED_WHICH),
    "taken": ("strongest", SHARED_TAKEN),
    "besides": ("nothing", SHARED_BESIDES),
}
shared = Exercise(
    "10.1",
    _shared,
    SHARED_CASES,
    combinations(
        _shared,
        SHARED_CASES,
        SHARED_PARTS,
        {
            "these are the first i columns of Vt, coordinates of all directions. NumPy's Vt has a direction a row.": (
                lambda M, N, i, j: _shared(M, N, i, j, which="Vt")
            ),
            "these are columns of the whole Vt, coordinates and not directions. NumPy's Vt has a direction a row.": (
                lambda M, N, i, j: _shared(M, N, i, j, which="full")
            ),
            "these are right angles by QR, of the rows in their order. The strongest directions come from the SVD.": (
                lambda M, N, i, j: _shared(M, N, i, j, which="qr")
            ),
            "this takes chance off and rescales. phi itself is asked for: the control stands beside it.": (
                lambda M, N, i, j: (_shared(M, N, i, j) - max(i, j) / M.shape[1]) / (1 - max(i, j) / M.shape[1])
            ),
            "this is the chance level max(i, j) / d: what two random subspaces share.": (
                lambda M, N, i, j: max(i, j) / M.shape[1]
            ),
            "this compares a run with itself: that is 1.": lambda M, N, i, j: _shared(M, M, i, j),
            "this is the similarity of M N^T, not of their directions.": (
                lambda M, N, i, j: np.linalg.norm(M[:i] @ N[:j].T) ** 2 / min(i, j) / 100
            ),
        },
    ),
    symptoms={
        "this is a table. One number is asked for: add up all squared cosines.": lambda got, *case: got.ndim > 0,
        "phi lies between 0 and 1. This is larger.": lambda got, *case: bool(got > 1 + 1e-6),
        "phi is a sum of squares: it cannot be below 0.": lambda got, *case: bool(got < -1e-6),
    },
    otherwise=lambda result, *case: (
        "The recipe: rows 0 to i - 1 of the Vt of M, rows 0 to j - 1 of the Vt of N, all their products squared and "
        "added up, divided by min(i, j)."
    ),
)

# --- 10.2: forgetting at equal learning ------------------------------------------------------------------------------


def _extra(learned, forgotten, runs, order="learned", between="line", outside="nan", sign="minus", axes="right"):
    """The answer with a mistake in one part or several."""
    learned, forgotten, runs = float(learned), float(forgotten), [tuple(map(float, run)) for run in runs]
    if axes == "swapped":
        learned, forgotten, runs = forgotten, learned, [(b, a) for a, b in runs]
    if order != "none":
        runs = sorted(runs, key=lambda run: run[order == "forgotten"])
    x, y = np.array(runs).T
    inside = x.min() <= learned <= x.max()
    slope, start = np.polyfit(x, y, 1)
    low, high = (max((r for r in runs if r[0] <= learned), default=runs[0]),
                 min((r for r in runs if r[0] >= learned), default=runs[-1]))  # fmt: skip
    there = {
        "line": lambda: np.interp(learned, x, y),
        "nearest": lambda: y[np.abs(x - learned).argmin()],
        "lower": lambda: low[1],
        "higher": lambda: high[1],
        "middle": lambda: (low[1] + high[1]) / 2,
        "regression": lambda: slope * learned + start,
        "mean": lambda: y.mean(),
        "least": lambda: y.min(),
        "most": lambda: y.max(),
        "ends": lambda: y[0] + (learned - x[0]) * (y[-1] - y[0]) / (x[-1] - x[0]),
        "through zero": lambda: np.interp(learned, np.append(0, x), np.append(0, y)),
        "curve": lambda: np.polyval(np.polyfit(x, y, 2), learned),
    }[between]()
    if not inside and outside == "onward":
        a, b = (0, 1) if learned < x.min() else (-2, -1)
        there = y[a] + (learned - x[a]) * (y[b] - y[a]) / (x[b] - x[a])
    if not inside and outside in ("nan", "zero", "inf", "own"):
        return {"nan": np.nan, "zero": 0.0, "inf": np.inf, "own": forgotten}[outside]
    return {
        "minus": forgotten - there,
        "turned": there - forgotten,
        "size": abs(forgotten - there),
        "ratio": forgotten / there,
        "relative": forgotten / there - 1,
        "own": there,
        "per learned": (forgotten - there) / learned,
    }[sign]


_FULL = [(0.97, 0.151), (0.755, 0.092), (1.064, 0.222), (1.098, 0.294)]
EXTRA_CASES = [
    (0.993, 0.283, _FULL),
    (0.9, 0.177, _FULL),
    (0.6, 0.13, _FULL),
    (1.2, 0.5, _FULL),
    (0.8, 0.05, [(0.9, 0.3), (0.3, 0.02), (0.5, 0.06)]),
]
EXTRA_ORDER = {
    "none": (
        "`np.interp` wants its points in order, and says nothing if they are not: sort the runs by what they learned."
    ),
    "forgotten": "this sorts by what was forgotten. Sort by what was learned.",
}
EXTRA_OUTSIDE = {
    "clamped": (
        "outside the runs this answers with the last one, as `np.interp` does. Nothing was measured there: `np.nan`."
    ),
    "onward": "this draws the line on beyond the last run. Nothing was measured there: `np.nan`.",
    "zero": "outside the runs this says 0, no difference. Nothing was measured there: `np.nan`.",
    "inf": "outside the runs this says infinity. Nothing was measured there: `np.nan`.",
    "own": "outside the runs this gives back what was forgotten. Nothing was measured there: `np.nan`.",
}
EXTRA_BETWEEN = {
    "nearest": "this takes the nearest run. Between two runs, go along the straight line.",
    "lower": "this takes the next run that learned less. Between two runs, go along the straight line.",
    "higher": "this takes the next run that learned more. Between two runs, go along the straight line.",
    "middle": "this takes the middle of the two neighbors. The nearer one counts more: a straight line.",
    "regression": "this fits one line to all runs. Between two neighbors, go along the line that joins them.",
    "mean": "this compares with the mean of all runs, whatever they learned. Compare at equal learning.",
    "least": "this compares with the run that forgot least, whatever it learned. Compare at equal learning.",
    "most": "this compares with the run that forgot most, whatever it learned. Compare at equal learning.",
    "ends": "this joins the first and the last run. Go from neighbor to neighbor.",
    "through zero": "this adds a run at (0, 0) that nobody made.",
    "curve": "this fits a parabola. Between two neighbors, go along the line that joins them.",
}
EXTRA_SIGN = {
    "turned": "the sign is turned: positive means that this run forgot more.",
    "size": "this drops the sign: a run that forgets less must give a negative number.",
    "ratio": "this is a ratio. A difference in nats is asked for.",
    "relative": "this is a relative difference. A difference in nats is asked for.",
    "own": "this is what the other way forgets there. How much more does this run forget?",
    "per learned": "this divides by what was learned. A difference in nats is asked for.",
}
EXTRA_AXES = {
    "swapped": "this compares what was learned at equal forgetting. Compare what was forgotten at equal learning.",
}
EXTRA_PARTS = {
    "order": ("learned", EXTRA_ORDER),
    "outside": ("nan", EXTRA_OUTSIDE),
    "between": ("line", EXTRA_BETWEEN),
    "sign": ("minus", EXTRA_SIGN),
    "axes": ("right", EXTRA_AXES),
}
extra_forgetting = Exercise(
    "10.2",
    _extra,
    EXTRA_CASES,
    combinations(
        _extra,
        EXTRA_CASES,
        EXTRA_PARTS,
        {
            "this is what the run forgot. How much more is that than the other way forgets at equal learning?": (
                lambda a, b, runs: b
            ),
            "this uses the first run of the list alone.": lambda a, b, runs: b - runs[0][1],
            "this answers `np.nan` everywhere. Between two runs, the line that joins them gives a number.": (
                lambda a, b, runs: np.nan
            ),
            "here a run at the very edge, or inside, is taken for outside.": (
                lambda a, b, runs: _extra(a, b, runs) if sorted(runs)[1][0] < a < sorted(runs)[-2][0] else np.nan
            ),
        },
    ),
    symptoms={
        "outside the runs nothing was measured: the answer there is `np.nan`.": (
            lambda got, a, b, runs: not min(runs)[0] <= a <= max(runs)[0] and bool(np.isfinite(got).all())
        ),
        "this is a list. One number is asked for.": lambda got, *case: got.ndim > 0,
        "this is not a number, though runs on both sides were made: take the straight line between them.": (
            lambda got, *case: bool(np.isnan(got))
        ),
        "this has the wrong sign: forgotten here minus forgotten there.": (
            lambda got, *case: bool(np.sign(got) != np.sign(_extra(*case)))
        ),
    },
    together=lambda results, cases: (
        "where no run was made, the answer is the number `np.nan`, not None." if any(r is None for r in results) else ""
    ),
    otherwise=lambda result, *case: (
        "The sign is right. Find the two neighbors by what they learned, and go along the straight line between them."
    ),
)
