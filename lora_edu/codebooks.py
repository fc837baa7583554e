"""Codebooks: the fixed numbers that a code can stand for, sorted, in [-1, 1].

`nf2` to `nf8` are NormalFloat codes (Dettmers et al. 2023, arXiv 2305.14314, section 3 and appendix E); `dynamic` is
what bitsandbytes stores the absmax values with. Both are equal to the reference bit for bit.
"""

from statistics import NormalDist

import torch
from torch import Tensor

NF_NAMES = tuple(f"nf{bits}" for bits in range(2, 9))


def nf_codebook(bits: int = 4) -> Tensor:
    """The NormalFloat codebook: 2**bits values in [-1, 1] at quantiles of the normal distribution, with an exact 0.

    Returns a sorted float32 tensor (2**bits,). Half of the codes are positive, one fewer is negative, one is zero.
    Raises ValueError unless bits is 2 to 8. Source: section 3 and appendix E of the paper; the offset is the one in
    bitsandbytes' `create_normal_map`.
    """
    if bits not in range(2, 9):
        raise ValueError(f"bits must be a whole number from 2 to 8, got {bits!r}")
    half = 2 ** (bits - 1)
    # The outermost quantile is not 1, whose normal quantile is infinite. For 4 bits the reference stops at 0.9677083,
    # halfway between 1 - 1/32 and 1 - 1/30: half a step inside an end that is cut into 16, or into 15, parts.
    offset = 0.9677083 if bits == 4 else 1 - (1 / (4 * half) + 1 / (4 * half - 2)) / 2
    positive = _normal_quantiles(offset, half)
    negative = [-value for value in _normal_quantiles(offset, half - 1)]
    values = torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float32)
    return values / values.max()


def _normal_quantiles(offset: float, count: int) -> list[float]:
    """`count` quantiles between the probabilities `offset` and 1/2 (whose quantile, 0, is left out)."""
    probabilities = torch.linspace(offset, 0.5, count + 1)[:-1].tolist()
    return [NormalDist().inv_cdf(probability) for probability in probabilities]


def dynamic_codebook() -> Tensor:
    """The 256 values that bitsandbytes stores an absmax with: a signed floating-point code with a moving exponent.

    Seven decades, the largest [0.1, 1]; each decade has twice as many values as the smaller one before it, placed in
    the middles of equal steps. Returns a sorted float32 tensor (256,) from -0.993 to 1, with an exact 0 at index 127.
    Source: `create_dynamic_map` in bitsandbytes/functional.py.
    """
    positive = [1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1)
        middles = (edges[:-1] + edges[1:]) / 2
        positive += (10.0 ** (decade - 6) * middles).tolist()
    return torch.tensor(sorted([*positive, 0.0, *(-value for value in positive if value != 1.0)]))


def get_codebook(codebook: str | Tensor) -> Tensor:
    """The codebook behind a name, `nf2` to `nf8` or `dynamic`; a tensor of sorted values passes through."""
    if isinstance(codebook, Tensor):
        _check_codebook(codebook)
        return codebook.float()
    if codebook == "dynamic":
        return dynamic_codebook()
    if codebook in NF_NAMES:
        return nf_codebook(int(codebook[2:]))
    raise ValueError(f"unknown codebook {codebook!r}: choose one of {', '.join(NF_NAMES)}, dynamic, or pass a tensor")


def _check_codebook(codebook: Tensor) -> None:
    if codebook.ndim != 1 or not 2 <= len(codebook) <= 256 or not bool((codebook.diff() > 0).all()):
        raise ValueError(
            f"a codebook has 2 to 256 values in rising order, got a tensor of shape {tuple(codebook.shape)}"
        )
