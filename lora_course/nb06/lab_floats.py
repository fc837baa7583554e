"""NVFP4, and its repair: 4-bit floats in blocks of 16 whose scales are floats, too (notebook 06, and the questions).

E2M1 has 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives; processors multiply it directly. NVFP4 gives 16 weights a scale
in FP8 (E4M3), and a tensor one in float32.
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
    tensor_scale, tried = wanted.max() / room, []
    for largest in largest_at:
        scale = (LARGEST / largest * wanted / tensor_scale).to(torch.float8_e4m3fn).float() * tensor_scale
        tried.append(to_e2m1(blocks / scale.clamp(min=1e-30)) * scale)
    errors = torch.stack([(blocks - rounded).square().sum(1) for rounded in tried])  # (ways, blocks)
    return torch.stack(tried)[errors.argmin(0), torch.arange(len(blocks))].view_as(weight)


def four_over_six(weight: Tensor) -> Tensor:
    """NVFP4 whose blocks have their largest weight at 6 or at 4, whichever errs less.

    E2M1 has nothing between 4 and 6, and lies closer below 4. Source: Cook et al. 2025, arXiv 2512.02010.
    """
    return nvfp4(weight, (LARGEST, 4.0))
