"""The checks of notebook 07, double quantization."""

import math

import numpy as np

from lora_edu.codebooks import dynamic_codebook, nf_codebook
from lora_edu.grading import Exercise, beside

__all__ = ["beside", "layer_error", "resident_bytes", "round_constants", "total_bits"]


def _total(block_size, second_size):
    return 4 + 8 / block_size + 32 / (block_size * second_size)


total_bits = Exercise(
    "7.1",
    _total,
    [(64, 256), (32, 256), (128, 64), (4096, 16)],
    {
        "this leaves out 32 / (block_size * second_size): the second level has constants of its own.": (
            lambda b, s: 4 + 8 / b
        ),
        "this counts the 8-bit constants as 4 bits.": lambda b, s: 4 + 4 / b + 32 / (b * s),
        "this still counts the float32 constant of every block. Its 8-bit code takes its place.": (
            lambda b, s: 4 + 32 / b + 8 / b + 32 / (b * s)
        ),
        "this is without double quantization: 32 bits for every block.": lambda b, s: 4 + 32 / b,
        "this divides 32 by second_size only. One second-level constant serves block_size * second_size weights.": (
            lambda b, s: 4 + 8 / b + 32 / s
        ),
        "these are the constants. Add the 4 bits of the code.": lambda b, s: _total(b, s) - 4,
    },
)


def _resident(n, block_size, second_size, packed, copy_alive, keep=True):
    blocks = math.ceil(n / block_size)
    constants = blocks + 4 * math.ceil(blocks / second_size) + 4
    return (math.ceil(n / 2) if packed else n) + constants + (4 * n if copy_alive and keep else 0)


resident_bytes = Exercise(
    "7.2",
    _resident,
    [
        (4096 * 64, 64, 256, True, False),
        (1000, 64, 256, True, False),
        (999, 32, 16, False, False),
        (5000, 64, 16, True, True),
        (777, 128, 256, False, True),
    ],
    {
        "the float32 copy is missing. While it is alive, it occupies 4 bytes a weight, whatever lies beside it.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, False)
        ),
        "codes that are not packed are counted as 4 bits. A code in a byte of its own takes 8.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, True, copy)
        ),
        "packed codes are counted as a byte each. Two of them share a byte.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, False, copy)
        ),
        "the second-level constants are missing: 4 bytes for each second_size blocks.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, copy) - 4 * math.ceil(math.ceil(n / b) / s)
        ),
        "the offset is missing: one float32 for the layer.": (
            lambda n, b, s, packed, copy: _resident(n, b, s, packed, copy) - 4
        ),
        "the last blocks are dropped. A block that is not full has a constant too: round up.": (
            lambda n, b, s, packed, copy: (
                (math.ceil(n / 2) if packed else n) + n // b + 4 * (n // b // s) + 4 + (4 * n if copy else 0)
            )
        ),
        "this is without double quantization: a float32 for each block.": (
            lambda n, b, s, packed, copy: (
                (math.ceil(n / 2) if packed else n) + 4 * math.ceil(n / b) + (4 * n if copy else 0)
            )
        ),
    },
)


def _round(absmax, code, block_size, mean=True, add_back=True, mean_of_block=False, one_scale=False, divide=True):
    """absmax (n_blocks,) after double quantization, with one mistake at a time."""
    absmax, code = np.asarray(absmax, dtype=np.float64), np.asarray(code, dtype=np.float64)
    result = np.empty_like(absmax)
    largest = np.abs(absmax - absmax.mean() * mean).max()
    for start in range(0, len(absmax), block_size):
        block = absmax[start : start + block_size]
        offset = (block.mean() if mean_of_block else absmax.mean()) if mean else 0.0
        scale = (largest if one_scale else np.abs(block - offset).max()) if divide else 1.0
        nearest = code[np.abs((block - offset)[:, None] / scale - code).argmin(axis=1)]
        result[start : start + block_size] = nearest * scale + offset * add_back
    return result


def _constants() -> list[tuple]:
    rng, code = np.random.default_rng(0), dynamic_codebook().numpy().astype(np.float64)
    ramp = 1 + np.arange(40) / 20  # blocks of different size, so that a scale for all of them shows
    return [(rng.uniform(0.5, 1.5, size=40) * ramp, code, 16), (rng.uniform(2, 5, size=21) * ramp[:21], code, 8)]


