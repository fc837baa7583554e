"""The checks of notebook 03, The small GPT that we adapt."""

import copy
import math

import numpy as np
import torch

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_edu.gpt import GPT, GPTConfig

__all__ = ["beside", "bits_per_byte", "block_weights", "guess_after", "head_output"]


# --- 3.1: the guess after some blocks --------------------------------------------------------------------------------


class SmallGPT(GPT):
    """Three blocks with large random weights, so that each block, norm and position changes the guess."""

    def __init__(self) -> None:
        super().__init__(GPTConfig(vocab_size=11, context=12, n_layers=3, n_heads=2, d_model=6))
        self.requires_grad_(False)
        generator = torch.Generator().manual_seed(3)  # each of the three texts below gets another likeliest token
        for weight in self.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))

    # A copy is made by `clone`, as of a tensor: a deep one would take eight times as long as a run.
    requires_grad = False

    def clone(self) -> "SmallGPT":
        """A copy with the same weights, of which an answer can take blocks away."""
        other = copy.copy(self)
        other._modules = self._modules | {"blocks": torch.nn.ModuleList(self.blocks)}
        return other

    def __repr__(self) -> str:
        return "a small GPT"


def _texts() -> list[tuple]:
    """A model, a text, and after how many of its three blocks it is asked."""
    texts = (([9, 2, 6], 0), ([3, 1, 4, 1, 5], 2), ([5, 8, 9, 7], 3))
    return [(SmallGPT(), torch.tensor([tokens]), n_blocks) for tokens, n_blocks in texts]


EACH, LAST = "stream = block(stream)", "logits[0, -1].softmax(dim=-1)"


@exercise(
    "3.1",
    _texts(),
    taught={
        f"{EACH} -> stream = stream + block(stream)": "Your answer adds the output of each block to the stream. A "
        "block does that by itself: x = block(x).",
        f"{EACH} -> stream = model.final_norm(block(stream))": "Your answer runs final_norm after each block. It comes "
        "once, after the last of them.",
        "model.final_norm(stream) -> stream": "Your answer leaves final_norm out. The head was trained to read the "
        "stream after it, also where fewer blocks run.",
        "model.blocks[:n_blocks] -> model.blocks[max(0, n_blocks - 1) : n_blocks]": "Your answer runs block number "
        "{n_blocks} alone, whose index is one less. Those before it have to run first.",
        "model.blocks[:n_blocks] -> [model.blocks[0]] * n_blocks": "Your answer runs the first block {n_blocks} times. "
        "Each block has weights of its own.",
        "token_embedding(tokens) -> token_embedding(tokens[:, -1:]) & tokens.shape[1] -> 1": "Your answer reads the "
        "last token alone. Attention looks at those before it: the blocks need all of them.",
        f"{LAST} -> logits[0].softmax(dim=-1).mean(dim=0)": "Your answer averages over the positions. The "
        "last one alone has read the whole text.",
    },
    noticed={
        "a probability for each token is asked for: the result has the shape (vocab,).": (
            lambda got, model, tokens, n: got.shape != (11,)
        ),
        "these are no probabilities: they do not sum to 1.": lambda got, *case: abs(got.sum() - 1) > 1e-3,
        "the guess is wrong already without a block.": lambda got, model, tokens, n: n == 0,
    },
)
def guess_after(model, tokens, n_blocks):
    places = torch.arange(tokens.shape[1])  # the numbers of the positions
    words = model.token_embedding(tokens)  # what the table of tokens gives
    stream = words + model.position_embedding(places)  # the stream before the first block
    blocks = model.blocks[:n_blocks]  # the blocks that run
    for block in blocks:  # what becomes of the stream in a block
        stream = block(stream)
    normed = model.final_norm(stream)  # the stream that the head reads
    logits = model.lm_head(normed)  # the logits
    return logits[0, -1].softmax(dim=-1)  # the probabilities at the last position


# --- 3.2: one attention head -----------------------------------------------------------------------------------------


def _random_heads() -> list[tuple]:
    """Inputs (seq, d_in) and weights (d_out, d_in): seq, d_in and d_out always differ."""
    cases = []
    for seed, (seq, d_in, d_out) in enumerate([(4, 6, 5), (7, 3, 8)]):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(seq, d_in), (d_out, d_in), (d_out, d_in), (d_out, d_in)]
        cases.append(tuple(torch.randn(shape, generator=generator) for shape in shapes))
    return cases


WEIGHTS = "scores.masked_fill(future, -torch.inf).softmax(dim=-1)"


