"""More checks of notebook 10: how much an update amplifies, and its intruders."""

import numpy as np

from lora_edu.exercises.exercise import exercise

# --- 10.3: amplification ---------------------------------------------------------------------------------------------


def _pairs_of_matrices() -> list[tuple]:
    cases = []
    for seed, (d_out, d_in, rank) in enumerate([(6, 8, 2), (9, 5, 3)]):
        rng = np.random.default_rng(seed)
        cases.append((3 * rng.normal(size=(d_out, d_in)), rng.normal(size=(d_out, d_in)), rank))
    return cases


@exercise(
    "10.3",
    _pairs_of_matrices(),
    taught={
        "np.linalg.norm(seen) -> np.linalg.norm(W)": "Your answer divides by the norm of all of W. How much of W lies "
        "in the directions of dW? Its norm is {below:.3g}.",
        "left.T @ W @ right -> left.T @ W": "Your answer looks at the output side alone. Multiply by V as well: "
        "U^T W V.",
        "left.T @ W @ right -> W @ right": "Your answer looks at the input side alone. Multiply by U^T as well: "
        "U^T W V.",
        "np.linalg.svd(dW) -> np.linalg.svd(W)": "Your answer takes W's own directions. The factor is about those of "
        "dW: section 5.",
        "np.linalg.svd(dW) -> np.linalg.svd(W + dW)": "Your answer takes directions of W + dW. The factor is about "
        "those of dW alone.",
        "[:rank].T -> [:, :rank]": "Your answer takes columns of NumPy's Vt. It has a direction in each *row*.",
        "np.linalg.norm(dW) -> np.linalg.norm(parts[1][:rank])": "Your answer has dW's {rank} strongest directions "
        "above. The whole of dW stands there, with the norm {above:.3g}.",
    },
    also=(
        *(f"left.T @ W @ right -> {seen}" for seen in ("left.T @ dW @ right", "left.T @ (W + dW) @ right")),
        *(f"np.linalg.norm(seen) -> {below}" for below in (
            "np.linalg.norm(np.diag(seen))", "np.linalg.norm(seen, 2)", "abs(np.trace(seen))")),
        *(f"np.linalg.norm(dW) -> {above}" for above in (
            "parts[1][0]", "parts[1].sum()", "np.linalg.norm(W)", "abs(dW).mean()")),
        *(f"return above / below -> return {end}" for end in ("(above / below) ** 2", "above - below")),
        "np.linalg.svd(dW) -> [np.flip(part, axis) for part, axis in zip(np.linalg.svd(dW, full_matrices=False), "
        "(1, 0, 0))]",  # the weakest ones
        *(f"left = parts[0][:, :rank] -> left, rank = parts[0][:, :{count}], {count}" for count in (
            "len(parts[1])", "1", "(rank - 1)", "(rank + 1)")),
    ),
    noticed={
        "this is a table. One number is asked for.": lambda got, *case: got.ndim > 0,
        "norms are positive, and so is their ratio.": lambda got, *case: got < 0,
    },
)  # fmt: skip
def amplification(W, dW, rank):
    parts = np.linalg.svd(dW)  # whose directions are taken
    left = parts[0][:, :rank]  # the directions of the output
    right = parts[2][:rank].T  # the directions of the input
    seen = left.T @ W @ right  # what of W lies there
    above = np.linalg.norm(dW)  # the norm above the line
    below = np.linalg.norm(seen)  # the norm below the line
    return above / below  # the factor


# --- 10.4: intruders -------------------------------------------------------------------------------------------------


def _with_intruders() -> list[tuple]:
    """Cases (W, dW, k, bound): W's strengths fall, dW has three directions; in the last case one where W has none."""
    cases = []
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
        cases.append((W, size * u @ v.T, k, bound))
    return cases


OWN, NEW = "np.linalg.svd(W, full_matrices=False)[0]", "np.linalg.svd(W + dW, full_matrices=False)[0]"
NEAREST = "cosines.max(axis=1)"


@exercise(
    "10.4",
    _with_intruders(),
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
    also=(
        *(f"new[:, :k] -> new[:, {taken}]" for taken in (
            ":", ": k - 1", ": k + 1", "new.shape[1] - k : new.shape[1]")),
        f"{NEAREST} -> cosines.mean(axis=1)",
        "return int((nearest < bound).sum()) -> return (nearest < bound).mean()",
        "return int((nearest < bound).sum()) -> return k",
        "return int((nearest < bound).sum()) -> return 0",
    ),
    noticed={
        "this is a list. How many are there?": lambda got, *case: got.ndim > 0,
        "this is no whole number: directions are counted.": lambda got, *case: got % 1 != 0,
        "there are at most k.": lambda got, W, dW, k, bound: got > k,
    },
)  # fmt: skip
def count_intruders(W, dW, k, bound):
    own = np.linalg.svd(W, full_matrices=False)[0]  # W's own directions
    new = np.linalg.svd(W + dW, full_matrices=False)[0]  # the directions that there are now
    strongest = new[:, :k]  # which of these are looked at
    cosines = np.abs(strongest.T @ own)  # how similar each is to each of W's
    nearest = cosines.max(axis=1)  # what is taken of all cosines of a direction
    return int((nearest < bound).sum())  # which are counted
