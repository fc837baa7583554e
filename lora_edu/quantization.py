"""Blockwise 4-bit quantization: the NF4 of the QLoRA paper, each step as the course teaches it.

What it stands in for: `bitsandbytes.functional.quantize_4bit` and `dequantize_4bit` (compiled kernels) with their
QuantState. How it works:

    1. cut the flattened tensor into blocks of 64 values, and divide each block by its largest magnitude, its `absmax`;
    2. replace every value, now in [-1, 1], by the index of the nearest of 16 fixed numbers, the `codebook`;
    3. pack two indices into a byte, the first one in the high half;
    4. with `double_quant`, quantize the absmax values too: 8 bits each, in blocks of 256, after taking off their mean.

Step 4 comes last, as in the reference: the codes of step 2 are chosen for the exact absmax, and later multiplied by the
stored ones. `DoubleQuant(constants_first=True)` chooses the codes again, for the stored absmax (notebook 07).

`encode` and `decode` are steps 1 to 3 and their way back. What runs are their fast versions, equal to the bit, from
`lora_edu.engine.kernels`; they enter at one place, `kernel`, and `engine/test_kernels.py` compares the two.

Numerics: all arithmetic is float32, as in the reference. With `nf4`, and with `fp4-bnb` after a change of its codes'
order, packed codes, absmax, offset and dequantized values equal bitsandbytes 0.50 on the CPU bit for bit, as
`tests/lora_edu/test_parity.py` shows by running both. Where they differ, and why:

- second-level codes: we choose the nearest; its CPU version rounds to a grid first, which changes a few in a thousand.
  The test does the same, and then these are equal too.
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
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from lora_edu.checks import TRUTH, check, whole
from lora_edu.codebooks import get_codebook, shared_codebook
from lora_edu.engine import kernels  # the door to the fast versions
from lora_edu.layers import SettingsInState

SMALLEST_ABSMAX = 1e-38  # the reference never divides by less


def kernel(definition: Callable) -> Callable:
    """THE ONE PLACE WHERE SPEED ENTERS: what runs for `encode` or `decode`. `torch.compile` makes its own of them."""
    if torch.compiler.is_compiling():
        return definition
    return kernels.encode if definition is encode else kernels.decode


# --- the definitions -------------------------------------------------------------------------------------------------


def encode(flat: Tensor, codebook: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """flat (n,) -> packed codes (n_bytes,) uint8 and absmax (n_blocks,) float32. The last block may be shorter."""
    absmax = block_absmax(flat, block_size)
    scaled = normalize(flat.float(), absmax, block_size)
    return pack(nearest_code(scaled, codebook), codebook), absmax


def decode(codes: Tensor, absmax: Tensor, codebook: Tensor, block_size: int, out: Tensor) -> Tensor:
    """The way back, into out (n,): look every code up and multiply by the absmax of its block."""
    values = codebook[unpack(codes, len(codebook))[: len(out)].int()]
    return out.copy_(values * absmax.repeat_interleave(block_size)[: len(out)])


def encode_for(flat: Tensor, scales: Tensor, codebook: Tensor, block_size: int) -> Tensor:
    """The packed codes of flat (n,) for blocks whose constants are scales (n_blocks,), whatever these are.

    A weight beyond its constant gets the outermost code. A constant rounded to 0 or below is no special case: 0 makes
    each code mean 0, and a negative one changes the sign of what its codes mean.
    """
    each = scales.repeat_interleave(block_size)[: len(flat)]  # (n,): every weight's constant
    scaled = torch.where(each == 0, 0, flat.float() / each).clamp(-1, 1)
    return pack(nearest_code(scaled, codebook), codebook)


def block_absmax(flat: Tensor, block_size: int) -> Tensor:
    """The largest magnitude in each block of flat (n,): returns (n_blocks,) float32."""
    whole = len(flat) // block_size * block_size
    absmax = flat[:whole].view(-1, block_size).abs().amax(dim=1).float()
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


# --- codes -----------------------------------------------------------------------------------------------------------
# A code of 4 bits needs half a byte, and memory hands out bytes. As in bitsandbytes, the first code goes into the high
# bits. Codes of 2 and 8 bits are packed densely too; a 3-bit code occupies 4 bits, codes of 5 to 7 bits occupy 8.


def nearest_code(scaled: Tensor, codebook: Tensor) -> Tensor:
    """The index of the nearest codebook value for each of scaled (n,): returns (n,) uint8; a tie goes to the lower.

    The mid-points between neighbors are the thresholds: the index is how many of them lie below the value.
    """
    midpoints = (codebook[:-1] + codebook[1:]) / 2
    return torch.bucketize(scaled, midpoints).to(torch.uint8)


def stochastic_code(scaled: Tensor, codebook: Tensor, generator: torch.Generator) -> Tensor:
    """One of the two codes beside each of scaled (n,), the nearer one likelier, so that on average nothing is lost.

    Stochastic rounding (Gupta et al. 2015, arXiv 1502.02551). What lies on a level stays there.
    """
    above = torch.bucketize(scaled, codebook).clamp(1, len(codebook) - 1)
    low, high = codebook[above - 1], codebook[above]
    goes_up = torch.rand(scaled.shape, generator=generator) < (scaled - low) / (high - low)
    return (above - 1 + goes_up).to(torch.uint8)


def code_width(n_codes: int) -> int:
    """Bits that one code takes when packed: 2, 4 or 8, whichever holds n_codes values. A 3-bit code occupies 4."""
    return 2 if n_codes <= 4 else 4 if n_codes <= 16 else 8


def codes_per_byte(n_codes: int) -> int:
    return 8 // code_width(n_codes)


def pack(codes: Tensor, codebook: Tensor) -> Tensor:
    """Pack codes (n,) uint8 into bytes, the first code in the high bits; a byte left unfilled is filled up with 0.0."""
    width, per_byte = code_width(len(codebook)), codes_per_byte(len(codebook))
    missing = -len(codes) % per_byte
    zero = nearest_code(codebook.new_zeros(missing), codebook)
    columns = torch.cat([codes, zero]).view(-1, per_byte)  # (n_bytes, per_byte)
    packed = columns[:, 0] << (8 - width)
    for column in range(1, per_byte):
        packed |= columns[:, column] << (8 - width * (column + 1))
    return packed


def unpack(packed: Tensor, n_codes: int) -> Tensor:
    """The codes in packed (n_bytes,), in order: (n_bytes * per_byte,) uint8."""
    width = code_width(n_codes)
    shifts = torch.arange(8 - width, -1, -width, device=packed.device)
    return (packed[:, None].int() >> shifts & (2**width - 1)).flatten().to(torch.uint8)


# --- quantize and dequantize -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DoubleQuant:
    """How the absmax values are quantized themselves: the code, values per second-level block, the mean, the order."""

    code: str = "dynamic"  # or int8, e4m3, e5m2
    block_size: int = 256
    subtract_mean: bool = True  # absmax is positive: around its mean a signed code is used on both sides
    constants_first: bool = field(default=False, kw_only=True)  # choose the codes for the absmax as they are stored


def quantize(
    tensor: Tensor,
    codebook: str | Tensor = "nf4",
    block_size: int = 64,
    double_quant: bool | DoubleQuant = False,
) -> "QuantizedTensor":
    """Quantize a tensor of any shape, block by block of its flattened values; the last block may be shorter.

    tensor: float32, bfloat16 or float16 (float64 is rounded to float32 first).
    codebook: the values that a code can stand for: a name from `lora_edu.codebooks`, or a sorted tensor of them.
    block_size: how many values share one absmax: fewer are rounded more exactly, and take more memory.
    double_quant: whether the absmax are quantized too; True as the paper does it, a `DoubleQuant` in another way.
    Raises TypeError for integers, ValueError for an empty tensor, NaN or infinity, or a bad setting.
    """
    check_settings(block_size, double_quant)
    check_tensor(tensor)
    flat = tensor.detach().reshape(-1)
    codebook = get_codebook(codebook)
    codes, absmax = kernel(encode)(flat, codebook.to(flat.device), block_size)
    check_finite(flat, absmax, tensor.shape)
    offset = None
    if double_quant:
        how = DoubleQuant() if double_quant is True else double_quant
        absmax, offset = quantize_absmax(absmax, how)
        if how.constants_first:
            codes = encode_for(flat, stored_scales(absmax, offset), codebook.to(flat.device), block_size)
    return QuantizedTensor(codes, absmax, offset, codebook, block_size, tensor.shape, tensor.dtype)


def quantize_absmax(absmax: Tensor, how: DoubleQuant) -> "tuple[QuantizedTensor, Tensor | None]":
    """Double quantization: take the mean off absmax (n_blocks,) and quantize what is left. Returns it and the mean."""
    offset = absmax.mean() if how.subtract_mean else None
    if offset is not None and not offset.is_meta and not offset.isfinite():
        offset = absmax.double().mean().float()  # the sum was larger than any float32
    centered = absmax if offset is None else absmax - offset
    return quantize(centered, how.code, how.block_size), offset


def stored_scales(absmax: "QuantizedTensor", offset: Tensor | None) -> Tensor:
    """What double quantization has left of the absmax: (n_blocks,) float32, the mean added again."""
    scales = absmax.dequantize()  # ours, so that the mean is added in place
    return scales if offset is None else scales.add_(offset)


class QuantizedTensor(SettingsInState):
    """A tensor as packed codes and one absmax per block. `absmax` is itself quantized after double quantization.

    It is a module, and its parts are buffers, so that they follow a model to another device and into its file.
    """

    def __init__(
        self,
        codes: Tensor,  # (n_bytes,) uint8: several codes a byte, the first in the high bits
        absmax: "Tensor | QuantizedTensor",  # (n_blocks,) float32, or quantized
        offset: Tensor | None,  # () float32: the mean taken off the absmax before they were quantized
        codebook: Tensor,  # (n_codes,) float32: one tensor for all that use it, and not saved
        block_size: int,
        shape: torch.Size,
        dtype: torch.dtype,
    ):
        super().__init__()
        self.block_size, self.shape, self.dtype = block_size, shape, dtype
        self.register_buffer("codes", codes)
        register = self.register_buffer if isinstance(absmax, Tensor) else self.add_module
        register("absmax", absmax)
        self.register_buffer("offset", offset)
        self.register_buffer("codebook", shared_codebook(codebook, codes.device), persistent=False)

    def settings(self) -> dict[str, Any]:
        """What the codes in a state dict stand for depends on these."""
        code = zlib.crc32(self.codebook.cpu().numpy().tobytes())
        absmax = None if isinstance(self.absmax, Tensor) else self.absmax.settings()
        here = {"shape": list(self.shape), "dtype": str(self.dtype), "block_size": self.block_size}
        return here | {"codebook": code, "absmax": absmax}

    @property
    def nbytes(self) -> int:
        """Bytes stored: packed codes, constants and the offset. The codebook is shared and does not count."""
        return self.codes.nbytes + self.absmax.nbytes + (0 if self.offset is None else self.offset.nbytes)

    @property
    def bits_per_weight(self) -> float:
        """Nominal bits per value: the code and its share of the constants, for a tensor without ragged ends."""
        bits_per_absmax = 32 if isinstance(self.absmax, Tensor) else self.absmax.bits_per_weight
        return math.ceil(math.log2(len(self.codebook))) + bits_per_absmax / self.block_size

    def block_scales(self) -> Tensor:
        """The absmax of every block (n_blocks,) in float32, as `dequantize` uses them."""
        return self.absmax if isinstance(self.absmax, Tensor) else stored_scales(self.absmax, self.offset)

    def dequantize(self, out: Tensor | None = None) -> Tensor:
        """Look every code up and multiply by its block's absmax. Returns a tensor of the original shape and dtype.

        out: a contiguous tensor of that shape and dtype to write into; saves the time to get new memory.
        """
        if out is None:
            out = torch.empty(self.shape, dtype=self.dtype, device=self.codes.device)
        check_out(out, self.shape, self.dtype)
        self._decode_into(out.view(-1))
        return out

    @contextmanager
    def decoded(self, dtype: torch.dtype) -> Iterator[Tensor]:
        """`with quantized.decoded(x.dtype) as W:` what `dequantize` returns, in this type, until the block ends.

        Products in the block keep that type: autocast is off. Then W's memory is used for the next tensor, of another
        layer perhaps: nothing may keep W, or a view of it.
        """
        exact = self.dtype in (torch.float32, dtype)  # else a value is rounded twice, first to the type that it had
        device, kind = self.codes.device, dtype if exact else self.dtype
        with torch.autocast(device.type, enabled=False), kernels.scratch(self.shape.numel(), kind, device) as flat:
            self._decode_into(flat)
            yield flat.view(self.shape).to(dtype)

    def _decode_into(self, flat: Tensor) -> None:
        codebook = self.codebook.to(self.codes.device)
        kernel(decode)(self.codes, self.block_scales(), codebook, self.block_size, flat)

    def _apply(self, fn: Callable, recurse: bool = True) -> "QuantizedTensor":
        """Follow a model to another device; where it is cast to another type, the constants stay as they are."""
        before = dict(self._buffers)
        super()._apply(fn, recurse)
        for name, tensor in before.items():
            if tensor is not None and self._buffers[name].dtype != tensor.dtype:
                self._buffers[name] = tensor.to(self._buffers[name].device)
        # `to_empty` and the meta device take the numbers of the rest; the codebook is known and keeps its own.
        self._buffers["codebook"] = shared_codebook(before["codebook"], self.codes.device)
        return self

    def extra_repr(self) -> str:
        return f"shape={tuple(self.shape)}, {self.dtype}, {len(self.codebook)} values, block_size={self.block_size}"


# --- checks ----------------------------------------------------------------------------------------------------------


def check_settings(block_size: int, double_quant: bool | DoubleQuant) -> None:
    """Raise ValueError or TypeError for settings that `quantize` cannot take."""
    check(whole(1), block_size=block_size)
    if not isinstance(double_quant, bool | DoubleQuant):
        raise TypeError(f"double_quant must be True, False or a DoubleQuant(...), got {double_quant!r}")
    if isinstance(double_quant, DoubleQuant):
        check(whole(1), block_size=double_quant.block_size)
        check(TRUTH, subtract_mean=double_quant.subtract_mean, constants_first=double_quant.constants_first)


def check_tensor(tensor: Tensor) -> None:
    """Raise TypeError for what has no floating-point numbers to round, ValueError if it has none at all."""
    if not isinstance(tensor, Tensor) or tensor.layout != torch.strided:
        raise TypeError(f"only dense torch tensors can be quantized, got {type(tensor).__name__}")
    if not tensor.is_floating_point() or tensor.itemsize == 1:  # float8 has no arithmetic
        raise TypeError(
            f"only floating-point tensors of 16 bits or more can be quantized, got {tensor.dtype}: "
            "convert with .float() first"
        )
    if tensor.numel() == 0:
        raise ValueError(f"the tensor is empty (shape {tuple(tensor.shape)}): there is nothing to quantize")


def check_finite(flat: Tensor, absmax: Tensor, shape: torch.Size) -> None:
    """Raise ValueError for NaN and infinity. They show in absmax, the largest magnitudes of blocks or of all."""
    if not absmax.is_meta and not absmax.isfinite().all():
        at = int((~flat.float().isfinite()).nonzero()[0])
        index = tuple(int(i) for i in torch.unravel_index(torch.tensor(at), shape))
        raise ValueError(f"the tensor has the value {flat[at].item()} at index {index}: all values must be finite")


def check_out(out: Tensor, shape: torch.Size, dtype: torch.dtype) -> None:
    if out.shape != shape or out.dtype != dtype or not out.is_contiguous():
        raise ValueError(
            f"out must be a contiguous {dtype} tensor of shape {tuple(shape)}, got {out.dtype} {tuple(out.shape)}"
        )
