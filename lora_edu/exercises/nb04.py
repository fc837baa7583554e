"""The checks of notebook 04, LoRA in torch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import nn

from lora_edu.exercises.grading import Exercise, beside

__all__ = ["beside", "lora_layer", "merged_weight", "training_operations", "weighted_update"]


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
        "this rounds the sum to bfloat16, and a part of the update is lost. Merge in float32 (section 6).": (
            lambda W, A, B, alpha: torch.tensor(W + alpha / len(A) * B @ A).bfloat16()
        ),
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


# --- 4.4: a whole layer --------------------------------------------------------------------------------------------


def observe_layer(make: Callable, in_features: int, out_features: int, rank: int, alpha: float) -> Any:
    """What a LoRA layer does, as numbers: its outputs, and whether it keeps the promises of section 3.

    make: (base, rank, alpha, dropout) -> a module with `lora_A` (rank, in) and `lora_B` (out, rank).
    """
    torch.manual_seed(0)
    base, x = nn.Linear(in_features, out_features), torch.randn(5, in_features)
    layer = make(base, rank, alpha, 0.5)
    if layer is ... or layer is None:
        return ...
    with torch.no_grad():
        y = nn.functional.linear(x, base.weight, base.bias)
        starts_unchanged = torch.allclose(layer.eval()(x), y, atol=1e-6)
        starts_alive = bool(layer.lora_A.any() or layer.lora_B.any())
        trained = sum(p.numel() for p in layer.parameters() if p.requires_grad)
        layer.lora_B.zero_()
        base_sees_all = torch.allclose(layer.train()(x), y, atol=1e-6)  # no dropout on the path of the base
        for seed, factor in enumerate((layer.lora_A, layer.lora_B)):
            factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)))
        outputs = layer.eval()(x)
    promises = torch.tensor([starts_unchanged, starts_alive, base_sees_all, trained], dtype=torch.float32)
    return torch.cat([promises, outputs.flatten()])


class _Variant(nn.Module):
    """The layer, and one mistake at a time by a flag."""

    def __init__(self, base: nn.Module, rank: int, alpha: float, dropout: float, mistake: str = ""):
        super().__init__()
        self.base, self.mistake, self.p = base.requires_grad_(mistake == "not frozen"), mistake, dropout
        self.scaling = {"alpha": alpha, "no scaling": 1.0}.get(mistake, alpha / rank)
        in_features, out_features = base.in_features, base.out_features
        start_A = torch.zeros if mistake in ("both zero", "A zero") else torch.randn
        start_B = torch.randn if mistake in ("both random", "A zero") else torch.zeros
        self.lora_A = nn.Parameter(start_A(rank, in_features) / in_features**0.5)
        self.lora_B = nn.Parameter(start_B(out_features, rank))
        if mistake == "A frozen":
            self.lora_A.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        active = self.training or self.mistake == "dropout in eval"
        dropped = nn.functional.dropout(x, self.p, training=active)
        update = dropped @ self.lora_A.T @ self.lora_B.T
        if self.mistake == "update alone":
            return self.scaling * update
        return self.base(dropped if self.mistake == "dropout on base" else x) + self.scaling * update


def _with(mistake: str) -> Callable:
    return lambda base, rank, alpha, dropout: _Variant(base, rank, alpha, dropout, mistake)


lora_layer = Exercise(
    "4.4",
    _Variant,
    [(8, 6, 2, 8.0), (5, 12, 3, 1.5)],
    {
        "the base is not frozen: its weight asks for a gradient, so training would change it.": _with("not frozen"),
        "the output changes at the start, because neither A nor B is zero. B starts at zero.": _with("both random"),
        "A and B both start at zero. Each one's gradient is multiplied by the other: nothing would ever move.": (
            _with("both zero")
        ),
        "this scales the update by alpha. The paper divides alpha by the rank.": _with("alpha"),
        "this leaves the scaling alpha / r out.": _with("no scaling"),
        "dropout is on the path of the base as well. It belongs to the branch: the base must see the whole x.": (
            _with("dropout on base")
        ),
        "dropout is still active in evaluation mode. `nn.Dropout`, or training=self.training, switches it off.": (
            _with("dropout in eval")
        ),
        "A does not ask for a gradient. Both factors are trained.": _with("A frozen"),
        "this is the branch alone. The layer adds it to what the base computes.": _with("update alone"),
    },
    observe=observe_layer,
)
