"""The checks of notebook 09, QLoRA."""

import numpy as np

from lora_edu.codebooks import nf_codebook
from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "bits_per_weight", "lora_minus_full", "qlora_output", "stored_bytes"]

bits_per_weight = Exercise(
    "9.1",
    lambda block_size, second_block_size: 4 + 8 / block_size + 32 / (block_size * second_block_size),
    [(64, 256), (32, 256), (64, 64), (128, 512)],
    {
        "this leaves out the second-level constants: 32 bits for each group of second_block_size blocks.": (
            lambda b, s: 4 + 8 / b
        ),
        "this is the budget without double quantization: the absmax of a block takes 8 bits now, not 32.": (
            lambda b, s: 4 + 32 / b
        ),
        "this shares a second-level constant among second_block_size weights. It is shared among that many blocks.": (
            lambda b, s: 4 + 8 / b + 32 / s
        ),
        "these are the constants alone. The 4-bit code of the weight comes on top.": lambda b, s: 8 / b + 32 / (b * s),
    },
)


def _random_layers() -> list[tuple]:
    """Cases for qlora_output: no side equals another, alpha is never the rank."""
    cases = []
    for seed, (batch, d_in, d_out, rank, alpha) in enumerate([(3, 8, 6, 2, 8.0), (5, 4, 12, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        blocks = d_in * d_out // 4
        codes, absmax = rng.integers(0, 16, size=(d_out, d_in)), rng.uniform(0.5, 2.0, size=blocks)
        x, a, b = (rng.normal(size=shape) for shape in ((batch, d_in), (rank, d_in), (d_out, rank)))
        cases.append((x, codes, absmax, a, b, alpha))
    return cases


def _qlora(x, codes, absmax, a, b, alpha, scale=None, weight=None):
    if weight is None:
        weight = _weight(codes, absmax)
    return x @ weight.T + (alpha / len(a) if scale is None else scale) * (x @ a.T @ b.T)


def _weight(codes, absmax):
    values = nf_codebook(4).numpy().astype(np.float64)[codes]
    return (values.reshape(len(absmax), -1) * absmax[:, None]).reshape(codes.shape)


qlora_output = Exercise(
    "9.2",
    _qlora,
    _random_layers(),
    {
        "this scales the update by alpha. The paper divides alpha by the rank.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=alpha)
        ),
        "this leaves the scaling alpha / rank out.": lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=1),
        "this is the base alone: the branch of the adapter is missing.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, m, a, b, alpha, scale=0)
        ),
        "this multiplies with the codes themselves. A code is an index: look its value up in the codebook first.": (
            lambda x, c, m, a, b, alpha: _qlora(
                x, c, m, a, b, alpha, weight=(c.reshape(len(m), -1) * m[:, None]).reshape(c.shape)
            )
        ),
        "this forgets the absmax: the codebook's values lie in [-1, 1], and each block has its own scale.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, np.ones_like(m), a, b, alpha)
        ),
        "this uses one absmax for the whole matrix. Each block of values has its own.": (
            lambda x, c, m, a, b, alpha: _qlora(x, c, np.full_like(m, m.max()), a, b, alpha)
        ),
    },
)


def _stored(d, layers, vocab, context, embeddings=4.0, head=4.0, norms=4.0, biases=4.0, linears=0.5):
    """Bytes of the GPT's weights, with so many bytes for each number of a kind."""
    return (
        linears * 12 * d * d * layers
        + embeddings * d * (vocab + context)
        + head * d * vocab
        + norms * 2 * d * (2 * layers + 1)
        + biases * 9 * d * layers
    )


