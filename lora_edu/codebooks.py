"""Codebooks: the fixed numbers that a code can stand for, sorted, in [-1, 1].

| name | values | source |
|-|-|-|
| nf2 ... nf8 | quantiles of the normal distribution and an exact 0 | arXiv 2305.14314, section 3, appendix E |
| int2 ... int8 | 2**bits - 1 equal steps: symmetric, so that 0 is a value and -1 and 1 are both reached | |
| fp4-e2m1 | floating point, 2 exponent bits and 1 mantissa bit | Open Compute Project, Microscaling Formats 1.0 |
| fp4-e3m0 | floating point, 3 exponent bits: powers of two | the paper's table 2 |
| fp4-bnb | bitsandbytes' own 4-bit float, with a tiny value next to 0 | bitsandbytes/functional.py, get_4bit_type |
| dynamic | 8 bits with a moving exponent: bitsandbytes' code for the absmax | functional.py, create_dynamic_map |
| e4m3, e5m2 | 8-bit floats, as the paper names its second-level code | Micikevicius et al. 2022, arXiv 2209.05433 |

`nf4`, `fp4-bnb` and `dynamic` are equal to the reference bit for bit.
"""

from statistics import NormalDist
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from lora_edu.checks import BITS, check

NF_NAMES = tuple(f"nf{bits}" for bits in range(2, 9))
INT_NAMES = tuple(f"int{bits}" for bits in range(2, 9))

# The magnitudes of the 4-bit floats; a sign bit doubles them.
FP4_MAGNITUDES = {
    "fp4-e2m1": (0, 0.5, 1, 1.5, 2, 3, 4, 6),
    "fp4-e3m0": (0, 1, 2, 4, 8, 16, 32, 64),
    "fp4-bnb": (0, 0.0625, 2, 3, 4, 6, 8, 12),
}
FP8_TYPES = {"e4m3": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2}


def nf_codebook(bits: int = 4, offset: float | None = None) -> Tensor:
    """The NormalFloat codebook: 2**bits values in [-1, 1] at quantiles of the normal distribution, with an exact 0.

    Returns a sorted float32 tensor (2**bits,). Half of the codes are positive, one fewer is negative, one is zero.
    offset: the outermost probability; None takes the one in bitsandbytes' `create_normal_map`, for 4 bits 0.9677083.
    Raises ValueError unless bits is 2 to 8 and offset between 1/2 and 1 (0.501 to 0.999999).
    Source: section 3 and appendix E; for other widths than 4 bits the offset is this course's extrapolation.
    """
    check_normal(bits, offset)
    half = 2 ** (bits - 1)
    if offset is None:  # not 1, whose normal quantile is infinite, but halfway between 1 - 1/32 and 1 - 1/30
        offset = 0.9677083 if bits == 4 else 1 - (1 / (8 * half) + 1 / (8 * half - 4))
    positive = _normal_quantiles(offset, half)
    negative = [-value for value in _normal_quantiles(offset, half - 1)]
    values = torch.tensor(sorted([*negative, 0.0, *positive]), dtype=torch.float32)
    return values / values.max()


def _normal_quantiles(offset: float, count: int) -> list[float]:
    """`count` quantiles between the probabilities `offset` and 1/2 (whose quantile, 0, is left out)."""
    probabilities = torch.linspace(offset, 0.5, count + 1, dtype=torch.float32)[:-1].tolist()
    return [NormalDist().inv_cdf(probability) for probability in probabilities]


def int_codebook(bits: int) -> Tensor:
    """The symmetric integers of `bits` bits over their largest: 2**bits - 1 values (the lowest integer is not used)."""
    check(BITS, bits=bits)
    largest = 2 ** (bits - 1) - 1
    return torch.arange(-largest, largest + 1, dtype=torch.float32) / largest


def fp4_codebook(name: str) -> Tensor:
    """A 4-bit floating-point format scaled to [-1, 1], sorted: (15,) float32, or (16,) for `fp4-bnb`.

    The sign bit gives these formats two zeros, +0 and -0. They are one value here; only `fp4-bnb` keeps both codes,
    because bitsandbytes stores both: one for small negative numbers, one for small positive ones.
    """
    magnitudes = torch.tensor(FP4_MAGNITUDES[name], dtype=torch.float32)
    magnitudes = magnitudes / magnitudes.max()
    negative = -magnitudes[1:].flip(0)
    zeros = magnitudes.new_zeros(2 if name == "fp4-bnb" else 1)
    return torch.cat([negative, zeros, magnitudes[1:]])


