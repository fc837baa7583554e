"""The checks of notebook 09, QLoRA: a layer forward and backward, its bytes, and a fair comparison."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_course.nb02.check import random_cases
from lora_edu.codebooks import nf_codebook

__all__ = ["beside", "input_gradient", "lora_minus_full", "qlora_output", "stored_bytes"]

SUM = "return base + s * branch"

# --- 9.1: what comes back to x ---------------------------------------------------------------------------------------


@exercise(
    "9.1",
    random_cases("grad_output", "weight", "lora_A", "lora_B", "alpha"),
    taught={
        f"{SUM} -> return s * branch": "Your answer is the branch alone. Frozen means that W' itself gets no gradient. "
        "It still passes one on to x: section 3.",
        f"{SUM} -> return base": "Your answer is the base's term alone. x goes into A too, and the branch sends back "
        "s (dL/dy B) A.",
        f"{SUM} -> return s * (base + branch)": "Your answer scales both terms by {s:g}. In the forward pass s stands "
        "before B A alone.",
        "base = grad_y @ W -> base = grad_y @ np.linalg.pinv(W).T": "Your answer undoes W' by an inverse. The chain "
        "rule multiplies by W': section 3.",
        f"{SUM} -> return W + s * lora_B @ lora_A": "Your answer is the weight of the layer, W' + s B A. What comes "
        "back to x is grad_y times that.",
        f"{SUM} -> return base + branch": "Your answer leaves the scaling out. What s multiplies on the way forward, "
        "it multiplies on the way back: s = alpha / r, here {s:g}.",
        "alpha / len(lora_A) -> alpha": "Your answer scales the branch by alpha. The scaling is alpha divided by the "
        "rank, the number of rows of lora_A: {s:g} here.",
    },
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
    """The output, (n, d_out); of absmax or blocks that fit no side of the weight it says what they are."""
    try:
        return solution(x, codes, absmax, lora_A, lora_B, alpha)
    except ValueError as error:
        if "broadcast" in str(error) and any(f"({len(absmax)},{more})" in str(error) for more in ("", "1")):
            return (
                "absmax has one number for each block of the flattened weight, not one for each row or column. Bring "
                "the looked-up values into the shape (n_blocks, -1) before you multiply."
            )
        if "matmul" in str(error) and f"(size {codes.size // len(absmax)} is different" in str(error):
            return "blocks are multiplied here, rows of their own. Bring the values into the shape of `codes` first."
        raise


@exercise(
    "9.2",
    _stored_layers(),
    taught={
        "values = NF4[codes] -> values = codes": "Your answer multiplies with the codes themselves. A code is an "
        "index: look its value up in the codebook first.",
        "values * absmax[:, None] -> values": "Your answer takes the looked-up values for the weight. They lie between "
        "-1 and 1: each block was divided by its absmax, and needs it back.",
        "values * absmax[:, None] -> values * absmax.max()": "Your answer has one absmax for the whole weight. Each of "
        "the {n_blocks} blocks has its own.",
        ".reshape(n_blocks, -1) -> .reshape(-1, n_blocks).T & scaled.reshape -> scaled.T.reshape": "Your answer deals "
        "the values out to the blocks like cards. A block is a run of neighbors: one row of a table (n_blocks, -1).",
        "values.reshape -> values.T.reshape & scaled.reshape(codes.shape) -> scaled.reshape(codes.T.shape).T": "Your "
        "answer takes the blocks down the columns. The weight is flattened row by row.",
        f"{SUM} -> return base + branch": "Your answer leaves the scaling out. A and B add s B A x, with s = alpha / r "
        "({s:g} here).",
        "alpha / len(lora_A) -> alpha": "Your answer scales the branch by alpha. The scaling is alpha divided by the "
        "rank, the number of rows of lora_A: {s:g} here.",
    },
    noticed={
        "this is the base's term alone. x goes through A and B, too.": lambda got, x, codes, absmax, *rest: np.allclose(
            got, x @ (NF4[codes].reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape).T
        ),
    },
    observe=_with_blocks,
)
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


# --- 9.3: what is still in full precision ----------------------------------------------------------------------------


@exercise(
    "9.3",
    [(256, 4, 256, 256), (96, 3, 500, 128), (60, 7, 90, 31)],
    taught={
        "= embeddings + head -> = embeddings / 8 + head": "Your answer has the embeddings in 4 bits. They are looked "
        "up, not multiplied: {embeddings:,} numbers stay in float32.",
        "+ head -> + head / 8": "Your answer has the head in 4 bits. It is linear but left out: its errors go straight "
        "to the logits. {head:,} numbers stay in float32.",
        "+ norms + biases -> + norms / 8 + biases / 8": "Your answer has norms and biases in 4 bits. Only weight "
        "matrices of the blocks are: these {norms:,} and {biases:,} numbers stay in float32.",
        "4 * in_float32 -> in_float32 / 2": "Your answer has everything in 4 bits. Embeddings, head, norms and biases "
        "are not: {in_float32:,} numbers stay in float32.",
        "linears / 2 -> 4 * linears": "Your answer gives the blocks' weights 4 bytes each. After `quantize_linears` "
        "they have 4 *bits*, half a byte.",
        "linears / 2 -> linears * (4 + 8 / 64 + 32 / (64 * 256)) / 8": "Your answer counts the constants, too, 0.127 "
        "bits a weight. Here they are left out.",
        "linears / 2 -> linears": "Your answer gives each code a byte of its own. Two codes share one.",
    },
    noticed={
        "this is less than the block weights alone take: half a byte for each.": lambda got, d, layers, *rest: (
            got < 6 * d * d * layers
        ),
    },
)
def stored_bytes(d_model, n_layers, vocab_size, context):
    linears = n_layers * 12 * d_model * d_model  # the numbers in the blocks' linear layers
    codes = linears / 2  # the bytes of their codes
    embeddings = d_model * (vocab_size + context)  # the numbers in the embedding tables
    head = d_model * vocab_size  # the numbers in the head
    norms = 2 * d_model * (2 * n_layers + 1)  # the numbers in the norms
    biases = n_layers * 9 * d_model  # the numbers in the biases
    in_float32 = embeddings + head + norms + biases  # how many numbers stay in float32
    return codes + 4 * in_float32  # the bytes of all


# --- 9.4: a fair comparison ------------------------------------------------------------------------------------------

# Learning rate -> the loss of each seed. In each case the best rates differ, and a lucky run has another rate than the
# best mean, so that no two of the ways below give the same number.
_SWEEPS = [
    (
        {3e-4: [2.05, 2.1], 1e-3: [1.84, 1.9], 3e-3: [1.81, 2.36], 1e-2: [2.6, 2.7]},
        {1e-3: [2.15, 2.2], 3e-3: [1.84, 1.85], 1e-2: [1.86, 1.78], 3e-2: [1.75, 2.95]},
    ),
    (
        {1e-4: [1.8, 1.79, 1.83], 3e-4: [1.62, 1.58, 1.6], 1e-3: [1.7, 1.56, 1.75], 3e-3: [2.2, 2.4, 2.3]},
        {3e-4: [2.31, 2.3, 2.26], 1e-3: [1.93, 1.9, 1.88], 3e-3: [1.68, 1.61, 1.65], 1e-2: [1.64, 1.8, 1.52]},
    ),
    (
        {
            1e-4: [1.62, 1.87, 1.71, 1.72],
            2e-4: [1.77, 1.39, 1.61, 1.94],
            5e-4: [1.85, 1.61, 1.65, 1.79],
            1e-3: [1.55, 1.39, 1.76, 1.94],
            2e-3: [1.54, 1.61, 1.87, 1.71],
            5e-3: [1.82, 2.01, 1.95, 1.88],
        },
        {
            5e-4: [1.6, 1.85, 1.97, 1.3],
            1e-3: [1.56, 1.69, 2.11, 1.87],
            2e-3: [1.61, 1.66, 1.7, 1.57],
            5e-3: [1.71, 1.42, 1.58, 1.82],
            1e-2: [1.72, 1.59, 1.84, 1.9],
        },
    ),
]
CHOICE = "min(runs, key=lambda rate: np.mean(runs[rate])) for runs in both"
VALUE = "np.mean(runs[rate]) for runs, rate in zip(both, rates, strict=True)"
SHARED = "set(full).intersection(lora)"


@exercise(
    "9.4",
    _SWEEPS,
    taught={
        f"{VALUE} -> min(map(min, runs.values())) for runs in both": "Your answer compares the luckiest run of each. "
        "Whoever has more runs has more luck: take the mean over the seeds.",
        f"{CHOICE} -> min(full, key=lambda rate: np.mean(full[rate])) for runs in both": "Your answer gives both the "
        "rate that is best for full fine-tuning. LoRA needs a larger one: each gets its own.",
        f"{CHOICE} -> min(lora, key=lambda rate: np.mean(lora[rate])) for runs in both": "Your answer gives both the "
        "rate that is best for LoRA. For full fine-tuning it is too large: each gets its own.",
        f"{CHOICE} -> min({SHARED}, key=lambda rate: sum(np.mean(runs[rate]) for runs in both)) for _ in both": "Your "
        "answer takes the best rate that both have tried. A fair comparison gives each its own.",
        f"{VALUE} -> np.mean([min(losses) for losses in zip(*runs.values(), strict=True)]) for runs in both": "Your "
        "answer lets each seed choose a rate of its own: luck chooses. The mean over the seeds chooses one for all.",
        f"{VALUE} -> np.mean([np.mean(losses) for losses in runs.values()]) for runs in both": "Your answer averages "
        "over all rates. Nobody would use the bad ones: take each method's best rate first.",
        "return means[1] - means[0] -> return means[1] / means[0]": "Your answer is a ratio. The difference of the two "
        "losses is asked for.",
    },
)
def lora_minus_full(full, lora):
    both = (full, lora)
    rates = [min(runs, key=lambda rate: np.mean(runs[rate])) for runs in both]  # the rate of each, and what chooses it
    means = [np.mean(runs[rate]) for runs, rate in zip(both, rates, strict=True)]  # the loss of each that is compared
    return means[1] - means[0]  # how the two are compared
