"""The checks of notebook 14, which model fits which card."""

import math

from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.mistakes import combinations

__all__ = ["beside", "most_tokens", "paged_bytes"]

GIB = 2**30

# --- 14.1: the largest batch -----------------------------------------------------------------------------------------


MULTIPLES = {
    f"by {step}": lambda tokens, step=step: math.floor(tokens / step) * step
    for step in (8, 64, 128, 256, 1000, 1024, 2048)
}


def _tokens(card, resident, per_token, unit=GIB, spare="whole", base="taken off", turn="down", low="zero"):
    """The answer with a mistake in one part or several."""
    resident_bytes = resident
    resident = {"taken off": resident, "missing": 0, "after": 0, "added": -resident, "GB": resident / 1e9,
                "tenth": resident * 1.1, "bits": resident / 8}[base]  # fmt: skip
    room = {
        "whole": 0.9 * card * unit - resident,
        "none": card * unit - resident,
        "rest": 0.9 * (card * unit - resident),
        "up": 1.1 * card * unit - resident,
        "divided": card * unit / 0.9 - resident,
        "divided by 1.1": card * unit / 1.1 - resident,
        "only": 0.1 * card * unit - resident,
        "5%": 0.95 * card * unit - resident,
        "20%": 0.8 * card * unit - resident,
        "1 GB": (card - 1) * unit - resident,
        "10 GB": (card - 10) * unit - resident,
    }[spare]
    if base == "after":
        room = room / per_token - resident_bytes
        per_token = 1
    tokens = {"down": math.floor, "not": float, "up": math.ceil, "nearest": round, "cut": int, **MULTIPLES}[turn](
        room / per_token
    )
    return {"zero": max(0, tokens), "negative": tokens, "one": max(1, tokens), "abs": abs(tokens)}[low]


UNIT_MISTAKES = {
    10**9: "a card sold as 24 GB has 24 * 2**30 bytes. This takes 10**9.",
    1: "`card_gb` is not turned into bytes: times 2**30.",
    2**20: "a gigabyte of a card has 2**30 bytes. This takes 2**20.",
    1000 * 2**20: "a gigabyte of a card has 2**30 bytes. This takes 1,000 * 2**20.",
    8 * GIB: "the card is in bits here. `resident` and `per_token` are in bytes.",
    10**6: "a gigabyte of a card has 2**30 bytes. This takes 10**6.",
}
SPARE_MISTAKES = {
    "none": "this fills the card to the last byte. A tenth of it stays free.",
    "rest": "this takes the tenth off what is left beside `resident`. It is a tenth of the whole card.",
    "up": "times 1.1 makes the card larger. A tenth free means times 0.9.",
    "divided": "dividing by 0.9 makes the card larger. A tenth free means times 0.9.",
    "divided by 1.1": "a tenth of the card free means times 0.9. Divided by 1.1 is another number.",
    "only": "this leaves only a tenth to use. A tenth stays free, nine are used.",
    "5%": "a twentieth stays free here. It should be a tenth.",
    "20%": "a fifth stays free here. It should be a tenth.",
    "1 GB": "one gigabyte stays free here. It should be a tenth of the card.",
    "10 GB": "ten gigabytes stay free here. It should be a tenth of the card.",
}
BASE_MISTAKES = {
    "missing": "`resident` is missing: it is on the card all the time.",
    "added": "`resident` is added to the room. It takes room away.",
    "tenth": "the tenth belongs to the card, not to `resident`.",
    "after": "`resident` is taken off after the division, from tokens. It is in bytes: take it off the room.",
    "GB": "`resident` is in bytes already.",
    "bits": "`resident` is in bytes already: no division by 8.",
}
TURN_MISTAKES = {
    "not": "this is a fraction of a token. Round down: one more would not fit.",
    "up": "this rounds up: the last token does not fit any more.",
    "nearest": "this rounds to the nearest whole number, so sometimes up: the last token does not fit then.",
}
TURN_MISTAKES |= {
    name: f"this rounds down to a multiple of {name[3:]}. Every whole number of tokens will do." for name in MULTIPLES
}
LOW_MISTAKES = {
    "negative": "this goes below zero where `resident` alone fills the card. Then no token fits: 0.",
    "one": "where `resident` alone fills the card, not even one token fits: 0.",
    "abs": "where `resident` alone fills the card, nothing fits: 0. This drops the sign of a negative room.",
}

TOKEN_CASES = [
    (24, 19.3e9, 2.1e6),
    (24, 1.1e7, 2.1e6),
    (24, 5e3, 2.1e6),
    (8, 5.61e9, 0.73e6),
    (48, 16.7e9, 1.37e6),
    (12, 13.4e9, 0.9e6),
    (16, 12.9e9, 3.3e5),
]
TOKEN_PARTS = {
    "unit": (GIB, UNIT_MISTAKES),
    "spare": ("whole", SPARE_MISTAKES),
    "base": ("taken off", BASE_MISTAKES),
    "turn": ("down", TURN_MISTAKES),
    "low": ("zero", LOW_MISTAKES),
}

