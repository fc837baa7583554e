"""The 4-bit layer as a compiler should see it: one expression from codes to weight, and no full weight kept.

`QuantizedTensor.dequantize` works in pieces, in memory that it uses again and again: right for a processor, opaque for
a compiler. Here the same arithmetic is one expression, which `torch.compile` turns into one kernel: it reads codes and
constants and writes the weight in 16 bits, without a float32 copy between.

There is a trap. `lora_edu.qlora` dequantizes a weight twice, forward and backward, so that no full copy is kept. A
compiler sees the same computation twice, does it once and keeps the result for the backward pass: all weights of the
model in 16 bits, and the saving of QLoRA is gone. `linear` therefore wraps the product in torch's checkpointing, which
tells it: compute this again. `tests/test_compiling.py` counts what is kept, with and without.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from lora_edu.quantization import QuantizedTensor, code_width


def dequantize(quantized: QuantizedTensor) -> Tensor:
    """The weight in full, of the original shape and type: the numbers of `quantized.dequantize()`, to the bit."""
    width, n_values = code_width(len(quantized.codebook)), quantized.shape.numel()
    shifts = range(8 - width, -1, -width)  # the first code is in the high bits
    codes = torch.stack([quantized.codes >> shift & (2**width - 1) for shift in shifts], dim=1)  # (n_bytes, per_byte)
    values = quantized.codebook[codes.flatten()[:n_values].int()]  # (n,)
    values = F.pad(values, (0, -n_values % quantized.block_size)).view(-1, quantized.block_size)
    values = (values * block_scales(quantized)[:, None]).flatten()[:n_values]
    return values.to(quantized.dtype).view(quantized.shape)


def block_scales(quantized: QuantizedTensor) -> Tensor:
    """The absmax of every block (n_blocks,), float32."""
    if not isinstance(quantized.absmax, QuantizedTensor):
        return quantized.absmax
    scales = dequantize(quantized.absmax)
    return scales if quantized.offset is None else scales + quantized.offset


def linear(x: Tensor, quantized: QuantizedTensor, bias: Tensor | None) -> Tensor:
    """x W^T + bias: (..., in_features) -> (..., out_features). For the backward pass only x's gradient path is kept."""

    def product(x: Tensor) -> Tensor:
        return F.linear(x, dequantize(quantized).to(x.dtype), bias)

    return checkpoint(product, x, use_reentrant=False, preserve_rng_state=False)
