"""The checks of notebook 12, a real language model: counting. The others are in `nb12_loss` and `nb12_q4`."""

import math

import numpy as np

from lora_edu.exercises.formulas import polynomial
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.mistakes import combinations
from lora_edu.exercises.nb12_loss import shifted_loss
from lora_edu.exercises.nb12_q4 import q4_1

__all__ = ["beside", "bits_per_byte", "q4_1", "shifted_loss", "stored_bytes"]

BITS = 4 + 8 / 64 + 32 / (64 * 256)


def _stored(linears, table, norms, tied, bits=BITS, table_bytes=4.0, head_bytes=4.0, norm_bytes=4.0, head="own"):
    there = {"own": not tied, "always": True, "never": False, "swapped": tied, "twice": 2 * (not tied)}[head]
    norms = norms * (1 if head != "with norms" else 2)
    return linears * bits / 8 + table * (table_bytes + there * head_bytes) + norms * norm_bytes


CODE_BITS = {
    4: "the constants are missing: 4.127 bits a weight, not 4.",
    4.5: "these are the constants without double quantization, 4.5 bits a weight. With it there are 4.127.",
    32: "the block weights are in float32 here.",
    8 * BITS: "the bits of the block weights are not divided by 8. Bytes are asked for.",
    16: "the block weights are in 16 bits here.",
    8: "the block weights are in 8 bits here: a code has 4.",
    2 * BITS: "the block weights' bits are divided by 4. A byte has 8 of them.",
    0: "the block linears are missing.",
    4 + 8 / 64: "the second level of constants is missing: 32 bits for each 64 * 256 weights.",
    4 + 8 / 64 + 32 / 256: "32 / 256 bits: a second constant serves 256 first ones, and so 64 * 256 weights.",
}
IN_4_BITS = BITS / 8
TABLE_BYTES = {
    IN_4_BITS: "the table is in 4 bits here. It is looked up, not multiplied: it stays in float32.",
    2.0: "the table is in 16 bits here. This model keeps it in float32, 4 bytes a number.",
    1.0: "the table is counted in numbers. Each has 4 bytes.",
    0.0: "the table is missing.",
    32.0: "the table is counted in bits. Bytes are asked for.",
}
HEAD_BYTES = {
    IN_4_BITS: "the head is in 4 bits here. It stays in float32, as the table does.",
    2.0: "the head is in 16 bits here. It is in float32, 4 bytes a number.",
    1.0: "the head is counted in numbers. Each has 4 bytes.",
}
NORM_BYTES = {
    0.0: "the norms are missing. They are few, but they are there, in float32.",
    2.0: "the norms are in 16 bits here. They are in float32, 4 bytes a number.",
    IN_4_BITS: "the norms are in 4 bits here. They are no linear layers: they stay in float32.",
    1.0: "the norms are counted in numbers. Each has 4 bytes.",
    8.0: "the norms are counted twice. There are `norms` numbers in all.",
}
HEADS = {
    "always": "this counts the head even where it is tied. A tied head is the embedding table, in memory once.",
    "never": "this leaves the head out even where it is a table of its own.",
    "swapped": "tied and untied are swapped: a tied head is the table, so that there is one of them.",
    "twice": "an untied head is counted twice: there are two tables then.",
}


def _all_bytes(width, head_width=None):
    return lambda *case: _stored(*case, BITS, width, head_width or width, width)


STORED_CASES = [(106_000, 28_000, 35, True), (90_000, 16_000, 50, False), (64_000, 9_000, 20, True)]

stored_bytes = Exercise(
    "12.1",
    _stored,
    STORED_CASES,
    combinations(
        _stored,
        STORED_CASES,
        {
            "head": ("own", HEADS),
            "bits": (BITS, CODE_BITS),
            "table_bytes": (4.0, TABLE_BYTES),
            "head_bytes": (4.0, HEAD_BYTES),
            "norm_bytes": (4.0, NORM_BYTES),
        },
        {
            "the table is in 4 bits here. It is looked up, not multiplied, and a tied head shares it: both stay.": (
                lambda *case: _stored(*case, BITS, IN_4_BITS, IN_4_BITS)
            ),
            "everything is in 4 bits here. Embedding, head and norms are not.": _all_bytes(IN_4_BITS),
            "table, head and norms are in 16 bits here. This model keeps them in float32, 4 bytes a number.": (
                _all_bytes(2.0)
            ),
            "table, head and norms are counted in numbers here. Each has 4 bytes.": _all_bytes(1.0),
            "everything is divided by 8, the floats too. They are in bytes already.": lambda *case: _stored(
                *case, BITS, 0.5, 0.5, 0.5
            ),
            "table, head and norms are in bits here. A byte has 8 of them.": _all_bytes(32.0),
            "these are bits. A byte has 8 of them.": lambda *case: 8 * _stored(*case),
            "the norms are counted twice where the head is not tied. It is the table that is there twice.": (
                lambda n, table, norms, tied: _stored(n, table, norms, tied) + 4 * norms * (not tied)
            ),
        },
        in_pairs=3,  # what a pair explains by chance, the formula explains better
    ),
    formula=polynomial(["linears", "table", "norms"], 1, flags=1),
    broadly={
        "this is less than the block linears take: linears * 4.127 / 8 bytes.": (
            lambda got, linears, *rest: bool(got < linears * IN_4_BITS)
        ),
        "with a tied head there are three parts: linears * 4.127 / 8 bytes, and 4 bytes for each number of the table "
        "and of the norms.": lambda got, linears, table, norms, tied: tied,
        "with a tied head this is right. Without, the head is another `table` numbers in float32.": (
            lambda got, linears, table, norms, tied: not tied
        ),
    },
)


