"""Exercise 3.5: answers, right and wrong. Which is which, and the points, are in a3_weights.py."""

import math

import numpy as np
import torch

from lora_edu import quantization


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
    codes = all_codes(packed, bits)[: math.prod(shape)]
    padded = torch.nn.functional.pad(codes, (0, -len(codes) % block_size))
    blocks = codebook[padded.view(-1, block_size)]  # (n_blocks, block_size)
    return torch.einsum("bi,b->bi", blocks, constants).flatten()[: len(codes)].reshape(shape)


# --- wrong -----------------------------------------------------------------------------------------------------------


def all_codes(packed, bits, byte=None, place=None):
    """All codes in the bytes; one of the steps may be another."""
    byte = torch.arange(bits) if byte is None else byte
    place = torch.arange(8) if place is None else place
    numbers = (packed.view(-1, bits).long() << 8 * byte).sum(dim=1)
    return (numbers[:, None] >> bits * place & 2**bits - 1).flatten()


def decoding(codes=all_codes, levels=None, scale=None):
    """An answer in which one of three steps is another: the codes, the levels behind them, the factor of each."""

    def answer(packed, bits, constants, codebook, block_size, shape):
        size = math.prod(shape)
        found = codes(packed, bits)[:size]
        values = codebook[found] if levels is None else levels(found, bits)
        factors = constants.repeat_interleave(block_size) if scale is None else scale(constants, block_size, size)
        return (values * factors[:size]).reshape(shape)

    return answer


def high_first(packed, bits):
    return all_codes(packed, bits, byte=torch.arange(bits - 1, -1, -1), place=torch.arange(7, -1, -1))


def bytes_turned(packed, bits):
    return all_codes(packed, bits, byte=torch.arange(bits - 1, -1, -1))


def nibbles(packed, bits):
    codes = torch.stack([packed & 15, packed >> 4], dim=1).flatten().long() % 2**bits
    return torch.cat([codes, codes])


def equal_steps(codes, bits):
    return codes.float() / (2**bits - 1) * 2 - 1


def uncut(packed, bits, constants, codebook, block_size, shape):
    """The padding of the last group is not cut off."""
    codes = all_codes(packed, bits)
    scale = constants.repeat_interleave(block_size)
    scale = torch.cat([scale, scale[-1:].expand(max(0, len(codes) - len(scale)))])[: len(codes)]
    weights = codebook[codes] * scale
    return weights.view(shape) if len(weights) == math.prod(shape) else weights


def whole_blocks_only(packed, bits, constants, codebook, block_size, shape):
    size = math.prod(shape)
    weights = reference(packed, bits, constants, codebook, block_size, shape).flatten()
    weights[size // block_size * block_size :] = 0
    return weights.view(shape)


def padding_first(packed, bits, constants, codebook, block_size, shape):
    size = math.prod(shape)
    return (codebook[all_codes(packed, bits)[-size:]] * constants.repeat_interleave(block_size)[:size]).view(shape)


def in_place(packed, bits, constants, codebook, block_size, shape):
    """Unpacks by moving the input itself down, one code after the other."""
    weights = reference(packed, bits, constants, codebook, block_size, shape)
    packed >>= bits
    return weights


def lora_edu_(packed, bits, constants, codebook, block_size, shape):
    stored = quantization.QuantizedTensor(
        packed, constants, None, codebook, block_size, torch.Size(shape), torch.float32
    )
    return stored.dequantize()
