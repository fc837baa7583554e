"""The checks of notebook 03, The small GPT that we adapt."""

import math

import numpy as np
import torch

from lora_edu.exercises.grading import Exercise, beside
from lora_edu.gpt import GPT, GPTConfig

__all__ = ["beside", "bits_per_byte", "block_weights", "guess_after", "head_output"]


# --- 3.1: the guess after some blocks --------------------------------------------------------------------------------


def _small_gpt() -> GPT:
    """Three blocks with large random weights, so that each block, norm and position changes the guess."""
    model = GPT(GPTConfig(vocab_size=11, context=12, n_layers=3, n_heads=2, d_model=6)).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def _stream(model, tokens, blocks, positions=True):
    x = model.token_embedding(tokens.long())
    if positions:
        x = x + model.position_embedding(torch.arange(tokens.shape[1]))
    for block in blocks:
        x = block(x)
    return x


def _guess_after(model, tokens, n_blocks):
    logits = model.lm_head(model.final_norm(_stream(model, tokens, model.blocks[:n_blocks])))
    return logits[0, -1].softmax(dim=-1)


def _read_in_another_way(read):
    """A wrong solution with the right blocks: `read(model, x)` takes the stream (1, S, d_model)."""
    return lambda model, tokens, n_blocks: read(model, _stream(model, tokens, model.blocks[:n_blocks]))


def _other_blocks(choose, positions=True):
    """A wrong solution with the right readout: `choose(model, n_blocks)` gives the blocks that run."""

    def solution(model, tokens, n_blocks):
        x = _stream(model, tokens, choose(model, n_blocks), positions)
        return model.lm_head(model.final_norm(x))[0, -1].softmax(dim=-1)

    return solution


def _logits(model, x):
    return model.lm_head(model.final_norm(x))


guess_after = Exercise(
    "3.1",
    _guess_after,
    [(torch.tensor([[3, 1, 4, 1, 5]]), 2), (torch.tensor([[9, 2, 6]]), 0), (torch.tensor([[5, 8, 9, 7]]), 3)],
    {
        "final_norm is missing: the head was trained to read the stream after it.": _read_in_another_way(
            lambda model, x: model.lm_head(x)[0, -1].softmax(dim=-1)
        ),
        "final_norm runs after the head. It belongs between the stream and the head.": _read_in_another_way(
            lambda model, x: torch.nn.functional.layer_norm(model.lm_head(x), (11,))[0, -1].softmax(dim=-1)
        ),
        "these are the logits. Softmax makes probabilities of them.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -1]
        ),
        "these are logarithms of probabilities: softmax, not log_softmax.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -1].log_softmax(dim=-1)
        ),
        "this is the likeliest token. The exercise asks for the probability of each.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -1].argmax()
        ),
        "this is the largest probability. The exercise asks for that of each token.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -1].softmax(dim=-1).max()
        ),
        "this is the guess at the first position. The next byte is guessed at the last one.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, 0].softmax(dim=-1)
        ),
        "these are the guesses at all positions. Take the last one: [0, -1].": _read_in_another_way(
            lambda model, x: _logits(model, x)[0].softmax(dim=-1)
        ),
        "these are the guesses at all positions, with the batch in front. Take the last one: [0, -1].": (
            _read_in_another_way(lambda model, x: _logits(model, x).softmax(dim=-1))
        ),
        "the batch of 1 is still there: the result has the shape (vocab,). Take [0, -1].": _read_in_another_way(
            lambda model, x: _logits(model, x)[:, -1].softmax(dim=-1)
        ),
        "the softmax runs over the positions. It must run over the tokens, the last dimension.": _read_in_another_way(
            lambda model, x: _logits(model, x).softmax(dim=1)[0, -1]
        ),
        "this averages over the positions. Only the last one has read the whole text.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0].softmax(dim=-1).mean(dim=0)
        ),
        "this runs all blocks, whatever n_blocks says.": _other_blocks(lambda model, n: model.blocks),
        "this runs no block at all.": _other_blocks(lambda model, n: []),
        "this runs one block too many: after n blocks the block with the index n has not run.": _other_blocks(
            lambda model, n: model.blocks[: n + 1]
        ),
        "this runs one block too few: range(n) already leaves out n.": _other_blocks(
            lambda model, n: model.blocks[: max(0, n - 1)]
        ),
        "this runs only the block with the index n - 1. Those before it have to run first.": _other_blocks(
            lambda model, n: model.blocks[n - 1 : n] if n else []
        ),
        "this runs only the block with the index n. The first n blocks are those before it.": _other_blocks(
            lambda model, n: model.blocks[n : n + 1]
        ),
        "these are the last blocks. The text passes the first ones first.": _other_blocks(
            lambda model, n: model.blocks[len(model.blocks) - n :]
        ),
        "the blocks run in the wrong order, the last one first.": _other_blocks(
            lambda model, n: reversed(model.blocks[:n])
        ),
        "this runs the first block n times. Each block has weights of its own.": _other_blocks(
            lambda model, n: [model.blocks[0]] * n
        ),
        "the positions are missing: the stream starts as the sum of two tables.": _other_blocks(
            lambda model, n: model.blocks[:n], positions=False
        ),
        "each block's output is added to the stream once more. A block adds by itself: x = block(x).": (
            lambda model, tokens, n: _guess_added_twice(model, tokens, n)
        ),
    },
    observe=lambda solution, tokens, n_blocks: solution(_small_gpt(), tokens, n_blocks),
)


