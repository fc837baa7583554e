"""Exercise 3.2 of notebook 03: one attention head.

What is none of the known mistakes is taken apart: the result is an average of values, and its weights are read from it.
"""

import math

import numpy as np
import torch

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise


def _future(x, first=1):
    """True where the key comes after the query; shape (seq, seq)."""
    return torch.ones(len(x), len(x)).triu(diagonal=first).bool()


def _scores(x, W_q, W_k, divisor=None, mask_from=1):
    """The masked scores; mask_from=None leaves the mask out."""
    scores = (x @ W_q.T) @ (x @ W_k.T).T / (divisor or math.sqrt(len(W_q)))  # (seq, seq)
    return scores if mask_from is None else scores.masked_fill(_future(x, mask_from), -math.inf)


def _weights(x, W_q, W_k, divisor=None, mask_from=1, dim=-1):
    return _scores(x, W_q, W_k, divisor, mask_from).softmax(dim=dim)


def _head(x, W_q, W_k, W_v, divisor=None, mask=True, mask_from=1, dim=-1):
    """One causal attention head, with the places where a learner may go another way."""
    return _weights(x, W_q, W_k, divisor, mask_from if mask else None, dim) @ (x @ W_v.T)


def _masked_after_softmax(x, W_q, W_k, W_v):
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1).tril() @ v


def _masked_with_zeros(x, W_q, W_k, W_v):
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).tril().softmax(dim=-1) @ v


def _sees_the_future(x, W_q, W_k, W_v):
    return _head(x.flip(0), W_q, W_k, W_v).flip(0)


def _random_heads() -> list[tuple]:
    """Inputs (seq, d_in) and weights (d_out, d_in): seq, d_in and d_out always differ.

    In the first case the values are independent of each other, so that the weights can be read from the result.
    """
    cases = []
    for seed, (seq, d_in, d_out) in enumerate([(4, 6, 5), (7, 3, 8)]):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(seq, d_in), (d_out, d_in), (d_out, d_in), (d_out, d_in)]
        cases.append(tuple(torch.randn(shape, generator=generator) for shape in shapes))
    return cases


ADDED = "this is no average of the values: something is added, or multiplied, besides the weights."
FUTURE = "a position looks at those after it: the mask does not take all of their weight. Use -infinity."
NEGATIVE = "some weights of the average are negative: they come out of a softmax, or they should."
NOT_ONE = "the weights of the average do not sum to 1 in each row: the softmax comes last, and nothing after it."
EVEN = "every earlier position counts the same: the scores have no part in the weights."
OTHER_SCORES = (
    "the weights are causal and sum to 1, but the scores behind them are not q times k over the root of d_out."
)


def _other_weights(result, x, W_q, W_k, W_v) -> str:
    """What is wrong with the weights of an average, read from its result: weights @ values, solved for the weights."""
    got, values = as_array(result), (x @ W_v.T).double().numpy()
    if got is None or got.shape != values.shape or np.linalg.matrix_rank(values) < len(values):
        return ""
    weights = got @ np.linalg.pinv(values)
    if np.abs(weights @ values - got).max() > 1e-4 * np.abs(got).max():
        return ADDED
    if weights.min() < -1e-4:
        return NEGATIVE
    if np.abs(np.triu(weights, 1)).max() > 1e-4:
        return FUTURE
    if np.abs(weights.sum(axis=1) - 1).max() > 1e-4:
        return NOT_ONE
    even = np.tril(np.ones_like(weights)) / np.arange(1, len(x) + 1)[:, None]
    return EVEN if np.abs(weights - even).max() < 1e-4 else _other_divisor(weights, x, W_q, W_k) or OTHER_SCORES


