"""The check of exercise 4.2: a LoRA layer that somebody wrote keeps its promises, forward and backward.

Learners draw other random numbers, so no output is compared with one of ours. It is taken apart instead: how often do
W x, the bias and B A x count in it, and in its gradients?
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lora_course.checking.exercise import exercise

DRAWS = 500  # of each entry of x, so that the share that is dropped comes within 0.05 of the right one


def observe_layer(make: Callable, base: nn.Linear, rank: int, alpha: float, dropout: float) -> Any:
    """What a layer promises -> whether it keeps it; a sentence about what is no layer at all."""
    original = copy.deepcopy(base).requires_grad_(False)
    with torch.random.fork_rng(devices=[]):  # the learner's own random numbers go on as if nothing had happened
        torch.default_generator.manual_seed(0)
        layer = make(base, rank, alpha, dropout)
        if layer is ... or layer is None:
            return layer
        x = torch.randn(5, base.in_features)  # (n, d_in)
        if said := _no_layer(layer, x, A=(rank, base.in_features), B=(base.out_features, rank)):
            return said
        if not _uses(layer, base, x):
            return "your layer does not use the base that it was given: another weight there gives the same output."
        named = dict(layer.named_parameters()) | {"base.weight": base.weight, "base.bias": base.bias}
        trained = sorted({each: name for name, each in named.items() if each.requires_grad}.values())
        start = dict(_at_the_start(layer.eval(), original, x))  # before A and B get other numbers, and named after that
        return {
            "what asks for a gradient": ", ".join(trained),
            "the weight of the base stays as it was": torch.equal(base.weight, original.weight),
            **dict(_parts(layer, original, x)),
            **start,
            **dict(_dropout(layer, original, x)),
        }


def _no_layer(layer: Any, x: Tensor, **shapes: tuple[int, int]) -> str:
    if not isinstance(layer, nn.Module):
        return "the result should be an `nn.Module`: a layer, not a class and not a tensor."
    for name, shape in shapes.items():
        factor = getattr(layer, f"lora_{name}", None)
        if not isinstance(factor, nn.Parameter):
            here = "there is none" if factor is None else f"it is a `{type(factor).__name__}`"
            return f"`lora_{name}` should be an `nn.Parameter` of the layer, for an optimizer to find. Here {here}."
        if factor.shape != shape:
            return f"`lora_{name}` should have the shape {shape}, and has {tuple(factor.shape)}."
    if not isinstance(y := layer(x), Tensor):
        return "`forward` returns no tensor: did you forget `return` there?"
    wanted = (len(x), shapes["B"][0])
    return "" if y.shape == wanted else f"the output should have the shape {wanted}, and has {tuple(y.shape)}."


@torch.no_grad()
def _uses(layer: nn.Module, base: nn.Linear, x: Tensor) -> bool:
    """Whether another weight in the base makes another output, in the same mode and with the same drawn numbers."""
    weight, outputs = base.weight.clone(), []
    for change in (0, 1):
        base.weight.add_(change)
        torch.default_generator.manual_seed(1)
        outputs.append(layer(x))
    base.weight.copy_(weight)
    return not torch.equal(*outputs)


@torch.no_grad()
def _at_the_start(layer: nn.Module, original: nn.Linear, x: Tensor) -> Iterator:
    yield "at the start the output is that of the base", _same(layer(x), original(x))
    largest = max(int(torch.linalg.matrix_rank(factor)) for factor in (layer.lora_A, layer.lora_B))
    yield "A or B starts with numbers drawn at random, and so has rank r", largest == len(layer.lora_A)
    try:
        several = layer(x.expand(2, *x.shape)).shape
    except (RuntimeError, ValueError, IndexError):
        several = ()
    yield "an x of shape (batch, seq, d_in) gives (batch, seq, d_out)", several == (2, *original(x).shape)


def _parts(layer: nn.Module, original: nn.Linear, x: Tensor) -> Iterator:
    """What the output and the gradients are made of, with some A and B."""
    W, A, B = original.weight, *_set_factors(layer)
    x = x.clone().requires_grad_(True)
    y, g = layer(x), torch.randn(len(x), len(W))  # both (n, d_out); g is the gradient of y
    yield "in evaluation mode nothing is dropped", torch.equal(y, layer(x))
    pieces = (x @ W.T, original.bias.expand_as(y), x @ A.T @ B.T)
    W_x, bias, BA_x = shares = _shares(y, *pieces)
    whole = sum(share * piece for share, piece in zip(shares, pieces, strict=True))
    yield "the output is made of W x, the bias and B A x", _same(y, whole)
    yield "W x counts once in the output", W_x
    yield "the bias counts once in the output", bias
    yield "how often B A x counts in the output", BA_x
    yield "the output carries gradients", y.requires_grad
    y = y + 0 * x.sum()  # it carries gradients in any case, so that they can be asked for
    asked = (x, layer.lora_A, layer.lora_B)
    dx, dA, dB = torch.autograd.grad(y, asked, g, allow_unused=True, materialize_grads=True)
    through_W, through_BA = _shares(dx, g @ W, g @ B @ A)
    yield "W counts once in the gradient of x", through_W
    yield "how often B A counts in the gradient of x", through_BA
    yield "how often B counts in the gradient of A", *_shares(dA, (g @ B).T @ x)
    yield "how often A counts in the gradient of B", *_shares(dB, g.T @ (x @ A.T))


@torch.no_grad()
def _dropout(layer: nn.Module, original: nn.Linear, x: Tensor) -> Iterator:
    """What dropout does while training. Of an x with a single entry, all of the branch is left, or nothing."""
    _, B = _set_factors(layer)
    single = torch.eye(x.shape[1]).repeat(DRAWS, 1)  # (draws d_in, d_in)
    whole = layer(single) - original(single)  # what the branch gives in evaluation mode
    layer.train()
    left = torch.cat([layer(some) for some in single.chunk(10)]) - original(single)
    times = (left * whole).sum(dim=1) / whole.square().sum(dim=1)  # (draws d_in,)
    on_x = _same(left, times[:, None] * whole)
    times = times.round(decimals=2) if on_x else torch.ones(1)  # what it does elsewhere is not looked at
    equal_rows = layer(torch.ones(100, x.shape[1])).round(decimals=3)
    B.zero_()
    yield "dropout leaves the path of the base alone", _same(layer(x), original(x))
    yield "dropout acts on x, before A", on_x
    by_itself = len(equal_rows.unique(dim=0)) > 10 or bool(times.all())
    yield "each entry of each x is dropped or kept by itself", by_itself
    yield "the share of x that is dropped while training", (times == 0).double().mean().round(decimals=1)
    yield "what the entries of x are multiplied by", " or ".join(f"{value:g}" for value in times.unique()[:3])


def _set_factors(layer: nn.Module) -> list[Tensor]:
    """Other numbers in A and B, always the same ones; both are handed back detached."""
    factors = [layer.lora_A.requires_grad_(True).detach(), layer.lora_B.requires_grad_(True).detach()]
    for seed, factor in enumerate(factors):
        factor.copy_(torch.randn(factor.shape, generator=torch.Generator().manual_seed(seed)))
    return factors


def _shares(made: Tensor, *pieces: Tensor) -> list[float]:
    """How often each piece counts in a sum of them, by least squares."""
    if not made.isfinite().all():
        return [math.nan] * len(pieces)
    columns = torch.stack([piece.detach().flatten() for piece in pieces], dim=1).double()
    shares = torch.linalg.lstsq(columns, made.detach().double().reshape(-1, 1)).solution.flatten()
    return (shares.round(decimals=5) + 0.0).tolist()  # no -0


def _same(got: Tensor, expected: Tensor) -> bool:
    return got.shape == expected.shape and torch.allclose(got, expected, rtol=1e-3, atol=1e-4)


def _cases() -> list[tuple]:
    """Cases (base, rank, alpha, dropout); no share is 0.5, for dropping 1 - p would look the same."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(42)
        return [(nn.Linear(8, 6), 2, 5.0, 0.2), (nn.Linear(5, 12), 3, 1.5, 0.4)]


