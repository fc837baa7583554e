"""Quantization at speed: `encode` and `decode` of `lora_edu.quantization` in chunks, and memory that is used again.

Each replaces a definition of a few lines there, gives the same bits (`test_kernels.py` compares), and gains:

- `encode`, all in one pass: works on a piece that stays in the processor's cache, so that extra memory stays small
  too. The nearest of up to 16 values is found by 15 comparisons of whole pieces, which NumPy does with the processor's
  wide registers, where the definition searches value by value. Together about ten times as fast.
- `decode`: looks a whole byte up at once, 2 values of 4 bits or 4 of 2 bits, straight into their place, and multiplies
  there; the definition unpacks the codes first. About ten times as fast. The look-up is two thirds of what is left, 2
  clock cycles a byte: in a small layer it alone takes 1.25 times bitsandbytes' time, which finds 16 values at once in a
  register. Two bytes at once were slower: 65,536 entries of 16 bytes fill a second-level cache of 1 MB. A layer of
  4096 x 4096, forward and backward, takes 0.70 of bitsandbytes' time; its products alone, nothing decoded, take 0.60.
- `scratch`: new memory costs more time than decoding into it, because the system hands it out page by page, cleared.
  All layers decode into the same piece instead.

Plain tensors in and out. Nothing here imports the course.
"""

import math
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

CHUNK_VALUES = {"cpu": 2**17, "cuda": 2**22}
DECODED = 4  # chunks that `decode` takes at once: every start costs 10 us
SMALLEST_ABSMAX = 1e-38  # the reference never divides by less
PLACES = {1: torch.float32, 2: torch.int64, 4: torch.complex128}  # values a byte -> a type as wide as all of them


# --- encode ----------------------------------------------------------------------------------------------------------