round_constants = Exercise(
    "7.3",
    _round,
    _constants(),
    {
        "the mean is not subtracted. All constants are positive, so half of a signed code lies idle.": (
            lambda a, c, b: _round(a, c, b, mean=False)
        ),
        "the offset is not added back. The mean that was taken off belongs to every constant again.": (
            lambda a, c, b: _round(a, c, b, add_back=False)
        ),
        "this takes the mean of each block. There is one mean, of the whole layer; nothing else is stored.": (
            lambda a, c, b: _round(a, c, b, mean_of_block=True)
        ),
        "this has one scale for the whole layer. Each block of block_size constants has its own.": (
            lambda a, c, b: _round(a, c, b, one_scale=True)
        ),
        "this does not divide by the block's largest magnitude, so values leave the range of the code.": (
            lambda a, c, b: _round(a, c, b, divide=False)
        ),
        "this returns the constants unrounded.": lambda a, c, b: np.asarray(a, dtype=np.float64),
    },
)


def _decode(packed, codebook, low_first=False):
    halves = [packed >> 4, packed & 15]
    return codebook[np.stack(halves[::-1] if low_first else halves, axis=1).ravel()]


def _parts(W, packed, absmax, codebook, low_first=False):
    """W, W' (both flat), W in units of its blocks' absmax, and the codes' values."""
    block_size, values = W.size // len(absmax), _decode(packed, codebook, low_first)
    scales = np.repeat(absmax, block_size)
    return W.ravel(), values * scales, W.ravel() / scales, values


def _error(W, packed, absmax, codebook, low_first=False):
    flat, changed, _, _ = _parts(W, packed, absmax, codebook, low_first)
    return np.linalg.norm(flat - changed) / np.linalg.norm(flat)


def _of_parts(measure):
    return lambda W, packed, absmax, codebook: measure(*_parts(W, packed, absmax, codebook))


def _layers() -> list[tuple]:
    cases, codebook = [], nf_codebook(4).numpy().astype(np.float64)
    for seed, (shape, block_size) in enumerate([((6, 8), 8), ((4, 32), 16)]):
        W = np.random.default_rng(seed).standard_t(4, size=shape)
        blocks = W.reshape(-1, block_size)
        absmax = np.abs(blocks).max(axis=1)
        codes = np.abs((blocks / absmax[:, None]).ravel()[:, None] - codebook).argmin(axis=1).astype(np.uint8)
        cases.append((W, codes[::2] << 4 | codes[1::2], absmax, codebook))
    return cases


layer_error = Exercise(
    "7.4",
    _error,
    _layers(),
    {
        "the two codes of each byte are swapped. The first one lies in the high half: packed >> 4.": (
            lambda W, packed, absmax, codebook: _error(W, packed, absmax, codebook, low_first=True)
        ),
        "this is the error between W / absmax and the codes' values, in code space. There a small block counts as "
        "much as a large one. Multiply by absmax first.": _of_parts(
            lambda flat, changed, unit, values: np.linalg.norm(unit - values) / np.linalg.norm(unit)
        ),
        "this is the largest single error. It says little of the others: take the Frobenius norm of all.": _of_parts(
            lambda flat, changed, unit, values: np.abs(flat - changed).max()
        ),
        "this compares the largest errors and weights. Take the Frobenius norm.": _of_parts(
            lambda flat, changed, unit, values: np.abs(flat - changed).max() / np.abs(flat).max()
        ),
        "this is not divided by the norm of W.": _of_parts(
            lambda flat, changed, unit, values: np.linalg.norm(flat - changed)
        ),
        "this is the square of the relative error. Take its root.": _of_parts(
            lambda flat, changed, unit, values: np.sum((flat - changed) ** 2) / np.sum(flat**2)
        ),
        "this divides by the norm of the rounded weight. The original is what we compare with.": _of_parts(
            lambda flat, changed, unit, values: np.linalg.norm(flat - changed) / np.linalg.norm(changed)
        ),
    },
)
