"""How bitsandbytes' CPU version quantizes to 8 bits: rounded to a grid, then looked up. For comparisons with it only.

Its compiled `quantize_blockwise` differs from an exact search in three ways: a value is first rounded to one of 65,536
steps in [-1, 1], which near zero is coarser than the dynamic code; an absmax is never raised to 1e-38; and a block of
zeros gets code 0. The second level of double quantization goes through it, so parity needs it.
"""

import torch
from torch import Tensor

STEPS = 65535


def cpu_lookup(flat: Tensor, codebook: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Quantize flat (n,) float32 with a codebook of 256 values: returns codes (n,) uint8 and absmax (n_blocks,)."""
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    absmax = padded.abs().amax(dim=1)
    scaled = (padded * (1 / absmax)[:, None]).clamp(-1, 1)
    step = ((scaled + 1) * 0.5 * STEPS + 0.5).int()
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    codes = torch.bucketize(-1 + 2 * step / STEPS, midpoints).to(torch.uint8)
    codes[absmax == 0] = 0
    return codes.flatten()[: len(flat)], absmax
