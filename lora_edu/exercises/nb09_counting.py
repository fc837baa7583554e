"""The checks of exercises 9.3 and 9.4: bytes in full precision, and a fair comparison."""

from statistics import median

import numpy as np

from lora_edu.exercises.grading import Exercise

# --- 9.3: what is still in full precision ----------------------------------------------------------------------------


def _stored(d, layers, vocab, context, embeddings=4.0, head=4.0, norms=4.0, biases=4.0, linears=0.5):
    """Bytes of the GPT's weights, with so many bytes for each number of a kind."""
    return (
        linears * 12 * d * d * layers
        + embeddings * d * (vocab + context)
        + head * d * vocab
        + norms * 2 * d * (2 * layers + 1)
        + biases * 9 * d * layers
    )


def _how_far_off(result, d, layers, vocab, context) -> str:
    """Of a number that is no known mistake: how far off it is, in rows of d numbers in float32."""
    got = np.asarray(result if not isinstance(result, dict) else result["result"], dtype=float)
    if got.ndim:
        return "one number is asked for: the bytes of all weights together."
    off = float(got) - _stored(d, layers, vocab, context)
    sizes = f"d_model={d}, n_layers={layers}, vocab_size={vocab}, context={context}"
    return (
        f"for ({sizes}) this is {abs(off):,.0f} bytes too {'many' if off > 0 else 'few'}: as much as "
        f"{abs(off) / 4 / d:,.4g} rows of d numbers in float32. Compare that with the tables ({vocab} and {context} "
        "rows), the norms (2 rows each) and the biases (9 rows a block)."
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
        "the block weights take 4 bytes each here: float32, or 4 bits not divided by 8. They take half a byte.": (
            lambda d, n, v, c: _stored(d, n, v, c, linears=4.0)
        ),
        "these are bits, not bytes: divide by 8. (A code takes 4 bits, half a byte.)": (
            lambda d, n, v, c: 8 * _stored(d, n, v, c)
        ),
        "the 4 bits of a code are counted as half a byte, and everything else as 32 bytes: a float32 takes 4.": (
            lambda d, n, v, c: _stored(d, n, v, c, 32, 32, 32, 32)
        ),
        "this counts a code as one byte. Two codes share a byte.": lambda d, n, v, c: _stored(d, n, v, c, linears=1.0),
        "the constants are counted here (0.127 bits a weight). They are left out in this exercise.": (
            lambda d, n, v, c: _stored(d, n, v, c, linears=(4 + 8 / 64 + 32 / (64 * 256)) / 8)
        ),
        "this stores what is not in 4 bits in 16 bits. Here it is float32: 4 bytes.": (
            lambda d, n, v, c: _stored(d, n, v, c, 2, 2, 2, 2)
        ),
        "these are numbers, not bytes: every number counts as one here.": (
            lambda d, n, v, c: _stored(d, n, v, c, 1, 1, 1, 1, 1)
        ),
        "embeddings and head are missing. They are not quantized, and they are a third of the bytes.": (
            lambda d, n, v, c: _stored(d, n, v, c, embeddings=0, head=0)
        ),
        "the embeddings are missing: a table for the tokens and one for the positions.": (
            lambda d, n, v, c: _stored(d, n, v, c, embeddings=0)
        ),
        "the head is missing. It has weights of its own, one row of d for each token.": (
            lambda d, n, v, c: _stored(d, n, v, c, head=0)
        ),
        "the table of positions is missing: it has `context` rows of d.": (
            lambda d, n, v, c: _stored(d, n, v, c) - 4 * d * c
        ),
        "the norm at the end is missing: it stands after the last block.": (
            lambda d, n, v, c: _stored(d, n, v, c) - 4 * 2 * d
        ),
        "this counts d numbers in a norm. It has a scale and a shift: 2 d.": (
            lambda d, n, v, c: _stored(d, n, v, c, norms=2)
        ),
        "this counts one norm in a block. There are two.": lambda d, n, v, c: _stored(d, n, v, c) - 4 * 2 * d * n,
        "norms and biases are both missing.": lambda d, n, v, c: _stored(d, n, v, c, norms=0, biases=0),
        "this counts one block. Its linear layers and biases come n_layers times.": (
            lambda d, n, v, c: _stored(d, 1, v, c)
        ),
        "this counts the norms of one block only, and the one at the end.": (
            lambda d, n, v, c: _stored(d, n, v, c) - 4 * 4 * d * (n - 1)
        ),
        "this counts the weights of one block only. They come n_layers times.": (
            lambda d, n, v, c: _stored(d, n, v, c) - 6 * d * d * (n - 1)
        ),
        "this counts every number outside the blocks' weights as one byte. A float32 takes 4.": (
            lambda d, n, v, c: _stored(d, n, v, c, 1, 1, 1, 1)
        ),
        "a block has 12 d weights here. Each of its linear layers has a multiple of d * d.": (
            lambda d, n, v, c: _stored(d, n, v, c) - 6 * d * d * n + 6 * d * n
        ),
        "these are megabytes. Bytes are asked for.": lambda d, n, v, c: _stored(d, n, v, c) / 1e6,
        "these are binary megabytes (MiB). Bytes are asked for.": lambda d, n, v, c: _stored(d, n, v, c) / 2**20,
        "this counts the biases of one block only.": lambda d, n, v, c: _stored(d, n, v, c) - 4 * 9 * d * (n - 1),
        "this counts the block weights alone. The rest of the model is still in memory, in float32.": (
            lambda d, n, v, c: _stored(d, n, v, c, 0, 0, 0, 0)
        ),
        "the norms are missing: a scale and a shift, two for each block and one at the end.": (
            lambda d, n, v, c: _stored(d, n, v, c, norms=0)
        ),
        "the biases are missing: 9 d numbers in each block.": lambda d, n, v, c: _stored(d, n, v, c, biases=0),
    },
    explain=_how_far_off,
)

