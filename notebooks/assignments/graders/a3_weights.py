"""Exercise 3.5, from bytes back to weights: the reference, other right answers, and wrong ones."""

import math

import numpy as np
import torch
from a3_cheats import cheats

from lora_edu import quantization
from lora_edu.classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
BACK = "notebook 06, section 3"


def reference(packed, bits, constants, codebook, block_size, shape):
    size = math.prod(shape)
    numbers = (packed.view(-1, bits).long() << 8 * torch.arange(bits)).sum(dim=1)  # one for each group of eight codes
    codes = (numbers[:, None] >> bits * torch.arange(8) & 2**bits - 1).flatten()[:size]
    return (codebook[codes] * constants.repeat_interleave(block_size)[:size]).view(shape)


# --- right -----------------------------------------------------------------------------------------------------------


def one_large_number(packed, bits, constants, codebook, block_size, shape):
    number = int.from_bytes(bytes(packed.tolist()), "little")
    weights = torch.empty(math.prod(shape))
    for i in range(len(weights)):
        code = number >> bits * i & 2**bits - 1
        weights[i] = codebook[code] * constants[i // block_size]
    return weights.reshape(shape)


def with_unpackbits(packed, bits, constants, codebook, block_size, shape, *, bitorder="little"):
    single = np.unpackbits(packed.numpy(), bitorder=bitorder).reshape(-1, bits)  # the lowest bit of each code first
    codes = single @ 2 ** np.arange(bits)
    size = math.prod(shape)
    weights = codebook.numpy()[codes[:size]] * np.repeat(constants.numpy(), block_size)[:size]
    return weights.reshape(shape).astype(np.float32)


def in_padded_blocks(packed, bits, constants, codebook, block_size, shape):
    codes = _codes(packed, bits)[: math.prod(shape)]
    padded = torch.nn.functional.pad(codes, (0, -len(codes) % block_size))
    blocks = codebook[padded.view(-1, block_size)]  # (n_blocks, block_size)
    return torch.einsum("bi,b->bi", blocks, constants).flatten()[: len(codes)].reshape(shape)


# --- wrong -----------------------------------------------------------------------------------------------------------


def _codes(packed, bits, byte=None, place=None, mask=None):
    """All codes in the bytes; one of the steps may be another."""
    byte = torch.arange(bits) if byte is None else byte
    place = torch.arange(8) if place is None else place
    numbers = (packed.view(-1, bits).long() << 8 * byte).sum(dim=1)
    return (numbers[:, None] >> bits * place & (2**bits - 1 if mask is None else mask)).flatten()


def _weights(codes=_codes, levels=None, scale=None):
    """An answer in which one of three steps is another: the codes, the levels behind them, the factor of each."""

    def answer(packed, bits, constants, codebook, block_size, shape):
        size = math.prod(shape)
        found = codes(packed, bits)[:size]
        values = codebook[found] if levels is None else levels(found, bits)
        factors = constants.repeat_interleave(block_size) if scale is None else scale(constants, block_size, size)
        return (values * factors[:size]).reshape(shape)

    return answer


def _high_first(packed, bits):
    return _codes(packed, bits, byte=torch.arange(bits - 1, -1, -1), place=torch.arange(7, -1, -1))


def _bytes_turned(packed, bits):
    return _codes(packed, bits, byte=torch.arange(bits - 1, -1, -1))


def _nibbles(packed, bits):
    codes = torch.stack([packed & 15, packed >> 4], dim=1).flatten().long() % 2**bits
    return torch.cat([codes, codes])


def _gathered_in_uint8(packed, bits):
    """The bytes are moved up inside eight bits: only the first of each group is left."""
    return _codes(packed, bits, mask=None) * (torch.arange(8).repeat(len(packed) // bits) * bits < 8)


def _equal_steps(codes, bits):
    return codes.float() / (2**bits - 1) * 2 - 1


def _uncut(packed, bits, constants, codebook, block_size, shape):
    """The padding of the last group is not cut off."""
    codes = _codes(packed, bits)
    scale = constants.repeat_interleave(block_size)
    scale = torch.cat([scale, scale[-1:].expand(max(0, len(codes) - len(scale)))])[: len(codes)]
    weights = codebook[codes] * scale
    return weights.view(shape) if len(weights) == math.prod(shape) else weights


def _whole_blocks_only(packed, bits, constants, codebook, block_size, shape):
    size = math.prod(shape)
    weights = reference(packed, bits, constants, codebook, block_size, shape).flatten()
    weights[size // block_size * block_size :] = 0
    return weights.view(shape)


def _padding_first(packed, bits, constants, codebook, block_size, shape):
    size = math.prod(shape)
    return (codebook[_codes(packed, bits)[-size:]] * constants.repeat_interleave(block_size)[:size]).view(shape)


def _in_place(packed, bits, constants, codebook, block_size, shape):
    """Unpacks by moving the input itself down, one code after the other."""
    weights = reference(packed, bits, constants, codebook, block_size, shape)
    packed >>= bits
    return weights


def _float64(packed, bits, constants, codebook, block_size, shape):
    codes = _codes(packed, bits)[: math.prod(shape)]
    weights = torch.zeros(len(codes), dtype=torch.float64)
    weights[torch.arange(len(codes))] = codebook[codes] * constants.repeat_interleave(block_size)[: len(codes)]
    return weights.view(shape)


def _lora_edu(packed, bits, constants, codebook, block_size, shape):
    stored = quantization.QuantizedTensor(
        packed, constants, None, codebook, block_size, torch.Size(shape), torch.float32
    )
    return stored.dequantize()


def _lora_edu_unpack(packed, bits):
    codes = quantization.unpack(packed, 2**bits).long() % 2**bits
    return torch.cat([codes, codes])


def _bitsandbytes(packed, bits, constants, codebook, block_size, shape):
    import bitsandbytes.functional as bnb

    state = bnb.QuantState(constants, torch.Size(shape), codebook, block_size, "nf4", torch.float32)
    return bnb.dequantize_4bit(packed, state)


WRONG = [
    Wrong(
        "the first code in the high bits",
        lambda c: _weights(_high_first),
        keeps=0,
        sentence="the first code is taken from the highest bits of a group, as bitsandbytes has it. Here it lies in "
        "the lowest bits of the group's first byte.",
        see=BACK,
    ),
    Wrong(
        "the bytes of a group turned round",
        lambda c: _weights(_bytes_turned),
        keeps=0,
        sentence="the bytes of each group are put together in reverse order: the first byte holds the lowest bits.",
        see=BACK,
    ),
    Wrong(
        "the codes of a group turned round",
        lambda c: _weights(lambda packed, bits: _codes(packed, bits, place=torch.arange(7, -1, -1))),
        keeps=0,
        sentence="the codes of each group come out in reverse order: code i is moved down by bits * i.",
        see=BACK,
    ),
    Wrong(
        "two codes a byte",
        lambda c: _weights(_nibbles),
        keeps=0,
        sentence="two codes are taken from each byte. Here eight codes lie in `bits` bytes without a gap, some of them "
        "over the end of a byte.",
        see=BACK,
    ),
    Wrong(
        "one code a byte",
        lambda c: _weights(lambda packed, bits: (packed.long() % 2**bits).repeat(3)),
        keeps=0,
        sentence="one code is taken from each byte, its lowest bits; the other bits of the byte belong to the codes "
        "that follow.",
        see=BACK,
    ),
    Wrong(
        "moved up in eight bits",
        lambda c: _weights(_gathered_in_uint8),
        keeps=0,
    ),
    Wrong(
        "the codes themselves",
        lambda c: _weights(levels=lambda codes, bits: codes.float()),
        keeps=0,
        sentence="the codes are multiplied by the constants. A code is an index: look its level up in the codebook.",
        see=BACK,
    ),
    Wrong(
        "equal steps",
        lambda c: _weights(levels=_equal_steps),
        keeps=0,
        sentence="the codes are taken for equal steps from -1 to 1. Look the level of each up in the codebook.",
        see="notebook 06, section 1",
    ),
    Wrong(
        "the constants are forgotten",
        lambda c: _weights(scale=lambda constants, block_size, size: torch.ones(size)),
        keeps=0,
        sentence="these are the levels, between -1 and 1. Multiply each by the constant of its block.",
        see=BACK,
    ),
    Wrong(
        "the sign of the constants is dropped",
        lambda c: _weights(scale=lambda constants, block_size, size: constants.abs().repeat_interleave(block_size)),
        keeps=0,
        sentence="the constants have lost their sign. A block with a negative one comes back with all signs turned.",
        see=BACK,
    ),
    Wrong(
        "divided by the constants",
        lambda c: _weights(scale=lambda constants, block_size, size: 1 / constants.repeat_interleave(block_size)),
        keeps=0,
        sentence="the levels are divided by the constants. Encoding divides, and decoding multiplies.",
        see=BACK,
    ),
    Wrong(
        "constants repeated in turn",
        lambda c: _weights(scale=lambda constants, block_size, size: constants.repeat(block_size)),
        keeps=0,
        sentence="the constants are dealt out in turn, one weight each. The first block_size weights share the first "
        "constant: `repeat_interleave` does that, `repeat` does not.",
        see=BLOCKS,
    ),
    Wrong(
        "the neighbor's constant",
        lambda c: _weights(scale=lambda constants, block_size, size: constants.roll(1).repeat_interleave(block_size)),
        keeps=0,
        sentence="each block is multiplied by the constant of the block before it.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: _weights(scale=lambda k, block_size, size: k[k.abs().argmax()].expand(size)),
        keeps=0,
        sentence="one constant, the largest, multiplies everything. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong(
        "a constant for each row",
        lambda c: lambda packed, bits, k, book, size, shape: reference(packed, bits, k, book, shape[-1], shape),
        keeps=0,
        sentence="each row is multiplied by one constant. Blocks run through the flattened weight, on over the end of "
        "a row.",
        see=BLOCKS,
    ),
    Wrong(
        "columns first",
        lambda c: lambda *case: reference(*case).reshape(tuple(case[-1])[::-1]).T.contiguous(),
        keeps=0,
        sentence="the weights fill the shape column by column. They were flattened row by row.",
        see=BLOCKS,
    ),
    Wrong("left flat", lambda c: lambda *case: reference(*case).flatten(), keeps=0),
    Wrong(
        "the padding is not cut off",
        lambda c: _uncut,
        keeps=3,
        sentence="the codes that fill up the last group come back as weights. Cut them off: the shape says how many "
        "weights there are.",
        see=BACK,
    ),
    Wrong(
        "the padding is cut off in front",
        lambda c: _padding_first,
        keeps=3,
        sentence="the padding is cut off at the beginning. It stands at the end.",
        see=BACK,
    ),
    Wrong(
        "the short last block is dropped",
        lambda c: _whole_blocks_only,
        keeps=3,
        sentence="the weights of the short last block are 0. It has a constant too.",
        see=BLOCKS,
    ),
    Wrong(
        "one code too high",
        lambda c: _weights(lambda packed, bits: (_codes(packed, bits) + 1) % 2**bits),
        keeps=0,
    ),
    Wrong(
        "weights in float64",
        lambda c: lambda *case: reference(*case).double(),
        keeps=3,
        sentence="the weights are right, and stored in float64: twice the bytes of float32.",
        see="notebook 05, section 1",
    ),
    Wrong(
        "the packed bytes are moved in place",
        lambda c: _in_place,
        keeps=3,
        sentence="the weights are right, but the packed bytes are changed: the layer could be decoded only once. Work "
        "on a copy.",
        see=BACK,
    ),
    Wrong(
        "this cohort's bits, whatever is asked",
        lambda c: lambda packed, bits, *rest: reference(packed, c.bits, *rest),
        0,
    ),
    Wrong("three bits, whatever is asked", lambda c: lambda packed, bits, *rest: reference(packed, 3, *rest), keeps=0),
    Wrong("float64 is assumed", lambda c: _float64, keeps=0),
    Wrong("lora_edu, dequantize", lambda c: _lora_edu, keeps=0),
    Wrong("lora_edu, unpack", lambda c: _weights(_lora_edu_unpack), keeps=0),
    Wrong("bitsandbytes", lambda c: _bitsandbytes, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: reference,
    right={
        "one large number and a loop": lambda c: one_large_number,
        "NumPy, np.unpackbits, an extra keyword": lambda c: with_unpackbits,
        "padded blocks, einsum": lambda c: in_padded_blocks,
    },
    wrong=[*WRONG, *cheats("3.5", reference)],
)