def _guess_added_twice(model, tokens, n_blocks):
    x = _stream(model, tokens, [])
    for block in model.blocks[:n_blocks]:
        x = x + block(x)
    return _logits(model, x)[0, -1].softmax(dim=-1)


# --- 3.3: bits per byte ----------------------------------------------------------------------------------------------

bits_per_byte = Exercise(
    "3.3",
    lambda losses, lengths: losses.sum() / math.log(2) / lengths.sum(),
    [
        (np.array([2.5, 0.4, 6.1]), np.array([4, 1, 7])),
        (np.array([3.1, 1.7, 0.2, 5.3, 2.2]), np.array([5, 3, 1, 9, 2])),
        (np.array([0.9]), np.array([2])),
    ],
    {
        "this averages the tokens' rates, and a short token counts as much as a long one. "
        "Add up the bits, add up the bytes, then divide.": lambda z, n: (z / n).mean() / math.log(2),
        "this averages the tokens' rates, and it is still in nats.": lambda z, n: (z / n).mean(),
        "this is still in nats. A bit is ln 2 = 0.693 nats, so divide by that too.": lambda z, n: z.sum() / n.sum(),
        "this multiplies by ln 2. There are more bits than nats in the same surprise: divide by it.": (
            lambda z, n: z.sum() * math.log(2) / n.sum()
        ),
        "these are bits per token. A token's surprise is shared by all of its bytes.": lambda z, n: (
            z.mean() / math.log(2)
        ),
        "these are the bits of the whole text. Divide by its bytes.": lambda z, n: z.sum() / math.log(2),
        "this multiplies by the bytes. A token's surprise is shared by its bytes: divide.": (
            lambda z, n: z.sum() / math.log(2) * n.sum()
        ),
        "this weighs each token's surprise by its length; the total surprise is the plain sum.": (
            lambda z, n: (z * n).sum() / n.sum() / math.log(2)
        ),
        "this is a result for each token. Add up the bits, add up the bytes, then divide.": (
            lambda z, n: z / n / math.log(2)
        ),
        "this divides the mean loss by the number of all bytes: sum by sum, or mean by mean.": (
            lambda z, n: z.mean() / math.log(2) / n.sum()
        ),
        "this divides the sum of the losses by the mean length: sum by sum, or mean by mean.": (
            lambda z, n: z.sum() / math.log(2) / n.mean()
        ),
        "this is upside down: bytes per bit.": lambda z, n: n.sum() * math.log(2) / z.sum(),
        "this is a perplexity. Bits are the logarithm of it, to base 2.": lambda z, n: np.exp(z.sum() / n.sum()),
        "this takes the logarithm of the loss. The loss is already a logarithm: divide it by ln 2.": (
            lambda z, n: np.log2(z.sum() / n.sum())
        ),
    },
)


# --- 3.4: the weights that can be adapted ----------------------------------------------------------------------------

block_weights = Exercise(
    "3.4",
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
        "this leaves out q_proj, k_proj and v_proj: each is a linear layer.": lambda n, d, h: n * (d * d + 2 * d * h),
        "this takes d_model * d_model for the way up and down. Their weights are d_hidden by d_model.": (
            lambda n, d, h: n * 6 * d * d
        ),
        "this takes d_hidden * d_hidden for the MLP. Its two weights are d_hidden by d_model.": (
            lambda n, d, h: n * (4 * d * d + 2 * h * h)
        ),
        "this adds sizes instead of multiplying them: a weight has d_out * d_in entries.": (
            lambda n, d, h: n * (4 * 2 * d + 2 * (d + h))
        ),
        "this counts the outputs of the layers, not their weights.": lambda n, d, h: n * (5 * d + h),
        "this multiplies only the attention by n_layers. Each block has an MLP too.": (
            lambda n, d, h: n * 4 * d * d + 2 * d * h
        ),
        "this multiplies only the MLP by n_layers. Each block has attention too.": (
            lambda n, d, h: 4 * d * d + n * 2 * d * h
        ),
        "this counts two linear layers in attention. There are four: q, k, v and o.": (
            lambda n, d, h: n * (2 * d * d + 2 * d * h)
        ),
        "this counts the biases too. The exercise asks for the weights.": (
            lambda n, d, h: n * (4 * d * d + 2 * d * h + 5 * d + h)
        ),
    },
)


# --- 3.2: one attention head -----------------------------------------------------------------------------------------


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
    """Inputs (seq, d_in) and weights (d_out, d_in): seq, d_in and d_out always differ."""
    cases = []
    for seed, (seq, d_in, d_out) in enumerate([(5, 6, 4), (7, 3, 8)]):
        generator = torch.Generator().manual_seed(seed)
        shapes = [(seq, d_in), (d_out, d_in), (d_out, d_in), (d_out, d_in)]
        cases.append(tuple(torch.randn(shape, generator=generator) for shape in shapes))
    return cases


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
)