@exercise(
    "3.2",
    _random_heads(),
    taught={
        f"{WEIGHTS} -> scores.softmax(dim=-1).tril()": "Your answer masks after the softmax, so that the "
        "weights no longer sum to 1. Set the scores to -infinity before it.",
        "-torch.inf -> 0.0": "Your answer masks with zeros before the softmax, and exp(0) is 1: the future still "
        "counts. Use -infinity.",
        "q.shape[-1] -> x.shape[-1]": "Your answer divides by the root of d_in. The spread of the scores grows with "
        "the length of a query, d_out.",
        "-1] ** 0.5 -> -1]": "Your answer divides by d_out itself. The spread of the scores grows with its square "
        "root.",
        "triu(1) -> triu(0)": "Your answer does not let a position look at itself. The future begins one step to the "
        "right of the diagonal.",
        f"{WEIGHTS} -> scores.tril()": "Your answer averages with the scores themselves. Weights of an "
        "average are positive and sum to 1: that is what the softmax is for.",
        "softmax(dim=-1) -> softmax(dim=0)": "Your weights add up to 1 over the queries. They belong to one query "
        "each, a row: the softmax goes over the last axis.",
    },
    noticed={
        "a vector of length d_out for each position is asked for.": (
            lambda got, x, q, k, v: got.shape != (len(x), len(v))
        ),
        "the first position can look at itself alone, so row 0 is its own value. Yours is something else.": (
            lambda got, x, q, k, v: not np.allclose(got[0], (v @ x[0]).numpy(), atol=1e-4)
        ),
    },
)
def head_output(x, W_q, W_k, W_v):
    q, k = x @ W_q.T, x @ W_k.T  # the queries and the keys
    v = x @ W_v.T  # the values
    scores = q @ k.T / q.shape[-1] ** 0.5  # the scores with their divisor
    future = torch.ones(len(x), len(x)).triu(1).bool()  # where the future is
    weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)  # the weights over the keys
    return weights @ v  # the average of the values


# --- 3.3: bits per byte ----------------------------------------------------------------------------------------------


@exercise(
    "3.3",
    [
        (np.array([2.5, 0.4, 6.1]), np.array([4, 1, 8])),
        (np.array([3.1, 1.7, 0.2, 5.3, 2.2]), np.array([5, 3, 1, 9, 2])),
        (np.array([0.9]), np.array([2])),
    ],
    taught={
        "return bits / length -> return (losses / lengths).mean() / math.log(2)": "Your answer averages the rates of "
        "the tokens, and a short token counts as much as a long one. Add up bits and bytes, {length} here, then "
        "divide.",
        "return bits / length -> return losses.mean() / math.log(2)": "Your answer is in bits per token. The surprise "
        "of a token is shared by all of its bytes: {length} in the whole text.",
        "nats / math.log(2) -> nats * math.log(2)": "Your answer multiplies by ln 2. A bit is 0.69 nats, so there are "
        "more bits than nats in the same surprise.",
        "losses.sum() -> (losses * lengths).sum()": "Your answer weighs the surprise of each token by its length. A "
        "loss is that of the whole token already: add them up, {nats:.3g} nats.",
        "nats / math.log(2) -> np.log2(losses).sum()": "Your answer takes logarithms of losses. A loss is one already: "
        "divide it by ln 2.",
        "return bits / length -> return np.exp(nats / length)": "Your answer is a perplexity. Bits per byte are its "
        "logarithm, to base 2.",
    },
)
def bits_per_byte(losses, lengths):
    nats = losses.sum()  # the nats of the whole text
    bits = nats / math.log(2)  # the bits of the whole text
    length = lengths.sum()  # the bytes of the whole text
    return bits / length  # the quotient


# --- 3.4: the weights that can be adapted ----------------------------------------------------------------------------


@exercise(
    "3.4",
    [(4, 256, 1024), (12, 768, 3072), (2, 6, 15), (22, 2048, 5632)],
    taught={
        "d_hidden * d_model + d_model * d_hidden -> 8 * d_model * d_model": "Your answer takes d_hidden for 4 d_model. "
        "That is the shape of GPT-2; here it is {d_hidden}, and d_model {d_model}.",
        "d_hidden * d_model + d_model * d_hidden -> 2 * d_model * d_model": "Your answer takes d_model * d_model for "
        "the way up and down. Their weights are d_hidden by d_model, {d_hidden} by {d_model}.",
        "4 * d_model * d_model -> 3 * d_model * d_model": "Your answer counts three linear layers in attention. There "
        "are four: o_proj stands after the average.",
        "attention + mlp -> attention + mlp + 5 * d_model + d_hidden": "Your answer counts biases too. The exercise "
        "asks for the weights.",
        "n_layers * (attention + mlp) -> n_layers * (attention + mlp) + 256 * d_model": "Your answer counts lm_head as "
        "well. It stands outside of the {n_layers} blocks.",
    },
)
def block_weights(n_layers, d_model, d_hidden):
    attention = 4 * d_model * d_model  # the weights of attention in a block
    mlp = d_hidden * d_model + d_model * d_hidden  # the weights of the MLP in a block
    return n_layers * (attention + mlp)  # the weights of all blocks
