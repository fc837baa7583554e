"""Sixteen bits in training, in the format that the device computes in.

bfloat16 has the range of float32 and fewer digits: nothing more is needed. NVIDIA's cards before Ampere (a T4, a V100)
only emulate it; they have float16, whose smallest number is 6e-8. Gradients are often smaller: they would be rounded to
zero, and their weights would stand still. A gradient scaler multiplies the loss, and so every gradient, by a large
number, and divides before the update. Where a gradient becomes too large for float16 (65,504) by it, the step is left
out and the number halved; after 2,000 steps without one it is doubled.
"""

import torch
from torch.amp import GradScaler

AMPERE = (8, 0)  # the first compute capability with bfloat16 of its own
UNSCALED = GradScaler("cpu", enabled=False)  # passes everything through


def half_type(device: torch.device) -> torch.dtype:
    """The 16-bit type that a device computes in itself. (`torch.cuda.is_bf16_supported` counts an emulation too.)"""
    bfloat16 = device.type != "cuda" or torch.cuda.get_device_capability(device) >= AMPERE
    return torch.bfloat16 if bfloat16 else torch.float16


def wanted(device: torch.device, enabled: bool | None) -> bool:
    """Whether to compute in 16 bits. enabled: None means yes on a CUDA GPU and no on the CPU."""
    return device.type == "cuda" if enabled is None else enabled


def mixed_precision(device: torch.device, enabled: bool | None) -> torch.autocast:
    """Compute in 16 bits where that is safe and `wanted`."""
    return torch.autocast(device.type, dtype=half_type(device), enabled=wanted(device, enabled))


def gradient_scaler(device: torch.device, enabled: bool | None) -> GradScaler:
    """The scaler of a run in float16; for any other it passes everything through. enabled: as in `wanted`."""
    return GradScaler(device.type, enabled=wanted(device, enabled) and half_type(device) == torch.float16)