most_tokens = Exercise(
    "14.1",
    _tokens,
    TOKEN_CASES,
    combinations(
        _tokens,
        TOKEN_CASES,
        TOKEN_PARTS,
        {
            "no token fits by this, in any case: the room comes out below zero, or as nothing. Card and `resident` are "
            "both counted in bytes: times 2**30 for the card alone.": lambda c, r, t: 0,
            "this goes below zero where `resident` alone fills the card: 0 fit then. And int(...) cuts off.": (
                lambda c, r, t: _tokens(c, r, t, turn="cut", low="negative")
            ),
            "`resident` is there once. This gives it to every token: subtract it, then divide.": (
                lambda c, r, t: math.floor(0.9 * c * GIB / (t + r))
            ),
            "these are the bytes of room. How many tokens is that, at `per_token` bytes each?": (
                lambda c, r, t: max(0, 0.9 * c * GIB - r)
            ),
            "these are the bytes of room, below zero where there is none. How many tokens is that?": (
                lambda c, r, t: 0.9 * c * GIB - r
            ),
            "this multiplies by `per_token`. Each token takes so many bytes: divide.": (
                lambda c, r, t: max(0, (0.9 * c * GIB - r) * t)
            ),
            "this says whether a token fits. How many do?": lambda c, r, t: float(0.9 * c * GIB - r >= t),
            "this answers one more than fits.": lambda c, r, t: _tokens(c, r, t) + 1,
            "this answers one fewer than fits.": lambda c, r, t: _tokens(c, r, t) - 1,
            "this takes the tenth off the tokens. It is a tenth of the whole card.": (
                lambda c, r, t: max(0, math.floor(0.9 * math.floor((c * GIB - r) / t)))
            ),
            "this rounds down to a power of two. Every whole number of tokens will do.": (
                lambda c, r, t: 2 ** int(math.log2(max(1, _tokens(c, r, t))))
            ),
        },
    ),
    broadly={
        "this is below zero: if `resident` alone fills the card, no token fits.": lambda got, *case: bool(got < 0),
        "this is a fraction of a token: the answer is a whole number.": lambda got, *case: bool(got % 1 != 0),
        "if `resident` alone fills the card, no token fits: 0.": (
            lambda got, c, r, t: bool(got > 0 and 0.9 * c * GIB < r)
        ),
        "so many tokens do not fit beside `resident`, if a tenth of the card stays free.": (
            lambda got, c, r, t: bool(got > _tokens(c, r, t))
        ),
        "more tokens than that fit: the room is 0.9 * card_gb * 2**30 - resident bytes.": (
            lambda got, c, r, t: bool(got < _tokens(c, r, t))
        ),
    },
)

# --- 14.2: what paging moves -----------------------------------------------------------------------------------------