def _other_divisor(weights, x, W_q, W_k) -> str:
    """The number by which q times k was divided, if there is one: the logarithms of two weights differ by scores."""
    products = ((x @ W_q.T) @ (x @ W_k.T).T).double().numpy()
    below = np.tril_indices(len(x), -1)
    with np.errstate(all="ignore"):
        steps = np.log(weights) - np.log(np.diagonal(weights))[:, None]
        divisors = ((products - np.diagonal(products)[:, None]) / steps)[below]
    seen = divisors[weights[below] > 1e-3]
    if len(seen) < 2 or not np.isfinite(seen).all() or np.ptp(seen) > 1e-2 * abs(seen[0]):
        return ""
    return f"the scores are divided by {seen[0]:.3g}, and here the root of d_out is {len(W_q) ** 0.5:.3g}."


head_output = Exercise(
    "3.2",
    _head,
    _random_heads(),
    {
        "the scores are not divided by the square root of d_out, the length of a query.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=1)
        ),
        "this divides by d_out itself. The spread of the scores grows with its square root.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=len(q))
        ),
        "this divides by the square root of d_in. It is the length of a query, d_out, that counts.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=math.sqrt(x.shape[1]))
        ),
        "this divides by the square root of the sequence's length. It is the length of a query, d_out, that counts.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=math.sqrt(len(x)))
        ),
        "the causal mask is missing: a position may not look at those after it.": (
            lambda x, q, k, v: _head(x, q, k, v, mask=False)
        ),
        "this masks after the softmax, so the weights no longer sum to 1. Set the scores to -infinity before it.": (
            _masked_after_softmax
        ),
        "this masks with zeros before the softmax, and exp(0) is 1: the future still counts. Use -infinity.": (
            _masked_with_zeros
        ),
        "the softmax runs over the queries. Each query's weights over the keys, a row, must sum to 1.": (
            lambda x, q, k, v: _head(x, q, k, v, dim=0)
        ),
        "queries and keys have changed places: row i of the scores belongs to query i.": (
            lambda x, q, k, v: _head(x, k, q, v)
        ),
        "the mask hides the past. It is the future that a position may not see.": _sees_the_future,
        "a position may look at itself: the future starts one step to the right of the diagonal, triu(1).": (
            lambda x, q, k, v: _head(x, q, k, v, mask_from=0)
        ),
        "these are the attention weights. What is asked for is the average of the values, weights @ v.": (
            lambda x, q, k, v: _weights(x, q, k)
        ),
        "these are the masked scores. Softmax, then the average of the values, is still to come.": (
            lambda x, q, k, v: _scores(x, q, k)
        ),
        "the scores are averaged without a softmax: the weights must be positive and sum to 1.": (
            lambda x, q, k, v: _scores(x, q, k).nan_to_num(neginf=0) @ (x @ v.T)
        ),
        "this averages the inputs. What is averaged are the values, x @ W_v.T.": lambda x, q, k, v: (
            _weights(x, q, k) @ x
        ),
        "this averages the queries. What is averaged are the values, x @ W_v.T.": lambda x, q, k, v: _head(x, q, k, q),
        "the weights are transposed: row i of the weights averages for position i.": (
            lambda x, q, k, v: _weights(x, q, k).T @ (x @ v.T)
        ),
        "the scores compare queries with queries. The other side are the keys.": lambda x, q, k, v: _head(x, q, q, v),
        "the scores compare keys with keys. One side are the queries.": lambda x, q, k, v: _head(x, k, k, v),
        "this multiplies by the square root of d_out. Divide by it.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=1 / math.sqrt(len(q)))
        ),
        "the division comes after the softmax, where it shrinks the weights. The scores are divided.": (
            lambda x, q, k, v: _head(x, q, k, v, divisor=1) / math.sqrt(len(q))
        ),
        "these are the values alone: the average over the positions is missing.": lambda x, q, k, v: x @ v.T,
        "this takes the value of the best match alone. The softmax averages over all of them.": (
            lambda x, q, k, v: (x @ v.T)[_scores(x, q, k).argmax(dim=-1)]
        ),
        "this averages the keys. What is averaged are the values, x @ W_v.T.": (lambda x, q, k, v: _head(x, q, k, k)),
    },
    explain=_other_weights,
)