stored_bytes = Exercise(
    "9.3",
    _stored,
    [(256, 4, 256, 256), (96, 3, 500, 128)],
    {
        "the embeddings are in 4 bits here. They are looked up, not multiplied, and stay as they are.": (
            lambda d, n, v, c: _stored(d, n, v, c, embeddings=0.5)
        ),
        "the head is in 4 bits here. It is a linear layer, but it is left out: its errors go straight to the logits.": (
            lambda d, n, v, c: _stored(d, n, v, c, head=0.5)
        ),
        "embeddings and head are in 4 bits here. Only the linear layers of the blocks are.": (
            lambda d, n, v, c: _stored(d, n, v, c, embeddings=0.5, head=0.5)
        ),
        "the norms are in 4 bits here. They are few, and stay as they are.": (
            lambda d, n, v, c: _stored(d, n, v, c, norms=0.5)
        ),
        "the biases are in 4 bits here. Only the weight matrices of the blocks are.": (
            lambda d, n, v, c: _stored(d, n, v, c, biases=0.5)
        ),
        "the norms and biases are in 4 bits here. They are few, and stay as they are.": (
            lambda d, n, v, c: _stored(d, n, v, c, norms=0.5, biases=0.5)
        ),
        "everything is in 4 bits here. Embeddings, head, norms and biases are not.": (
            lambda d, n, v, c: _stored(d, n, v, c, 0.5, 0.5, 0.5, 0.5)
        ),
        "the block weights are in float32 here. They take half a byte each.": (
            lambda d, n, v, c: _stored(d, n, v, c, linears=4.0)
        ),
        "this counts the block weights alone. The rest of the model is still in memory, in float32.": (
            lambda d, n, v, c: _stored(d, n, v, c, 0, 0, 0, 0)
        ),
        "the norms are missing: a scale and a shift, two for each block and one at the end.": (
            lambda d, n, v, c: _stored(d, n, v, c, norms=0)
        ),
        "the biases are missing: 9 d numbers in each block.": lambda d, n, v, c: _stored(d, n, v, c, biases=0),
    },
)


def _mean(losses):
    return sum(losses) / len(losses)


def _best(runs, score=_mean):
    """The learning rate whose losses have the lowest score."""
    return min(runs, key=lambda lr: score(runs[lr]))


def _difference(full, lora, lr_full, lr_lora, value=_mean):
    return value(lora[lr_lora]) - value(full[lr_full])


def _best_shared(full, lora):
    return min(set(full) & set(lora), key=lambda lr: _mean(full[lr]) + _mean(lora[lr]))


# Learning rate -> the loss of each seed. In each case the best rates differ, and a lucky run has another rate than the
# best mean, so that no two of the ways below give the same number.
_SWEEPS = [
    (
        {3e-4: [1.62, 1.58, 1.6], 1e-3: [1.7, 1.56, 1.75], 3e-3: [2.2, 2.4, 2.3], 1e-2: [3.1, 3.0, 3.3]},
        {3e-4: [2.31, 2.3, 2.26], 1e-3: [1.93, 1.9, 1.88], 3e-3: [1.66, 1.63, 1.65], 1e-2: [1.64, 1.8, 1.52]},
    ),
    (
        {1e-3: [1.84, 1.9], 3e-3: [1.81, 2.36], 1e-2: [2.6, 2.7], 3e-2: [3.3, 3.4]},
        {1e-3: [2.15, 2.2], 3e-3: [1.92, 1.93], 1e-2: [1.86, 1.78], 3e-2: [1.75, 2.95]},
    ),
]

lora_minus_full = Exercise(
    "9.4",
    lambda full, lora: _difference(full, lora, _best(full), _best(lora)),
    _SWEEPS,
    {
        "this gives both the rate that is best for full fine-tuning. LoRA needs a larger one: each gets its own.": (
            lambda full, lora: _difference(full, lora, _best(full), _best(full))
        ),
        "this gives both the rate that is best for LoRA. For full fine-tuning it is too large: each gets its own.": (
            lambda full, lora: _difference(full, lora, _best(lora), _best(lora))
        ),
        "this gives both the same learning rate, the best that they share. Each gets its own.": (
            lambda full, lora: _difference(full, lora, _best_shared(full, lora), _best_shared(full, lora))
        ),
        "this looks at the first seed alone. Take the mean over the seeds, to choose the rate and to compare.": (
            lambda full, lora: _difference(
                full,
                lora,
                _best(full, lambda losses: losses[0]),
                _best(lora, lambda losses: losses[0]),
                lambda losses: losses[0],
            )
        ),
        "this compares the luckiest run of each. Whoever has more runs has more luck: take the mean over the seeds.": (
            lambda full, lora: _difference(full, lora, _best(full, min), _best(lora, min), min)
        ),
        "this lets the luckiest run choose the rate. The mean over the seeds must choose it, too.": (
            lambda full, lora: _difference(full, lora, _best(full, min), _best(lora, min))
        ),
        "this is the mean over all rates. Nobody would use the bad ones: take each method's best rate first.": (
            lambda full, lora: _mean([*map(_mean, lora.values())]) - _mean([*map(_mean, full.values())])
        ),
        "this is full fine-tuning minus LoRA: the sign is the other way round.": (
            lambda full, lora: _difference(lora, full, _best(lora), _best(full))
        ),
    },
)
