"""The checks of notebook 00, Start here."""

import numpy as np

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "line_surprise", "training_gigabytes"]


def _line(n_bytes: int, vocab_size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """What a model gave to each byte value at each place, (n_bytes, vocab_size), and the bytes that came."""
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(vocab_size, 0.4), size=n_bytes) * 0.9 + 0.1 / vocab_size
    return probabilities, rng.integers(vocab_size, size=n_bytes)


def _of_bytes(probabilities: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    return probabilities[np.arange(len(tokens)), tokens]


line_surprise = Exercise(
    "0.1",
    lambda p, tokens: -np.log(_of_bytes(p, tokens)),
    [_line(5, 7, 0), _line(12, 256, 1), _line(3, 4, 2)],
    {
        "the sign: a logarithm of a probability is negative, a surprise is not.": lambda p, t: np.log(_of_bytes(p, t)),
        "these are bits: a logarithm to base 2. Nats need the natural logarithm.": lambda p, t: (
            -np.log2(_of_bytes(p, t))
        ),
        "this is the logarithm to base 10. Nats need the natural one, `np.log`.": lambda p, t: (
            -np.log10(_of_bytes(p, t))
        ),
        "this is the mean over the line. The painted line has a bar for every byte.": (
            lambda p, t: -np.log(_of_bytes(p, t)).mean()
        ),
        "this adds the line up to one number. The painted line has a bar for every byte.": (
            lambda p, t: -np.log(_of_bytes(p, t)).sum()
        ),
        "these are the probabilities themselves. What surprises has a small one: take -ln of it.": _of_bytes,
        "this is 1 - p. It never exceeds 1, however impossible a byte was held to be: take -ln p.": (
            lambda p, t: 1 - _of_bytes(p, t)
        ),
        "this is 1 / p: how many bytes the model might as well have guessed among. Take its logarithm.": (
            lambda p, t: 1 / _of_bytes(p, t)
        ),
        "this reads the probability of the likeliest byte. What counts is the byte that came.": (
            lambda p, t: -np.log(p.max(axis=1))
        ),
        "this sums -p ln p over all byte values: the entropy, how unsure the model was. What counts is the byte that "
        "came.": lambda p, t: -(p * np.log(p)).sum(axis=1),
        "every place is paired with every byte of the line: the result has (n_bytes, n_bytes) numbers. Pair them one "
        "by one: `probabilities[np.arange(n_bytes), tokens]`.": lambda p, t: -np.log(p[:, t]),
        "this gives the surprise at all byte values. Pick the byte that came at each place.": lambda p, t: -np.log(p),
        "each byte is looked up at the place before it. Row i holds the probabilities of byte i.": (
            lambda p, t: -np.log(p[np.arange(len(t)) - 1, t])
        ),
        "each place is paired with the byte after it. Row i holds the probabilities of byte i.": (
            lambda p, t: -np.log(p[np.arange(len(t)), np.roll(t, -1)])
        ),
        "only row 0 is read. Each byte has its own row.": lambda p, t: -np.log(p[0, t]),
        "this weighs -ln p with p. That is a term of the entropy; the surprise of what came is -ln p alone.": (
            lambda p, t: -_of_bytes(p, t) * np.log(_of_bytes(p, t))
        ),
    },
    {
        "a surprise is never negative: -ln of a probability.": lambda got, p, t: got.min() < -1e-9,
        "this is one number. The painted line has a bar for every byte.": lambda got, p, t: got.shape == (),
        "there is one bar for each byte of the line: (n_bytes,) numbers.": lambda got, p, t: got.shape != t.shape,
        "these are the bars, rounded. Hand over all digits.": lambda got, p, t: any(
            np.array_equal(got, np.round(-np.log(_of_bytes(p, t)), digits)) for digits in range(5)
        ),
        "these are the right bars in another order: bar i belongs to byte i.": lambda got, p, t: np.allclose(
            np.sort(got), np.sort(-np.log(_of_bytes(p, t)))
        ),
        "each bar has those before it added to it (`cumsum`). The painted line has one for every byte by itself.": (
            lambda got, p, t: np.allclose(got, np.cumsum(-np.log(_of_bytes(p, t))))
        ),
        "this is not -ln of a number in the table of probabilities: what is done before the logarithm, or after it?": (
            lambda got, p, t: not all(np.isclose(np.exp(-value), p).any() for value in got)
        ),
        "these are surprises out of the table, but not those of the bytes that came: place i needs p[i, tokens[i]].": (
            lambda got, p, t: True
        ),
    },
)


def _gigabytes(frozen: float, adapter: float, bits: float, each: float = 12.0) -> float:
    return (frozen * bits / 8 + adapter * each) / 1e9


training_gigabytes = Exercise(
    "0.2",
    _gigabytes,
    [(65e9, 0.8e9, 4.127), (7e9, 40e6, 16), (3_356_160, 147_456, 4.127)],
    {
        "the frozen weights are counted in bits. Eight bits make one byte.": lambda f, a, b: (f * b + a * 12) / 1e9,
        "all is counted in bits and divided by 8, but the adapter's 12 are bytes already.": (
            lambda f, a, b: (f * b + a * 12) / 8 / 1e9
        ),
        "this divides by 2**30, which gives gibibytes. A gigabyte (GB) is 10**9 bytes.": (
            lambda f, a, b: _gigabytes(f, a, b) * 1e9 / 2**30
        ),
        "this counts bytes. A gigabyte is 10**9 of them.": lambda f, a, b: _gigabytes(f, a, b) * 1e9,
        "this counts megabytes. A gigabyte is 10**9 bytes.": lambda f, a, b: _gigabytes(f, a, b) * 1e3,
        "the adapter's gradient and averages are left out: 2 bytes are its weights alone, training takes 12.": (
            lambda f, a, b: _gigabytes(f, a, b, 2)
        ),
        "one average is missing, or both were counted with 2 bytes: Adam keeps two of 4 bytes. 2 + 2 + 4 + 4 = 12.": (
            lambda f, a, b: _gigabytes(f, a, b, 8)
        ),
        "the gradient is missing: 2 + 2 + 4 + 4 = 12.": lambda f, a, b: _gigabytes(f, a, b, 10),
        "the adapter is counted with 16 bytes each, as in 32-bit training. Here: 2 + 2 + 4 + 4 = 12.": (
            lambda f, a, b: _gigabytes(f, a, b, 16)
        ),
        "the adapter is missing.": lambda f, a, b: _gigabytes(f, 0, b),
        "the frozen weights are missing: they need no gradient, but they are there.": lambda f, a, b: a * 12 / 1e9,
        "the adapter is counted at the bits of the frozen weights. It is trained in 16 bits: 12 bytes each.": (
            lambda f, a, b: (f + a) * b / 8 / 1e9
        ),
        "12 bytes are charged for the frozen weights too. They have no gradient and no averages.": (
            lambda f, a, b: (f + a) * 12 / 1e9
        ),
        "the frozen weights are charged both their bits and a gradient with averages. A frozen weight has neither.": (
            lambda f, a, b: (f * (b / 8 + 10) + a * 12) / 1e9
        ),
        "the frozen weights are counted in 16 bits whatever `bits` says.": lambda f, a, b: _gigabytes(f, a, 16),
        "`bits // 8` rounds the bytes down to a whole number: 4.127 bits are then none at all. Use `/`.": (
            lambda f, a, b: (f * (b // 8) + a * 12) / 1e9
        ),
        "`int(bits)` cuts 4.127 bits to 4: the bits need be no whole number.": lambda f, a, b: _gigabytes(f, a, int(b)),
        "the frozen and the trained weights have changed places.": lambda f, a, b: _gigabytes(a, f, b),
        "the adapter is charged the bits of a frozen weight as well. Its 12 bytes are all.": lambda f, a, b: _gigabytes(
            f + a, a, b
        ),
        "this divides bits by 4. A byte has 8 of them.": lambda f, a, b: (f * b / 4 + a * 12) / 1e9,
        "the bytes of the two are multiplied. They are added.": lambda f, a, b: f * b / 8 * a * 12 / 1e9,
        "only a part of the sum is divided by 10**9: put the sum in parentheses.": (
            lambda f, a, b: f * b / 8 + a * 12 / 1e9
        ),
        "the adapter's 2, 2, 4 and 4 bytes are multiplied. They are added: 12.": lambda f, a, b: _gigabytes(
            f, a, b, 64
        ),
        "the frozen weights are charged a gradient as well. A frozen weight has none.": (
            lambda f, a, b: (f * (b / 8 + 2) + a * 12) / 1e9
        ),
        "the frozen weights are counted as one byte each whatever `bits` says.": lambda f, a, b: _gigabytes(f, a, 8),
        "the frozen weights are counted with 4 bits whatever `bits` says.": lambda f, a, b: _gigabytes(f, a, 4),
    },
    {
        "this is rounded to whole gigabytes, and a small model is left with none.": lambda got, f, a, b: (
            got == np.round(_gigabytes(f, a, b))
        ),
        "this has the wrong unit: it is a thousand times off or more. Bytes, divided by 10**9, are GB.": (
            lambda got, f, a, b: not 1e-2 < got / _gigabytes(f, a, b) < 1e2
        ),
        "this is less than the frozen weights alone need, bits / 8 bytes each.": lambda got, f, a, b: (
            got < f * b / 8 / 1e9
        ),
        "this is more than the frozen weights and 12 bytes for each number of the adapter: what is charged "
        "twice, or in bits?": (lambda got, f, a, b: got > _gigabytes(f, a, b) * 1.00001),
        "the frozen weights may be right, but the adapter gets less than 2 + 2 + 4 + 4 = 12 bytes for each number.": (
            lambda got, f, a, b: got < _gigabytes(f, a, b)
        ),
    },
)
