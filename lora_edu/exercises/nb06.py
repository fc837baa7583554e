"""The checks of notebook 06, NF4: packing and the error of an output. The codebook is in `nb06_codebook`."""

import numpy as np

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.measuring import measures, relative
from lora_edu.exercises.mistakes import combinations
from lora_edu.exercises.nb06_codebook import normal_float

__all__ = ["beside", "normal_float", "packed_codes", "rounded_output_error"]

# --- 6.2: two codes a byte -------------------------------------------------------------------------------------------


FILLS = {
    "0": "this fills the last byte with code 0, which stands for -1. The value 0 has code 7.",
    "8": "this fills the last byte with code 8. Code 8 is the smallest positive value; 0 has code 7.",
    "15": "this fills the last byte with code 15, which stands for 1. The value 0 has code 7.",
    "drop": "this drops the last code when their number is odd.",
    "alone": "a last code without a partner stands in the low half here, below zeros. It is the first of its pair: the "
    "high half, and code 7 below it.",
    "below": "the code that fills up stands in the high half here. The last code is the first of its pair: the high "
    "half, and code 7 below it.",
    "front": "this fills up in front, so that all pairs shift by one. Fill up at the end.",
    "again": "this fills up with the last code once more. Code 7 stands for the value 0.",
    "first": "this fills up with the first code. Code 7 stands for the value 0.",
    "always": "this fills up even where all codes have a partner.",
}
JOINS = {
    (
        lambda a, b: a + 16 * b
    ): "this puts the first code of a pair into the low half of the byte. bitsandbytes and this "
    "course put it into the high half.",
    (lambda a, b: 15 * a + b): "this multiplies the first code by 15. Four bits count 16 values.",
    (lambda a, b: a + b): "this adds the two codes: the byte must keep them apart.",
    (lambda a, b: 10 * a + b): "this joins the codes as decimal digits. Four bits count 16 values.",
    (lambda a, b: 8 * a + b): "this moves the first code three bits up. A code has four.",
    (lambda a, b: 4 * a + b): "this multiplies by 4, two bits up. Four bits up is times 16: `<< 4`.",
    (lambda a, b: 32 * a + b): "this moves the first code five bits up. A code has four.",
    (
        lambda a, b: 16 * a & b
    ): "this is zero everywhere. `&` does that: it keeps the bits that both halves have, none. `|` or `+` brings "
    "them together.",
    (lambda a, b: 16 * (a + b)): "both codes are moved four bits up. Only the first one is.",
    (lambda a, b: 16 * a): "the second code of each pair is missing.",
    (lambda a, b: b): "the first code of each pair is missing: four bits up, it is the high half.",
    (lambda a, b: a): "the second code of each pair is missing, and the first one stands in the low half.",
    (lambda a, b: 16 * a * b): "this multiplies the codes. The byte must keep them apart: 16 times the first, plus the "
    "second.",
    (
        lambda a, b: 16 * (a ^ 8) + (b ^ 8)
    ): "8 is taken off each code, as if it were a signed number. A code is an index from 0 to 15: keep it.",
    (lambda a, b: 256 * a + b): "this moves the first code eight bits up, out of the byte. A code has four.",
}
PAIRS = {
    "halves": "this pairs the first half of the codes with the second half. Neighbors share a byte.",
    "overlap": "these pairs overlap: each code shares two bytes. Go on by two codes.",
    "backwards": "this begins at the last pair. The first two codes share the first byte.",
}


def _joined(a, b):
    return 16 * a + b


def _packed(codes, fill="7", join=_joined, pairs="neighbors"):
    """The bytes, with a mistake in one part or several."""
    codes = np.asarray(codes, dtype=np.int64)
    if len(codes) % 2 or fill == "always":
        last = codes[-1:]
        codes = {"drop": codes[:-1], "alone": np.append(codes[:-1], [0, *last]), "front": np.append([7], codes),
                 "below": np.append(codes[:-1], [7, *last]), "again": np.append(codes, last),
                 "first": np.append(codes, codes[0]), "always": np.append(codes, [7] * (2 - len(codes) % 2)),
                 }.get(fill, np.append(codes, int(fill) if fill.isdigit() else 7))  # fmt: skip
    a, b = codes[0::2], codes[1::2]
    if pairs == "halves":
        a, b = np.split(codes, 2)
    if pairs == "overlap":
        a, b = codes[:-1], codes[1:]
    return join(a, b)[:: -1 if pairs == "backwards" else 1]


