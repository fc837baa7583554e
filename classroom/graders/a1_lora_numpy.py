"""Assignment 1: the right answers, and the wrong ones that are known, with the points that each keeps."""

import numpy as np

from classroom.solutions import Answer, Solutions, Wrong

COMPONENTS, DISTANCE = "notebook 01, section 2", "notebook 01, section 3"
LOOP, SHAPES, SIZE_OF_A, START, MERGING, RATES = (f"notebook 02, section {k}" for k in (1, 2, 3, 5, 7, 9))
GRADIENTS, TEXT = "notebook 02, section 3", "exercise 1.4 above"


# --- 1.1: how much rank a matrix needs --------------------------------------------------------------------------------


RANK = Answer("a1_lora_numpy", "needed_rank")


def rank_by_errors(c):
    def answer(matrix):
        U, S, Vt = np.linalg.svd(matrix, full_matrices=False)
        errors = [((matrix - U[:, :r] * S[:r] @ Vt[:r]) ** 2).sum() for r in range(1, len(S) + 1)]
        return np.float32(next(r for r, e in enumerate(errors, 1) if e <= (1 - c.energy) * (matrix**2).sum()))

    return answer


NEEDED_RANK = Solutions(
    reference=RANK,
    right={
        "eigenvalues": "np.linalg.svd(matrix, compute_uv=False) ** 2 -> np.linalg.eigvalsh(matrix.T @ matrix)[::-1]",
        "errors": rank_by_errors,
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
        ("the error instead of its square", ">= c.energy -> >= 1 - (1 - c.energy) ** 2", 0,
         "this bounds the relative error. The energy left out is the square of that error.", DISTANCE),
        ("changes its input", "return int -> matrix /= 2; return int", 2),
    ],
)  # fmt: skip


# --- 1.2: the best two factors ----------------------------------------------------------------------------------------


def split_by_a_loop(c):
    def answer(matrix, rank, **unused):
        U, S, Vt = np.linalg.svd(matrix)
        A, B = np.zeros((matrix.shape[0], rank)), np.zeros((matrix.shape[1], rank))
        for k in range(rank):
            A[:, k] = U[:, k] * S[k] ** c.share
            B[:, k] = Vt[k] * S[k] ** (1 - c.share)
        return [A, B]

    return answer


def split_by_eigenvectors(c):
    def answer(matrix, rank):
        energy, vectors = np.linalg.eigh(matrix.T @ matrix)
        V = vectors[:, ::-1][:, :rank]
        S = np.sqrt(energy[::-1][:rank])
        return -(matrix @ V) / S ** (1 - c.share), -V @ np.diag(S ** (1 - c.share))

    return answer


def powers(p: str, q: str) -> str:
    """The edit that gives A and B these powers of the singular values."""
    return f"S[:rank] ** (1 - c.share) -> S[:rank] ** ({q}) & S[:rank] ** c.share -> S[:rank] ** ({p})"


SPLIT = Solutions(
    reference=Answer("a1_lora_numpy", "split"),
    right={"a loop": split_by_a_loop, "eigenvectors": split_by_eigenvectors},
    wrong=[
        ("the shares exchanged", powers("1 - c.share", "c.share"), 3,
         "this gives A the share of B: A takes each singular value to the power c.share.", COMPONENTS),
        ("square roots", powers("0.5", "0.5"), 3,
         "this gives both factors the square root. Here A takes the power c.share, B the rest.", COMPONENTS),
        ("the values twice", powers("1", "1"), 0,
         "the singular values stand in both factors, so they count twice in the product.", COMPONENTS),
        ("no values", powers("0", "0"), 0,
         "the singular values are missing: U and V alone have columns of length 1.", COMPONENTS),
        ("all in A", powers("1", "0"), 3,
         "the singular values stand in A alone. Here the two share them: powers c.share and 1 - c.share.", COMPONENTS),
        ("A and B exchanged", "return A, B -> return B, A", 0,
         "this returns B first. A, which has a row for each row of the matrix, comes first.", SHAPES),
        ("changes its input", "return A, B -> matrix -= A @ B.T; return A, B", 3),
    ],
)  # fmt: skip


