"""Notebook 03: right solutions that are written in other ways pass; wrong ones are called by their mistake."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from lora_edu import GPT, GPTConfig
from lora_edu.exercises import grading, nb03

INF = math.inf


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


# --- wrong ones that nobody had in mind when the checks were written -------------------------------------------------


def gpt_guess(read=lambda m, x: m.lm_head(m.final_norm(x)), last=lambda z: z[0, -1].softmax(-1), run=None):
    def attempt(model, tokens, n_blocks):
        x = model.token_embedding(tokens) + model.position_embedding(torch.arange(tokens.shape[1]))
        for block in model.blocks[:n_blocks] if run is None else run(model, n_blocks):
            x = block(x)
        return last(read(model, x))

    return attempt


def guess_without_a_table(model, tokens, n_blocks):
    x = model.token_embedding(tokens)
    for i in range(n_blocks):
        x = model.blocks[i](x)
    return torch.softmax(model.lm_head(model.final_norm(x))[0, -1], dim=0)


def guess_of_the_whole_model(model, tokens, n_blocks):
    return model(tokens)[0][0, -1].softmax(dim=-1)


def off_by_one(model, n_blocks):
    return [model.blocks[i] for i in range(1, n_blocks)]


def qkv(x, W_q, W_k, W_v):
    return x @ W_q.T, x @ W_k.T, x @ W_v.T


def masked(x, scores):
    return scores.masked_fill(torch.ones(len(x), len(x)).triu(1).bool(), -INF)


def head_with_rows_for_columns(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    return masked(x, q @ k.T / len(W_q) ** 0.5).softmax(0) @ v


def head_that_masks_itself(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    past_only = torch.ones(len(x), len(x)).triu(0).bool()
    return (q @ k.T / len(W_q) ** 0.5).masked_fill(past_only, -INF).softmax(-1) @ v


def head_with_a_mask_of_zeros(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    return torch.tril(q @ k.T / math.sqrt(len(W_q))).softmax(-1) @ v


def head_without_values(x, W_q, W_k, W_v):
    q, k, _ = qkv(x, W_q, W_k, W_v)
    return masked(x, q @ k.T / len(W_q) ** 0.5).softmax(-1)


def head_scaled_by_width(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    return masked(x, q @ k.T / x.shape[1] ** 0.5).softmax(-1) @ v


def head_scaled_twice(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    return masked(x, (q / len(W_q) ** 0.5) @ (k / len(W_q) ** 0.5).T).softmax(-1) @ v


def head_without_softmax(x, W_q, W_k, W_v):
    q, k, v = qkv(x, W_q, W_k, W_v)
    return torch.tril(q @ k.T / len(W_q) ** 0.5) @ v


def head_with(weights):
    """An average of the values with other weights: weights(scores, mask) with the undivided scores."""

    def attempt(x, W_q, W_k, W_v):
        q, k, v = qkv(x, W_q, W_k, W_v)
        return weights(q @ k.T, torch.ones(len(x), len(x)).triu(1).bool()) @ v

    return attempt


WRONG = [
    (nb03.guess_after, guess_without_a_table, "the positions are missing"),
    (nb03.guess_after, guess_of_the_whole_model, "whatever n_blocks says"),
    (nb03.guess_after, gpt_guess(run=off_by_one), "without a block the guess is right"),
    (nb03.guess_after, gpt_guess(run=lambda m, n: [m.blocks[i] for i in range(n + 1) if i < 3]), "one block too many"),
    (nb03.guess_after, gpt_guess(last=lambda z: (2 * z[0, -1]).softmax(-1)), "the logits are multiplied by 2 before"),
    (nb03.guess_after, gpt_guess(read=lambda m, x: m.lm_head(m.final_norm(x) + 1)), "wrong already without a block"),
    (
        nb03.block_weights,
        lambda n, d, h: n * (3 * d * d + 3 * d * h),
        "3 d_model^2 + 3 d_model d_hidden in each block.",
    ),
    (nb03.block_weights, lambda n, d, h: n * (4 * d * d + 2 * d * h + 4 * d), "and vectors, which are biases or norms"),
    (nb03.block_weights, lambda n, d, h: n * d * h * h, None),
    (nb03.guess_after, gpt_guess(read=lambda m, x: m.lm_head(x)), "final_norm is missing"),
    (nb03.guess_after, gpt_guess(last=lambda z: z[0, -1]), "these are the logits"),
    (nb03.guess_after, gpt_guess(last=lambda z: z.softmax(-1)[:, -1]), "the batch of 1 is still there"),
    (nb03.guess_after, gpt_guess(last=lambda z: z.softmax(-1)), "with the batch in front"),
    (nb03.guess_after, gpt_guess(last=lambda z: z[0, -1].softmax(-1).argmax()), "the likeliest token"),
    (nb03.head_output, head_with_rows_for_columns, "runs over the queries"),
    (nb03.head_output, head_that_masks_itself, "a position may look at itself"),
    (nb03.head_output, head_with_a_mask_of_zeros, "this masks with zeros"),
    (nb03.head_output, head_without_values, "these are the attention weights"),
    (nb03.head_output, head_scaled_by_width, "the square root of d_in"),
    (nb03.head_output, head_scaled_twice, "this divides by d_out itself"),
    (nb03.head_output, head_without_softmax, "without a softmax"),
    (nb03.head_output, head_with(lambda z, m: (z / 8).masked_fill(m, -INF).softmax(-1)), "divided by 8, and here the"),
    (nb03.head_output, head_with(lambda z, m: z.masked_fill(m, -1.0).softmax(-1)), "looks at those after it"),
    (nb03.head_output, head_with(lambda z, m: ~m / (~m).sum(1, keepdim=True)), "every earlier position counts"),
    (nb03.head_output, head_with(lambda z, m: z.masked_fill(m, 0) / 9), "weights of the average are negative"),
    (nb03.head_output, head_with(lambda z, m: z.masked_fill(m, -INF).sigmoid()), "do not sum to 1"),
    (
        nb03.head_output,
        head_with(lambda z, m: z.abs().sqrt().masked_fill(m, -INF).softmax(-1)),
        "but the scores behind them",
    ),
    (nb03.head_output, lambda x, q, k, v: head_of_torch(x, q, k, v) + 1, "too large, in every case|no average"),
    (nb03.head_output, lambda x, q, k, v: head_of_torch(x, q, v, k), "`k` and `v` have changed places"),
    (
        nb03.bits_per_byte,
        lambda z, n: np.mean([a / b / np.log(2) for a, b in zip(z, n, strict=True)]),
        "averages the tokens' rates",
    ),
    (nb03.bits_per_byte, lambda z, n: z.sum() / n.sum(), "still in nats"),
    (nb03.bits_per_byte, lambda z, n: np.log2(np.exp(z)).sum(), "the bits of the whole text"),
    (nb03.bits_per_byte, lambda z, n: 2 ** (z.sum() / n.sum()), None),
    (nb03.block_weights, lambda n, d, h: n * 12 * d**2, "this takes d_hidden for 4"),
    (nb03.block_weights, lambda n, d, h: 4 * d * d + n * 2 * d * h, "only the MLP by n_layers"),
    (nb03.block_weights, lambda n, d, h: n * (3 * d * d + 2 * d * h), "leaves out o_proj"),
    (nb03.block_weights, lambda n, d, h: None, "did you forget `return`"),
]


@pytest.mark.parametrize(("exercise", "attempt", "sentence"), [case for case in WRONG if case[2]])
def test_wrong_answers_are_named(exercise, attempt, sentence):
    with pytest.raises(AssertionError) as error:
        exercise(attempt)
    assert any(each in str(error.value) for each in sentence.split("|"))


@pytest.mark.parametrize(("exercise", "attempt", "sentence"), [case for case in WRONG if not case[2]])
def test_the_others_get_the_smallest_failing_case(exercise, attempt, sentence):
    with pytest.raises(AssertionError, match=rf"Exercise {exercise.number}: (.* )?for \(.*(should be|expected)"):
        exercise(attempt)


@pytest.mark.parametrize("config", [GPTConfig(), GPTConfig(n_layers=3, d_model=24, context=8)])
def test_the_count_of_weights_is_that_of_the_model(config):
    expected = nb03.block_weights.reference(config.n_layers, config.d_model, 4 * config.d_model)
    named = GPT(config).named_parameters()
    assert expected == sum(tensor.numel() for name, tensor in named if name.endswith("_proj.weight"))