def _halves(high: bool):
    """Whether the high halves of all bytes are right, or the low ones."""

    def is_so(made, codes):
        right = _packed(codes)
        return np.array_equal(*((values // 16 if high else values % 16) for values in (made, right)))

    return is_so


CODES = [(np.array(codes),) for codes in ([0, 15, 7, 8], [3, 1, 4, 1, 5], [9], [15, 0, 2, 11, 12, 6, 13])]

packed_codes = Exercise(
    "6.2",
    _packed,
    CODES,
    combinations(
        _packed,
        CODES,
        {"join": (_joined, JOINS), "fill": ("7", FILLS), "pairs": ("neighbors", PAIRS)},
        {"this keeps one code in each byte: 8 bits, not 4.": lambda codes: codes},
        in_pairs=6,
    ),
    symptoms={
        "two codes share a byte, so there are (n + 1) // 2 of them: here are others.": (
            lambda made, codes: made.shape != ((len(codes) + 1) // 2,)
        ),
        "a byte goes from 0 to 255. Where it wraps around, the type of the codes is too narrow (int8, say): "
        "`astype(int)` comes first.": lambda made, codes: bool((made < 0).any() or (made > 255).any()),
        "a byte is a whole number.": lambda made, codes: bool((made % 1).any()),
    },
    broadly={
        "the last byte is wrong where the number of codes is odd: the last code is its high half, and code 7 its low "
        "half. All others are right.": (
            lambda made, codes: len(codes) % 2 and made[-1] // 16 == codes[-1] and (made == _packed(codes))[:-1].all()
        ),
        "the high halves are right, the low ones not: there stands the second code of each pair.": _halves(high=True),
        "the low halves are right, the high ones not: there stands 16 times the first code of each pair.": (
            _halves(high=False)
        ),
    },
)

# --- 6.3: the error of the output ------------------------------------------------------------------------------------

_NF4 = nf_codebook(4).numpy().astype(np.float64)


def _layers() -> list[tuple]:
    """Cases (X, W, codes, absmax): W is not square, each row of `codes` is one block of it; one has a code moved.

    The last absmax are a little off, as double quantization leaves them.
    """
    cases = []
    for seed, (n, d_out, d_in, block_size) in enumerate([(5, 6, 8, 8), (3, 4, 12, 6), (4, 3, 10, 5)]):
        rng = np.random.default_rng(seed)
        W = rng.normal(size=(d_out, d_in)) * rng.uniform(0.5, 3, size=(d_out, 1))
        X = rng.normal(size=(n, d_in)) * rng.uniform(0.2, 3, size=d_in)  # some inputs are larger than others
        absmax = np.abs(W.reshape(-1, block_size)).max(axis=1) * (rng.uniform(0.9, 1.1, len(W) * 2) if seed == 2 else 1)
        codes = _nearest(W, absmax)
        codes[:, 0] = np.abs(codes[:, 0] - seed)  # after the first case, some codes are not the nearest
        cases.append((X, W, codes, absmax))
    return cases


def _nearest(W, absmax):
    blocks = W.reshape(len(absmax), -1)
    return np.abs(blocks[:, :, None] / absmax[:, None, None] - _NF4).argmin(axis=2)


def _largest(W, codes):
    return np.abs(W.reshape(len(codes), -1)).max(axis=1)


DECODED = {
    "no absmax": "this forgets the absmax: the codebook's values lie in [-1, 1].",
    "divides": "this divides by the absmax. That was the way into the codes; the way back multiplies.",
    "again": "this quantizes W again, to the nearest codes. Decode the codes that you are given, whatever they are.",
    "anew": "this quantizes W again, absmax and all. Decode the codes that you are given, whatever they are.",
    "columns": "these blocks run down the columns of W. They run through the flattened weight, row by row.",
    "largest": "this uses one absmax for the whole weight. Each block has its own.",
    "mean": "this uses the mean absmax for the whole weight. Each block has its own.",
    "codes": "this multiplies the codes themselves. A code is an index: look its value up.",
    "around 7, 8": "this takes the codes for integers from -7 to 8. A code is an index: look its value up.",
    "around 8, 7": "this takes the codes for integers around 8, over 7. A code is an index: look its value up.",
    "around 8, 8": "this takes the codes for integers around 8. A code is an index: look its value up.",
    "around 7, 7": "this takes the codes for integers around 7, over 7. A code is an index: look its value up.",
    "even": "this spreads 16 equal steps from -1 to 1. The steps of NF4 are unequal: look the codes up.",
    "dealt": "this deals the absmax out in turns, one value each. The neighbors in a block share one.",
    "backwards": "this turns the order of the absmax around: the first one belongs to the first block.",
    "mirrored": "this turns the codebook around: code 0 is -1, and code 15 is 1.",
    "squared": "this multiplies by the absmax twice.",
    "own": "this looks the absmax up in W again. Take those that you are given, as they are stored.",
    "by row": "this takes one absmax for each row of W, its largest magnitude. Use those of the blocks that are given.",
}


def _rounded(W, codes, absmax, how="right"):
    """The decoded weight (d_out, d_in), with one of the mistakes above."""
    scale, values = absmax[:, None], _NF4[codes]
    made = {
        "right": lambda: values * scale,
        "no absmax": lambda: values,
        "divides": lambda: values / scale,
        "again": lambda: _NF4[_nearest(W, absmax)] * scale,
        "anew": lambda: _NF4[_nearest(W, _largest(W, codes))] * _largest(W, codes)[:, None],
        "columns": lambda: (values * scale).reshape(W.shape[::-1]).T,
        "largest": lambda: values * absmax.max(),
        "mean": lambda: values * absmax.mean(),
        "codes": lambda: codes * scale,
        "around 7, 8": lambda: (codes - 7) / 8 * scale,
        "around 8, 7": lambda: (codes - 8) / 7 * scale,
        "around 8, 8": lambda: (codes - 8) / 8 * scale,
        "around 7, 7": lambda: (codes - 7) / 7 * scale,
        "even": lambda: (codes / 7.5 - 1) * scale,
        "dealt": lambda: values.ravel() * np.resize(absmax, W.size),
        "backwards": lambda: values * scale[::-1],
        "mirrored": lambda: _NF4[15 - codes] * scale,
        "squared": lambda: values * scale**2,
        "own": lambda: values * _largest(W, codes)[:, None],
        "by row": lambda: values.reshape(W.shape) * np.abs(W).max(axis=1, keepdims=True),
    }[how]()
    return made.reshape(W.shape)


OUTPUTS = {
    (
        lambda X, W: W
    ): "this is the error of the weights. The question is about the output, X @ W.T: what the next layer gets.",
    (lambda X, W: (X @ W.T)[:1]): "this looks at the first input alone. The norm goes over the outputs of all.",
    (
        lambda X, W: X.mean(axis=0) @ W.T
    ): "this averages the inputs first, so that errors cancel. Take the norm over all outputs.",
    (lambda X, W: X.sum(axis=0) @ W.T): "this adds the inputs up first, so that errors cancel. Take the norm over all "
    "outputs.",
    (lambda X, W: np.abs(X) @ np.abs(W).T): "the signs are lost on the way to the output.",
    (lambda X, W: np.maximum(X @ W.T, 0)): "outputs below 0 are cut off here. The layer hands them on.",
}


def _output(X, W):
    return X @ W.T


def _error(X, W, codes, absmax, decoded="right", output=_output, measure=relative):
    return float(measure(output(X, W), output(X, _rounded(W, codes, absmax, decoded))))


def _in_code_space(X, W, codes, absmax):
    blocks = (W.reshape(codes.shape) / absmax[:, None]).reshape(W.shape)
    return relative(X @ blocks.T, X @ _NF4[codes].reshape(W.shape).T)


LAYERS = _layers()

rounded_output_error = Exercise(
    "6.3",
    _error,
    LAYERS,
    combinations(
        _error,
        LAYERS,
        {
            "decoded": ("right", DECODED),
            "output": (_output, OUTPUTS),
            "measure": (relative, measures("the error", "the exact output", "the output with rounded weights")),
        },
        {
            "this is the error of the weights in code space: neither multiplied by the absmax nor by X. The question "
            "is about the output, X @ W.T.": (lambda X, W, c, m: relative(W.reshape(c.shape) / m[:, None], _NF4[c])),
            "this measures in code space: no block is multiplied by its absmax, so that blocks of small weights count "
            "too much.": _in_code_space,
            "these are the errors of all outputs. One number is asked for: their norm over that of the outputs.": (
                lambda X, W, c, m: X @ (W - _rounded(W, c, m)).T
            ),
            "these blocks come back column by column (`order='F'`). The weight is flattened row by row.": (
                lambda X, W, c, m: relative(X @ W.T, X @ (_NF4[c] * m[:, None]).reshape(W.shape, order="F").T)
            ),
            "this divides by ||X|| ||W||. What is compared is the output: divide by the norm of X @ W.T.": (
                lambda X, W, c, m: np.linalg.norm(X @ (W - _rounded(W, c, m)).T) / np.linalg.norm(X) / np.linalg.norm(W)
            ),
            "this divides by the norm of the weights. What is compared is the output: divide by the norm of X @ W.T.": (
                lambda X, W, c, m: np.linalg.norm(X @ (W - _rounded(W, c, m)).T) / np.linalg.norm(W)
            ),
            "this divides the norm of the outputs' error by that of the inputs.": (
                lambda X, W, c, m: np.linalg.norm(X @ (W - _rounded(W, c, m)).T) / np.linalg.norm(X)
            ),
        },
        in_pairs=6,
    ),
    symptoms={
        "one number is asked for: the norm of all errors over that of the exact outputs.": lambda got, *case: (
            got.ndim > 0
        ),
        "a norm is never below zero.": lambda got, *case: got < 0,
    },
)
