"""How far apart two matrices are, and two models; the nearest matrix of low rank."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from lora_edu.layers import evaluating
from lora_edu.training import evaluate


def relative_error(original: Tensor, changed: Tensor) -> float:
    """The relative Frobenius error ||W - W'|| / ||W||: 0 for no change, 1 for a loss of everything."""
    wide = torch.promote_types(original.dtype, torch.float32)  # in 16 bits, the difference would be rounded itself
    original, changed = original.to(wide), changed.to(wide)
    return ((original - changed).norm() / original.norm()).item()


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two tensors: 1 for one direction, about 0 for chance, 0 if one of them is 0."""
    return ((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-30)).item()


class Moved(NamedTuple):
    """How far a model's guesses lie from those of its reference, on average over the places of a text."""

    kl: float  # KL(reference || model), nats per token; 0 only if both guess alike
    flips: float  # share of the places where another token is the likeliest, 0 to 1


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """KL(p || q) at each place: log probabilities (..., vocab_size), of the reference first -> (...), in nats."""
    return (p.exp() * (p - q)).sum(-1)


@torch.no_grad()
def kl_and_flips(model: nn.Module, reference: nn.Module, tokens: Tensor, **windows: Any) -> Moved:
    """Has the model changed? Its guesses beside those of the reference, at each place of a text.

    At a place the reference gives each token b the probability p(b), the model q(b). The divergence there is the sum
    of p(b) (ln p(b) - ln q(b)) over all b: by how much the model's loss rises, weighted by what the reference thought
    likely, whichever token came. Its mean over all places is KL(reference || model) on this text, never negative. A
    flip is a place where p and q have different favorites.

    It says *changed*, not *worse*: a good adapter, too, is far from its base. Ask `evaluate` which is better.

    reference: the model that was meant, such as the one before it was rounded; both read the same text.
    tokens: (n,); windows: what `evaluate` takes beside them, such as max_windows. Both models return their logits
    (batch, seq, vocab_size) first, as our GPT does, and those of `transformers`.
    """
    if not isinstance(reference, nn.Module):
        raise TypeError(f"reference must be a torch module, got {type(reference).__name__}")
    flipped = []

    def apart(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
        q, p = (one(inputs)[0].float().log_softmax(-1) for one in (model, reference))  # (batch, seq, vocab_size)
        if p.shape != q.shape:
            raise ValueError(f"model and reference must know the same tokens: {q.shape[-1]} and {p.shape[-1]}")
        flipped.append(p.argmax(-1) != q.argmax(-1))
        return divergence(p, q).mean()

    with evaluating(reference):
        kl = evaluate(model, tokens, loss_fn=apart, **windows)
    return Moved(kl, torch.cat(flipped).float().mean().item())


def low_rank(U: np.ndarray, S: np.ndarray, Vt: np.ndarray, rank: int) -> np.ndarray:
    """The first `rank` layers of the matrix U S Vt, added up: (d_out, d_in), of rank `rank`.

    U (d_out, k), S (k,), Vt (k, d_in): what `np.linalg.svd` returns. A rank above k takes all of them.
    """
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def relative_errors(S: np.ndarray) -> np.ndarray:
    """The error ||M - M_r|| / ||M|| that Eckart and Young promise, for r = 0 .. k: S (k,) -> (k + 1,)."""
    missing = np.append(np.cumsum(S[::-1] ** 2)[::-1], 0)  # the squared norm of all layers after the first r
    return np.sqrt(missing / missing[0])
