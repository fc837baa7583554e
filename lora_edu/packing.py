"""Codes and bytes: the nearest codebook value of each number, several codes packed into a byte, and the way back.

A code of 4 bits needs half a byte, and memory hands out bytes. As in bitsandbytes, the first code goes into the high
bits. Codes of 2 and 8 bits are packed densely too; a 3-bit code occupies 4 bits, codes of 5 to 7 bits occupy 8.
"""

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def nearest_code(scaled: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest codebook value for each of scaled (n,): returns (n,) uint8; a tie goes to the lower.

    The mid-points between neighbors are the thresholds: the index is how many of them lie below the value.
    """
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    if len(midpoints) > 15 or scaled.is_cuda:  # on a GPU one binary search is faster than 15 passes over its memory
        return torch.bucketize(scaled, midpoints).to(torch.uint8)
    codes, above = torch.zeros(len(scaled), dtype=torch.uint8), torch.empty(len(scaled), dtype=torch.bool)
    values, counts, flags = scaled.numpy(), codes.numpy(), above.numpy()  # the same memory, seen by NumPy
    for midpoint in midpoints.numpy():
        counts += np.greater(values, midpoint, out=flags).view(np.uint8)  # bytes, 1 or 0: faster than torch's floats
    return codes


def code_width(n_codes: int) -> int:
    """Bits that one code takes when packed: 2, 4 or 8, whichever holds n_codes values. A 3-bit code occupies 4."""
    return 2 if n_codes <= 4 else 4 if n_codes <= 16 else 8


def codes_per_byte(n_codes: int) -> int:
    return 8 // code_width(n_codes)


def pack(codes: Tensor, codebook: Tensor) -> Tensor:
    """Pack codes (n,) uint8 into bytes, the first code in the high bits; a byte left unfilled is filled up with 0.0."""
    width, per_byte = code_width(len(codebook)), codes_per_byte(len(codebook))
    missing = -len(codes) % per_byte
    if missing:
        zero = nearest_code(torch.zeros(missing, device=codes.device), codebook)
        codes = torch.cat([codes, zero])
    columns = codes.view(-1, per_byte)  # (n_bytes, per_byte)
    packed = columns[:, 0] << (8 - width)
    for column in range(1, per_byte):
        packed |= columns[:, column] << (8 - width * (column + 1))
    return packed


def unpack(packed: Tensor, n_codes: int) -> Tensor:
    """The codes in packed (n_bytes,), in order: (n_bytes * per_byte,) uint8."""
    width = code_width(n_codes)
    shifts = torch.arange(8 - width, -1, -width, device=packed.device)
    return (packed[:, None].int() >> shifts & (2**width - 1)).flatten().to(torch.uint8)


def byte_table(codebook: Tensor) -> Tensor:
    """The values behind each possible byte, so that one look-up decodes a whole byte.

    Returns the codebook itself where a code fills a byte; else (256, per_byte) float32, but two values viewed as one
    int64 (256,), which is copied several times faster.
    """
    if codes_per_byte(len(codebook)) == 1:
        return codebook
    padded = torch.zeros(256, device=codebook.device)
    padded[: len(codebook)] = codebook  # a 3-bit code leaves half of its packed values unused
    table = padded.index_select(0, _codes_in_every_byte(len(codebook), codebook.device))
    return table.view(torch.int64) if codes_per_byte(len(codebook)) == 2 else table.view(256, -1)


@lru_cache
def _codes_in_every_byte(n_codes: int, device: torch.device) -> Tensor:
    return unpack(torch.arange(256, dtype=torch.uint8, device=device), n_codes).int()
