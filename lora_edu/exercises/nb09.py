"""The checks of notebook 09, QLoRA."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.factors import explained, mistakes
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.nb09_counting import stored_bytes
from lora_edu.exercises.nb09_fair import lora_minus_full

__all__ = ["beside", "input_gradient", "lora_minus_full", "qlora_output", "stored_bytes"]

# --- 9.1: what comes back to x ---------------------------------------------------------------------------------------


def _layers() -> list[tuple]:
    """Cases (grad_y, W, lora_A, lora_B, alpha): no side equals another, alpha is never the rank."""
    cases = []
    for seed, (n, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 11, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        grad_y, W, a, b = (rng.normal(size=shape) for shape in ((n, d_out), (d_out, d_in), (rank, d_in), (d_out, rank)))
        cases.append((grad_y, W, a, b, alpha))
    return cases


def _back(form: Callable) -> Callable:
    """A form of (what comes through W, what comes through B and A, s)."""
    return lambda scale, g, W, a, b, alpha: form(g @ W, g @ b @ a, scale(alpha, len(a), len(b), a.shape[1]))


input_gradient = Exercise(
    "9.1",
    lambda g, W, a, b, alpha: g @ W + alpha / len(a) * (g @ b @ a),
    _layers(),
    mistakes(
        {
            "": _back(lambda base, branch, s: base + s * branch),
            "the sign of the branch is wrong: y is a sum of two terms, and each sends its own part back.": (
                _back(lambda base, branch, s: base - s * branch)
            ),
            "the sign is wrong everywhere: a gradient is asked for, not a step.": (
                _back(lambda base, branch, s: -base - s * branch)
            ),
            "this is the branch alone. What flows back through the frozen W' is missing: frozen means that W' itself "
            "gets no gradient.": _back(lambda base, branch, s: s * branch),
            "this averages over the rows. Each row of x gets a gradient of its own.": (
                _back(lambda base, branch, s: (base + s * branch) / len(base))
            ),
        }
    )
    | {
        "this scales both terms. s stands before B A alone.": (
            lambda g, W, a, b, alpha: alpha / len(a) * (g @ W + g @ b @ a)
        ),
        "this scales the base's term. s stands before B A.": (
            lambda g, W, a, b, alpha: alpha / len(a) * (g @ W) + g @ b @ a
        ),
        "this is the base's term alone. x goes into A too, and the branch sends back s (dL/dy B) A.": (
            lambda g, W, a, b, alpha: g @ W
        ),
        "this multiplies the two terms. y is their sum, and so is what comes back.": (
            lambda g, W, a, b, alpha: g @ W * (alpha / len(a) * (g @ b @ a))
        ),
        "this is transposed: one row for each row of x, so (n, d_in).": (
            lambda g, W, a, b, alpha: (g @ W + alpha / len(a) * (g @ b @ a)).T
        ),
        "this has dL/dy = 1 everywhere. Multiply what comes from above, grad_y.": (
            lambda g, W, a, b, alpha: np.ones_like(g) @ (W + alpha / len(a) * b @ a)
        ),
        "this undoes W' (`pinv` or `inv`). The chain rule multiplies by it: dL/dx = dL/dy W' + ...": (
            lambda g, W, a, b, alpha: g @ np.linalg.pinv(W).T + alpha / len(a) * (g @ b @ a)
        ),
        "this is the layer's weight, W' + s B A. What comes back to x is grad_y times it.": (
            lambda g, W, a, b, alpha: W + alpha / len(a) * b @ a
        ),
    },
    explain=explained(
        "(n, d_in), the shape of x",
        lambda g, W, a, b, alpha: (
            {"n": len(g), "d_in": W.shape[1], "d_out": len(W), "rank": len(a), "alpha": alpha},
            {"grad_y W'": (g @ W, 1), "(grad_y B) A": (g @ b @ a, alpha / len(a))},
        ),
    ),
)

# --- 9.2: a QLoRA layer from its stored parts ------------------------------------------------------------------------

_NF4 = nf_codebook(4).numpy().astype(np.float64)


def _stored_layers() -> list[tuple]:
    """Cases (x, codes, absmax, lora_A, lora_B, alpha): no side equals another, alpha is never the rank."""
    cases = []
    for seed, (n, d_in, d_out, rank, alpha, block_size) in enumerate([(13, 8, 6, 2, 8.0, 4), (5, 4, 12, 3, 1.5, 6)]):
        rng = np.random.default_rng(seed)
        codes = rng.integers(0, 16, size=(d_out, d_in))
        absmax = rng.uniform(0.5, 2.0, size=d_in * d_out // block_size)
        x, a, b = (rng.normal(size=shape) for shape in ((n, d_in), (rank, d_in), (d_out, rank)))
        cases.append((x, codes, absmax, a, b, alpha))
    return cases


def _weight(codes, absmax, values=None):
    """The decoded weight. values: what the codes stand for, if not the codebook's values."""
    values = _NF4[codes] if values is None else values
    return (values.reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape)


