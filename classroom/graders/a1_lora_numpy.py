"""Assignment 1: the right answers, and the wrong ones that are known, with the points that each keeps."""

import numpy as np

from classroom.solutions import Answer, Solutions
from lora_edu.lora_numpy import LoRALinear

COMPONENTS = "notebook 01, section 2"
SHAPES, SIZE_OF_A, START, MERGING, RATES = (f"notebook 02, section {k}" for k in (2, 3, 5, 7, 9))
GRADIENTS, TEXT = "notebook 02, section 3", "exercise 1.4 above"


# --- 1.1: how much rank a matrix needs --------------------------------------------------------------------------------

NEEDED_RANK = Solutions(
    reference=Answer("a1_lora_numpy", "needed_rank"),
    right={
        "eigenvalues": "np.linalg.svd(matrix, compute_uv=False) ** 2 -> np.linalg.eigvalsh(matrix.T @ matrix)[::-1]",
        "a float": "return int(np.argmax(kept >= c.energy)) + 1 -> return np.float32(np.sum(kept < c.energy) + 1)",
    },
    wrong=[
        ("not squared", "compute_uv=False) ** 2 -> compute_uv=False)", 0,
         "this adds up the singular values. The energy of a matrix is the sum of their squares.", COMPONENTS),
        ("off by one", "c.energy)) + 1 -> c.energy))", 0,
         "this is one too small: an index counts from 0, a rank from 1.", COMPONENTS),
        ("the norm instead of its square", ">= c.energy -> >= c.energy**2", 0,
         "this asks for a share of the norm. The energy is the square of the norm: leave the root out.", COMPONENTS),
        ("what is left out", ">= c.energy -> >= 1 - c.energy", 0,
         "this keeps the share 1 - c.energy. That much may be left out: c.energy is what stays.", COMPONENTS),
        ("changes its input", "return int -> matrix /= 2; return int", 2),
    ],
)  # fmt: skip


# --- 1.2: the best two factors ----------------------------------------------------------------------------------------


def powers(p: str, q: str) -> str:
    """The edit that gives A and B these powers of the singular values."""
    return f"S[:rank] ** (1 - c.share) -> S[:rank] ** ({q}) & S[:rank] ** c.share -> S[:rank] ** ({p})"


SPLIT = Solutions(
    reference=Answer("a1_lora_numpy", "split"),
    right={
        "a list of copies": "return A, B -> return [np.array(A), np.ascontiguousarray(B)]",
        "the other signs": "return A, B -> return -A, -B",
    },
    wrong=[
        ("the shares exchanged", powers("1 - c.share", "c.share"), 3,
         "this gives A the share of B: A takes each singular value to the power c.share.", COMPONENTS),
        ("the values twice", powers("1", "1"), 0,
         "the singular values stand in both factors, so they count twice in the product.", COMPONENTS),
        ("A and B exchanged", "return A, B -> return B, A", 0,
         "this returns B first. A, which has a row for each row of the matrix, comes first.", SHAPES),
        ("changes its input", "return A, B -> matrix -= A @ B.T; return A, B", 3),
    ],
)  # fmt: skip


# --- 1.3: an adapter that can be merged -------------------------------------------------------------------------------

DRAWN, ZEROS = "uniform(-bound, bound, size=(d_in, rank))", "np.zeros((d_out, rank))"
PUT, TAKE = "self.weight = self.weight + self.scaling", "self.weight = self.weight - self.scaling"

