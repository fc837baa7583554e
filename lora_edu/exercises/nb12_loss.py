"""The check of exercise 12.2: the loss of the token that follows."""

import math

import numpy as np

from lora_edu.exercises.grading import Exercise
from lora_edu.exercises.mistakes import combinations


def _log_softmax(logits, axis=-1):
    shifted = logits - logits.max(axis, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis, keepdims=True))


# Which logits meet which tokens: (batch, seq, ...) -> the two that are compared.
TARGETS = {
    "next": lambda z, t: (z[:, :-1], t[:, 1:]),
    "own": lambda z, t: (z, t),
    "two ahead": lambda z, t: (z[:, :-2], t[:, 2:]),
    "before": lambda z, t: (z[:, 1:], t[:, :-1]),
    "around": lambda z, t: (z, np.roll(t, -1, axis=1)),
    "own, later": lambda z, t: (z[:, 1:], t[:, 1:]),
    "own, earlier": lambda z, t: (z[:, :-1], t[:, :-1]),
    "before, around": lambda z, t: (z, np.roll(t, 1, axis=1)),
    "across": lambda z, t: (z.reshape(1, -1, z.shape[-1])[:, :-1], t.reshape(1, -1)[:, 1:]),
    "last": lambda z, t: (z[:, -2:-1], t[:, -1:]),
    "without first": lambda z, t: (z[:, 1:-1], t[:, 2:]),
    "without last": lambda z, t: (z[:, :-2], t[:, 1:-1]),
    "first sequence": lambda z, t: (z[:1, :-1], t[:1, 1:]),
    "batch": lambda z, t: (z[:-1], t[1:]),
    "batch, too": lambda z, t: (z[:-1, :-1], t[1:, 1:]),
    "without zeros": lambda z, t: (z[:, :-1][t[:, 1:] != 0][None], t[:, 1:][t[:, 1:] != 0][None]),
}
TARGET_MISTAKES = {
    "own": "this asks each position for its own token, which the model has been given. Ask for the one that follows.",
    "two ahead": "this asks for the token two places ahead: the shift was made twice.",
    "before": "this asks each position for the token before it. Ask for the one that follows.",
    "around": "the last position asks for the first token of its sequence here. Nothing follows it: leave it out.",
    "own, later": "both are cut at the same end, so nothing is shifted. Drop the last logits and the first token.",
    "own, earlier": "both are cut at the end, so nothing is shifted. Drop the last logits and the first token.",
    "before, around": "this asks each position for the token before it, the first one for the last. Ask for the one "
    "that follows.",
    "across": "the last position of a sequence asks for the first token of the next one. Shift within each sequence.",
    "last": "this looks at the last token alone. Every position but the last has a token that follows.",
    "without first": "the first position is left out. It has a token that follows, too.",
    "without last": "the last token is left out. It follows the position before it.",
    "first sequence": "this looks at the first sequence alone.",
    "batch": "this shifts along the batch, from one sequence to the next: nan where there is one. Shift axis 1.",
    "batch, too": "this shifts along the batch as well: nan where there is one sequence. Shift axis 1 alone.",
    "without zeros": "this leaves token 0 out, as if it were padding. It is a token like the others.",
}
SCORES = {
    "right": _log_softmax,
    "logits": lambda z: z,
    "positions": lambda z: _log_softmax(z, 1),
    "probabilities": lambda z: np.exp(_log_softmax(z)),
    "bits": lambda z: _log_softmax(z) / math.log(2),
    "digits": lambda z: _log_softmax(z) / math.log(10),
    "everything": lambda z: z - np.log(np.exp(z).sum()),
    "sequence": lambda z: z - np.log(np.exp(z).sum(axis=(1, 2), keepdims=True)),
    "batch": lambda z: _log_softmax(z, 0),
    "sum": lambda z: z - np.exp(z).sum(-1, keepdims=True),
    "twice": lambda z: _log_softmax(np.exp(_log_softmax(z))),
    "others": lambda z: z - np.log(np.exp(z).mean(-1, keepdims=True)),
    "largest": lambda z: z - z.max(-1, keepdims=True),
    "plus": lambda z: z + np.log(np.exp(z).sum(-1, keepdims=True)),
    "complement": lambda z: np.log(1 - np.exp(_log_softmax(z))),
}
SCORE_MISTAKES = {
    "logits": "logits are no logarithms of probabilities yet. Subtract the logarithm of the sum of their exponentials.",
    "positions": "the exponentials are summed over the positions here. Sum them over the vocabulary, the last axis.",
    "probabilities": "this averages probabilities. Average their logarithms.",
    "bits": "this is in bits (logarithm to base 2). The course counts in nats.",
    "digits": "this takes the logarithm to base 10. The course counts in nats: `np.log`.",
    "everything": "the exponentials of all logits are summed here. Sum them over the vocabulary: `axis=-1`.",
    "sequence": "the exponentials of a whole sequence are summed here. Sum them over the vocabulary: `axis=-1`.",
    "batch": "the exponentials are summed over the batch here. Sum them over the vocabulary, the last axis.",
    "sum": "the logarithm of the sum is missing: subtract ln of the sum of the exponentials.",
    "twice": "a softmax is taken of probabilities here: once is enough.",
    "others": "this takes the mean of the exponentials. Their sum makes probabilities.",
    "largest": "this takes the largest logit off, and not the logarithm of the sum of exponentials.",
    "plus": "the logarithm of the sum is added. It is subtracted.",
    "complement": "this is about the probability of all other tokens: 1 - p. Take ln p.",
}
REDUCTIONS = {
    (lambda s: s.sum()): "this is the sum over the positions. The loss is their mean.",
    (
        lambda s: s.sum(axis=1).mean()
    ): "this adds up within a sequence and averages over the batch. The loss is the mean over all positions.",
    (
        lambda s: s.mean(axis=1).sum()
    ): "this averages within a sequence and adds up the batch. The loss is the mean over all positions.",
    (lambda s: s.sum() / (s.shape[0] * (s.shape[1] + 1))): "this divides by all positions. The last one of each "
    "sequence has nothing that follows: divide by the others.",
    (lambda s: s.mean(axis=1)): "this is the loss of each sequence. One number is asked for: their mean.",
    (lambda s: s.mean(axis=0)): "this is the loss of each position. One number is asked for: their mean.",
    (lambda s: s): "these are the losses of all positions. One number is asked for: their mean.",
    np.median: "this is the median over the positions. The loss is their mean.",
    (lambda s: -np.exp(-s.mean())): "this is the perplexity. Its logarithm is the loss.",
    (lambda s: np.exp(s.mean())): "this is a probability: e to the power of minus the loss.",
}


