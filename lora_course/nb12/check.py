"""The checks of notebook 12, a real language model: its bytes and bits, its loss, and a format of its files."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "bits_per_byte", "q4_1", "shifted_loss", "stored_bytes"]

TABLES, NORMS = "4 * tables * table", "4 * norms"


@exercise(
    "12.1",
    [(106_000, 28_000, 35, True), (90_000, 16_000, 50, False), (64_000, 9_000, 20, True)],
    taught={
        "return codes + in_tables + in_norms -> return (linears + tables * table + norms) * bits / 8": "Your answer "
        "puts everything into 4 bits. Only block linears are quantized: table, head and norms stay in float32 (section "
        "5).",
        f"{TABLES} -> (bits / 8 + 4 * (tables - 1)) * table": "Your answer has the table in 4 bits. It is looked up, "
        "not multiplied: it stays in float32, 4 bytes a number.",
        f"{TABLES} -> (4 + bits / 8 * (tables - 1)) * table": "Your answer has an untied head in 4 bits. "
        "`quantize_linears` leaves the head out: section 5.",
        "1 if tied else 2 -> 2": "Your answer counts the head where it is tied, too. A tied head is the table, in "
        "memory once.",
        "1 if tied else 2 -> 1": "Your answer counts the table once in every model. Where the head is not tied, it is "
        "a matrix of its own, as large.",
        "32 / (64 * 256) -> 32 / 256": "Your answer shares a second constant among 256 weights. It serves 256 first "
        "constants, and so 64 * 256 weights.",
        f"{TABLES} -> 2 * tables * table & {NORMS} -> 2 * norms": "Your answer has table, head and norms in 16 bits. "
        "This model keeps them in float32, 4 bytes a number.",
    },
    noticed={
        "this is less than the block linears alone take.": (
            lambda got, linears, *case: got < linears * (4 + 8 / 64 + 32 / (64 * 256)) / 8
        ),
    },
)
def stored_bytes(linears, table, norms, tied):
    bits = 4 + 8 / 64 + 32 / (64 * 256)  # the bits of a block weight
    codes = linears * bits / 8  # the bytes of the block linears
    tables = 1 if tied else 2  # the number of tables
    in_tables = 4 * tables * table  # the bytes of the tables, head included
    in_norms = 4 * norms  # the bytes of the norms
    return codes + in_tables + in_norms  # the sum


@exercise(
    "12.3",
    [
        (np.array([2.9, 3.4, 2.5]), np.array([256, 256, 90]), 2_200),
        (np.array([1.7, 4.1]), np.array([30, 256]), 1_430),
    ],
    taught={
        "losses * counts -> losses.mean() * counts": "Your answer weights all windows alike. A short window has fewer "
        "tokens: its mean loss counts that many times.",
        "return bits / n_bytes -> return bits / counts.sum()": "Your answer is bits per token. Spread the information "
        "of all windows over the {n_bytes:,} bytes.",
        "return bits / n_bytes -> return bits / counts.sum() / n_bytes": "Your answer divides by the tokens as well. "
        "The windows hold {nats:.5g} nats in all: divide by the bytes.",
        "return bits / n_bytes -> return bits / counts.sum() * n_bytes / counts.sum()": "Your answer multiplies by the "
        "bytes in a token. A byte holds less than a token: divide.",
        "nats / np.log(2) -> nats": "Your answer is in nats per byte. A bit is ln 2 = 0.693 nats, so there are more "
        "bits than nats.",
        "(losses * counts).sum() -> np.log(np.exp(losses) @ counts / counts.sum()) * counts.sum()": "Your answer "
        "averages perplexities. Information adds up, and its exponentials do not: multiply the losses by their counts.",
        "nats / np.log(2) -> nats / np.log(256)": "Your answer divides by ln 256, as if a byte were 8 bits of "
        "information. A bit is ln 2 nats.",
    },
)
def bits_per_byte(losses, counts, n_bytes):
    nats = (losses * counts).sum()  # the information in all windows, in nats
    bits = nats / np.log(2)  # the same in bits
    return bits / n_bytes  # what a byte has of it


# --- 12.2: one ahead -------------------------------------------------------------------------------------------------


def _tokens():
    for seed, (batch, seq, vocab) in enumerate([(1, 5, 7), (3, 4, 6)]):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=(batch, seq, vocab)), rng.integers(0, vocab, size=(batch, seq))


ASKED = "scores[:, :-1], tokens[:, 1:, None]"
SUM = "np.exp(logits).sum(axis=-1, keepdims=True)"


@exercise(
    "12.2",
    list(_tokens()),
    taught={
        f"{ASKED} -> scores, tokens[..., None]": "Your answer asks each position for its own token, which the "
        "model has been given. Ask for the one that follows.",
        f"{ASKED} -> scores[:, :-2], tokens[:, 2:, None]": "Your answer asks for the token two places ahead: "
        "it shifts twice, as section 3 warns.",
        f"{ASKED} -> scores[:, 1:], tokens[:, :-1, None]": "Your answer asks each position for the token "
        "before it. Ask for the one that follows.",
        f"{ASKED} -> scores, np.roll(tokens, -1, axis=1)[..., None]": "Your answer asks the last position for the "
        "first token of its sequence. Nothing follows it: leave it out.",
        f"{ASKED} -> scores.reshape(1, -1, logits.shape[-1])[:, :-1], tokens.reshape(1, -1)[:, 1:, None]": (
            "Your answer asks the last position of a sequence for the first token of the next one. Shift within each "
            "sequence."
        ),
        f"logits - np.log({SUM}) -> np.exp(logits) / {SUM}": "Your answer averages probabilities. A loss is the mean "
        "of their logarithms, with a minus.",
        "return -found.mean() -> return np.exp(-found.mean())": "Your answer is the perplexity. Its logarithm is the "
        "loss, {result:.4g} nats here.",
    },
    noticed={
        "a loss is never below zero: it is minus the logarithm of a probability.": lambda got, *case: got < 0,
    },
)
def shifted_loss(logits, tokens):
    scores = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))  # the logarithms of the probabilities
    found = np.take_along_axis(scores[:, :-1], tokens[:, 1:, None], axis=-1)  # which position is asked for which token
    return -found.mean()  # what becomes of all logarithms


# --- 12.4: Q4_1 ------------------------------------------------------------------------------------------------------


def _weights(n_blocks, seed, shift):
    rng = np.random.default_rng(seed)
    return rng.normal(size=32 * n_blocks) * np.repeat(rng.uniform(0.5, 2, n_blocks), 32) + shift


def _are_levels(got, weights):
    """Whether each weight is one of the 16 values of its block."""
    blocks = weights.reshape(-1, 32)
    levels = np.linspace(blocks.min(axis=1), blocks.max(axis=1), 16, axis=1)[:, None]
    return (np.abs(got.reshape(-1, 32, 1) - levels).min(axis=2) < 1e-5).all()


RUNS = "blocks = weights.reshape(-1, 32)"
LOW, HIGH = "low = blocks.min(axis=1, keepdims=True)", "high = blocks.max(axis=1, keepdims=True)"
ABSMAX = "np.abs(blocks).max(axis=1, keepdims=True)"
ROUNDED = "np.round((blocks - low) / step)"


@exercise(
    "12.4",
    [(_weights(4, 0, 0.3),), (_weights(6, 1, -0.5),)],
    taught={
        "(high - low) / 15 -> (high - low) / 16": "Your answer divides the range by 16. There are 16 values, and so 15 "
        "steps between them.",
        f"(high - low) / 15 -> (high - low) / 16 & {ROUNDED} -> np.minimum({ROUNDED}, 15)": "Your answer has 16 steps "
        "and cuts the last one off. 16 values from the smallest weight to the largest have 15 steps between them.",
        f"{LOW} -> low = -{ABSMAX} & {HIGH} -> high = {ABSMAX}": "Your answer lays the values from -absmax to absmax, "
        "as NF4 does. They go from the smallest weight of the block to the largest.",
        f"{LOW} -> low = 0 & (high - low) / 15 -> {ABSMAX} / 7": "Your answer has zero in the middle of the values, as "
        "int4 does. Q4_1 keeps a smallest value and a step for each block.",
        f"{LOW} -> low = 0": "Your answer counts the steps from 0. The first value is the smallest weight of the "
        "block: take it off first.",
        f"{RUNS} -> blocks = weights.reshape(1, -1)": "Your answer has one smallest value and one step for all "
        "weights. Each run of 32 has its own.",
        f"{RUNS} -> blocks = weights.reshape(-1, 64)": "Your answer has blocks of 64 weights, as NF4 has. The runs of "
        "Q4_1 have 32.",
    },
    noticed={
        "as many weights come back as were given, in one row.": lambda got, weights: got.size != weights.size,
        "the numbers come back in blocks. One row of `n` is asked for: `.reshape(-1)`.": (
            lambda got, weights: got.ndim > 1
        ),
        "these are values of their blocks, but not for every weight the nearest one.": _are_levels,
    },
)
def q4_1(weights):
    blocks = weights.reshape(-1, 32)  # the runs of 32 weights
    low = blocks.min(axis=1, keepdims=True)  # the smallest value of each run
    high = blocks.max(axis=1, keepdims=True)  # the largest value of each run
    step = (high - low) / 15  # the step
    codes = np.round((blocks - low) / step)  # how the steps are counted and rounded
    return (codes * step + low).reshape(-1)  # the way back from codes to weights
