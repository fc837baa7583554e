"""The checks of notebook 03, The small GPT that we adapt."""

import math

import numpy as np
import torch

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise, beside
from lora_edu.exercises.nb03_head import head_output
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


def _stream(model, tokens, blocks, positions=True, words=True, first=0, between=lambda x: x):
    """The stream after some blocks, with the places where a learner may go another way."""
    x = words * model.token_embedding(tokens.long())
    if positions:
        x = x + model.position_embedding(torch.arange(first, first + tokens.shape[1]))
    for block in blocks:
        x = between(block(x))
    return x


def _read(model, x):
    return _logits(model, x)[0, -1].softmax(dim=-1)


def _branches(model, tokens, n_blocks, branch):
    """The stream with one of the two branches of each block, "attention" or "mlp"."""
    x = _stream(model, tokens, [])
    for block in model.blocks[:n_blocks]:
        x = x + getattr(block, branch)(getattr(block, f"{branch}_norm")(x))
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
    [(torch.tensor([[9, 2, 6]]), 0), (torch.tensor([[3, 1, 4, 1, 5]]), 2), (torch.tensor([[5, 8, 9, 7]]), 3)],
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
        "the softmax runs twice: its result is a probability already.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -1].softmax(dim=-1).softmax(dim=-1)
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
        "this averages the logits over the positions. Only the last one has read the whole text.": (
            _read_in_another_way(lambda model, x: _logits(model, x)[0].mean(dim=0).softmax(dim=-1))
        ),
        "this is the position before the last one. The last one is -1.": _read_in_another_way(
            lambda model, x: _logits(model, x)[0, -2].softmax(dim=-1)
        ),
        "lm_head is missing: it makes a logit for each token from the numbers of the stream.": _read_in_another_way(
            lambda model, x: model.final_norm(x)[0, -1].softmax(dim=-1)
        ),
        "final_norm and lm_head are missing: the softmax of the stream itself has no token's probability in it.": (
            _read_in_another_way(lambda model, x: x[0, -1].softmax(dim=-1))
        ),
        "the positions are counted from 1. The first one is 0: torch.arange(seq).": (
            lambda model, tokens, n: _read(model, _stream(model, tokens, model.blocks[:n], first=1))
        ),
        "the word table is missing: the stream starts as the sum of two tables.": (
            lambda model, tokens, n: _read(model, _stream(model, tokens, model.blocks[:n], words=False))
        ),
        "only the last token is read: the blocks need all of them.": (
            lambda model, tokens, n: _read(model, _stream(model, tokens[:, -1:], model.blocks[:n]))
        ),
        "the MLP of each block is left out: a block is both of its branches, block(x).": (
            lambda model, tokens, n: _read(model, _branches(model, tokens, n, "attention"))
        ),
        "the attention of each block is left out: a block is both of its branches, block(x).": (
            lambda model, tokens, n: _read(model, _branches(model, tokens, n, "mlp"))
        ),
        "final_norm runs after each block. It comes once, after the last of them.": (
            lambda model, tokens, n: _read(model, _stream(model, tokens, model.blocks[:n], between=model.final_norm))
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
    symptoms={
        "the result has the shape (vocab,): a probability for each token.": lambda got, tokens, n: got.shape != (11,),
        "these are no probabilities: they do not sum to 1. The softmax comes last.": (
            lambda got, tokens, n: abs(got.sum() - 1) > 1e-3
        ),
    },
    observe=lambda solution, tokens, n_blocks: solution(_small_gpt(), tokens, n_blocks),
    together=lambda results, cases: _which_part(results, cases),
)


def _which_part(results, cases) -> str:
    """Wrong already without a block, or only with some: the tables and the readout, or the blocks."""
    for result, case in zip(results, cases, strict=True):
        got, right = as_array(result), as_array(_guess_after(_small_gpt(), *case))
        if got is None or got.shape != right.shape or not got.min() >= 0 or abs(got.sum() - 1) > 1e-3:
            return ""
        if np.abs(got - right).max() < 1e-5:
            continue
        if case[1]:
            return "without a block the guess is right, and with some it is not: look at what runs in each block."
        seen = (right > 1e-25) & (got > 1e-25)
        wanted, steps = (np.log(p[seen]) - np.log(p[seen]).mean() for p in (right, got))
        times = steps @ wanted / (wanted @ wanted)
        if seen.sum() > 3 and np.abs(steps - times * wanted).max() < 1e-3 * np.abs(steps).max():
            return f"the logits are multiplied by {times:.3g} before the softmax. Take them as they are."
        return "the guess is wrong already without a block: look at the two tables before, and at the readout after."
    return ""


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
        (np.array([2.5, 0.4, 6.1]), np.array([4, 1, 8])),
        (np.array([3.1, 1.7, 0.2, 5.3, 2.2]), np.array([5, 3, 1, 9, 2])),
        (np.array([0.9]), np.array([2])),
    ],
    {
        "this averages the tokens' rates, and a short token counts as much as a long one. "
        "Add up the bits, add up the bytes, then divide.": lambda z, n: (z / n).mean() / math.log(2),
        "this adds up the tokens' rates. Add up the bits, add up the bytes, then divide.": lambda z, n: (
            (z / n).sum() / math.log(2)
        ),
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
        "this takes the logarithm of each loss. A loss is already one: divide the sum by ln 2.": lambda z, n: (
            np.log2(z).sum() / n.sum()
        ),
        "`//` rounds the mean length down to a whole number: use `/`.": lambda z, n: (
            z.mean() / math.log(2) / (n.sum() // len(n))
        ),
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
        "this leaves one block out: n_layers - 1 is counted.": lambda n, d, h: (n - 1) * (4 * d * d + 2 * d * h),
        "d_model and d_hidden have changed places: attention is d_model wide.": lambda n, d, h: (
            n * (4 * h * h + 2 * d * h)
        ),
        "this counts lm_head as well, which stands outside of the blocks.": (
            lambda n, d, h: n * (4 * d * d + 2 * d * h) + 256 * d
        ),
        "this counts both tables or lm_head as well, which stand outside of the blocks.": (
            lambda n, d, h: n * (4 * d * d + 2 * d * h) + 2 * 256 * d
        ),
        "this counts the biases too. The exercise asks for the weights.": (
            lambda n, d, h: n * (4 * d * d + 2 * d * h + 5 * d + h)
        ),
    },
    together=lambda results, cases: _counted_products(results, cases),
)


def _counted_products(results, cases) -> str:
    """How many d_model^2 and d_model d_hidden are counted in each block, where these and biases are all that is."""
    parts = np.array([(n * d * d, n * d * h, n * d, n * h) for n, d, h in cases], dtype=float)
    counted = as_array(results)
    if counted is None or counted.shape != (len(cases),):
        return ""
    numbers = np.linalg.solve(parts, counted)
    square, mixed, *vectors = np.round(numbers) + 0.0
    if not np.allclose(numbers, np.round(numbers), atol=1e-3):
        return ""
    besides = ", and vectors, which are biases or norms" if any(vectors) else ""
    return (
        f"this counts {square:g} d_model^2 + {mixed:g} d_model d_hidden in each block{besides}. "
        "Attention has 4 matrices of the first size, the MLP 2 of the second."
    )
