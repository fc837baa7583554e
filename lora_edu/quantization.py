"""Blockwise 4-bit quantization: the NF4 of the QLoRA paper, in plain torch and NumPy.

What it stands in for: `bitsandbytes.functional.quantize_4bit` and `dequantize_4bit` (compiled kernels) with their
QuantState. How it works:

    1. cut the flattened tensor into blocks of 64 values, and divide each block by its largest magnitude, its `absmax`;
    2. replace every value, now in [-1, 1], by the index of the nearest of 16 fixed numbers, the `codebook`;
    3. pack two indices into a byte, the first one in the high half;
    4. with `double_quant`, quantize the absmax values too: 8 bits each, in blocks of 256, after taking off their mean.

Numerics: all arithmetic is float32, as in the reference. With `nf4`, and with `fp4-bnb` after a change of its codes'
order, packed codes, absmax, offset and dequantized values equal bitsandbytes 0.50 on the CPU bit for bit, as
`tests/test_parity.py` shows by running both. Where they differ, and why:

- second-level codes: we choose the nearest; its CPU version rounds to a grid first, which changes a few in a thousand.
  `DoubleQuant(code="dynamic-cpu")` does the same (`lora_edu.engine.cpu_lookup`), and then these are equal too.
- the offset, when torch runs with another number of threads: a mean depends on the order of its additions.
- the offset, when the sum of all absmax is over 3.4e38: its offset is infinite and its weights NaN; ours are finite.
- NaN and infinity: it stores them, and they spoil their block; we raise ValueError.
- its dequantization with AVX-512 reads the wrong absmax if the last dimension is a multiple of 16 but not of the block
  size; it returns a tensor (n,) as (1, n), and fails for three dimensions with 1 or 2 values in all. Ours does neither.
- its dequantization may give zeros for results under 1.2e-38 (bfloat16 with AVX-512, or compiled for an odd last
  dimension); ours keeps them.

Source: Dettmers et al. 2023, "QLoRA", arXiv 2305.14314, section 3.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from lora_edu.codebooks import get_codebook
from lora_edu.engine.cpu_lookup import cpu_lookup

# Work on a piece at a time: it stays in the processor's cache, and extra memory stays small: a piece's, and one float32
# per block for the constants of the whole tensor (at block 64, a 64th of a float32 weight).
CHUNK_VALUES = {"cpu": 2**17, "cuda": 2**22}
SMALLEST_ABSMAX = 1e-38  # the reference never divides by less


# --- the result ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoubleQuant:
    """How the absmax values are quantized themselves: the code, values per second-level block, and the mean."""

    code: str = "dynamic"  # or int8, e4m3, e5m2; dynamic-cpu has the rounding of bitsandbytes' CPU version
    block_size: int = 256
    subtract_mean: bool = True  # absmax is positive: around its mean a signed code is used on both sides


@dataclass(frozen=True, eq=False)  # tensors have no single answer to ==
class QuantizedTensor:
    """A tensor as packed codes and one absmax per block. `absmax` is itself quantized after double quantization."""

    codes: Tensor  # (n_bytes,) uint8: several codes a byte, the first in the high bits
    absmax: "Tensor | QuantizedTensor"  # (n_blocks,) float32, or quantized
    offset: Tensor | None  # () float32: the mean taken off the absmax before they were quantized
    codebook: Tensor  # (2**bits,) float32, shared by all tensors of its kind
    block_size: int
    shape: torch.Size
    dtype: torch.dtype

    @property
    def nbytes(self) -> int:
        """Bytes stored: packed codes, constants and the offset. The codebook is shared and does not count."""
        return self.codes.nbytes + self.absmax.nbytes + (0 if self.offset is None else self.offset.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Nominal bits per value: the code and its share of the constants, for a tensor without ragged ends."""
        bits_per_absmax = self.absmax.bits_per_weight if isinstance(self.absmax, QuantizedTensor) else 32
        return math.ceil(math.log2(len(self.codebook))) + bits_per_absmax / self.block_size

    def block_scales(self) -> Tensor:
        """The absmax of every block (n_blocks,) in float32, as `dequantize` uses them."""
        if not isinstance(self.absmax, QuantizedTensor):
            return self.absmax
        scales = self.absmax.dequantize()  # ours, so that the mean is added in place
        return scales if self.offset is None else scales.add_(self.offset)

    def dequantize(self, out: Tensor | None = None) -> Tensor:
        """Look every code up and multiply by its block's absmax. Returns a tensor of the original shape and dtype.

        out: a contiguous tensor of that shape and dtype to write into; saves the time to get new memory.
        """
        if out is None:
            out = torch.empty(self.shape, dtype=self.dtype, device=self.codes.device)
        check_out(out, self.shape, self.dtype)
        flat, scales = out.view(-1), self.block_scales()
        table, per_byte = byte_table(self.codebook.to(self.codes.device)), codes_per_byte(len(self.codebook))
        in_place = decodes_in_place(table, flat, self.block_size, per_byte)
        quick = len(flat) // self.block_size if in_place else 0  # blocks that go the quick way
        values, packed = quick * self.block_size, quick * self.block_size // per_byte
        if quick:
            blocks = flat[:values].view(quick, self.block_size)
            decode_in_place(table, self.codes[:packed], scales[:quick], blocks, per_byte)
        if values < len(flat):
            decode(table, self.codes[packed:], scales[quick:], flat[values:], self.block_size, per_byte)
        return out