LLAMA_7B = [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
LLAMA_65B = [(8192, 8192)] * 4 + [(8192, 22016)] * 2 + [(22016, 8192)]
EXACT = [
    (5000, 12500),
    (12500, 4000),
    (20000, 100),
    (100, 50),
    (128256, 16),
]  # at rank 8 one side makes exactly 100,000


def _paged(shapes, rank, each=8, least=100_000, which="each"):
    """The answer with a mistake in one part or several."""
    size = {
        "A": lambda a, b: [rank * a],
        "B": lambda a, b: [rank * b],
        "larger": lambda a, b: [rank * max(a, b)],
        "smaller": lambda a, b: [rank * min(a, b)],
        "together": lambda a, b: [rank * (a + b)],
        "W": lambda a, b: [a * b],
        "sides": lambda a, b: [a, b],
    }.get(which, lambda a, b: [rank * a, rank * b])
    counts = [count for a, b in shapes for count in size(a, b)]
    if which in ("any", "all", "sum"):  # everything or nothing
        test = {"any": max(counts), "all": min(counts), "sum": sum(counts)}[which]
        return each * sum(counts) * (test >= least)
    if which == "either":  # an adapter as a whole, by its larger matrix
        return each * sum(rank * (a + b) for a, b in shapes if rank * max(a, b) >= least)
    if which == "both":
        return each * sum(rank * (a + b) for a, b in shapes if rank * min(a, b) >= least)
    if which == "by side":
        return each * sum(rank * side for pair in shapes for side in pair if side >= least)
    if which == "product":
        return each * sum(rank * (a + b) for a, b in shapes if rank * a * b >= least)
    if which == "by W":
        return each * sum(rank * (a + b) for a, b in shapes if a * b >= least)
    kept = {
        "above": lambda count: count > least,
        "below": lambda count: count < least,
    }.get(which, lambda count: count >= least)
    return each * sum(count for count in counts if kept(count))


EACH_MISTAKES = {
    4: "four bytes for each number: AdamW keeps two means of four bytes each.",
    1: "these are numbers. Two float32 means of each take eight bytes.",
    16: "sixteen bytes for each number: only the two means are paged, not the adapter and its gradient.",
    12: "twelve bytes for each number: only the two means are paged, eight bytes.",
    2: "two numbers for each one, but in bytes: AdamW's two means have four each.",
    64: "these are bits. A byte has eight of them.",
}
LEAST_MISTAKES = {
    0: "this pages every matrix. Those with fewer than 100,000 numbers stay on the card.",
    12_500: "this compares bytes with 100,000. The limit is on the numbers of a matrix.",
    25_000: "this compares the bytes of one mean with 100,000. The limit is on the numbers of a matrix.",
    50_000: "this counts both means against 100,000. The limit is on the numbers of a matrix.",
    1_000_000: "this takes 100,000 for 1,000,000.",
    10_000: "this takes 100,000 for 10,000.",
    2**17: "this takes 2**17 for 100,000.",
}
WHICH_MISTAKES = {
    "together": "this asks whether A and B together have 100,000 numbers. They are two tensors: each counts by itself.",
    "by W": "this asks whether W is large. What is paged belongs to A and B: rank * d_in and rank * d_out numbers.",
    "by side": "this compares d_in and d_out with 100,000. A has rank * d_in numbers, B rank * d_out.",
    "product": "this compares rank * d_in * d_out with 100,000. A has rank * d_in numbers, B rank * d_out.",
    "A": "only A is looked at. B has rank * d_out numbers of its own.",
    "B": "only B is looked at. A has rank * d_in numbers of its own.",
    "above": "a matrix with exactly 100,000 numbers is paged: at least, not more than.",
    "below": "this counts what stays on the card. How much is paged?",
    "either": "this pages an adapter as a whole as soon as one of its two matrices is large. Each counts by itself.",
    "both": "this pages an adapter only if both of its matrices are large. Each counts by itself.",
    "larger": "only the larger matrix of each adapter is looked at. Each counts by itself.",
    "smaller": "only the smaller matrix of each adapter is looked at. Each counts by itself.",
    "any": "this pages everything as soon as one matrix is large. Each counts by itself.",
    "all": "this pages nothing unless all matrices are large. Each counts by itself.",
    "sum": "this adds all matrices up and then compares. Each has its own count.",
    "W": "this pages W's state. W is frozen and has none: A and B have.",
    "sides": "the rank is missing: A has rank * d_in numbers, B rank * d_out.",
}
NARROW = [(300, 250), (4096, 20)]  # W has fewer than 100,000 numbers, and at rank 400 A and B have more
PAGED_CASES = [(LLAMA_7B, 8), (LLAMA_7B, 64), (LLAMA_65B, 8), (LLAMA_7B, 10), (EXACT, 8), (NARROW, 400)]
PAGED_PARTS = {"least": (100_000, LEAST_MISTAKES), "which": ("each", WHICH_MISTAKES), "each": (8, EACH_MISTAKES)}

paged_bytes = Exercise(
    "14.2",
    _paged,
    PAGED_CASES,
    combinations(
        _paged,
        PAGED_CASES,
        PAGED_PARTS,
        {
            "the rank is missing in the count of bytes.": (
                lambda s, r: sum(8 * side for pair in s for side in pair if r * side >= 100_000)
            ),
            "the rank is counted twice.": lambda s, r: r * _paged(s, r),
            "this counts how many matrices are paged. How many bytes are that?": (
                lambda s, r: sum(r * side >= 100_000 for pair in s for side in pair)
            ),
            "this counts layers of the same shape once. Each has an adapter of its own.": lambda s, r: _paged(
                set(s), r
            ),
            "this looks at the first layer alone.": lambda s, r: _paged(s[:1], r),
            "this leaves the last layer out.": lambda s, r: _paged(s[:-1], r),
            "this pages only what is above 100,000 numbers. A large matrix is paged as a whole.": (
                lambda s, r: sum(8 * (r * side - 100_000) for pair in s for side in pair if r * side >= 100_000)
            ),
            "nothing is paged here. At rank 64, 7B's matrices have 262,144 numbers and more.": lambda s, r: 0,
        },
        in_pairs=6,
    ),
    broadly={
        "this is a list. How many bytes are paged in all?": lambda got, *case: got.ndim > 0,
        "this is a share. How many bytes are paged?": lambda got, *case: bool(0 < got < 1),
        "this is no multiple of eight bytes: AdamW has two float32 means for each number.": (
            lambda got, *case: bool(got % 8 != 0)
        ),
        "this is more than the whole state of all adapters: eight bytes for each number of A and B.": (
            lambda got, s, r: bool(got > 8 * r * sum(map(sum, s)))
        ),
        "here every matrix has at least 100,000 numbers, so all state is paged: 8 * rank * (d_in + d_out) a layer.": (
            lambda got, s, r: all(r * side >= 100_000 for pair in s for side in pair)
        ),
        "here no matrix has 100,000 numbers, so nothing is paged.": (
            lambda got, s, r: all(r * side < 100_000 for pair in s for side in pair)
        ),
        "here some matrices are paged and some are not: compare rank * d_in for A and rank * d_out for B by turns.": (
            lambda got, s, r: len({r * side >= 100_000 for pair in s for side in pair}) == 2
        ),
    },
)