def _output(weight: Callable = _weight, branch: Callable = lambda x, a, b, s: s * (x @ a.T @ b.T)) -> Callable:
    """A layer with another weight, a function of codes and absmax, or another branch."""
    return lambda x, c, m, a, b, alpha: x @ weight(c, m).T + branch(x, a, b, alpha / len(a))


def _scaled(form: Callable) -> Callable:
    return lambda scale, x, c, m, a, b, alpha: form(
        x @ _weight(c, m).T, x @ a.T @ b.T, scale(alpha, len(a), len(b), a.shape[1])
    )


def _sizes(text: str) -> set[int]:
    """The sizes of all axes in an error message of NumPy."""
    return {int(number) for number in re.findall(r"\d+", text)}


def _told(solution: Callable, *case) -> Any:
    """What it returns; for shapes that do not fit, which they are."""
    try:
        return solution(*case)
    except ValueError as error:
        text = str(error)
        if "into shape" in text:
            return (
                "this cuts the weight into blocks of a size that does not divide it. The block size is not given: "
                "codes.size // len(absmax)."
            )
        if "broadcast" in text and len(case[2]) in _sizes(text):
            return (
                "absmax has one number for each block of the flattened weight, not one for each row or column. Reshape "
                "the looked-up values to (n_blocks, -1) before you multiply."
            )
        raise
    except IndexError as error:
        if "integer" in str(error):
            return "an index must be a whole number: look up `codebook[codes]` before you scale anything."
        return f"an index is out of bounds ({error}): a code is an index into the 16 values of the codebook."


_factors = explained(
    "(n, d_out), a row for each input",
    lambda x, c, m, a, b, alpha: (
        {"n": len(x), "d_in": c.shape[1], "d_out": len(c), "rank": len(a), "alpha": alpha},
        {"x W'^T": (x @ _weight(c, m).T, 1), "x A^T B^T": (x @ a.T @ b.T, alpha / len(a))},
    ),
)


def _wrong_weight(result, x, codes, absmax, a, b, alpha) -> str:
    """Of a layer that is linear in x: where its weight differs. With more inputs than columns it can be told."""
    result = np.asarray(result["result"] if isinstance(result, dict) else result, dtype=float)
    made = np.linalg.lstsq(x, result, rcond=None)[0].T  # (d_out, d_in)
    if np.abs(x @ made.T - result).max() > 1e-8 * np.abs(result).max():
        return "this is no linear layer of x: y is x times a weight, plus x times A and B. Nothing else acts on x."
    weight, update = _weight(codes, absmax), alpha / len(a) * b @ a
    off = np.abs(made - update - weight) > 1e-5
    i, j = next(zip(*off.nonzero(), strict=True))
    yours, block = made[i, j] - update[i, j], (i * codes.shape[1] + j) // (codes.size // len(absmax))
    return (
        f"the weight is wrong. With the branch s B A taken off, entry [{i}, {j}] of yours is {yours:.4g}; it should be "
        f"codebook[{codes[i, j]}] times absmax[{block}], {weight[i, j]:.4g}. {off.sum()} of {off.size} differ."
    )


