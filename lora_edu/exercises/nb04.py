"""The checks of notebook 04, LoRA in torch."""

import numpy as np

from lora_edu.grading import Exercise, beside

__all__ = ["beside", "merged_weight", "training_operations", "weighted_update"]


def _layers() -> list[tuple]:
    """Cases (W, A, B, alpha): no matrix is square, alpha is never the rank, several seeds."""
    cases = []
    for seed, (d_in, d_out, rank, alpha) in enumerate([(8, 6, 2, 8.0), (5, 12, 3, 1.5), (7, 4, 1, 3.0)]):
        rng = np.random.default_rng(seed)
        cases.append((*(rng.normal(size=shape) for shape in ((d_out, d_in), (rank, d_in), (d_out, rank))), alpha))
    return cases


merged_weight = Exercise(
    "4.1",
    lambda W, A, B, alpha: W + alpha / len(A) * B @ A,
    _layers(),
    {
        "this scales the update by alpha. The paper divides alpha by the rank.": (
            lambda W, A, B, alpha: W + alpha * B @ A
        ),
        "this leaves the scaling alpha / r out.": lambda W, A, B, alpha: W + B @ A,
        "this divides the rank by alpha. The scaling is alpha / r.": lambda W, A, B, alpha: W + len(A) / alpha * B @ A,
        "this is the update alone. Merging adds it to W.": lambda W, A, B, alpha: alpha / len(A) * B @ A,
        "this subtracts the update: that is unmerge.": lambda W, A, B, alpha: W - alpha / len(A) * B @ A,
        "this divides alpha by the number of rows of B, which is d_out. The rank is the number of rows of A.": (
            lambda W, A, B, alpha: W + alpha / len(B) * B @ A
        ),
        "this adds the update twice. A second merge must change nothing.": (
            lambda W, A, B, alpha: W + 2 * alpha / len(A) * B @ A
        ),
        "this is the transpose. W has shape (d_out, d_in), as in nn.Linear.": (
            lambda W, A, B, alpha: (W + alpha / len(A) * B @ A).T
        ),
    },
)


def _pairs() -> list[tuple]:
    """Cases (A1, B1, A2, B2, weights, alpha): the weights differ and do not add up to 1."""
    cases = []
    for seed, (d_in, d_out, rank, alpha) in enumerate([(8, 6, 2, 8.0), (5, 12, 3, 1.5)]):
        rng = np.random.default_rng(seed)
        shapes = ((rank, d_in), (d_out, rank)) * 2
        cases.append((*(rng.normal(size=shape) for shape in shapes), (0.75, -1.5 + seed), alpha))
    return cases


def _update(A1, B1, A2, B2, weights, alpha, scaling=None):
    scaling = alpha / len(A1) if scaling is None else scaling
    return scaling * (weights[0] * B1 @ A1 + weights[1] * B2 @ A2)


weighted_update = Exercise(
    "4.2",
    _update,
    _pairs(),
    {
        "this averages A with A and B with B. The product then contains B1 A2 and B2 A1, which nobody trained.": (
            lambda A1, B1, A2, B2, w, alpha: alpha / len(A1) * (w[0] * B1 + w[1] * B2) @ (w[0] * A1 + w[1] * A2)
        ),
        "this adds the factors before multiplying: the product contains B1 A2 and B2 A1, which nobody trained.": (
            lambda A1, B1, A2, B2, w, alpha: alpha / len(A1) * (w[0] * B1 + w[1] * B2) @ (A1 + A2)
        ),
        "this applies each weight to A and to B, so that it counts squared. It goes to one of the two.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, (w[0] ** 2, w[1] ** 2), alpha)
        ),
        "this divides alpha by the rank of both adapters together. Each was trained with alpha / r of its own rank.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, w, alpha, scaling=alpha / (2 * len(A1)))
        ),
        "this scales by alpha. The paper divides alpha by the rank.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, w, alpha, scaling=alpha)
        ),
        "this leaves the scaling alpha / r out.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, w, alpha, scaling=1)
        ),
        "this leaves the weights out: both adapters count fully.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, (1, 1), alpha)
        ),
        "this divides by the sum of the weights. They need not add up to 1.": (
            lambda A1, B1, A2, B2, w, alpha: _update(A1, B1, A2, B2, w, alpha) / sum(w)
        ),
    },
)

training_operations = Exercise(
    "4.3",
    lambda T, d_in, d_out, r: T * (2 * d_in * d_out + 3 * r * (d_in + d_out)),
    [(32, 512, 256, 8), (100, 64, 512, 4), (7, 30, 20, 3)],
    {
        "this counts the gradient of W as well. W is frozen: that product is what LoRA saves.": (
            lambda T, i, o, r: T * (3 * i * o + 3 * r * (i + o))
        ),
        "this is the forward pass alone.": lambda T, i, o, r: T * (i * o + r * (i + o)),
        "this leaves the gradient of the input through W out: the layers below need it.": (
            lambda T, i, o, r: T * (i * o + 3 * r * (i + o))
        ),
        "this counts A and B twice. They are trained, so each takes part in three products.": (
            lambda T, i, o, r: T * (2 * i * o + 2 * r * (i + o))
        ),
        "this is full training, 3 products with W. LoRA leaves one of them out and adds those of A and B.": (
            lambda T, i, o, r: T * 3 * i * o
        ),
        "this forms B A in each step, which costs the gradient of the whole weight after all.": (
            lambda T, i, o, r: 3 * T * i * o + 3 * r * i * o
        ),
        "this counts floating-point operations: a multiply-add is two of them. The exercise counts it as one.": (
            lambda T, i, o, r: 2 * T * (2 * i * o + 3 * r * (i + o))
        ),
        "this counts one input. There are T of them.": lambda T, i, o, r: 2 * i * o + 3 * r * (i + o),
    },
)
