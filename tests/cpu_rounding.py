"""bitsandbytes' rounding of constants on the CPU, for comparisons with it to the bit."""

import torch
from torch import Tensor

from lora_edu import quantize
from lora_edu.quantization import QuantizedTensor


def quantize_as_on_cpu(x: Tensor, codebook: str = "nf4", block_size: int = 64) -> QuantizedTensor:
    """`quantize` with double quantization, and its second level as bitsandbytes' CPU version has it."""
    made, absmax = quantize(x, codebook, block_size, double_quant=True), quantize(x, codebook, block_size).absmax
    exact = made.absmax
    codes, second = cpu_lookup(absmax - made.offset, exact.codebook, exact.block_size)
    made.absmax = QuantizedTensor(codes, second, None, exact.codebook, exact.block_size, exact.shape, exact.dtype)
    return made


def cpu_lookup(flat: Tensor, codebook: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """How its compiled `quantize_blockwise` quantizes to 8 bits: rounded to a grid, then looked up.

    It differs from an exact search in three ways: a value is first rounded to one of 65,536 steps in [-1, 1], which
    near zero is coarser than the dynamic code; an absmax is never raised to 1e-38; and a block of zeros gets code 0.
    flat: (n,) float32, codebook: 256 values. Returns codes (n,) uint8 and absmax (n_blocks,).
    """
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % block_size)).view(-1, block_size)
    absmax = padded.abs().amax(dim=1)
    scaled = (padded * (1 / absmax)[:, None]).clamp(-1, 1)
    step = ((scaled + 1) * 0.5 * 65535 + 0.5).int()
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    codes = torch.bucketize((-1 + 2 * step.float() / 65535), midpoints).to(torch.uint8)
    codes[absmax == 0] = 0
    return codes.flatten()[: len(flat)], absmax