WEIGHTINGS = {
    "right": np.dot,
    "equal": lambda losses, counts: np.mean(losses) * np.sum(counts),
    "one fewer": lambda losses, counts: np.dot(losses, counts - 1),
    "one more": lambda losses, counts: np.dot(losses, counts + 1),
    "no counts": lambda losses, counts: np.sum(losses),
    "mean": lambda losses, counts: np.mean(losses),
    "per token": lambda losses, counts: np.dot(losses, counts) / np.sum(counts),
    "per window": lambda losses, counts: np.mean(losses * counts),
    "sums": lambda losses, counts: np.sum(losses) * np.sum(counts),
    "divided": lambda losses, counts: np.sum(losses / counts),
    "perplexities": lambda losses, counts: np.log(np.dot(np.exp(losses), counts) / np.sum(counts)) * np.sum(counts),
    "perplexity": lambda losses, counts: np.exp(np.dot(losses, counts) / np.sum(counts)) * np.sum(counts),
    "logarithms": lambda losses, counts: np.dot(np.log(losses), counts),
    "exponentials": lambda losses, counts: np.dot(np.exp(losses), counts),
    "each": lambda losses, counts: losses * counts,
    "first": lambda losses, counts: losses[0] * counts[0],
    "median": lambda losses, counts: np.median(losses) * np.sum(counts),
}
WEIGHT_MISTAKES = {
    "equal": "the windows are weighted equally here. A short one has fewer tokens: weight each loss by its count.",
    "no counts": "the number of tokens in each window is not used. A mean times its count is the window's information.",
    "one fewer": "this takes one token off each count. The counts are the tokens of the losses' means, as they are.",
    "one more": "this adds one token to each count. The counts are the tokens of the losses' means, as they are.",
    "mean": "this is the mean of the losses alone. A mean times its count is the window's information: add that up.",
    "per token": "this divides by the tokens as well. Spread all the information over the bytes.",
    "per window": "this averages over the windows. The information of all of them adds up.",
    "sums": "this multiplies the two sums. Each window's loss is multiplied by its own count.",
    "divided": "this divides by the counts. A mean times its count is the window's information.",
    "perplexities": "this averages perplexities. Information adds up; its exponentials do not.",
    "perplexity": "the exponential makes a perplexity. Bits per byte need none.",
    "logarithms": "this takes the logarithm of a loss, which is a logarithm already: divide by ln 2 instead.",
    "exponentials": "this takes the exponential of each loss. Information is the loss itself.",
    "each": "this is the share of each window. One number is asked for: their sum.",
    "first": "this looks at the first window alone.",
    "median": "this takes the median of the losses. The information of all windows adds up.",
}
BIT = 1 / math.log(2)  # bits in a nat
UNITS = {
    1.0: "this is in nats per byte. A nat is 1 / ln 2 = 1.44 bits.",
    math.log(2): "this multiplies by ln 2. There are more bits than nats: divide by it.",
    1 / math.log10(2): "this takes ln 2 for a logarithm to base 10: `np.log`, not `np.log10`.",
    1 / math.log(10): "this divides by ln 10. A bit is ln 2 nats.",
    math.log2(10): "this multiplies by log2 10. A bit is ln 2 nats: divide by it.",
    0.5: "this divides by 2. A bit is ln 2 nats.",
}
BELOW = {
    "nothing": "these are the bits of all windows. Divide by the bytes.",
    "tokens": "these are bits per token. Spread them over the bytes.",
    "8": "this divides by 8 as well, or by ln 256. A bit is ln 2 nats: divide by that, and by the bytes.",
    "bits": "this multiplies by 8. Divide by the bytes.",
    "times": "this multiplies by the bytes. Divide by them.",
    "both": "this divides by the tokens, too. The information is in all windows together: divide by the bytes.",
    "bytes per token": "this multiplies by the bytes in a token. A byte has less information than a token: divide.",
    "windows": "this divides by the number of windows, too.",
    "upside down": "this is upside down: bytes per bit.",
}


def _bits(losses, counts, n_bytes, weight="right", unit=BIT, below="bytes"):
    """Bits per byte, with a mistake in one part or several."""
    bits, tokens = WEIGHTINGS[weight](losses, counts) * unit, np.sum(counts)
    if below == "upside down":
        return n_bytes / bits
    return bits / {"bytes": n_bytes, "nothing": 1, "tokens": tokens, "8": 8 * n_bytes, "bits": n_bytes / 8,
                   "times": 1 / n_bytes, "both": n_bytes * tokens, "bytes per token": tokens**2 / n_bytes,
                   "windows": n_bytes * len(losses)}[below]  # fmt: skip


BIT_CASES = [
    (np.array([2.9, 3.4, 2.5]), np.array([256, 256, 90]), 2_200),
    (np.array([1.7, 4.1]), np.array([30, 256]), 1_430),
]

bits_per_byte = Exercise(
    "12.3",
    _bits,
    BIT_CASES,
    combinations(
        _bits,
        BIT_CASES,
        {
            "weight": ("right", WEIGHT_MISTAKES),
            "unit": (BIT, UNITS),
            "below": ("bytes", BELOW),
        },
        {},
    ),
    symptoms={"one number is asked for: bits per byte of the whole text.": lambda got, *case: got.ndim > 0},
)
