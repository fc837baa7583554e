"""Notebook 03: right solutions that are written in other ways pass; wrong ones are called by their mistake."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lora_edu import GPT, GPTConfig
from lora_edu.exercises import grading, nb03

# --- right, written in other ways ------------------------------------------------------------------------------------


def head_in_loops(x, W_q, W_k, W_v):
    rows = []
    for i in range(len(x)):
        scores = [float((W_q @ x[i]) @ (W_k @ x[j])) / math.sqrt(len(W_q)) for j in range(i + 1)]
        shares = [math.exp(score) for score in scores]
        rows.append(sum(share * (W_v @ x[j]) for j, share in enumerate(shares)) / sum(shares))
    return torch.stack(rows)


def head_in_numpy(x, W_q, W_k, W_v):
    x, W_q, W_k, W_v = (np.asarray(array, dtype=np.float64) for array in (x, W_q, W_k, W_v))
    scores = np.einsum("id,od,je,oe->ij", x, W_q, x, W_k) / np.sqrt(W_q.shape[0])
    shares = np.tril(np.exp(scores))
    return shares / shares.sum(axis=1, keepdims=True) @ x @ W_v.T


def head_of_torch(x, W_q, W_k, W_v):
    q, k, v = (F.linear(x, weight)[None] for weight in (W_q, W_k, W_v))
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)[0]


def guess_of_a_shorter_model(model, tokens, n_blocks):
    model.blocks = model.blocks[:n_blocks]
    return F.softmax(model(tokens)[0][0, -1], dim=0)


def guess_in_logarithms(model, tokens, n_blocks):
    x = model.token_embedding.weight[tokens[0]] + model.position_embedding.weight[: tokens.shape[1]]
    x = x[None]
    for number, block in enumerate(model.blocks):
        x = block(x) if number < n_blocks else x
    last = model.final_norm(x)[:, -1] @ model.lm_head.weight.T
    return (last - last.logsumexp(dim=-1)).exp()[0]


@pytest.mark.parametrize(
    ("exercise", "attempt"),
    [
        (nb03.head_output, head_in_loops),
        (nb03.head_output, head_in_numpy),
        (nb03.head_output, head_of_torch),
        (nb03.guess_after, guess_of_a_shorter_model),
        (nb03.guess_after, guess_in_logarithms),
        (nb03.bits_per_byte, lambda z, n: float(sum(z)) * math.log2(math.e) / int(sum(n))),
        (nb03.bits_per_byte, lambda z, n: np.mean(z) / np.mean(n) / math.log(2)),
        (nb03.bits_per_byte, lambda z, n: np.average(z / n, weights=n) / np.log(2)),
        (nb03.block_weights, lambda n, d, h: sum(4 * d * d + h * d + d * h for _ in range(n))),
    ],
)
def test_right_solutions_pass(exercise, attempt):
    exercise(attempt)
    assert grading.last_result == f"Exercise {exercise.number}: correct"


# --- wrong ones ------------------------------------------------------------------------------------------------------


def guess_of_the_whole_model(model, tokens, n_blocks):
    return model(tokens)[0][0, -1].softmax(dim=-1)


def head_with(weights):
    """An average of the values with other weights: weights(scores, mask) with the undivided scores."""

    def attempt(x, W_q, W_k, W_v):
        mask = torch.ones(len(x), len(x)).triu(1).bool()
        return weights(x @ W_q.T @ (x @ W_k.T).T, mask) @ (x @ W_v.T)

    return attempt


@pytest.mark.parametrize(
    ("exercise", "attempt", "sentence"),
    [
        (nb03.guess_after, guess_of_the_whole_model, "Look at the blocks that run."),
        (nb03.guess_after, lambda model, tokens, n: guess_in_logarithms(model, tokens + 1, n), "wrong already without"),
        (nb03.head_output, head_with(lambda z, m: z.masked_fill(m, -1.0).softmax(-1)), "row 0 is its own value"),
        (nb03.head_output, lambda x, q, k, v: head_of_torch(x, q, v, k), "`k` and `v` have changed places"),
        (
            nb03.head_output,
            lambda x, q, k, v: head_of_torch(x, q, k, v) + 1,
            "the average of the values. It is off by one",
        ),
        (nb03.block_weights, lambda n, d, h: n * (4 * d * d + 2 * d * h + 5 * d + h), "The exercise asks for the"),
    ],
)
def test_wrong_answers_are_named(exercise, attempt, sentence):
    with pytest.raises(AssertionError) as error:
        exercise(attempt)
    assert sentence in str(error.value)


@pytest.mark.parametrize("config", [GPTConfig(), GPTConfig(n_layers=3, d_model=24, context=8)])
def test_the_count_of_weights_is_that_of_the_model(config):
    expected = nb03.block_weights.reference(config.n_layers, config.d_model, 4 * config.d_model)
    named = GPT(config).named_parameters()
    assert expected == sum(tensor.numel() for name, tensor in named if name.endswith("_proj.weight"))