def fp8_codebook(name: str) -> Tensor:
    """All finite values of an 8-bit float, `e4m3` or `e5m2`, over their maximum (448 or 57,344), sorted."""
    values = torch.arange(256, dtype=torch.uint8).view(FP8_TYPES[name]).float()
    values = values[values.isfinite()].unique()  # +0 and -0 become one
    return values / values.max()


def dynamic_codebook() -> Tensor:
    """The 256 values that bitsandbytes stores an absmax with: a signed floating-point code with a moving exponent.

    Seven decades, the largest [0.1, 1]; each decade has twice as many values as the smaller one before it, placed in
    the middles of equal steps. Returns a sorted float32 tensor (256,) from -0.993 to 1, with an exact 0 at index 127.
    Source: `create_dynamic_map` in bitsandbytes/functional.py.
    """
    positive = [1.0]
    for decade in range(7):
        edges = torch.linspace(0.1, 1, 2**decade + 1, dtype=torch.float32)
        middles = (edges[:-1] + edges[1:]) / 2
        positive += (10.0 ** (decade - 6) * middles).tolist()
    values = [*positive, 0.0, *(-value for value in positive if value != 1.0)]
    return torch.tensor(sorted(values), dtype=torch.float32)


def get_codebook(codebook: str | Tensor) -> Tensor:
    """The codebook behind a name (see the table above); a tensor of sorted values passes through."""
    if isinstance(codebook, Tensor):
        _check_codebook(codebook)
        return codebook.detach().float().clone()  # whoever changes theirs afterwards does not change ours
    if not isinstance(codebook, str):
        raise TypeError(f"codebook must be a name or a tensor, got {type(codebook).__name__}")
    with torch.device("cpu"):  # whatever the caller's default device: a codebook is the same to the bit everywhere
        if codebook in NF_NAMES:
            return nf_codebook(int(codebook[2:]))
        if codebook in INT_NAMES:
            return int_codebook(int(codebook[3:]))
        if codebook in FP4_MAGNITUDES:
            return fp4_codebook(codebook)
        if codebook in FP8_TYPES:
            return fp8_codebook(codebook)
        if codebook == "dynamic":
            return dynamic_codebook()
    names = (*NF_NAMES, *INT_NAMES, *FP4_MAGNITUDES, "dynamic", *FP8_TYPES)
    raise ValueError(f"unknown codebook {codebook!r}: choose one of {', '.join(names)}, or pass a tensor")


_shared: WeakValueDictionary[tuple, Tensor] = WeakValueDictionary()  # (device, values) -> what all share


def shared_codebook(codebook: Tensor, device: torch.device) -> Tensor:
    """The tensor of these values that others on the device hold already, so that a model has each codebook once.

    The meta device keeps no numbers; a codebook has no need to lose them, and stays where it is.
    """
    codebook = codebook if device.type == "meta" else codebook.to(device)
    first = _shared.setdefault((codebook.device, tuple(codebook.tolist())), codebook)
    return first if torch.equal(first, codebook) else codebook  # somebody wrote into the first one


def check_normal(bits: int, offset: float | None) -> None:
    """Nearer to 1/2 than a thousandth, or to 1 than a millionth, float32 cannot tell the quantiles apart."""
    check(BITS, bits=bits)
    if offset is not None and not 0.501 <= offset <= 0.999999:
        raise ValueError(f"offset is a probability above 1/2 and below 1 (0.501 to 0.999999), got {offset}")


def _check_codebook(codebook: Tensor) -> None:
    if codebook.ndim != 1 or not 2 <= len(codebook) <= 256 or not codebook.is_floating_point():
        kind = f"{codebook.dtype} of shape {tuple(codebook.shape)}"
        raise ValueError(f"a codebook is a tensor of 2 to 256 floating-point values, got {kind}")
    if not bool((codebook.diff() >= 0).all()):
        raise ValueError("a codebook has its values in rising order")
    if not bool((codebook.abs() <= 1).all()):
        raise ValueError(f"a codebook has values from -1 to 1, got {codebook.min():g} to {codebook.max():g}")