ADAPTER = Solutions(
    reference=Answer("a1_lora_numpy", "adapter"),
    right={
        "a backup": f"{PUT} -> self.kept = self.weight; {PUT} & "
        f"{TAKE} * self.lora_A @ self.lora_B.T -> self.weight = self.kept",
        "a copy": f"= W -> = np.array(W, copy=True) & {PUT} -> self.weight += self.scaling & "
        f"{TAKE} -> self.weight -= self.scaling",
    },
    wrong=[
        ("B is random", f"{ZEROS} -> np.random.default_rng(1).normal(size=(d_out, rank))", 6),
        ("A is zero too", f"np.random.default_rng(seed).{DRAWN} -> np.zeros((d_in, rank))", 6,
         "A starts at zero, and so does B: neither will ever get a gradient.", START),
        ("the bound of the package", "c.gain / -> 1 /", 6,
         "this is the usual bound, 1 / sqrt(d_in). Here it is c.gain times as large.", SIZE_OF_A),
        ("the rank under the root", "np.sqrt(d_in) -> np.sqrt(rank)", 6,
         "this has the rank under the root. Each entry of x A sums d_in products: divide by sqrt(d_in).", SIZE_OF_A),
        ("merging twice adds twice", "if not self.merged: -> if True:", 7),
        ("the branch stays on", "y if self.merged else y + -> y +", 6,
         "after merging, forward adds the branch once more: the weight contains it already.", MERGING),
        ("the caller's W", f"{PUT} -> self.weight += self.scaling", 7),
        ("alpha / rank", "rank**c.power -> rank", 3,
         "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.", SHAPES),
        ("a second merge undoes the first",
         f"if not self.merged: -> for sign in [-1 if self.merged else 1]: & {PUT} -> {PUT} * sign & "
         "self.merged = True -> self.merged = sign > 0",
         7),
        ("normal numbers", f"{DRAWN} -> normal(size=(d_in, rank)) * bound", 6,
         "A is drawn from a normal distribution, as in the paper. Here it is uniform, as in PEFT.", SIZE_OF_A),
        ("calls lora_edu", lambda c: lambda W, rank, alpha, seed:
         LoRALinear(W.T, rank, alpha, np.random.default_rng(seed)), 0),
    ],
)  # fmt: skip


# --- 1.4: training with two learning rates ----------------------------------------------------------------------------

ERROR, BOTH = "grad_y = s * (x @ W + s * (x @ A) @ B.T - target)", "x.T @ (grad_y @ B), grad_y.T @ (x @ A)"
STEP = "A, B = A - lr * grad_A, B - c.ratio * lr * grad_B"

TRAIN = Solutions(
    reference=Answer("a1_lora_numpy", "train"),
    right={
        "through G": f"{ERROR} -> G = s * x.T @ (x @ (W + s * A @ B.T) - target) & {BOTH} -> G @ B, G.T @ A",
        "einsum, in a list": f'{BOTH} -> np.einsum("ni,no,or->ir", x, grad_y, B), '
        'np.einsum("no,ni,ir->or", grad_y, x, A) & return A, B -> return [A, B]',
    },
    wrong=[
        ("one rate", "c.ratio * lr -> lr", 6,
         "both factors move at the same rate. B's learning rate is c.ratio times that of A.", RATES),
        ("the rates exchanged", f"{STEP} -> A, B = A - c.ratio * lr * grad_A, B - lr * grad_B", 3,
         "A has the larger rate here. It is B's that is c.ratio times as large.", RATES),
        ("no mean", " / len(x) -> ", 3,
         "this sums the loss over the batch. It is a mean: divide by the batch size.", TEXT),
        ("A first, then B", f"grad_A, grad_B = {BOTH} -> "
         f"A = A - lr * x.T @ (grad_y @ B) & {STEP} -> B = B - c.ratio * lr * grad_y.T @ (x @ A)", 6,
         "this takes the gradient of B at an A that has moved already. Take both before a step.", GRADIENTS),
        ("alpha / rank", " ** c.power -> ", 3,
         "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.", SHAPES),
        ("alpha", " / A.shape[1] ** c.power -> ", 3,
         "this scales by alpha. The scaling is s = alpha / rank**c.power.", SHAPES),
        ("no s in the gradients", "grad_y = s * ( -> grad_y = (", 3,
         "the gradients lack the scaling s: y contains it, and so does what comes down from y.", GRADIENTS),
        ("s twice", "grad_y = s * ( -> grad_y = s**2 * (", 3,
         "the scaling s stands twice in the gradients. Each one carries it once.", GRADIENTS),
        ("twice the gradient", " / len(x) -> * 2 / len(x)", 3,
         "the gradients are twice too large. The loss has 1/2 in front, which cancels the 2 of the square.", TEXT),
        ("a mean over all entries", " / len(x) -> / target.size", 3,
         "this averages over the outputs as well. A row's squares are summed; the mean is over the batch.", TEXT),
        ("A stays", "A - lr * -> A - 0 *", 6,
         "A is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        ("B stays", "c.ratio * lr -> 0", 6,
         "B is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        ("changes A and B", f"{STEP} -> A -= lr * grad_A; B -= c.ratio * lr * grad_B", 8),
    ],
)  # fmt: skip

SOLUTIONS = {"1.1": NEEDED_RANK, "1.2": SPLIT, "1.3": ADAPTER, "1.4": TRAIN}