def _loss(logits, tokens, targets="next", scores="right", reduce=np.mean, sign=-1, cut="after"):
    """Minus the mean score of the token that follows; logits (batch, seq, vocab), tokens (batch, seq)."""
    if cut == "after":
        rows, wanted = TARGETS[targets](SCORES[scores](logits), tokens)
    else:  # the logits are cut before anything is summed
        rows, wanted = TARGETS[targets](logits, tokens)
        rows = SCORES[scores](rows)
    if not wanted.size:  # a batch of one, shifted
        return math.nan
    return sign * reduce(np.take_along_axis(rows, wanted[..., None], axis=-1)[..., 0])


def _token_cases():
    for seed, (batch, seq, vocab) in enumerate([(1, 5, 7), (3, 4, 6)]):
        rng = np.random.default_rng(seed)
        yield rng.normal(size=(batch, seq, vocab)), rng.integers(0, vocab, size=(batch, seq))


TOKEN_CASES = list(_token_cases())

shifted_loss = Exercise(
    "12.2",
    _loss,
    TOKEN_CASES,
    combinations(
        _loss,
        TOKEN_CASES,
        {
            "targets": ("next", TARGET_MISTAKES),
            "scores": ("right", SCORE_MISTAKES),
            "reduce": (np.mean, REDUCTIONS),
            "sign": (-1, {1: "the sign is missing: a loss is minus the logarithm of a probability."}),
        },
        {
            "the exponentials are summed over the positions here, without the last one. Sum them over the vocabulary, "
            "the last axis.": lambda z, t: _loss(z, t, scores="positions", cut="before"),
            "the exponentials of all logits but the last are summed here. Sum them over the vocabulary: `axis=-1`.": (
                lambda z, t: _loss(z, t, scores="everything", cut="before")
            ),
            "this is the logarithm of the mean probability. The loss is the mean of the logarithms.": (
                lambda z, t: -np.log(-_loss(z, t, scores="probabilities"))
            ),
        },
        in_pairs=5,
    ),
    symptoms={
        "one number is asked for: the mean over all positions that have a token that follows.": (
            lambda got, *case: got.ndim > 0
        ),
        "a loss is never below zero: it is minus the logarithm of a probability.": lambda got, *case: got < 0,
    },
)
