"""Notebook 03: right solutions that are written in other ways pass, too."""

import math

import numpy as np
import pytest
import torch

from lora_edu import GPT, GPTConfig
from lora_edu.exercises import nb03


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
    q, k, v = (torch.nn.functional.linear(x, weight)[None] for weight in (W_q, W_k, W_v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)[0]


@pytest.mark.parametrize("attempt", [head_in_loops, head_in_numpy, head_of_torch])
def test_one_head_written_in_other_ways(attempt, capsys):
    nb03.head_output(attempt)
    assert capsys.readouterr().out == "Exercise 3.3: correct\n"


def test_a_position_that_may_not_look_at_itself_is_no_solution():
    def attempt(x, W_q, W_k, W_v):
        q, k, v = x @ W_q.T, x @ W_k.T, x @ W_v.T
        past_only = torch.ones(len(x), len(x)).triu(0).bool()
        return (q @ k.T / len(W_q) ** 0.5).masked_fill(past_only, -math.inf).softmax(-1) @ v

    with pytest.raises(AssertionError, match=r"entry \[0, 0\] should be"):
        nb03.head_output(attempt)


@pytest.mark.parametrize("config", [GPTConfig(), GPTConfig(n_layers=3, d_model=24, context=8)])
def test_the_count_of_weights_is_that_of_the_model(config):
    expected = nb03.block_weights.reference(config.n_layers, config.d_model, 4 * config.d_model)
    named = GPT(config).named_parameters()
    assert expected == sum(tensor.numel() for name, tensor in named if name.endswith("_proj.weight"))