# --- quantize ------------------------------------------------------------------------------------------------------


def quantize(
    tensor: Tensor,
    codebook: str | Tensor = "nf4",
    block_size: int = 64,
    double_quant: bool | DoubleQuant = False,
) -> QuantizedTensor:
    """Quantize a tensor of any shape, block by block of its flattened values; the last block may be shorter.

    tensor: float32, bfloat16 or float16 (float64 is rounded to float32 first).
    codebook: a name from `lora_edu.codebooks` or a sorted tensor. double_quant: True for the paper's setting.
    Raises TypeError for integers, ValueError for an empty tensor, NaN or infinity, or a bad block_size or codebook.
    """
    check_input(tensor, block_size)
    flat = tensor.detach().reshape(-1)
    codebook = get_codebook(codebook).to(flat.device)
    absmax = torch.empty(math.ceil(len(flat) / block_size), dtype=torch.float32, device=flat.device)
    per_byte = codes_per_byte(len(codebook))
    codes = torch.empty(math.ceil(len(flat) / per_byte), dtype=torch.uint8, device=flat.device)
    for scale, values, packed in _chunks(absmax, flat, codes, block_size, per_byte):
        scale.copy_(block_absmax(values, block_size))  # scale and packed are parts of absmax and codes
        scaled = normalize(values.float(), scale, block_size)
        packed.copy_(pack(nearest_code(scaled, codebook), codebook))
    check_finite(flat, absmax, tensor.shape)
    offset = None
    if double_quant:
        absmax, offset = quantize_absmax(absmax, DoubleQuant() if double_quant is True else double_quant)
    return QuantizedTensor(codes, absmax, offset, codebook, block_size, tensor.shape, tensor.dtype)


def block_absmax(flat: Tensor, block_size: int) -> Tensor:
    """The largest magnitude in each block of flat (n,): returns (n_blocks,) float32."""
    whole = len(flat) // block_size * block_size
    absmax = flat[:whole].view(-1, block_size).abs().amax(dim=1).float() if whole else flat.new_zeros(0).float()
    if whole == len(flat):
        return absmax
    last = flat[whole:].abs().amax().float().clamp(min=SMALLEST_ABSMAX)  # the reference clamps a ragged block only
    return torch.cat([absmax, last[None]])


