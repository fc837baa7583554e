"""The checks of notebook 12, a real language model."""

import math

import numpy as np

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "bits_per_byte", "q4_1", "shifted_loss", "stored_bytes"]

BITS = 4 + 8 / 64 + 32 / (64 * 256)


def _stored(linears, table, norms, tied, bits=BITS, table_bytes=4.0, head_bytes=4.0, norm_bytes=4.0):
    heads = 0 if tied else table * head_bytes
    return linears * bits / 8 + table * table_bytes + heads + norms * norm_bytes


stored_bytes = Exercise(
    "12.1",
    _stored,
    [(106_000, 28_000, 35, True), (90_000, 16_000, 50, False), (64_000, 9_000, 20, True)],
    {
        "this counts the head even where it is tied. A tied head is the embedding table, in memory once.": (
            lambda n, table, norms, tied: _stored(n, table, norms, False)
        ),
        "this leaves the head out even where it is a table of its own.": (
            lambda n, table, norms, tied: _stored(n, table, norms, True)
        ),
        "the table is in 4 bits here. It is looked up, not multiplied, and a tied head shares it: both stay.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, BITS, BITS / 8, BITS / 8)
        ),
        "everything is in 4 bits here. Embedding, head and norms are not.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, BITS, BITS / 8, BITS / 8, BITS / 8)
        ),
        "the constants are missing: 4.127 bits a weight, not 4.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, bits=4)
        ),
        "the head is in 4 bits here. It stays in float32, as the table does.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, head_bytes=BITS / 8)
        ),
        "tied and untied are swapped: a tied head is the table, so that there is one of them.": (
            lambda n, table, norms, tied: _stored(n, table, norms, not tied)
        ),
        "these are the constants without double quantization, 4.5 bits a weight. With it there are 4.127.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, bits=4.5)
        ),
        "table, head and norms are in 16 bits here. This model keeps them in float32, 4 bytes a number.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, BITS, 2, 2, 2)
        ),
        "the norms are missing. They are few, but they are there, in float32.": (
            lambda n, table, norms, tied: _stored(n, table, norms, tied, norm_bytes=0)
        ),
        "the block weights are in float32 here.": lambda n, table, norms, tied: _stored(n, table, norms, tied, bits=32),
        "these are bits. A byte has 8 of them.": lambda n, table, norms, tied: 8 * _stored(n, table, norms, tied),
    },
)


def _log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def _loss(logits, tokens, ahead=1, scores=_log_softmax, reduce=np.mean):
    """Minus the mean score of the token so many places ahead; logits (batch, seq, vocab), tokens (batch, seq)."""
    last = tokens.shape[1] - ahead
    return -reduce(np.take_along_axis(scores(logits[:, :last]), tokens[:, ahead:, None], axis=-1))


def _token_cases():
    for seed, (batch, seq, vocab) in enumerate([(1, 5, 7), (3, 4, 6)]):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=(batch, seq, vocab)), rng.integers(0, vocab, size=(batch, seq))


shifted_loss = Exercise(
    "12.2",
    _loss,
    list(_token_cases()),
    {
        "this asks each position for its own token, which the model has been given. Ask for the one that follows.": (
            lambda logits, tokens: _loss(logits, tokens, ahead=0)
        ),
        "this asks for the token two places ahead: the shift was made twice.": (
            lambda logits, tokens: _loss(logits, tokens, ahead=2)
        ),
        "this is the sum over the positions. The loss is their mean.": (
            lambda logits, tokens: _loss(logits, tokens, reduce=np.sum)
        ),
        "the sign is missing: a loss is minus the logarithm of a probability.": lambda logits, tokens: (
            -_loss(logits, tokens)
        ),
        "logits are no logarithms of probabilities yet. Subtract the logarithm of the sum of their exponentials.": (
            lambda logits, tokens: _loss(logits, tokens, scores=lambda values: values)
        ),
        "this averages probabilities. Average their logarithms.": (
            lambda logits, tokens: _loss(logits, tokens, scores=lambda values: np.exp(_log_softmax(values)))
        ),
        "this is in bits (logarithm to base 2). The course counts in nats.": (
            lambda logits, tokens: _loss(logits, tokens) / math.log(2)
        ),
        "the last position asks for the first token of its sequence here. Nothing follows it: leave it out.": (
            lambda logits, tokens: (
                -np.mean(np.take_along_axis(_log_softmax(logits), np.roll(tokens, -1, axis=1)[..., None], axis=-1))
            )
        ),
        "this asks each position for the token before it. Ask for the one that follows.": (
            lambda logits, tokens: _loss(logits[:, ::-1], tokens[:, ::-1])
        ),
        "both are cut at the same end, so nothing is shifted. Drop the last logits and the first token.": (
            lambda logits, tokens: _loss(logits[:, 1:], tokens[:, 1:], ahead=0)
        ),
        "the exponentials are summed over the positions here. Sum them over the vocabulary, the last axis.": (
            lambda logits, tokens: _loss(logits, tokens, scores=lambda z: _log_softmax(z.swapaxes(1, 2)).swapaxes(1, 2))
        ),
        "this is the perplexity. Its logarithm is the loss.": lambda logits, tokens: np.exp(_loss(logits, tokens)),
    },
)