@exercise(
    "4.2",
    _cases(),
    taught={
        "self.base(x) -> self.base(x).detach()": "Your layer cuts the base off from the gradient. The weight needs "
        "no gradient, but the layers below need that of x, and part of it comes through W.",
        "alpha / rank -> alpha": "Your layer multiplies its update by alpha, {alpha}. But s depends on the rank "
        "too, which is {rank} here: section 1.",
        "torch.zeros -> torch.randn": "Your layer changes the output before it has learned anything. A new "
        "layer should give the output of its base.",
        "torch.randn(rank, base.in_features) -> torch.zeros(rank, base.in_features)": "Your layer starts with A and B "
        "at zero. The gradient of each is a product with the other, so neither would ever move.",
        "base.requires_grad_(False) -> base.requires_grad_(True)": "Your layer leaves the base trainable. LoRA trains "
        "A and B alone: freeze the weight and the bias.",
        "self.base(x) + -> self.base(self.dropout(x)) +": "Your layer has dropout on the path of the base as well. "
        "It belongs to the branch: the base sees the whole x.",
        "nn.Dropout(dropout) -> nn.Dropout(1 - dropout)": "Your layer keeps the share {dropout}, and drops the rest. "
        "`nn.Dropout` takes the share that is set to zero.",
    },
    observe=observe_layer,
)
def lora_layer(base, rank, alpha, dropout):
    class LoRA(nn.Module):
        def __init__(self):
            super().__init__()
            self.base = base.requires_grad_(False)  # the frozen base
            self.scaling = alpha / rank  # the scaling
            self.dropout = nn.Dropout(dropout)  # the share that dropout takes
            self.lora_A = nn.Parameter(torch.randn(rank, base.in_features))  # how A starts
            self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank))  # how B starts

        def forward(self, x):
            branch = F.linear(F.linear(self.dropout(x), self.lora_A), self.lora_B)  # the branch
            return self.base(x) + self.scaling * branch  # the output

    return LoRA()
