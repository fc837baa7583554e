"""More checks of notebook 10: how much an update amplifies, and its intruders."""

import numpy as np

from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations

# --- 10.3: amplification ---------------------------------------------------------------------------------------------


def _amplified(W, dW, rank, above="whole", below="both", of="dW", turned="no", taken="strongest"):
    """The answer with a mistake in one part or several."""
    U, S, Vt = np.linalg.svd({"dW": dW, "W": W, "sum": W + dW}[of], full_matrices=False)
    rank = {"strongest": rank, "weakest": rank, "all": len(S), "one": 1, "fewer": rank - 1, "more": rank + 1}[taken]
    if taken == "weakest":
        U, Vt = U[:, ::-1], Vt[::-1]
    U, V = U[:, :rank], np.linalg.svd(dW)[2][:, :rank] if below == "columns" else Vt[:rank].T
    seen = {"both": U.T @ W @ V, "left": U.T @ W, "right": W @ V, "dW": U.T @ dW @ V, "W": W, "sum": U.T @ (W + dW) @ V,
            "diagonal": np.diag(U.T @ W @ V), "spectral": np.linalg.svd(U.T @ W @ V)[1][:1],
            "trace": np.array([np.trace(U.T @ W @ V)])}.get(below, U.T @ W @ V)  # fmt: skip
    strengths = np.linalg.svd(dW)[1]
    top = {"whole": np.linalg.norm(dW), "part": np.linalg.norm(strengths[:rank]), "spectral": strengths[0],
           "W": np.linalg.norm(W), "nuclear": strengths.sum(), "one": 1.0,
           "mean": np.abs(dW).mean()}[above]  # fmt: skip
    bottom = np.linalg.norm(seen)
    return {"no": top / bottom, "yes": bottom / top, "squares": (top / bottom) ** 2, "difference": top - bottom}[turned]


def _pairs_of_matrices() -> list[tuple]:
    cases = []
    for seed, (d_out, d_in, rank) in enumerate([(6, 8, 2), (9, 5, 3)]):
        rng = np.random.default_rng(seed)
        cases.append((3 * rng.normal(size=(d_out, d_in)), rng.normal(size=(d_out, d_in)), rank))
    return cases


AMPLIFIED_CASES = _pairs_of_matrices()
AMPLIFIED_OF = {
    "W": "these are W's own directions. Take the singular vectors of dW.",
    "sum": "these are directions of W + dW. Take the singular vectors of dW.",
}
AMPLIFIED_BELOW = {
    "left": "only the output side is projected. Multiply by V as well: U^T W V.",
    "right": "only the input side is projected. Multiply by U^T as well: U^T W V.",
    "dW": "this projects dW, not W.",
    "W": "this divides by the norm of all of W. How much of W lies in the directions of dW?",
    "sum": "this projects W + dW. How much of W lies there?",
    "diagonal": "this takes the diagonal of U^T W V. All its entries count.",
    "spectral": "this takes the spectral norm below. The Frobenius norm is asked for.",
    "trace": "this takes a trace. The Frobenius norm is asked for.",
}
AMPLIFIED_ABOVE = {
    "part": "this takes the norm of dW's strongest part. The whole of dW stands above.",
    "spectral": "this takes the largest singular value of dW (`ord=2`). The Frobenius norm is asked for.",
    "W": "the norm of W stands above. It should be that of dW.",
    "nuclear": "this adds up the singular values. The Frobenius norm is the root of the sum of squares.",
    "one": "above stands 1. It should be the norm of dW.",
    "mean": "this takes the mean magnitude of dW. The Frobenius norm is asked for.",
}
AMPLIFIED_TURNED = {
    "yes": "this is upside down: the norm of dW is divided by what of W lies in its directions.",
    "squares": "this is the square of the factor.",
    "difference": "this subtracts. A factor is a ratio.",
}
AMPLIFIED_TAKEN = {
    "all": "this takes all directions. Only the `rank` strongest count.",
    "weakest": "these are the weakest directions: NumPy sorts singular values from large to small.",
    "one": "this takes the strongest direction alone. `rank` of them are asked for.",
    "fewer": "this takes one direction too few.",
    "more": "this takes one direction too many.",
}
AMPLIFIED_PARTS = {
    "of": ("dW", AMPLIFIED_OF),
    "below": ("both", AMPLIFIED_BELOW),
    "above": ("whole", AMPLIFIED_ABOVE),
    "turned": ("no", AMPLIFIED_TURNED),
    "taken": ("strongest", AMPLIFIED_TAKEN),
}
amplification = Exercise(
    "10.3",
    _amplified,
    AMPLIFIED_CASES,
    combinations(
        _amplified,
        AMPLIFIED_CASES,
        AMPLIFIED_PARTS,
        {
            "NumPy's Vt has a direction a row: V is `Vt[:rank].T`. These are columns of Vt.": (
                lambda W, dW, rank: _amplified(W, dW, rank, below="columns")
            ),
            "this says how large dW is beside W, whatever the directions. How much of W lies in those of dW?": (
                lambda W, dW, rank: np.linalg.norm(dW) / np.linalg.norm(W)
            ),
        },
    ),
    symptoms={
        "this is a table. One number is asked for.": lambda got, *case: got.ndim > 0,
        "norms are positive, and so is their ratio.": lambda got, *case: bool(got < 0),
        "this is smaller than the factor: too much of W stands below, or too little of dW above.": (
            lambda got, *case: bool(got < _amplified(*case))
        ),
        "this is larger than the factor: too little of W stands below, or too much of dW above.": (
            lambda got, *case: bool(got > _amplified(*case))
        ),
    },
)

