"""Exercise 3.3, eight codes without a gap: right and wrong answers."""

import numpy as np
import torch

from classroom.solutions import Solutions, Wrong
from lora_edu import quantization as packing


def filling(count, code):
    return torch.full((count,), code, dtype=torch.uint8)


def in_groups(codes, fill_code):
    """(n_groups, 8) int64"""
    return torch.cat([codes, filling(-len(codes) % 8, fill_code)]).view(-1, 8).long()


def as_bytes(numbers, bits):
    return (numbers[:, None] >> 8 * torch.arange(bits) & 255).flatten().to(torch.uint8)


def reference(codes, bits, fill_code):
    return as_bytes((in_groups(codes, fill_code) << bits * torch.arange(8)).sum(dim=1), bits)  # the first code low


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


# --- wrong -----------------------------------------------------------------------------------------------------------


def first_in_the_high_bits(codes, bits, fill_code, turned=False):
    numbers = (in_groups(codes, fill_code) << bits * torch.arange(7, -1, -1)).sum(dim=1)
    packed = as_bytes(numbers, bits).view(-1, bits)
    return packed.flip(1).flatten() if turned else packed.flatten()


def fields_of(width):
    """Fields of 4 or 8 bits for each code, whatever their bits; the first one low."""

    def answer(codes, bits, fill_code):
        fields = in_groups(codes, fill_code).view(-1, 8 // width)
        return (fields << width * torch.arange(8 // width)).sum(dim=1).to(torch.uint8)

    return answer


def shifted_in_uint8(codes, bits, fill_code):
    groups = in_groups(codes, fill_code)
    numbers = torch.zeros(len(groups), dtype=torch.long)
    for i in range(8):
        numbers |= groups[:, i] << bits * i & 255  # what eight bits keep of the shift
    return as_bytes(numbers, bits)


def of_other_codes(change):
    """The right bytes of codes that were changed first."""
    return lambda c: lambda codes, bits, fill: reference(change(codes, fill), bits, fill)


def in_place(codes, bits, fill_code):
    packed = reference(codes, bits, fill_code)
    codes <<= 8 - bits
    return packed


PACKING = "notebook 06, section 3"

WRONG = [
    Wrong("the first code in the high bits", lambda c: lambda *case: first_in_the_high_bits(*case, turned=True), 0,
          "the first code of a group lies in its highest bits, as in bitsandbytes. Here it lies in the lowest bits of "
          "the first byte: code i is moved up by bits * i.", PACKING),
    Wrong("the order of the codes turned round, and not the bytes", lambda c: first_in_the_high_bits, 0,
          "the codes of each group are in reverse order: code 0 is moved up the farthest. Move code i up by bits * i.",
          PACKING),
    Wrong("the high byte first", lambda c: lambda *case: reference(*case).view(-1, case[1]).flip(1).flatten(), 0,
          "the number of each group is right, and its bytes are in reverse order: the lowest byte comes first.",
          PACKING),
    Wrong("one code a byte", lambda c: fields_of(8), 0,
          "this keeps one code in each byte: 8 bits for each, whatever `bits` says.", PACKING),
    Wrong("two codes a byte", lambda c: fields_of(4), 0,
          "each code has a field of 4 bits, two a byte. A code has `bits` bits, and the next one follows "
          "without a gap, over the end of a byte.", PACKING),
    Wrong("the rest is dropped", of_other_codes(lambda codes, fill: codes[: len(codes) // 8 * 8]), 4,
          "the last codes are dropped where they do not fill a group of eight. Fill the group up, and keep it.",
          PACKING),
    Wrong("filled with code 0", lambda c: lambda codes, bits, fill: reference(codes, bits, 0), 4,
          "the last group is filled up with code 0. Fill it with `fill_code`.", PACKING),
    Wrong("filled with the last code", lambda c: lambda codes, bits, fill: reference(codes, bits, int(codes[-1])), 4,
          "the last group is filled up with copies of the last code. Fill it with `fill_code`.", PACKING),
    Wrong("filled in front", of_other_codes(lambda codes, fill: torch.cat([filling(-len(codes) % 8, fill), codes])), 4,
          "the codes that fill up stand in front, and move all the others. They belong behind the last code.", PACKING),
    Wrong("a group of padding where nothing is missing",
          of_other_codes(lambda codes, fill: torch.cat([codes, filling(8 - len(codes) % 8, fill)])), 3,
          "where the codes fill their groups, this adds a group of padding. What is missing is -n % 8: nothing, if 8 "
          "divides n.", PACKING),
    Wrong("as few bytes as possible",
          lambda c: lambda codes, bits, fill: reference(codes, bits, 0)[: -(-len(codes) * bits // 8)], 4,
          "the last group ends with the last byte that is needed. This format fills the group up to eight codes, so "
          "that the number of bytes is a multiple of `bits`.", PACKING),
    Wrong("shifted in eight bits", lambda c: shifted_in_uint8, 0,
          "the codes are moved up inside eight bits, and what goes over the top is lost. Convert them to int64 "
          "first: a group of eight is a number of 8 * bits bits.", PACKING),
    Wrong("the codes are added", lambda c: lambda codes, bits, fill: as_bytes(in_groups(codes, fill).sum(dim=1), bits),
          0,
          "the eight codes are added up without being moved: they cannot be told apart again. Code i is moved up by "
          "bits * i first.", PACKING),
    Wrong("groups of codes that lie apart",
          of_other_codes(lambda codes, fill: in_groups(codes, fill).view(8, -1).T.flatten().to(torch.uint8)), 0,
          "a group is made of codes that lie apart. Eight neighbors share a group: codes 0 to 7, and so on.", PACKING),
    Wrong("three bits, whatever is asked", lambda c: lambda codes, bits, fill: reference(codes, 3, fill), 0,
          "this packs with 3 bits, whatever `bits` says: larger codes run into their neighbors.", PACKING),
    Wrong("bytes of 64 bits", lambda c: lambda *case: reference(*case).long(), 5,
          "the bytes are right, and each is stored in 64 bits. Convert them with .to(torch.uint8).", PACKING),
    Wrong("the codes are moved in place", lambda c: in_place, 5,
          "the bytes are right, but the codes that you were given are changed. Work on a copy.", PACKING),
    Wrong("lora_edu", lambda c: lambda codes, bits, fill: packing.pack(codes, torch.linspace(-1, 1, 2**bits)), 0),
]  # fmt: skip

RIGHT = {"strings of bits": lambda c: with_bit_strings, "np.packbits, an extra keyword": lambda c: with_packbits}
SOLUTIONS = Solutions(lambda c: reference, RIGHT, WRONG)
