"""The checks of notebook 03, The small GPT that we adapt."""

import math

import torch

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "bits_per_byte", "block_weights", "head_output"]

bits_per_byte = Exercise(
    "3.1",
    lambda loss, bytes_per_token: loss / math.log(2) / bytes_per_token,
    [(2.5, 4.2), (3.1, 3.7), (0.93, 1.0)],
    {
        "this is still in nats. A bit is ln 2 = 0.693 nats, so divide by that too.": lambda loss, n: loss / n,
        "this multiplies by ln 2. There are more bits than nats in the same surprise: divide by it.": (
            lambda loss, n: loss * math.log(2) / n
        ),
        "these are bits per token. A token's surprise is shared by all of its bytes.": (
            lambda loss, n: loss / math.log(2)
        ),
        "this multiplies by the bytes per token. A token's surprise is shared by its bytes: divide.": (
            lambda loss, n: loss / math.log(2) * n
        ),
        "this is a perplexity. Bits are the logarithm of it, to base 2.": lambda loss, n: math.exp(loss / n),
    },
)

block_weights = Exercise(
    "3.2",
    lambda n_layers, d_model, d_hidden: n_layers * (4 * d_model**2 + 2 * d_model * d_hidden),
    [(4, 256, 1024), (12, 768, 3072), (2, 6, 15), (22, 2048, 5632)],
    {
        "this counts one block. The model has n_layers of them.": lambda n, d, h: 4 * d * d + 2 * d * h,
        "this is the attention alone. up_proj and down_proj have d_model * d_hidden weights each.": (
            lambda n, d, h: n * 4 * d * d
        ),
        "this is the MLP alone. q_proj, k_proj, v_proj and o_proj are linear layers too.": lambda n, d, h: (
            n * 2 * d * h
        ),
        "this takes d_hidden for 4 * d_model. That is the GPT-2 shape; other models choose another width.": (
            lambda n, d, h: 12 * n * d * d
        ),
        "this leaves out one of up_proj and down_proj. The way back down has as many weights as the way up.": (
            lambda n, d, h: n * (4 * d * d + d * h)
        ),
        "this leaves out o_proj, the linear layer after the average.": lambda n, d, h: n * (3 * d * d + 2 * d * h),
        "this counts the biases too. The exercise asks for the weights.": (
            lambda n, d, h: n * (4 * d * d + 2 * d * h + 5 * d + h)
        ),
    },
)


def _head(x, W_q, W_k, W_v, divisor=None, mask=True, dim=-1):
    """One causal attention head, with the places where a learner may go another way."""
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T  # (seq, d_out)
    scores = q @ k.T / (divisor or math.sqrt(q.shape[-1]))  # (seq, seq)
    if mask:
        scores = scores.masked_fill(_future(x), -math.inf)
    return scores.softmax(dim=dim) @ v


def _future(x):
    """True where the key comes after the query; shape (seq, seq)."""
    return torch.ones(len(x), len(x)).triu(diagonal=1).bool()


def _masked_after_softmax(x, W_q, W_k, W_v):
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).softmax(dim=-1).tril() @ v


def _masked_with_zeros(x, W_q, W_k, W_v):
    q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
    return (q @ k.T / math.sqrt(q.shape[-1])).tril().softmax(dim=-1) @ v


def _sees_the_future(x, W_q, W_k, W_v):
    return _head(x.flip(0), W_q, W_k, W_v).flip(0)


def _random_heads() -> list[tuple]:
    """Inputs (seq, d_in) and weights (d_out, d_in): seq, d_in and d_out always differ."""
    cases = []
    for seed, (seq, d_in, d_out) in enumerate([(5, 6, 4), (7, 3, 8)]):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(seq, d_in), (d_out, d_in), (d_out, d_in), (d_out, d_in)]
        cases.append(tuple(torch.randn(shape, generator=generator) for shape in shapes))
    return cases


head_output = Exercise(
    "3.3",
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
        "this averages the keys. What is averaged are the values, x @ W_v.T.": (lambda x, q, k, v: _head(x, q, k, k)),
    },
)
