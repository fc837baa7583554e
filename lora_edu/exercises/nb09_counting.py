"""The check of exercise 9.3: bytes in full precision."""

import numpy as np

from lora_edu.exercises.formulas import polynomial
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
    formula=polynomial(["d_model", "n_layers", "vocab_size", "context"], 3),
    otherwise=_how_far_off,
)
