"""What `lora_edu.quantization` refuses, and what it says then."""

import torch
from torch import Tensor


def check_input(tensor: Tensor, block_size: int) -> None:
    if not tensor.is_floating_point():
        raise TypeError(
            f"only floating-point tensors can be quantized, got {tensor.dtype}: convert with .float() first"
        )
    if tensor.numel() == 0:
        raise ValueError(f"the tensor is empty (shape {tuple(tensor.shape)}): there is nothing to quantize")
    if not isinstance(block_size, int) or isinstance(block_size, bool) or block_size < 1:
        raise ValueError(f"block_size must be a whole number of at least 1, got {block_size!r}")


def check_finite(flat: Tensor, absmax: Tensor, shape: torch.Size) -> None:
    if not absmax.isfinite().all():  # a NaN or infinity anywhere in a block shows in its absmax
        at = int((~flat.float().isfinite()).nonzero()[0])
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), shape))
        raise ValueError(
            f"the tensor has the value {flat[at].item()} at index {index}: only finite values can be quantized"
        )


def check_out(out: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(
            f"out must be a contiguous {dtype} tensor of shape {tuple(shape)}, got {out.dtype} {tuple(out.shape)}"
        )