# --- 9.4: a fair comparison ------------------------------------------------------------------------------------------


def _mean(losses):
    return sum(losses) / len(losses)


def _best(runs, score=_mean):
    """The learning rate whose losses have the lowest score."""
    return min(runs, key=lambda lr: score(runs[lr]))


def _difference(full, lora, lr_full, lr_lora, value=_mean):
    return value(lora[lr_lora]) - value(full[lr_full])


def _each(full, lora, value):
    """LoRA minus full, of one value taken from all runs of a method."""
    return value(lora) - value(full)


def _of_every_seed(runs, score=min):
    """For each seed the best loss at any rate."""
    return [score(losses) for losses in zip(*runs.values(), strict=True)]


def _best_shared(full, lora):
    return min(set(full) & set(lora), key=lambda lr: _mean(full[lr]) + _mean(lora[lr]))


def _which_rates(result, full, lora) -> str:
    """Of a result that compares two means, at which rates; of more than a number, that one is asked for."""
    got = np.asarray(result if not isinstance(result, dict) else result["result"], dtype=float)
    if got.ndim:
        return "one number is asked for: the mean at LoRA's best rate, minus the mean at full fine-tuning's."
    for lr_lora, losses in lora.items():
        for lr_full, others in full.items():
            if abs(_mean(losses) - _mean(others) - got) < 1e-9:
                return (
                    f"for the first sweep this compares LoRA at {lr_lora:g} with full fine-tuning at {lr_full:g}. By "
                    f"their means, the best rates are {_best(lora):g} and {_best(full):g}."
                )
    return ""