# --- 1.3: an adapter that can be merged -------------------------------------------------------------------------------


def adapter_of_lora_edu(c):
    from lora_edu.lora_numpy import LoRALinear

    class Adapter(LoRALinear):
        def __init__(self, W, rank, alpha, seed):
            super().__init__(W.T, rank, alpha, np.random.default_rng(seed))

        def merge(self):
            self.weight = self.weight + self.delta_weight()

        def unmerge(self):
            self.weight = self.weight - self.delta_weight()

    return Adapter


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
        ("B is random", f"{ZEROS} -> np.random.default_rng(1).normal(size=(d_out, rank))", 6,
         "the output is changed before any training: B must start at zero.", START),
        ("A is zero too", f"np.random.default_rng(seed).{DRAWN} -> np.zeros((d_in, rank))", 6,
         "A starts at zero, and so does B: neither will ever get a gradient.", START),
        ("the bound of the package", "c.gain / -> 1 /", 6,
         "this is the usual bound, 1 / sqrt(d_in). Here it is c.gain times as large.", SIZE_OF_A),
        ("the rank under the root", "np.sqrt(d_in) -> np.sqrt(rank)", 6,
         "this has the rank under the root. Each entry of x A sums d_in products: divide by sqrt(d_in).", SIZE_OF_A),
        ("merging twice adds twice", "if not self.merged: -> if True:", 7,
         "merging twice adds the update twice: remember that it is merged already.", MERGING),
        ("the branch stays on", "y if self.merged else y + -> y +", 6,
         "after merging, forward adds the branch once more: the weight contains it already.", MERGING),
        ("the caller's W", f"{PUT} -> self.weight += self.scaling", 7,
         "merging changed the array that was passed in: `+=` works in place, on the caller's array.", MERGING),
        ("alpha / rank", "rank**c.power -> rank", 3,
         "this is the paper's scaling alpha / rank. Here the rank is taken to the power c.power.", SHAPES),
        ("merge does not say so", "self.merged = True -> pass", 5,
         "merge does not set self.merged: forward still adds the branch, and a second merge adds it again.", MERGING),
        ("unmerging twice subtracts twice", "if self.merged: -> if True:", 7,
         "unmerging twice subtracts the update twice. Look at self.merged: is there anything to take out?", MERGING),
        ("a second merge undoes the first",
         f"if not self.merged: -> for sign in [-1 if self.merged else 1]: & {PUT} -> {PUT} * sign & "
         "self.merged = True -> self.merged = sign > 0",
         7,
         "the second merge takes the update out again. On a merged layer, merge does nothing.", MERGING),
        ("normal numbers", f"{DRAWN} -> normal(size=(d_in, rank)) * bound", 6,
         "A is drawn from a normal distribution, as in the paper. Here it is uniform, as in PEFT.", SIZE_OF_A),
        ("drawn as (rank, d_in)", "size=(d_in, rank)) -> size=(rank, d_in)).T", 6,
         "A is drawn as (rank, d_in) and transposed: the numbers are in other places. Draw (d_in, rank).", SHAPES),
        Wrong("calls lora_edu", adapter_of_lora_edu, 0),
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
        ("one gradient for all steps",
         "(x @ A) @ B.T -> (x @ A0) @ B0.T & s = alpha -> A0, B0, s = A, B, alpha",
         7,
         "every step takes the error of the first one. Compute the output anew in each step.", LOOP),
        ("a single step", "range(steps) -> range(1)", 7,
         "this takes one step, whatever `steps` says.", TEXT),
        ("A stays", "A - lr * -> A - 0 *", 6,
         "A is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        ("B stays", "c.ratio * lr -> 0", 6,
         "B is where it was. Both factors are trained, each with its own gradient.", GRADIENTS),
        ("changes A and B", f"{STEP} -> A -= lr * grad_A; B -= c.ratio * lr * grad_B", 8),
    ],
)  # fmt: skip

SOLUTIONS = {"1.1": NEEDED_RANK, "1.2": SPLIT, "1.3": ADAPTER, "1.4": TRAIN}
