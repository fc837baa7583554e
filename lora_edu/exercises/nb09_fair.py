"""The checks of exercises 9.3 and 9.4: bytes in full precision, and a fair comparison of two sweeps."""

import numpy as np

from lora_edu.exercises.exercise import exercise

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
    also=(
        "4 * in_float32 -> 32 * in_float32",
        "4 * in_float32 -> 4 * in_float32 - 4 * d_model * context",
        "head = d_model * vocab_size -> head = 0",
        "linears / 2 -> linears / 2 / n_layers",
        "codes + 4 * in_float32 -> (codes + 4 * in_float32) / 1e6",
        "codes + 4 * in_float32 -> (codes + 4 * in_float32) / 2**20",
        "codes + 4 * in_float32 -> linears + in_float32",
        "12 * d_model * d_model -> 12 * d_model",
        "(2 * n_layers + 1) -> 5",
    ),
    noticed={
        "one number is asked for: the bytes of all weights together.": lambda got, *case: got.ndim > 0,
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
SCORES = ("min(losses)", "max(losses)", "np.median(losses)", "np.std(losses)", "sum(losses)", "losses[0]", "losses[-1]",
          "np.mean(losses) + np.std(losses)", "np.mean(losses) - np.std(losses)")  # fmt: skip


@exercise(
    "9.4",
    _SWEEPS,
    tries=0.5,
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
    also=(
        *(f"{place} -> min({score} for losses in {runs}.values())" for score in SCORES for place, runs in
          (("means[1]", "lora"), ("means[0]", "full"))),
        *(f"{VALUE} -> min({score} for losses in runs.values()) for runs in both" for score in SCORES),
        *(f"{CHOICE} -> min(runs, key=lambda rate: (lambda losses: {score})(runs[rate])) for runs in both"
          for score in SCORES[5:]),
        *(f"{CHOICE} -> {rate} for runs in both" for rate in ("max(runs)", "min(runs)", "next(iter(runs))",
          "max(runs, key=lambda rate: np.mean(runs[rate]))")),
        f"{CHOICE} -> min({SHARED}, key=lambda rate: abs(np.mean(full[rate]) - np.mean(lora[rate]))) "
        "for _ in both",
        f"{VALUE} -> np.median([loss for losses in runs.values() for loss in losses]) for runs in both",
        *(f"return means[1] - means[0] -> return {end}" for end in ("means[1] / means[0] - 1", "rates[1] - rates[0]",
          "1 - means[0] / means[1]", "100 * (means[1] / means[0] - 1)", "np.exp(means[1]) - np.exp(means[0])")),
    ),
    noticed={
        "one number is asked for: the mean at LoRA's best rate, minus the mean at full fine-tuning's.": (
            lambda got, *case: got.ndim > 0
        ),
    },
)  # fmt: skip
def lora_minus_full(full, lora):
    both = (full, lora)
    rates = [min(runs, key=lambda rate: np.mean(runs[rate])) for runs in both]  # the rate of each, and what chooses it
    means = [np.mean(runs[rate]) for runs, rate in zip(both, rates, strict=True)]  # the loss of each that is compared
    return means[1] - means[0]  # how the two are compared
