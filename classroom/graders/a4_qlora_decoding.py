"""4.3: from bytes to a weight. `decoded` is right; each switch turns one mistake on."""

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu import nf_codebook
from lora_edu.assignments.core import Constants
from lora_edu.quantization import QuantizedTensor


def halves(packed: torch.Tensor, first: str) -> torch.Tensor:
    """Two codes a byte: (2 n_bytes,) in order."""
    low, high = packed & 15, packed >> 4
    return torch.stack([low, high] if first == "low" else [high, low], dim=1).flatten().long()


def decoded(
    c: Constants, packed, codes, scales, offset, shape,
    levels=None, add_back=True, interleave=True, one_scale=False,
    first=None, codebook=None, rows=False, one_constant=False, cycle=False,
) -> tuple:  # fmt: skip
    """-> constants (n_blocks,), W (d_out, d_in), with one mistake at a time."""
    levels = torch.tensor(c.levels) if levels is None else levels
    each = scales.repeat_interleave(c.second_size) if interleave else scales.repeat(c.second_size)
    each = scales.max().expand(len(codes)) if one_scale else each[: len(codes)]
    constants = levels[codes.long()] * each + (offset if add_back else 0)
    values = (torch.tensor(c.codebook) if codebook is None else codebook)[halves(packed, first or c.first_half)]
    n = shape[0] * shape[1]
    per_weight = constants.repeat(c.block_size) if cycle else constants.repeat_interleave(c.block_size)
    flat = values[:n] * (constants.max() if one_constant else per_weight[:n])
    return constants, flat.view(shape) if rows else flat.view(shape[1], shape[0]).T


def with_(**changes):
    return lambda c: lambda *stored: decoded(c, *stored, **{k: v(c) if callable(v) else v for k, v in changes.items()})


def reference(c):
    def decode(packed, codes, scales, offset, shape):
        constants = (
            torch.tensor(c.levels)[codes.long()] * scales.repeat_interleave(c.second_size)[: len(codes)] + offset
        )
        low, high = packed & 15, packed >> 4
        pairs = [low, high] if c.first_half == "low" else [high, low]
        n = shape[0] * shape[1]
        values = torch.tensor(c.codebook)[torch.stack(pairs, dim=1).flatten()[:n].long()]
        flat = values * constants.repeat_interleave(c.block_size)[:n]
        return constants, flat.view(shape[1], shape[0]).T  # column by column

    return decode