# Learning rate -> the loss of each seed. In each case the best rates differ, and a lucky run has another rate than the
# best mean, so that no two of the ways below give the same number.
_SWEEPS = [
    (
        {1e-4: [1.8, 1.79, 1.83], 3e-4: [1.62, 1.58, 1.6], 1e-3: [1.7, 1.56, 1.75], 3e-3: [2.2, 2.4, 2.3]},
        {3e-4: [2.31, 2.3, 2.26], 1e-3: [1.93, 1.9, 1.88], 3e-3: [1.68, 1.61, 1.65], 1e-2: [1.64, 1.8, 1.52]},
    ),
    (
        {3e-4: [2.05, 2.1], 1e-3: [1.84, 1.9], 3e-3: [1.81, 2.36], 1e-2: [2.6, 2.7]},
        {1e-3: [2.15, 2.2], 3e-3: [1.84, 1.85], 1e-2: [1.86, 1.78], 3e-2: [1.75, 2.95]},
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
        "this lets each seed choose a rate of its own. A rate is chosen once, by the mean over the seeds: else luck "
        "chooses.": lambda full, lora: _each(full, lora, lambda runs: _mean(_of_every_seed(runs))),
        "this takes the median over the seeds. The mean chooses the rate, and the mean is compared.": (
            lambda full, lora: _each(full, lora, lambda runs: min(median(losses) for losses in runs.values()))
        ),
        "this chooses the rate by the mean and then compares medians. The mean is compared, too.": (
            lambda full, lora: _difference(full, lora, _best(full), _best(lora), median)
        ),
        "this chooses the rate by the median and then compares means. The mean chooses, too.": (
            lambda full, lora: _difference(full, lora, _best(full, median), _best(lora, median))
        ),
        "this chooses the rate by the mean and then compares the luckiest run at it. Compare the means.": (
            lambda full, lora: _difference(full, lora, _best(full), _best(lora), min)
        ),
        "this chooses the rate by the mean and then compares the worst run at it. Compare the means.": (
            lambda full, lora: _difference(full, lora, _best(full), _best(lora), max)
        ),
        "this chooses by the worst run and compares it. Take the mean over the seeds for both.": (
            lambda full, lora: _each(full, lora, lambda runs: min(map(max, runs.values())))
        ),
        "this chooses the rate by the mean and then compares the first seed. Compare the means.": (
            lambda full, lora: _difference(full, lora, _best(full), _best(lora), lambda losses: losses[0])
        ),
        "this lets the first seed choose the rate. The mean over the seeds must choose it.": (
            lambda full, lora: _difference(
                full, lora, _best(full, lambda losses: losses[0]), _best(lora, lambda losses: losses[0])
            )
        ),
        "this takes the largest rate of each. The rate with the lowest mean loss is the best.": (
            lambda full, lora: _difference(full, lora, max(full), max(lora))
        ),
        "this takes the smallest rate of each. The rate with the lowest mean loss is the best.": (
            lambda full, lora: _difference(full, lora, min(full), min(lora))
        ),
        "this takes the rate with the highest mean loss. The lowest is the best.": (
            lambda full, lora: _each(full, lora, lambda runs: max(map(_mean, runs.values())))
        ),
        "this is the difference of the two best rates. The difference of their losses is asked for.": (
            lambda full, lora: _best(lora) - _best(full)
        ),
        "these are the losses' sums over the seeds. Divide by the number of seeds.": (
            lambda full, lora: _each(full, lora, lambda runs: min(map(sum, runs.values())))
        ),
        "this is the ratio of the two losses. The difference is asked for.": (
            lambda full, lora: min(map(_mean, lora.values())) / min(map(_mean, full.values()))
        ),
        "this is the share of full fine-tuning's loss by which LoRA ends above. The difference itself is asked for.": (
            lambda full, lora: min(map(_mean, lora.values())) / min(map(_mean, full.values())) - 1
        ),
        "this is the difference in percent of full fine-tuning's loss. The difference itself is asked for.": (
            lambda full, lora: 100 * (min(map(_mean, lora.values())) / min(map(_mean, full.values())) - 1)
        ),
        "this pools all rates and takes the median. Take each method's best rate first.": (
            lambda full, lora: _each(full, lora, lambda runs: median(loss for run in runs.values() for loss in run))
        ),
        "this has lost the sign. A negative number means that LoRA is better.": (
            lambda full, lora: abs(_difference(full, lora, _best(full), _best(lora)))
        ),
        "this is LoRA's loss alone. Take that of full fine-tuning off.": lambda full, lora: _mean(lora[_best(lora)]),
        "this is full fine-tuning minus LoRA: the sign is the other way round.": (
            lambda full, lora: _difference(lora, full, _best(lora), _best(full))
        ),
    },
    explain=_which_rates,
)
