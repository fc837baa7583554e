"""Formats whose blocks share more than one plain constant: NVFP4 and its repair, MXFP4, Q4_K (06, and the questions).

E2M1 has 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; processors multiply it directly. NVFP4 gives 16 weights a scale
in FP8 (E4M3), and a tensor one in float32. MXFP4 gives 32 weights a power of two. Q4_K, of llama.cpp, is no float.
Source: OCP Microscaling Formats 1.0 (2023), section 6.3; llama.cpp, ggml-quants.c.
"""

import torch
from torch import Tensor

from lora_edu.codebooks import fp4_codebook
from lora_edu.quantization import nearest_code

LARGEST = 6.0  # of E2M1


def to_e2m1(scaled: Tensor) -> Tensor:
    """The nearest numbers of E2M1; beyond 6 there is 6."""
    levels = fp4_codebook("fp4-e2m1") * LARGEST
    return levels[nearest_code(scaled.clamp(-LARGEST, LARGEST), levels).long()]


def nvfp4(weight: Tensor, largest_at: tuple[float, ...] = (LARGEST,)) -> Tensor:
    """A weight to NVFP4 and back: a block's largest weight becomes 6, or one of these. Its size: a multiple of 16.

    The tensor's constant leaves room for scales that are larger than for 6.
    """
    blocks, room = weight.view(-1, 16), 448 if largest_at == (LARGEST,) else 256
    wanted = blocks.abs().amax(1, keepdim=True) / LARGEST
    tensor_scale = wanted.max() / room
    scales = [(LARGEST / largest * wanted / tensor_scale).to(torch.float8_e4m3fn) for largest in largest_at]
    return nearest_of(blocks, [scale.float() * tensor_scale for scale in scales]).view_as(weight)


def nearest_of(blocks: Tensor, scales: list[Tensor]) -> Tensor:
    """Blocks (n, size) to E2M1 and back, each at the one of these scales, (n, 1) each, at which it errs least."""
    tried = torch.stack([to_e2m1(blocks / scale.clamp(min=1e-30)) * scale for scale in scales])  # (ways, n, size)
    return tried[(blocks - tried).square().sum(2).argmin(0), torch.arange(len(blocks))]


def four_over_six(weight: Tensor) -> Tensor:
    """NVFP4 whose blocks have their largest weight at 6 or at 4, whichever errs less.

    E2M1 has nothing between 4 and 6, and lies closer below 4. Source: Cook et al. 2025, arXiv 2512.02010.
    """
    return nvfp4(weight, (LARGEST, 4.0))


def mxfp4(weight: Tensor, nearest: bool = False) -> Tensor:
    """A weight to MXFP4 and back. Its size: a multiple of 32.

    The power of two is rounded down, as the standard has it, which cuts the largest weight of a block by up to a
    quarter. nearest: down or up, whichever errs less.
    """
    blocks = weight.view(-1, 32)
    down = 2.0 ** (blocks.abs().amax(1, keepdim=True).clamp(min=1e-30).log2().floor() - 2)  # E2M1's 4 is 2 to the 2
    return nearest_of(blocks, [down, 2 * down] if nearest else [down]).view_as(weight)


def affine(weight: Tensor, block_size: int = 64) -> Tensor:
    """A weight to 4 bits and back, a lowest value and a step a block, in float16: Q4_K's rule, in larger blocks."""
    blocks = weight.view(-1, block_size)
    low = blocks.amin(1, keepdim=True).clamp(max=0).half().float()
    step = ((blocks.amax(1, keepdim=True).clamp(min=0) - low) / 15).half().float().clamp(min=2**-24)
    return (((blocks - low) / step).round().clamp(0, 15) * step + low).view_as(weight)


def q4_k_parts(weight: Tensor) -> tuple[Tensor, ...]:
    """What Q4_K stores of a weight whose size is a multiple of 256: d, dmin (n, 1, 1), steps, lows (n, 8, 1), codes.

    Each 32 weights have a step and a lowest value, as in Q4_1. Eight such pairs are numbers of 6 bits, times d and
    dmin in float16: 4.5 bits a weight. llama.cpp also searches for better steps; this is the format without its search.
    """
    runs = weight.view(-1, 8, 32)
    low = -runs.amin(2, keepdim=True).clamp(max=0)  # (n, 8, 1): how far below zero a run begins
    step = (runs.amax(2, keepdim=True).clamp(min=0) + low) / 15
    d, dmin = ((each.amax(1, keepdim=True) / 63).half().float().clamp(min=2**-24) for each in (step, low))
    steps, lows = (step / d).round().clamp(1, 63), (low / dmin).round().clamp(0, 63)
    return d, dmin, steps, lows, ((runs + dmin * lows) / (d * steps)).round().clamp(0, 15)


def q4_k(weight: Tensor) -> Tensor:
    """A weight to llama.cpp's Q4_K and back."""
    d, dmin, steps, lows, codes = q4_k_parts(weight)
    return (d * steps * codes - dmin * lows).view_as(weight)
