"""The checks of notebook 00, Start here."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "line_surprise", "training_gigabytes"]


def _line(n_bytes: int, vocab_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model gave to each byte value at each place, (n_bytes, vocab_size), and the bytes that came."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(vocab_size, 0.4), size=n_bytes) * 0.9 + 0.1 / vocab_size
    return probabilities, rng.integers(vocab_size, size=n_bytes)


PICKED = "probabilities[places, tokens]"


@exercise(
    "0.1",
    [_line(5, 7, 0), _line(12, 256, 1), _line(3, 4, 2)],
    taught={
        "-np.log(came) -> 1 - came": "Your answer is 1 - p. It never exceeds 1, however impossible a byte was held to "
        "be: take -ln p.",
        "-np.log(came) -> 1 / came": "Your answer is 1 / p: how many bytes the model might as well have guessed among. "
        "The surprise is its logarithm.",
        f"{PICKED} -> probabilities": "Your answer has a surprise for every byte that could come. One did at each "
        "place, and `tokens` says which: pick its probability first.",
        f"{PICKED} -> probabilities.max(axis=1)": "Your answer reads the probability of the likeliest byte. What "
        "counts is the byte that came, likely or not.",
        "-np.log(came) -> -(probabilities * np.log(probabilities)).sum(axis=1)": "Your answer sums -p ln p over all "
        "bytes: the entropy, how unsure the model was. What counts is the byte that came.",
        "-np.log(came) -> -np.log2(came)": "Your answer counts bits, with a logarithm to base 2. Nats need the natural "
        "one, `np.log`.",
        f"{PICKED} -> probabilities[:, tokens]": "Your answer pairs every place with every byte of the line: "
        "`probabilities[:, tokens]`. Row i belongs to byte i alone.",
    },
    noticed={
        "there is one bar for each byte of the line: (n_bytes,) numbers.": lambda got, p, t: got.shape != t.shape,
        "a surprise is never negative: -ln of a probability.": lambda got, p, t: got.min() < -1e-9,
        "these are surprises out of the table, but not those of the bytes that came.": (
            lambda got, p, t: all(np.isclose(np.exp(-value), p).any() for value in got)
        ),
    },
)
def line_surprise(probabilities, tokens):
    places = np.arange(len(tokens))  # the places, one for each byte
    came = probabilities[places, tokens]  # the probability of the byte that came
    return -np.log(came)  # the surprise


@exercise(
    "0.2",
    [(65e9, 0.8e9, 4.127), (7e9, 40e6, 16), (3_356_160, 147_456, 4.127), (1000, 12, 3)],  # where 2 bytes more show
    taught={
        "frozen * bits / 8 -> frozen * bits": "Your answer counts the frozen weights in bits, and adds bytes to them. "
        "Eight bits make one byte.",
        "2 + 2 + 4 + 4 -> bits / 8": "Your answer counts the adapter at the {bits} bits of the frozen weights. It is "
        "trained in 16 bits: {each} bytes for each number.",
        "frozen * bits / 8 -> frozen * 12": "Your answer charges {each} bytes for the frozen weights too. They have no "
        "gradient and no averages, only their {bits} bits.",
        "frozen * bits / 8 -> frozen * (bits / 8 + 10)": "Your answer charges the frozen weights a gradient with its "
        "averages. A frozen weight has neither.",
        "frozen * bits / 8 -> frozen * (bits / 8 + 2)": "Your answer charges the frozen weights a gradient. A frozen "
        "weight has none: it takes its {bits} bits and nothing more.",
        "2 + 2 + 4 + 4 -> bits / 8 + 10": "Your answer stores the adapter's numbers in {bits} bits. Only the frozen "
        "weights are: a trained number takes {each} bytes.",
        "frozen_bytes + adapter_bytes) / 1e9 -> frozen_bytes + adapter_bytes) / 2**30": "Your answer divides by 2**30, "
        "which gives gibibytes. A gigabyte (GB) is 10**9 bytes.",
    },
    noticed={
        "this is rounded to whole gigabytes, and a small model is left with none.": (
            lambda got, f, a, b: got == np.round((f * b / 8 + a * 12) / 1e9)
        ),
        "this is less than the frozen weights alone need.": lambda got, f, a, b: got < f * b / 8 / 1e9,
    },
)
def training_gigabytes(frozen, adapter, bits):
    frozen_bytes = frozen * bits / 8  # the bytes of the frozen weights
    each = 2 + 2 + 4 + 4  # the bytes of a number that is trained
    adapter_bytes = adapter * each  # the bytes of the adapter
    return (frozen_bytes + adapter_bytes) / 1e9  # the gigabytes of both
