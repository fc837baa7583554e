"""Exercise 3.3: answers, right and wrong. Which is which, and the points, are in a3_bytes.py."""

import numpy as np
import torch

from lora_edu import quantization as packing


def reference(codes, bits, fill_code):
    fill = torch.full((-len(codes) % 8,), fill_code, dtype=torch.uint8)
    groups = torch.cat([codes, fill]).view(-1, 8).long()  # (n_groups, 8)
    numbers = (groups << bits * torch.arange(8)).sum(dim=1)  # the first code in the low bits
    return (numbers[:, None] >> 8 * torch.arange(bits) & 255).flatten().to(torch.uint8)


# --- right -----------------------------------------------------------------------------------------------------------


def with_bit_strings(codes, bits, fill_code):
    codes, packed = codes.tolist(), []
    codes += [fill_code] * (-len(codes) % 8)
    for start in range(0, len(codes), 8):
        text = "".join(f"{code:0{bits}b}" for code in reversed(codes[start : start + 8]))
        packed += int(text, 2).to_bytes(bits, "little")
    return torch.tensor(packed, dtype=torch.uint8)


def with_packbits(codes, bits, fill_code, *, bitorder="little"):
    padded = np.append(codes.numpy(), np.full(-len(codes) % 8, fill_code, dtype=np.uint8))
    single = np.unpackbits(padded[:, None], axis=1, bitorder=bitorder)[:, :bits]  # (n, bits), the lowest bit first
    return np.packbits(single, bitorder=bitorder)


def as_one_large_number(codes, bits, fill_code):
    padded = [int(code) for code in codes] + [fill_code] * (-len(codes) % 8)
    number = sum(code * 2 ** (bits * i) for i, code in enumerate(padded))
    return torch.tensor(list(number.to_bytes(len(padded) * bits // 8, "little")), dtype=torch.uint8)


# --- wrong -----------------------------------------------------------------------------------------------------------


def in_groups(codes, fill_code):
    """(n_groups, 8) int64"""
    return torch.cat([codes, torch.full((-len(codes) % 8,), fill_code, dtype=torch.uint8)]).view(-1, 8).long()


def as_bytes(numbers, bits):
    return (numbers[:, None] >> 8 * torch.arange(bits) & 255).flatten().to(torch.uint8)


def first_in_the_high_bits(codes, bits, fill_code, turned=False):
    numbers = (in_groups(codes, fill_code) << bits * torch.arange(7, -1, -1)).sum(dim=1)
    packed = as_bytes(numbers, bits).view(-1, bits)
    return packed.flip(1).flatten() if turned else packed.flatten()


def high_byte_first(codes, bits, fill_code):
    return reference(codes, bits, fill_code).view(-1, bits).flip(1).flatten()


def filled_otherwise(codes, bits, fill, multiple=8):
    missing = (multiple - len(codes)) % multiple if multiple == 8 else multiple
    return reference(torch.cat([codes, torch.full((missing,), fill, dtype=torch.uint8)]), bits, fill)


def full_group_of_padding(codes, bits, fill_code):
    missing = 8 - len(codes) % 8
    return reference(torch.cat([codes, torch.full((missing,), fill_code, dtype=torch.uint8)]), bits, fill_code)


def as_few_bytes_as_possible(codes, bits, fill_code):
    return reference(codes, bits, 0)[: -(-len(codes) * bits // 8)]


def fields_of(width, bits_too=False):
    """Fields of 4 or 8 bits for each code, whatever their bits; the first one low."""

    def answer(codes, bits, fill_code):
        padded = in_groups(codes, fill_code).view(-1, 8 // width)
        return (padded << width * torch.arange(8 // width)).sum(dim=1).to(torch.uint8)

    return answer


def shifted_in_uint8(codes, bits, fill_code):
    groups = in_groups(codes, fill_code).to(torch.uint8)
    numbers = torch.zeros(len(groups), dtype=torch.long)
    for i in range(8):
        numbers |= ((groups[:, i].long() << bits * i) & 255).long()  # what eight bits keep of the shift
    return as_bytes(numbers, bits)


def far_apart(codes, bits, fill_code):
    """Codes i, i + n/8, i + 2n/8 ... share a group."""
    groups = in_groups(codes, fill_code)
    return reference(groups.flatten().view(8, -1).T.flatten().to(torch.uint8), bits, fill_code)


def added(codes, bits, fill_code):
    return as_bytes(in_groups(codes, fill_code).sum(dim=1), bits)


def in_place(codes, bits, fill_code):
    packed = reference(codes, bits, fill_code)
    codes <<= 8 - bits
    return packed


def lora_edu_(codes, bits, fill_code):
    return packing.pack(codes, torch.linspace(-1, 1, 2**bits))
