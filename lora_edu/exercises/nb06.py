"""The checks of notebook 06, NF4."""

from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.grading import Exercise, as_array, beside

__all__ = ["beside", "normal_float", "packed_codes", "rounded_output_error"]

# --- 6.1: the codebook -----------------------------------------------------------------------------------------------


def _quantiles(offset: float, count: int) -> list[float]:
    return [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, count + 1)[:-1]]


def _codebook(offset: float, positive: int, negative: int, zeros: int = 1, divide: bool = True) -> np.ndarray:
    levels = [-v for v in _quantiles(offset, negative)] + [0.0] * zeros + _quantiles(offset, positive)
    return np.sort(levels) / (max(levels) if divide else 1)


def _bin_middles(offset: float, half: int, divide: bool = True) -> np.ndarray:
    levels = np.array([NormalDist().inv_cdf((i + 0.5) / (2 * half)) for i in range(2 * half)])
    return levels / (levels.max() if divide else 1)


def _eq_4(half: int, divide: bool = True) -> np.ndarray:
    """The finite part of Eq. 4 for 2 * half codes: means of neighboring quantiles, without the first and the last."""
    quantiles = np.array([NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)])
    levels = (quantiles[:-1] + quantiles[1:]) / 2
    return levels / (levels.max() if divide else 1)


def _with_the_median(offset: float, half: int) -> np.ndarray:
    """The slice [:-1] forgotten on both sides: the quantile of 1/2, which is 0, comes along with each."""
    levels = [NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, half + 1)]
    levels += [-NormalDist().inv_cdf(p) for p in np.linspace(offset, 0.5, half)] + [0.0]
    return np.sort(levels) / max(levels)


_normal_float = Exercise(
    "6.1",
    lambda offset, half: _codebook(offset, half, half - 1),
    [(0.9677083, 8), (0.95, 8), (0.9, 4), (0.98, 16)],
    {
        "this is the mirror image: the extra level sits on the negative side. NF4 has 8 positive levels and 7 negative "
        "ones, and the zero.": lambda offset, half: _codebook(offset, half - 1, half),
        "this has no exact 0. A weight of 0, as in padding, must come back as 0.": (
            lambda offset, half: _codebook(offset, half, half, zeros=0)
        ),
        "these are the middles of 2 * half equally likely bins. They have no exact 0 and leave the offset unused.": (
            _bin_middles
        ),
        "these are the middles of 2 * half equally likely bins, and not divided by the largest. They have no exact 0 "
        "and leave the offset unused.": lambda offset, half: _bin_middles(offset, half, divide=False),
        "this forgets to divide by the maximum. The codebook must end at 1, so that the absmax of a block is exact.": (
            lambda offset, half: _codebook(offset, half, half - 1, divide=False)
        ),
        "this has several zeros: the quantile of 1/2 is 0 already. Leave the last probability of each side out.": (
            _with_the_median
        ),
        "this is the finite part of Eq. 4: 2 * half - 1 levels, where the bits number 2 * half. Start at the offset, "
        "and give each side steps of its own.": lambda offset, half: _eq_4(half),
        "this is the finite part of Eq. 4, and not divided by its largest level. Start at the offset, give each side "
        "steps of its own, and divide.": lambda offset, half: _eq_4(half, divide=False),
        "this has as many levels below 0 as above it: 2 * half + 1 in all, one more than the bits can number.": (
            lambda offset, half: _codebook(offset, half, half)
        ),
        "this uses 2 * half - 1 levels, and wastes a code: the positive side has half of them.": (
            lambda offset, half: _codebook(offset, half - 1, half - 1)
        ),
    },
)

_LITERALLY = (
    "Exercise 6.1: this is Eq. 4 taken literally, or a probability of 0 or 1: the normal quantile there is infinite. "
    "The outermost probability is the offset."
)


def normal_float(attempt: Callable) -> None:
    """Exercise 6.1: the codebook from its offset. Infinite ends are named before anything else is compared."""
    for case in _normal_float.cases:
        try:
            result = as_array(attempt(*case))
        except Exception as error:
            if "0.0 < p < 1.0" in str(error):  # what NormalDist().inv_cdf says at 0 and at 1
                raise AssertionError(_LITERALLY) from error
            break  # the exercise itself tells what went wrong
        if result is not None and np.isinf(result).any():
            raise AssertionError(_LITERALLY)
    _normal_float(attempt)


# --- 6.2: two codes a byte -------------------------------------------------------------------------------------------


def _pairs(codes: np.ndarray, fill: int = 7) -> np.ndarray:
    """(n_bytes, 2): the codes of each byte, the last one filled up."""
    codes = np.asarray(codes, dtype=np.int64)
    return np.append(codes, [fill] * (len(codes) % 2)).reshape(-1, 2)