# --- 10.4: intruders -------------------------------------------------------------------------------------------------


def _intruders(W, dW, k, bound, of="sum", beside="all", reduce="max", sizes="abs", test="below", side="left", top="k"):
    """The answer with a mistake in one part or several."""
    place = 0 if side == "left" else 2
    own, new = (np.linalg.svd(m, full_matrices=False)[place] for m in (W, {"sum": W + dW, "dW": dW, "W": W}[of]))
    if side == "right":
        own, new = own.T, new.T
    own = np.linalg.svd(W)[0] if beside == "square" else own
    k = {"k": k, "all": new.shape[1], "fewer": k - 1, "more": k + 1}.get(top, k)
    candidates = new[:, ::-1] if top == "weakest" else new
    cosines = candidates[:, :k].T @ (own[:, :k] if beside == "strongest" else own)
    cosines = {"abs": np.abs(cosines), "signed": cosines, "squared": cosines**2}[sizes]
    if beside == "same":
        nearest = np.diag(cosines)
    else:
        nearest = {"max": cosines.max, "min": cosines.min, "mean": cosines.mean, "sum": cosines.sum}[reduce](axis=1)
    found = {"below": nearest < bound, "above": nearest >= bound}.get(test, nearest < bound)
    return {"share": found.mean(), "any": float(found.any())}.get(test, int(found.sum()))


def _with_intruders() -> list[tuple]:
    """Cases (W, dW, k, bound): W's strengths fall, dW has three directions; in the last case one where W has none."""
    cases = []
    for seed, d_out, d_in, k, bound, size in [
        (377, 16, 23, 5, 0.45, 8.0),
        (421, 18, 23, 8, 0.6, 8.0),
        (970, 16, 11, 5, 0.45, 3.0),
        (488, 15, 9, 7, 0.55, 8.0),
    ]:
        rng = np.random.default_rng(seed)
        U, V = (np.linalg.qr(rng.normal(size=(side, side)))[0] for side in (d_out, d_in))
        least = min(d_out, d_in)
        W = (U[:, :least] * np.linspace(8, 1, least)) @ V[:, :least].T
        u, v = (m / np.linalg.norm(m, axis=0) for m in (rng.normal(size=(d_out, 3)), rng.normal(size=(d_in, 3))))
        if seed == 488:
            u[:, 0] = 2 * np.linalg.svd(W)[0][:, -1]
        cases.append((W, size * u @ v.T, k, bound))
    return cases


INTRUDER_CASES = _with_intruders()
INTRUDER_SIZES = {
    "signed": "a direction has no sign: u and -u are the same one. Take magnitudes of the cosines.",
    "squared": "this compares squared cosines with the bound.",
}
INTRUDER_BESIDE = {
    "strongest": "this compares with the k strongest directions of W. A direction of W is old, however weak it was.",
    "same": "this compares direction 1 with 1, 2 with 2. A direction that changed its place is not new.",
}
INTRUDER_REDUCE = {
    "min": "this asks for the least similar direction of W. New means that even the most similar one is far.",
    "mean": "this takes the mean over W's directions. New means that even the most similar one is far.",
    "sum": "this adds up over W's directions. New means that even the most similar one is far.",
}
INTRUDER_OF = {
    "dW": "these are directions of dW. An intruder is a direction of W + dW.",
    "W": "this compares W with itself: nothing is new then.",
}
INTRUDER_TEST = {
    "above": "this counts the directions that are old. How many are new?",
    "share": "this is the share of the k directions. How many are new?",
    "any": "this says whether there is one. How many are there?",
}
INTRUDER_SIDE = {
    "right": "these are right singular vectors, of the input. The output side is asked for.",
}
INTRUDER_TOP = {
    "all": "this looks at all directions of W + dW. Only the k strongest count.",
    "weakest": "these are the weakest directions: NumPy sorts singular values from large to small.",
    "fewer": "this looks at one direction too few.",
    "more": "this looks at one direction too many.",
}
INTRUDER_PARTS = {
    "sizes": ("abs", INTRUDER_SIZES),
    "beside": ("all", INTRUDER_BESIDE),
    "reduce": ("max", INTRUDER_REDUCE),
    "of": ("sum", INTRUDER_OF),
    "test": ("below", INTRUDER_TEST),
    "side": ("left", INTRUDER_SIDE),
    "top": ("k", INTRUDER_TOP),
}
count_intruders = Exercise(
    "10.4",
    _intruders,
    INTRUDER_CASES,
    combinations(
        _intruders,
        INTRUDER_CASES,
        INTRUDER_PARTS,
        {
            "`np.linalg.svd(W)[0]` is square: some columns belong to no component of W. Take `full_matrices=False`.": (
                lambda W, dW, k, bound: _intruders(W, dW, k, bound, beside="square")
            ),
            "no direction is new, you say. W + dW has some here.": lambda W, dW, k, bound: 0,
            "every direction is new, you say. Some are W's own.": lambda W, dW, k, bound: k,
        },
    ),
    symptoms={
        "this is a list. How many are there?": lambda got, *case: got.ndim > 0,
        "this is no whole number: directions are counted.": lambda got, *case: bool(got % 1 != 0),
        "there are at most k.": lambda got, W, dW, k, bound: bool(got > k),
        "this counts too few.": lambda got, *case: bool(got < _intruders(*case)),
        "this counts too many: a direction is new only if its largest cosine, in magnitude, stays below the bound.": (
            lambda got, *case: bool(got > _intruders(*case))
        ),
    },
)
