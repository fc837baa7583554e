"""The checks of notebook 14, which model fits which card."""

import math

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "most_tokens", "paged_bytes"]


@exercise(
    "14.1",
    [
        *((24, 19.3e9, 2.1e6), (24, 1.1e7, 2.1e6), (24, 5e3, 2.1e6), (8, 5.61e9, 0.73e6), (48, 16.7e9, 1.37e6)),
        *((12, 13.4e9, 0.9e6), (16, 12.9e9, 3.3e5)),  # the first of these two is full before a token comes
    ],
    taught={
        "2**30 -> 10**9": "Your answer takes a GB of the card for 10**9 bytes. A card sold as {card_gb} GB has "
        "{card_gb} * 2**30: the page begins with that.",
        "0.9 * card -> card": "Your answer fills the card to the last byte. A tenth of it stays free, for the driver "
        "and the allocator.",
        "0.9 * card -> card & usable - resident -> 0.9 * (usable - resident)": "Your answer takes the tenth off what "
        "is left beside `resident`. A tenth of the whole card stays free.",
        "usable - resident -> usable & room / per_token -> room / (per_token + resident)": "Your answer gives every "
        "token a `resident` of its own. It is there once: take it off the card, then divide.",
        "usable - resident -> usable - 1.1 * resident": "Your answer adds a tenth to `resident`. "
        "The tenth that stays free belongs to the card.",
        "return max(0, tokens) -> return tokens": "Your answer goes below zero where `resident` alone fills the card. "
        "Then no token fits: 0.",
        "return max(0, tokens) -> return max(1, tokens)": "Your answer is never less than one token. Where `resident` "
        "alone fills the card, not even one fits.",
    },
    noticed={
        "this is below zero: if `resident` alone fills the card, no token fits.": lambda got, *case: got < 0,
        "this is a fraction of a token. One that is not whole does not fit.": lambda got, *case: got % 1 != 0,
        "by this no token fits. Are card and `resident` both in bytes?": lambda got, *case: got == 0,
    },
)
def most_tokens(card_gb, resident, per_token):
    card = card_gb * 2**30  # the bytes of the card
    usable = 0.9 * card  # the bytes that may be used
    room = usable - resident  # the room beside what is resident
    tokens = math.floor(room / per_token)  # how many tokens the room has place for
    return max(0, tokens)  # what is answered where none fits


LLAMA_7B = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
LLAMA_65B = [(8192, 8192)] * 4 + [(8192, 22016)] * 2 + [(22016, 8192)]
EXACT = [(5000, 12500), (12500, 4000), (20000, 100), (2000, 50), (128256, 16)]  # a side makes exactly 100,000 at rank 8
NARROW = [(300, 250), (4096, 20)]  # W has fewer than 100,000 numbers, and at rank 400 A and B have more
WHOLE = "return (each * paged).sum() -> return each * sum(rank * (a + b) for a, b in shapes if {})"


@exercise(
    "14.2",
    [(LLAMA_7B, 8), (LLAMA_7B, 64), (LLAMA_65B, 8), (LLAMA_7B, 10), (EXACT, 8), (NARROW, 400)],
    taught={
        WHOLE.format("rank * (a + b) >= 100_000"): "Your answer asks whether A and B together have 100,000 numbers. "
        "They are two matrices, and each counts by itself.",
        WHOLE.format("rank * max(a, b) >= 100_000"): "Your answer pages a whole adapter as soon as one of its matrices "
        "is large. Each matrix counts by itself.",
        WHOLE.format("a * b >= 100_000"): "Your answer asks whether W is large. What is paged belongs to A and B, with "
        "{rank} numbers for each input or output.",
        "counts >= 100_000 -> 4 * counts >= 100_000": "Your answer compares bytes with 100,000. The limit is a "
        "number of numbers, four bytes each.",
        "counts >= 100_000 -> 8 * counts >= 100_000": "Your answer counts the bytes of both means against 100,000. "
        "The limit is a number of numbers of the matrix.",
        "each = 8 -> each = 16": "Your answer pages 16 bytes for each number: weight and gradient, too. Paged are "
        "AdamW's two means, {each} bytes.",
        "return (each * paged).sum() -> return each * counts.sum() * (counts.sum() >= 100_000)": "Your answer pages "
        "every matrix here. One with fewer than 100,000 numbers stays on the card, and each counts by itself: "
        "section 4.",
    },
    noticed={
        "this is more than the whole state of all adapters, 8 bytes for each number of A and B.": (
            lambda got, shapes, rank: got > 8 * rank * sum(map(sum, shapes))
        ),
    },
)
def paged_bytes(shapes, rank):
    shapes = np.array(shapes)  # the shapes of all layers
    counts = rank * shapes.flatten()  # the numbers of each matrix
    paged = counts[counts >= 100_000]  # which matrices are paged
    each = 8  # the bytes of both means of a number
    return (each * paged).sum()  # the sum