packed_codes = Exercise(
    "6.2",
    lambda codes: _pairs(codes) @ [16, 1],
    [(np.array(codes),) for codes in ([0, 15, 7, 8], [3, 1, 4, 1, 5], [9], [15, 0, 2, 11, 12, 6, 13])],
    {
        "this puts the first code of a pair into the low half of the byte. bitsandbytes and this course put it into "
        "the high half.": lambda codes: _pairs(codes) @ [1, 16],
        "this keeps one code in each byte: 8 bits, not 4.": lambda codes: codes,
        "this drops the last code when their number is odd.": (
            lambda codes: _pairs(codes[: len(codes) // 2 * 2]) @ [16, 1]
        ),
        "this fills the last byte with code 0, which stands for -1. The value 0 has code 7.": (
            lambda codes: _pairs(codes, fill=0) @ [16, 1]
        ),
        "this fills the last byte with code 8. Code 8 is the smallest positive value; 0 has code 7.": (
            lambda codes: _pairs(codes, fill=8) @ [16, 1]
        ),
        "this multiplies the first code by 15. Four bits count 16 values.": lambda codes: _pairs(codes) @ [15, 1],
        "this adds the two codes: the byte must keep them apart.": lambda codes: _pairs(codes) @ [1, 1],
        "this pairs the first half of the codes with the second half. Neighbors share a byte.": (
            lambda codes: _pairs(codes).flatten().reshape(2, -1).T @ [16, 1]
        ),
    },
)

# --- 6.3: the error of the output ------------------------------------------------------------------------------------

_NF4 = nf_codebook(4).numpy().astype(np.float64)


def _layers() -> list[tuple]:
    """Cases (X, W, codes, absmax): W is not square, each row of `codes` is one block of it; one has a code moved."""
    cases = []
    for seed, (n, d_out, d_in, block_size) in enumerate([(5, 6, 8, 8), (3, 4, 12, 6)]):
        rng = np.random.default_rng(seed)
        W = rng.normal(size=(d_out, d_in)) * rng.uniform(0.5, 3, size=(d_out, 1))
        X = rng.normal(size=(n, d_in)) * rng.uniform(0.2, 3, size=d_in)  # some inputs are larger than others
        absmax = np.abs(W.reshape(-1, block_size)).max(axis=1)
        codes = _nearest(W, absmax)
        codes[:, 0] = np.abs(codes[:, 0] - seed)  # in the second case, some codes are not the nearest
        cases.append((X, W, codes, absmax))
    return cases


def _nearest(W, absmax):
    blocks = W.reshape(len(absmax), -1)
    return np.abs(blocks[:, :, None] / absmax[:, None, None] - _NF4).argmin(axis=2)


def _rounded(W, codes, absmax):
    return (_NF4[codes] * absmax[:, None]).reshape(W.shape)


def _relative(original, changed):
    return np.linalg.norm(original - changed) / np.linalg.norm(original)


def _outputs(measure: Callable) -> Callable:
    """A measure of the exact output (n, d_out) and of the one with rounded weights."""
    return lambda X, W, codes, absmax: measure(X @ W.T, X @ _rounded(W, codes, absmax).T)


rounded_output_error = Exercise(
    "6.3",
    _outputs(_relative),
    _layers(),
    {
        "this is the error of the weights. The question is about the output, X @ W.T: what the next layer gets.": (
            lambda X, W, c, m: _relative(W, _rounded(W, c, m))
        ),
        "this is the error of the weights in code space: neither multiplied by the absmax nor by X. The question is "
        "about the output, X @ W.T.": lambda X, W, c, m: _relative(W.reshape(c.shape) / m[:, None], _NF4[c]),
        "this measures in code space: no block is multiplied by its absmax, so that blocks of small weights count too "
        "much.": lambda X, W, c, m: _relative(
            X @ (W.reshape(c.shape) / m[:, None]).reshape(W.shape).T, X @ _NF4[c].reshape(W.shape).T
        ),
        "this quantizes W again, to the nearest codes. Decode the codes that you are given, whatever they are.": (
            lambda X, W, c, m: _relative(X @ W.T, X @ _rounded(W, _nearest(W, m), m).T)
        ),
        "this is the largest error over the largest output. The question is about all outputs together.": _outputs(
            lambda y, changed: np.abs(y - changed).max() / np.abs(y).max()
        ),
        "this is the largest error.": _outputs(lambda y, changed: np.abs(y - changed).max()),
        "this is the square of the relative error: take the root.": _outputs(lambda y, z: _relative(y, z) ** 2),
        "this is the mean squared error. Divide norms: ||Y - Y'|| / ||Y||.": _outputs(
            lambda y, z: np.mean((y - z) ** 2)
        ),
        "this is the norm of the error. Divide it by the norm of the exact output.": _outputs(
            lambda y, changed: np.linalg.norm(y - changed)
        ),
        "this divides by the norm of the output with rounded weights. The exact output is what we compare with.": (
            _outputs(lambda y, changed: _relative(changed, y))
        ),
        "this is the mean over the inputs of their relative errors. One norm goes over the whole output.": _outputs(
            lambda y, z: np.mean(np.linalg.norm(y - z, axis=1) / np.linalg.norm(y, axis=1))
        ),
        "this forgets the absmax: the codebook's values lie in [-1, 1].": (
            lambda X, W, c, m: _relative(X @ W.T, X @ _NF4[c].reshape(W.shape).T)
        ),
        "this uses one absmax for the whole weight. Each block has its own.": (
            lambda X, W, c, m: _relative(X @ W.T, X @ _rounded(W, c, np.full_like(m, m.max())).T)
        ),
        "this takes the codes for integers from -7 to 8. A code is an index: look its value up.": (
            lambda X, W, c, m: _relative(X @ W.T, X @ ((c - 7) / 8 * m[:, None]).reshape(W.shape).T)
        ),
    },
)