def normalize(values: Tensor, absmax: Tensor, block_size: int) -> Tensor:
    """Divide each block of values (n,) by its absmax (n_blocks,): returns (n,) in [-1, 1]."""
    whole = len(values) // block_size * block_size
    # A product with the reciprocal and a division can differ in the last bit. The reference multiplies in whole
    # blocks and divides in a ragged last one; to get its codes, we do the same.
    reciprocal = 1 / absmax.clamp(min=SMALLEST_ABSMAX)
    scaled = (values[:whole].view(-1, block_size) * reciprocal[: whole // block_size, None]).flatten()
    if whole < len(values):
        scaled = torch.cat([scaled, values[whole:] / absmax[-1]])
    return scaled.clamp_(-1, 1)


def quantize_absmax(absmax: Tensor, how: DoubleQuant) -> tuple[QuantizedTensor, Tensor | None]:
    """Double quantization: take the mean off absmax (n_blocks,) and quantize what is left. Returns it and the mean."""
    offset = absmax.mean() if how.subtract_mean else None
    if offset is not None and not offset.isfinite():
        offset = absmax.double().mean().float()  # the sum was larger than any float32
    centered = absmax if offset is None else absmax - offset
    if how.code != "dynamic-cpu":
        return quantize(centered, how.code, how.block_size), offset
    codebook = get_codebook("dynamic").to(absmax.device)
    codes, second = cpu_lookup(centered, codebook, how.block_size)
    return QuantizedTensor(codes, second, None, codebook, how.block_size, absmax.shape, absmax.dtype), offset


# --- decode: look up and scale -------------------------------------------------------------------------------------


def decode(table: Tensor, codes: Tensor, scales: Tensor, flat: Tensor, block_size: int, per_byte: int) -> None:
    """Decode packed codes into flat (n,), of any floating type, by way of a buffer. scales: (n_blocks,) float32."""
    index, buffer = codes.new_empty(0, dtype=torch.int32), table.new_empty(0)  # used for every chunk
    for scale, part, packed in _chunks(scales, flat, codes, block_size, per_byte):
        index.resize_(len(packed)).copy_(packed)
        found = torch.index_select(table, 0, index, out=buffer.resize_(len(packed), *table.shape[1:]))
        scale_blocks(found.view(torch.float32).view(-1)[: len(part)], scale, block_size, out=part)


def scale_blocks(values: Tensor, scales: Tensor, block_size: int, out: Tensor) -> None:
    """Multiply each block of values (n,) by its scale (n_blocks,), rounding to the type of out (n,)."""
    whole = len(values) // block_size * block_size
    if whole < len(values):
        torch.mul(values[whole:], scales[-1], out=out[whole:])
        values, scales, out = values[:whole], scales[:-1], out[:whole]
    torch.mul(values.view(-1, block_size), scales[:, None], out=out.view(-1, block_size))


def decodes_in_place(table: Tensor, flat: Tensor, block_size: int, per_byte: int) -> bool:
    """Whether a byte's one or two values can be looked up straight into their place in flat (n,)."""
    aligned = flat.storage_offset() % per_byte == block_size % per_byte == 0
    return table.ndim == 1 and flat.dtype == torch.float32 and aligned


def decode_in_place(table: Tensor, codes: Tensor, scales: Tensor, blocks: Tensor, per_byte: int) -> None:
    """The usual case of `decode`, and the quickest: whole blocks (n_blocks, block_size) of float32 values.

    All views are made before the loop: made inside, they would cost about a tenth of the time.
    """
    n = chunk_blocks(blocks.device, blocks.shape[1])
    pieces = [part.split(n * blocks.shape[1] // per_byte) for part in (codes, blocks.view(-1).view(table.dtype))]
    index = torch.empty_like(pieces[0][0], dtype=torch.int32)  # what the look-up wants; it serves for all pieces
    for packed, place, block, scale in zip(*pieces, blocks.split(n), scales[:, None].split(n), strict=True):
        if len(packed) < len(index):
            index = index[: len(packed)]  # the last piece
        torch.index_select(table, 0, index.copy_(packed), out=place)
        block.mul_(scale)


# --- chunks --------------------------------------------------------------------------------------------------------


def chunk_blocks(device: torch.device, block_size: int) -> int:
    """How many blocks are worked on at a time: a multiple of four, so that no byte is shared by two chunks."""
    return max(4, CHUNK_VALUES.get(device.type, 2**17) // block_size // 4 * 4)


def _chunks(
    scales: Tensor, flat: Tensor, codes: Tensor, block_size: int, per_byte: int
) -> Iterable[tuple[Tensor, Tensor, Tensor]]:
    """Cut a tensor's scales, values and packed codes into the chunks that are worked on one at a time (as views)."""
    blocks = chunk_blocks(flat.device, block_size)
    size = blocks * block_size
    if len(flat) <= size:
        return [(scales, flat, codes)]  # in a small layer, cutting costs as much as the work itself
    return zip(scales.split(blocks), flat.split(size), codes.split(size // per_byte), strict=True)


# --- packing ---------------------------------------------------------------------------------------------------------
# Codes and bytes: the nearest codebook value of each number, several codes packed into a byte, and the way back.
#
# A code of 4 bits needs half a byte, and memory hands out bytes. As in bitsandbytes, the first code goes into the high
# bits. Codes of 2 and 8 bits are packed densely too; a 3-bit code occupies 4 bits, codes of 5 to 7 bits occupy 8.


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


# --- tensor checks ---------------------------------------------------------------------------------------------------
# What `lora_edu.quantization` refuses, and what it says then.


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
