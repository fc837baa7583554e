"""How far apart two matrices are, and the nearest matrix of low rank."""

import numpy as np
import torch
from torch import Tensor


def relative_error(original: Tensor, changed: Tensor) -> float:
    """The relative Frobenius error ||W - W'|| / ||W||: 0 for no change, 1 for a loss of everything."""
    wide = torch.promote_types(original.dtype, torch.float32)  # in 16 bits, the difference would be rounded itself
    original, changed = original.to(wide), changed.to(wide)
    return ((original - changed).norm() / original.norm()).item()


def cosine(one: Tensor, other: Tensor) -> float:
    """The cosine of the angle between two tensors: 1 for one direction, about 0 for chance, 0 if one of them is 0."""
    return ((one * other).sum() / (one.norm() * other.norm()).clamp(min=1e-30)).item()


def low_rank(U: np.ndarray, S: np.ndarray, Vt: np.ndarray, rank: int) -> np.ndarray:
    """The first `rank` layers of the matrix U S Vt, added up: (d_out, d_in), of rank `rank`.

    U (d_out, k), S (k,), Vt (k, d_in): what `np.linalg.svd` returns. A rank above k takes all of them.
    """
    return (U[:, :rank] * S[:rank]) @ Vt[:rank]


def relative_errors(S: np.ndarray) -> np.ndarray:
    """The error ||M - M_r|| / ||M|| that Eckart and Young promise, for r = 0 .. k: S (k,) -> (k + 1,)."""
    missing = np.append(np.cumsum(S[::-1] ** 2)[::-1], 0)  # the squared norm of all layers after the first r
    return np.sqrt(missing / missing[0])