def with_loops(c):
    def decode(packed, codes, scales, offset, shape, dtype=torch.float32):
        constants = torch.zeros(len(codes), dtype=dtype)
        for i, code in enumerate(codes.tolist()):
            constants[i] = c.levels[code] * scales[i // c.second_size] + offset
        d_out, d_in = shape
        W = torch.zeros(d_out, d_in, dtype=dtype)
        for column in range(d_in):
            for row in range(d_out):
                i = column * d_out + row
                byte = int(packed[i // 2])
                takes_low = (i % 2 == 0) == (c.first_half == "low")
                W[row, column] = c.codebook[byte % 16 if takes_low else byte // 16] * constants[i // c.block_size]
        return constants, W

    return decode


def in_numpy(c):
    def decode(packed, codes, scales, offset, shape):
        n = shape[0] * shape[1]
        constants = (
            np.array(c.levels)[codes.numpy()] * np.repeat(scales.numpy(), c.second_size)[: len(codes)] + offset.item()
        )
        index = np.empty(2 * len(packed), dtype=int)
        low_first = c.first_half == "low"
        index[0::2], index[1::2] = (
            packed.numpy() >> (0 if low_first else 4) & 15,
            packed.numpy() >> (4 if low_first else 0) & 15,
        )
        flat = np.array(c.codebook)[index[:n]] * constants[np.arange(n) // c.block_size]
        W = flat.reshape(shape, order="F")
        return torch.tensor(constants, dtype=torch.float32), torch.tensor(W, dtype=torch.float32)

    return decode


def by_gathering(c):
    """An index for each entry of W, and no reshaping."""

    def decode(packed, codes, scales, offset, shape):
        row, column = torch.meshgrid(torch.arange(shape[0]), torch.arange(shape[1]), indexing="ij")
        place = column * shape[0] + row
        shift = 4 * ((place % 2 == 0) ^ (c.first_half == "low")).long()
        index = packed.long()[place // 2] >> shift & 15
        constants = torch.addcmul(
            offset, torch.tensor(c.levels)[codes.int()], scales[torch.arange(len(codes)) // c.second_size]
        )
        return [constants, torch.tensor(c.codebook)[index] * constants[place // c.block_size]]

    return decode


def changed_in_place(c):
    def decode(packed, codes, scales, offset, shape):
        constants = (
            scales.repeat_interleave(c.second_size)[: len(codes)]
            .mul_(torch.tensor(c.levels)[codes.long()])
            .add_(offset)
        )
        _, weight = decoded(c, packed, codes, scales, offset, shape)
        packed.bitwise_right_shift_(4)
        return constants, weight

    return decode


def without_flattening(c):
    """The filler of the last byte is taken for a weight."""

    def decode(packed, codes, scales, offset, shape):
        values = torch.tensor(c.codebook)[halves(packed, c.first_half)]
        constants, _ = decoded(c, packed, codes, scales, offset, shape)
        return constants, (values * constants.repeat_interleave(c.block_size)[: len(values)]).view(shape[1], shape[0]).T

    return decode


def typed(change):
    return lambda c: lambda *stored: change(*decoded(c, *stored))


def of_the_package(c):
    """QuantizedTensor reads rows, and the first code from the high half."""

    def decode(packed, codes, scales, offset, shape):
        second = QuantizedTensor(codes, scales, None, torch.tensor(c.levels), c.second_size, codes.shape, torch.float32)
        weight = QuantizedTensor(
            packed, second, offset, torch.tensor(c.codebook), c.block_size, torch.Size(shape), torch.float32
        )
        return weight.block_scales(), weight.dequantize()

    return decode


LEVEL_2, PACKING = "notebook 07, section 2", "notebook 06, section 3"
OTHER_HALF = {"low": "high", "high": "low"}
DECODE = Solutions(
    reference=reference,
    right={"loops": with_loops, "NumPy": in_numpy, "an index for each entry": by_gathering},
    wrong=[
        Wrong("halves of a byte swapped", with_(first=lambda c: OTHER_HALF[c.first_half]), 2,
              "the two codes of a byte are swapped. The first one lies in the half that c.first_half names.", PACKING),
        Wrong("offset not added back", with_(add_back=False), 0,
              "the offset is not added back. What was taken off at the start belongs to every constant again.",
              "notebook 07, section 2"),
        Wrong("scales go round", with_(interleave=False), 0,
              "the scales go round from constant to constant. The first c.second_size constants share the first scale.",
              LEVEL_2),
        Wrong("one scale", with_(one_scale=True), 0,
              "one scale serves all constants. Each block of c.second_size constants has its own.", LEVEL_2),
        Wrong("rows instead of columns", with_(rows=True), 2,
              "the weight is filled row by row. It was written down column by column: the blocks run down the columns.",
              PACKING),
        Wrong("one constant", with_(one_constant=True), 2,
              "one constant serves the whole weight. Each block of c.block_size weights has its own.",
              "notebook 05, section 4"),
        Wrong("constants go round", with_(cycle=True), 2,
              "the constants go round from weight to weight. The first c.block_size weights share the first constant.",
              "notebook 05, section 4"),
        Wrong("codes not looked up", with_(codebook=lambda c: torch.arange(16.0)), 2,
              "the codes themselves are multiplied. A code is an index: look its value up in c.codebook.",
              "notebook 09, exercise 9.2"),
        Wrong("NF4", with_(codebook=lambda c: nf_codebook(4)), 2,
              "these are the values of NF4. The codes stand for those in c.codebook.", PACKING),
        Wrong("levels taken for equally spaced",
              with_(levels=lambda c: torch.linspace(c.levels[0], c.levels[-1], len(c.levels))), 0,
              "the levels are taken for equally spaced. They are those in c.levels.", "notebook 07, section 5"),
        Wrong("input changed", changed_in_place, 4,
              "an argument is changed. The layer needs its bytes again, for the backward pass.",
              "notebook 08, section 5"),
        Wrong("the filler taken for a weight", without_flattening, 4),
        Wrong("transposed", typed(lambda constants, W: (constants, W.T)), 2),
        Wrong("fixed shape", typed(lambda constants, W: (constants, W.reshape(17, -1))), 1),
        Wrong("lora_edu", of_the_package, 2),
    ],
)  # fmt: skip