def encode(flat: Tensor, codebook: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """flat (n,) -> packed codes (n_bytes,) uint8 and absmax (n_blocks,) float32."""
    per_byte = _codes_per_byte(len(codebook))
    absmax = torch.empty(math.ceil(len(flat) / block_size), dtype=torch.float32, device=flat.device)
    codes = torch.empty(math.ceil(len(flat) / per_byte), dtype=torch.uint8, device=flat.device)
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    zero = int((midpoints < 0).sum()) if len(flat) % per_byte and not flat.is_meta else 0  # the code of 0.0
    for scale, values, packed in _chunks(absmax, flat, codes, block_size, per_byte):
        nearest = _nearest(_normalize(values, scale, block_size), midpoints)  # fills scale, a part of absmax
        packed.copy_(_pack(nearest, per_byte, zero))
    return codes, absmax


def _normalize(values: Tensor, absmax: Tensor, block_size: int) -> Tensor:
    """Write each block's largest magnitude into absmax (n_blocks,); returns values (n,) divided by them, float32."""
    whole = len(values) // block_size
    blocks = values[: whole * block_size].view(whole, block_size)
    if whole:
        absmax[:whole].copy_(blocks.abs().amax(dim=1))
    reciprocal = 1 / absmax[:whole].clamp(min=SMALLEST_ABSMAX)
    scaled = (blocks.float() * reciprocal[:, None]).flatten()
    if whole < len(absmax):  # a ragged end
        last = values[whole * block_size :]
        absmax[-1:].copy_(last.abs().amax()).clamp_(min=SMALLEST_ABSMAX)
        scaled = torch.cat([scaled, last.float() / absmax[-1]])
    return scaled.clamp_(-1, 1)


def _nearest(scaled: Tensor, midpoints: Tensor) -> Tensor:
    """How many midpoints are below each of scaled (n,): (n,) uint8."""
    if len(midpoints) > 15 or scaled.device.type != "cpu":  # there one search is faster than 15 passes over the memory
        return torch.bucketize(scaled, midpoints).to(torch.uint8)
    codes = torch.zeros(len(scaled), dtype=torch.uint8, device="cpu")
    above = torch.empty(len(scaled), dtype=torch.bool, device="cpu")
    values, counts, flags = scaled.numpy(), codes.numpy(), above.numpy()  # the same memory, seen by NumPy
    for midpoint in midpoints.numpy():
        counts += np.greater(values, midpoint, out=flags).view(np.uint8)  # bytes, 1 or 0: faster than torch's floats
    return codes


def _pack(codes: Tensor, per_byte: int, zero: int) -> Tensor:
    """Codes (n,) uint8 -> bytes; what is missing in the last one is filled up with the code `zero`."""
    if missing := -len(codes) % per_byte:
        codes = torch.cat([codes, codes.new_full((missing,), zero)])
    columns, width = codes.view(-1, per_byte), 8 // per_byte
    packed = columns[:, 0] << (8 - width)
    for column in range(1, per_byte):
        packed |= columns[:, column] << (8 - width * (column + 1))
    return packed


# --- decode ----------------------------------------------------------------------------------------------------------


def decode(codes: Tensor, absmax: Tensor, codebook: Tensor, block_size: int, out: Tensor) -> Tensor:
    """Packed codes (n_bytes,) and absmax (n_blocks,) float32 -> out (n,), of any floating type."""
    table, per_byte = byte_table(codebook), _codes_per_byte(len(codebook))
    whole_bytes = block_size % per_byte == out.storage_offset() % per_byte == 0
    if out.dtype == torch.float32 and whole_bytes and len(out) == block_size * len(absmax):
        return _decode_in_place(codes, absmax, table, block_size, out)
    for scale, part, packed in _chunks(absmax, out, codes, block_size, per_byte):
        values = torch.index_select(table, 0, packed.int()).view(torch.float32)[: len(part)]
        whole = len(part) // block_size
        if whole < len(scale):  # a ragged end
            torch.mul(values[whole * block_size :], scale[-1], out=part[whole * block_size :])
        blocks, target = (side[: whole * block_size].view(whole, block_size) for side in (values, part))
        torch.mul(blocks, scale[:whole, None], out=target)
    return out


def _decode_in_place(codes: Tensor, absmax: Tensor, table: Tensor, block_size: int, out: Tensor) -> Tensor:
    """Whole blocks of float32 are looked up straight into their place, and multiplied there.

    The views of all chunks are made before, at once: one by one they would cost a tenth of the time.
    """
    per_byte = table.element_size() // out.element_size()
    most = DECODED * CHUNK_VALUES.get(out.device.type, 2**17) // 2  # bytes: each is looked up by an index of four
    blocks = max(4, most * per_byte // block_size // 4 * 4)
    n_bytes = blocks * block_size // per_byte
    sides = (codes, out.view(table.dtype), out.view(-1, block_size), absmax[:, None])
    for packed, places, values, scales in _cut(sides, (n_bytes, n_bytes, blocks, blocks)):
        torch.index_select(table, 0, packed.int(), out=places)
        values.mul_(scales)
    return out


def byte_table(codebook: Tensor) -> Tensor:
    """The values behind each possible byte, all of a byte's as one element: (256,), or the codebook for 8-bit codes."""
    if len(codebook) > 16:
        return codebook
    if codebook.device.type == "cpu":
        return _table_of(codebook.numpy().tobytes())
    return _build_table(codebook)  # to look into a cache, a GPU would have to wait for the numbers


@lru_cache(maxsize=64)
def _table_of(values: bytes) -> Tensor:
    with torch.inference_mode(False):  # a tensor made inside could not be used outside
        return _build_table(torch.frombuffer(bytearray(values), dtype=torch.float32))


def _build_table(codebook: Tensor) -> Tensor:
    per_byte = _codes_per_byte(len(codebook))
    width = 8 // per_byte
    every_byte = torch.arange(256, device=codebook.device)[:, None]
    shifts = torch.arange(8 - width, -1, -width, device=codebook.device)
    padded = codebook.new_zeros(2**width)
    padded[: len(codebook)] = codebook  # a 3-bit code leaves half of its packed values unused
    return padded[every_byte >> shifts & (2**width - 1)].flatten().view(PLACES[per_byte])


# --- memory used again -----------------------------------------------------------------------------------------------

_shelf = threading.local()  # every thread has its own: two that train at once do not meet


@contextmanager
def scratch(n_values: int, dtype: torch.dtype, device: torch.device) -> Iterator[Tensor]:
    """Lends memory (n_values,) for a `with` block: always the same piece, as large as the largest that was asked for.

    One piece a type. While it is lent it is off the shelf, so a block inside the block gets a piece of its own. Only
    on the processor: on a GPU torch keeps freed memory and hands it to the next layer itself, stream by stream.
    """
    if device.type != "cpu" or torch.compiler.is_compiling():
        yield torch.empty(n_values, dtype=dtype, device=device)
        return
    pieces = vars(_shelf)
    piece = pieces.pop(dtype, None)
    if piece is None or len(piece) < n_values:
        del piece  # the smaller one is gone before the larger one comes
        with torch.inference_mode(False):  # a tensor made inside could not be used outside
            piece = torch.empty(n_values, dtype=dtype, device="cpu")
    try:
        yield piece[:n_values]
    finally:
        if type(piece) is Tensor:  # under torch's fake modes a tensor has no memory: not for the next one
            pieces[dtype] = piece


def scratch_pieces() -> list[Tensor]:
    """This thread's pieces that are not lent now."""
    return list(vars(_shelf).values())


# --- chunks ----------------------------------------------------------------------------------------------------------


def _codes_per_byte(n_codes: int) -> int:
    return 4 if n_codes <= 4 else 2 if n_codes <= 16 else 1


def _chunks(
    absmax: Tensor, flat: Tensor, codes: Tensor, block_size: int, per_byte: int
) -> Iterable[tuple[Tensor, ...]]:
    """Cut a tensor's absmax, values and packed codes into the chunks that are worked on one at a time (as views)."""
    blocks = max(4, CHUNK_VALUES.get(flat.device.type, 2**17) // block_size // 4 * 4)  # no byte lies in two chunks
    size = blocks * block_size
    return _cut((absmax, flat, codes), (blocks, size, size // per_byte))


def _cut(sides: tuple[Tensor, ...], sizes: tuple[int, ...]) -> Iterable[tuple[Tensor, ...]]:
    """Each tensor in pieces of its size, side by side."""
    if len(sides[0]) < 2 * sizes[0]:  # in a small layer, cutting costs as much as the work itself
        return [sides]
    return zip(*(side.split(size) for side, size in zip(sides, sizes, strict=True)), strict=True)