def _bits(losses, counts, n_bytes):
    return float(np.dot(losses, counts)) / math.log(2) / n_bytes


bits_per_byte = Exercise(
    "12.3",
    _bits,
    [
        (np.array([2.9, 3.4, 2.5]), np.array([256, 256, 90]), 2_200),
        (np.array([1.7, 4.1]), np.array([30, 256]), 1_430),
    ],
    {
        "the windows are weighted equally here. A short one has fewer tokens: weight each loss by its count.": (
            lambda losses, counts, n: np.mean(losses) * np.sum(counts) / math.log(2) / n
        ),
        "this is in nats per byte. A nat is 1 / ln 2 = 1.44 bits.": (
            lambda losses, counts, n: _bits(losses, counts, n) * math.log(2)
        ),
        "this multiplies by ln 2. There are more bits than nats: divide by it.": (
            lambda losses, counts, n: _bits(losses, counts, n) * math.log(2) ** 2
        ),
        "these are bits per token. Spread them over the bytes.": (
            lambda losses, counts, n: _bits(losses, counts, np.sum(counts))
        ),
        "this multiplies by the bytes in a token. A byte has less information than a token: divide.": (
            lambda losses, counts, n: _bits(losses, counts, 1) * n / np.sum(counts) ** 2
        ),
        "the number of tokens in each window is not used. A mean times its count is the window's information.": (
            lambda losses, counts, n: np.sum(losses) / math.log(2) / n
        ),
        "these are the bits of all windows. Divide by the bytes.": lambda losses, counts, n: _bits(losses, counts, 1),
        "this divides by 8 as well. Divide by the bytes.": lambda losses, counts, n: _bits(losses, counts, 8 * n),
        "this averages perplexities. Information adds up; its exponentials do not.": (
            lambda losses, counts, n: np.log2(np.dot(np.exp(losses), counts) / np.sum(counts)) * np.sum(counts) / n
        ),
    },
)


def _q4_1(weights, levels=15, block=32, symmetric=False, rounding=np.round, add_low=True, clip=15):
    """Round to so many steps between each block's smallest and largest value; weights (n,) -> (n,)."""
    blocks = np.asarray(weights, dtype=np.float64).reshape(-1, block)
    low, high = blocks.min(axis=1, keepdims=True), blocks.max(axis=1, keepdims=True)
    if symmetric:
        high = np.abs(blocks).max(axis=1, keepdims=True)
        low = -high
    step = np.where(high > low, high - low, 1.0) / levels
    codes = np.minimum(rounding((blocks - low) / step), clip)
    return (codes * step + (low if add_low else 0)).reshape(-1)


def _weights(n_blocks, seed, shift):
    rng = np.random.default_rng(seed)
    return rng.normal(size=32 * n_blocks) * np.repeat(rng.uniform(0.5, 2, n_blocks), 32) + shift


q4_1 = Exercise(
    "12.4",
    _q4_1,
    [(_weights(3, 0, 0.3),), (_weights(5, 1, -1.0),)],
    {
        "there are 16 levels here, but 15 steps between them. Divide the range by 15.": (
            lambda weights: _q4_1(weights, levels=16)
        ),
        "this divides by the largest magnitude, as NF4 does. Q4_1 keeps a minimum and a step for each block.": (
            lambda weights: _q4_1(weights, symmetric=True)
        ),
        "zero lies in the middle of the levels here, as in int4. Q4_1 keeps a minimum and a step for each block.": (
            lambda weights: _int4(weights)
        ),
        "a block is a column here. Each run of 32 weights is a row of weights.reshape(-1, 32): take axis=1.": (
            lambda weights: (
                _q4_1(weights.reshape(-1, 32).T.reshape(-1), block=len(weights) // 32).reshape(32, -1).T.reshape(-1)
            )
        ),
        "weights of different runs share a step here. The runs of 32 are the rows of weights.reshape(-1, 32).": (
            lambda weights: _q4_1(weights.reshape(32, -1).T.reshape(-1)).reshape(-1, 32).T.reshape(-1)
        ),
        "these are the weights as they were. Round them.": lambda weights: weights,
        "this cuts off instead of rounding to the nearest level.": lambda weights: _q4_1(weights, rounding=np.floor),
        "the minimum was taken off and not put back.": lambda weights: _q4_1(weights, add_low=False),
        "one minimum and one step for all weights here. Each block of 32 has its own.": (
            lambda weights: _q4_1(weights, block=len(weights))
        ),
        "these are blocks of 64, as in NF4. Q4_1 has blocks of 32.": lambda weights: np.concatenate(
            [_q4_1(part, block=len(part)) for part in np.split(weights, range(64, len(weights), 64))]
        ),
        "these are the codes, 0 to 15. Turn them back into weights.": (
            lambda weights: (_q4_1(weights) - _low(weights)) / _step(weights)
        ),
    },
)


def _int4(weights):
    blocks = weights.reshape(-1, 32)
    absmax = np.abs(blocks).max(axis=1, keepdims=True)
    return (np.round(blocks / absmax * 7) * absmax / 7).reshape(-1)


def _low(weights):
    return np.repeat(weights.reshape(-1, 32).min(axis=1), 32)


def _step(weights):
    blocks = weights.reshape(-1, 32)
    return np.repeat((blocks.max(axis=1) - blocks.min(axis=1)) / 15, 32)