qlora_output = Exercise(
    "9.2",
    _output(),
    _stored_layers(),
    mistakes(
        {
            "": _scaled(lambda base, branch, s: base + s * branch),
            "this is the branch alone: the base's term is missing.": _scaled(lambda base, branch, s: s * branch),
            "this subtracts the branch. y is a sum.": _scaled(lambda base, branch, s: base - s * branch),
        }
    )
    | {
        "this scales both terms. s stands before B A alone.": (
            lambda x, c, m, a, b, alpha: alpha / len(a) * (x @ _weight(c, m).T + x @ a.T @ b.T)
        ),
        "this is the base alone: the branch of the adapter is missing.": _output(branch=lambda x, a, b, s: 0.0),
        "this multiplies with the codes themselves. A code is an index: look its value up in the codebook first.": (
            _output(lambda c, m: _weight(c, m, c))
        ),
        "this forgets the absmax: the codebook's values lie in [-1, 1], and each block has its own scale.": (
            _output(lambda c, m: _weight(c, np.ones_like(m)))
        ),
        "this divides by the absmax. That was the way into the codes; the way back multiplies.": (
            _output(lambda c, m: _weight(c, 1 / m))
        ),
        "this uses one absmax for the whole matrix. Each block of values has its own.": (
            _output(lambda c, m: _weight(c, np.full_like(m, m.max())))
        ),
        "this uses the mean absmax for the whole matrix. Each block of values has its own.": (
            _output(lambda c, m: _weight(c, np.full_like(m, m.mean())))
        ),
        "this uses the first absmax for everything: blocks of 64 would be larger than these weights. The block size is "
        "codes.size // len(absmax).": _output(lambda c, m: _weight(c, np.full_like(m, m[0]))),
        "this takes the codes for integers around 7. A code is an index into the codebook, whose steps are unequal.": (
            _output(lambda c, m: _weight(c, m, (c - 7) / 7))
        ),
        "this takes the codes for integers around 7, over 8. A code is an index into the codebook.": (
            _output(lambda c, m: _weight(c, m, (c - 7) / 8))
        ),
        "this takes the codes for integers around 8. A code is an index into the codebook, whose steps are unequal.": (
            _output(lambda c, m: _weight(c, m, (c - 8) / 8))
        ),
        "this takes the codes for integers around 8, over 7. A code is an index into the codebook.": (
            _output(lambda c, m: _weight(c, m, (c - 8) / 7))
        ),
        "this spreads 16 equal steps from -1 to 1. The steps of NF4 are unequal: look the codes up in the codebook.": (
            _output(lambda c, m: _weight(c, m, 2 * c / 15 - 1))
        ),
        "this deals the values out to the blocks like cards, one each. A block is a run of neighbors: reshape to "
        "(n_blocks, -1), with one block a row.": (
            _output(lambda c, m: (_NF4[c].reshape(-1, len(m)) * m).reshape(c.shape))
        ),
        "this takes the absmax by the column alone, as if each row began with the first one. The blocks run on from "
        "row to row.": _output(lambda c, m: _NF4[c] * m[np.arange(c.shape[1]) // (c.size // len(m)) % len(m)]),
        "this takes the absmax by the row alone: blocks end inside a row, too.": (
            _output(lambda c, m: _NF4[c] * np.resize(m, len(c))[:, None])
        ),
        "this takes the blocks down the columns. The weight is flattened row by row.": (
            _output(lambda c, m: _weight(c.T, m).T)
        ),
        "this adds s B A before the blocks are scaled: the absmax multiplies it too. Decode W' first, then add.": (
            lambda x, c, m, a, b, alpha: x @ _weight(c, m, _NF4[c] + alpha / len(a) * b @ a).T
        ),
        "this adds the absmax to the values. Each value is multiplied by the absmax of its block.": (
            _output(lambda c, m: (_NF4[c].reshape(len(m), -1) + m[:, None]).reshape(c.shape))
        ),
        "this turns the order of the absmax around: the first one belongs to the first block.": (
            _output(lambda c, m: _weight(c, m[::-1]))
        ),
        "this turns the codebook around: code 0 is -1, and code 15 is 1.": _output(lambda c, m: _weight(15 - c, m)),
    },
    observe=_told,
    explain=lambda result, *case: (
        result if isinstance(result, str) else _factors(result, *case) or _wrong_weight(result, *case)
    ),
)
