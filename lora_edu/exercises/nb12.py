"""The checks of notebook 12, a real language model: its bytes and bits. The others are in `nb12_logits`."""

import numpy as np

from lora_edu.exercises.exercise import exercise
from lora_edu.exercises.grading import beside
from lora_edu.exercises.nb12_logits import q4_1, shifted_loss

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
        "4 + 8 / 64 + 32 / (64 * 256) -> 4 + 32 / 64": "Your answer has a float32 for each block of 64. Double "
        "quantization leaves 8 bits of it, and {bits:.3f} bits a weight in all.",
        "32 / (64 * 256) -> 32 / 256": "Your answer shares a second constant among 256 weights. It serves 256 first "
        "constants, and so 64 * 256 weights.",
        f"{TABLES} -> 2 * tables * table & {NORMS} -> 2 * norms": "Your answer has table, head and norms in 16 bits. "
        "This model keeps them in float32, 4 bytes a number.",
    },
    also=(
        *(f"codes = linears * bits / 8 -> codes = linears * {each}" for each in (4, 2, 1)),
        *(  # the table in one format, an untied head in the same or in another
            f"{TABLES} -> ({each} + {other} * (tables - 1)) * table"
            for each in (0, 1, 2, 4, 32, "bits / 8")
            for other in (0, 1, 2, 4, "bits / 8")
            if {each, other} != {4} and {each, other} != {4, "bits / 8"}
        ),
        *(f"{NORMS} -> {each} * norms" for each in ("bits / 8", 2, 1)),
        f"{NORMS} -> 4 * norms * tables",
        *(f"{TABLES} -> {each} * tables * table & {NORMS} -> {each} * norms" for each in (1, 0.5, 32)),
    ),
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
    also=(
        "(losses * counts).sum() -> np.exp((losses * counts).sum() / counts.sum()) * counts.sum()",
        "(losses * counts).sum() -> np.median(losses) * counts.sum()",
        "losses * counts -> losses * (counts - 1)",
        "losses * counts -> losses * (counts + 1)",
        "losses * counts -> losses.sum() * counts",
        "losses * counts -> np.log(losses) * counts",
        "losses * counts -> np.exp(losses) * counts",
        "losses * counts -> losses[0] * counts[:1]",
        *(f"nats / np.log(2) -> nats {by}" for by in ("/ np.log10(2)", "/ np.log(10)", "* np.log2(10)", "/ 2")),
    ),
    noticed={"one number is asked for: bits per byte of the whole text.": lambda got, *case: got.ndim > 0},
)
def bits_per_byte(losses, counts, n_bytes):
    nats = (losses * counts).sum()  # the information in all windows, in nats
    bits = nats / np.log(2)  # the same in bits
    return bits / n_bytes  # what a byte has of it
