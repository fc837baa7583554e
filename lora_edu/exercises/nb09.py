"""The checks of notebook 09, QLoRA: a layer forward and backward. Bytes and a fair comparison are in `nb09_fair`."""

import numpy as np

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb09_fair import lora_minus_full, stored_bytes

__all__ = ["beside", "input_gradient", "lora_minus_full", "qlora_output", "stored_bytes"]

SUM = "return base + s * branch"

# --- 9.1: what comes back to x ---------------------------------------------------------------------------------------


def _layers() -> list[tuple]:
    """Cases (grad_y, W, lora_A, lora_B, alpha): no side equals another, alpha is never the rank."""
    cases = []
    for seed, (n, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 11, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        grad_y, W, a, b = (rng.normal(size=shape) for shape in ((n, d_out), (d_out, d_in), (rank, d_in), (d_out, rank)))
        cases.append((grad_y, W, a, b, alpha))
    return cases


@exercise(
    "9.1",
    _layers(),
    taught={
        f"{SUM} -> return s * branch": "Your answer is the branch alone. Frozen means that W' itself gets no gradient. "
        "It still passes one on to x: section 3.",
        f"{SUM} -> return base": "Your answer is the base's term alone. x goes into A too, and the branch sends back "
        "s (dL/dy B) A.",
        f"{SUM} -> return s * (base + branch)": "Your answer scales both terms by {s:g}. In the forward pass s stands "
        "before B A alone.",
        "base = grad_y @ W -> base = grad_y @ np.linalg.pinv(W).T": "Your answer undoes W' by an inverse. The chain "
        "rule multiplies by W': section 3.",
        f"{SUM} -> return (base + s * branch) / len(base)": "Your answer averages over the rows. Each row of x gets a "
        "gradient of its own; the mean, if there is one, is in grad_y already.",
        f"{SUM} -> return W + s * lora_B @ lora_A": "Your answer is the weight of the layer, W' + s B A. What comes "
        "back to x is grad_y times that.",
        "alpha / len(lora_A) -> alpha / len(lora_A) ** 0.5": "Your answer divides alpha by the root of the rank, as "
        "the variant rsLoRA does. LoRA divides by the rank: s is {s:g}.",
    },
    also=(
        "base = grad_y @ W -> base = (grad_y := np.ones_like(grad_y)) @ W",
        "alpha / len(lora_A) -> 1.0",
        f"{SUM} -> return (base + s * branch).T",
        f"{SUM} -> return -base - s * branch",
        f"{SUM} -> return s * base + branch",
    ),
)
def input_gradient(grad_y, W, lora_A, lora_B, alpha):
    base = grad_y @ W  # what comes back through W'
    s = alpha / len(lora_A)  # the scaling
    branch = (grad_y @ lora_B) @ lora_A  # what comes back through B and A
    return base + s * branch  # how the two terms come together


# --- 9.2: a QLoRA layer from its stored parts ------------------------------------------------------------------------

NF4 = nf_codebook(4).numpy().astype(np.float64)


def _stored_layers() -> list[tuple]:
    """Cases (x, codes, absmax, lora_A, lora_B, alpha): no side equals another, alpha is never the rank."""
    cases = []
    for seed, (n, d_in, d_out, rank, alpha, block_size) in enumerate([(13, 8, 6, 2, 8.0, 4), (5, 4, 12, 3, 1.5, 6)]):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 16, size=(d_out, d_in))
        absmax = rng.uniform(0.5, 2.0, size=d_in * d_out // block_size)
        x, a, b = (rng.normal(size=shape) for shape in ((n, d_in), (rank, d_in), (d_out, rank)))
        cases.append((x, codes, absmax, a, b, alpha))
    return cases


def _with_blocks(solution, x, codes, absmax, lora_A, lora_B, alpha):
    """The output, (n, d_out); of an absmax that fits no side of the weight it says whose it is."""
    try:
        return solution(x, codes, absmax, lora_A, lora_B, alpha)
    except ValueError as error:
        if "broadcast" in str(error) and any(f"({len(absmax)},{more})" in str(error) for more in ("", "1")):
            return (
                "absmax has one number for each block of the flattened weight, not one for each row or column. Bring "
                "the looked-up values into the shape (n_blocks, -1) before you multiply."
            )
        raise


@exercise(
    "9.2",
    _stored_layers(),
    taught={
        "values = NF4[codes] -> values = codes": "Your answer multiplies with the codes themselves. A code is an "
        "index: look its value up in the codebook first.",
        "values = NF4[codes] -> values = (codes - 7) / 7": "Your answer takes the codes for equal steps. The 16 values "
        "of NF4 are not equally far apart: look each code up in the codebook.",
        "values * absmax[:, None] -> values / absmax[:, None]": "Your answer divides by the absmax. That was the way "
        "into the codes; the way back multiplies: section 3.",
        "values * absmax[:, None] -> values * absmax.max()": "Your answer has one absmax for the whole weight. Each of "
        "the {n_blocks} blocks has its own.",
        ".reshape(n_blocks, -1) -> .reshape(-1, n_blocks).T & scaled.reshape -> scaled.T.reshape": "Your answer deals "
        "the values out to the blocks like cards. A block is a run of neighbors: one row of a table (n_blocks, -1).",
        "values.reshape -> values.T.reshape & scaled.reshape(codes.shape) -> scaled.reshape(codes.T.shape).T": "Your "
        "answer takes the blocks down the columns. The weight is flattened row by row.",
        f"{SUM} -> return s * (base + branch)": "Your answer scales both terms by {s:g}. s stands before B A alone.",
    },
    also=(
        *(f"values = NF4[codes] -> values = {steps}" for steps in (
            "(codes - 7) / 8", "(codes - 8) / 8", "(codes - 8) / 7", "2 * codes / 15 - 1", "NF4[15 - codes]")),
        *(f"values * absmax[:, None] -> values * absmax{one}" for one in (".mean()", "[0]", "[::-1, None]")),
        "weight = scaled.reshape(codes.shape) -> weight = NF4[codes] * np.resize(absmax, len(codes))[:, None]",
        "weight = scaled.reshape(codes.shape) -> weight = NF4[codes] * absmax[np.arange(codes.shape[1]) // (codes.size "
        "// n_blocks) % n_blocks]",
        f"values = NF4[codes] -> values = NF4[codes] + alpha / len(lora_A) * lora_B @ lora_A & {SUM} -> return base",
    ),
    observe=_with_blocks,
)  # fmt: skip
def qlora_output(x, codes, absmax, lora_A, lora_B, alpha):
    values = NF4[codes]  # what the codes stand for
    n_blocks = len(absmax)  # the number of blocks
    values = values.reshape(n_blocks, -1)  # how the values are cut into blocks
    scaled = values * absmax[:, None]  # what becomes of the values of a block
    weight = scaled.reshape(codes.shape)  # the decoded weight
    base = x @ weight.T  # the base's term
    s = alpha / len(lora_A)  # the scaling
    branch = (x @ lora_A.T) @ lora_B.T  # the term of A and B
    return base + s * branch  # how the two terms come together
