"""The checks of notebook 10, where and how much: subspaces, and what an update amplifies. There is no 10.2."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["amplification", "beside", "shared"]

# --- 10.1: what two subspaces share ----------------------------------------------------------------------------------


def _factors():
    """Cases (M, N, i, j): two factors that share some directions; i, j and the rank differ."""
    for seed, (rank, d, i, j) in enumerate([(5, 9, 2, 3), (4, 12, 3, 2), (6, 10, 1, 4)]):
        rng = np.random.default_rng(seed)
        M, N = rng.normal(size=(2, rank, d))
        yield M, N + 0.8 * M[::-1], i, j


def _both(new: str) -> str:
    """The edit that takes something else of both factors."""
    return f"svd(M)[2] -> {new.format('M')} & svd(N)[2] -> {new.format('N')}"


END = "return together / most"


@exercise(
    "10.1",
    list(_factors()),
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
    noticed={
        "this is a table. One number is asked for: add up all squared cosines.": lambda got, *case: got.ndim > 0,
        "phi lies between 0 and 1. This is larger.": lambda got, *case: got > 1 + 1e-6,
        "phi is a sum of squares: it cannot be below 0.": lambda got, *case: got < -1e-6,
    },
)
def shared(M, N, i, j):
    one = np.linalg.svd(M)[2]  # the directions of M
    other = np.linalg.svd(N)[2]  # the directions of N
    cosines = one[:i] @ other[:j].T  # which directions are compared
    together = (cosines**2).sum()  # what is made of all cosines
    most = min(i, j)  # the largest value that there can be
    return together / most  # what stands above and below the line


# --- 10.3: amplification ---------------------------------------------------------------------------------------------


def _pairs_of_matrices():
    for seed, (d_out, d_in, rank) in enumerate([(6, 8, 2), (9, 5, 3)]):
        rng = np.random.default_rng(seed)
        yield 3 * rng.normal(size=(d_out, d_in)), rng.normal(size=(d_out, d_in)), rank


@exercise(
    "10.3",
    list(_pairs_of_matrices()),
    taught={
        "np.linalg.norm(seen) -> np.linalg.norm(W)": "Your answer divides by the norm of all of W. How much of W lies "
        "in the directions of dW? Its norm is {below:.3g}.",
        "left.T @ W @ right -> left.T @ W": "Your answer looks at the output side alone. Multiply by V as well: "
        "U^T W V.",
        "left.T @ W @ right -> W @ right": "Your answer looks at the input side alone. Multiply by U^T as well: "
        "U^T W V.",
        "np.linalg.svd(dW) -> np.linalg.svd(W)": "Your answer takes W's own directions. The factor is about those of "
        "dW.",
        "np.linalg.svd(dW) -> np.linalg.svd(W + dW)": "Your answer takes directions of W + dW. The factor is about "
        "those of dW alone.",
        "[:rank].T -> [:, :rank]": "Your answer takes columns of NumPy's Vt. It has a direction in each *row*.",
        "np.linalg.norm(dW) -> np.linalg.norm(parts[1][:rank])": "Your answer has dW's {rank} strongest directions "
        "above. The whole of dW stands there, with the norm {above:.3g}.",
    },
    noticed={
        "this is a table. One number is asked for.": lambda got, *case: got.ndim > 0,
        "norms are positive, and so is their ratio.": lambda got, *case: got < 0,
    },
)
def amplification(W, dW, rank):
    parts = np.linalg.svd(dW)  # whose directions are taken
    left = parts[0][:, :rank]  # the directions of the output
    right = parts[2][:rank].T  # the directions of the input
    seen = left.T @ W @ right  # what of W lies there
    above = np.linalg.norm(dW)  # the norm above the line
    below = np.linalg.norm(seen)  # the norm below the line
    return above / below  # the factor
