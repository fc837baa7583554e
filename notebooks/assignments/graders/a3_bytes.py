"""Exercise 3.4, eight codes without a gap: the reference, other right answers, and wrong ones."""

import numpy as np
import torch
from a3_cheats import cheats

from lora_edu import quantization
from lora_edu.classroom.solutions import Solutions, Wrong

PACKING = "notebook 06, section 3"


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


def bit_by_bit(codes, bits, fill_code):
    padded = torch.cat([codes.int(), torch.full((-len(codes) % 8,), fill_code, dtype=torch.int32)])
    packed = torch.zeros(len(padded) * bits // 8, dtype=torch.uint8)
    for i in range(len(padded) * bits):
        packed[i // 8] |= (padded[i // bits].item() >> i % bits & 1) << i % 8
    return packed


# --- wrong -----------------------------------------------------------------------------------------------------------


def _groups(codes, fill_code):
    """(n_groups, 8) int64"""
    return torch.cat([codes, torch.full((-len(codes) % 8,), fill_code, dtype=torch.uint8)]).view(-1, 8).long()


def _bytes(numbers, bits):
    return (numbers[:, None] >> 8 * torch.arange(bits) & 255).flatten().to(torch.uint8)


def _first_in_the_high_bits(codes, bits, fill_code, turned=False):
    numbers = (_groups(codes, fill_code) << bits * torch.arange(7, -1, -1)).sum(dim=1)
    packed = _bytes(numbers, bits).view(-1, bits)
    return packed.flip(1).flatten() if turned else packed.flatten()


def _high_byte_first(codes, bits, fill_code):
    return reference(codes, bits, fill_code).view(-1, bits).flip(1).flatten()


def _filled_otherwise(codes, bits, fill, multiple=8):
    missing = (multiple - len(codes)) % multiple if multiple == 8 else multiple
    return reference(torch.cat([codes, torch.full((missing,), fill, dtype=torch.uint8)]), bits, fill)


def _full_group_of_padding(codes, bits, fill_code):
    missing = 8 - len(codes) % 8
    return reference(torch.cat([codes, torch.full((missing,), fill_code, dtype=torch.uint8)]), bits, fill_code)


def _as_few_bytes_as_possible(codes, bits, fill_code):
    return reference(codes, bits, 0)[: -(-len(codes) * bits // 8)]


def _fields_of(width, bits_too=False):
    """Fields of 4 or 8 bits for each code, whatever their bits; the first one low."""

    def answer(codes, bits, fill_code):
        padded = _groups(codes, fill_code).view(-1, 8 // width)
        return (padded << width * torch.arange(8 // width)).sum(dim=1).to(torch.uint8)

    return answer


def _shifted_in_uint8(codes, bits, fill_code):
    groups = _groups(codes, fill_code).to(torch.uint8)
    numbers = torch.zeros(len(groups), dtype=torch.long)
    for i in range(8):
        numbers |= ((groups[:, i].long() << bits * i) & 255).long()  # what eight bits keep of the shift
    return _bytes(numbers, bits)


def _columns(codes, bits, fill_code):
    """Codes i, i + n/8, i + 2n/8 ... share a group."""
    groups = _groups(codes, fill_code)
    return reference(groups.flatten().view(8, -1).T.flatten().to(torch.uint8), bits, fill_code)


def _in_place(codes, bits, fill_code):
    packed = reference(codes, bits, fill_code)
    codes <<= 8 - bits
    return packed


def _float64(codes, bits, fill_code):
    padded = torch.cat([codes, torch.full((-len(codes) % 8,), float(fill_code), dtype=torch.float64)])
    return _bytes((padded.view(-1, 8) << bits * torch.arange(8)).sum(dim=1), bits)


def _bitsandbytes(codes, bits, fill_code):
    import bitsandbytes.functional

    levels = codes.float() / (2**bits - 1) * 2 - 1
    return bitsandbytes.functional.quantize_4bit(levels, blocksize=64, quant_type="nf4")[0].flatten()


WRONG = [
    Wrong(
        "the first code in the high bits",
        lambda c: lambda *case: _first_in_the_high_bits(*case, turned=True),
        keeps=0,
        sentence="the first code of a group lies in its highest bits, as in bitsandbytes. Here it lies in the lowest "
        "bits of the first byte: code i is moved up by bits * i.",
        see=PACKING,
    ),
    Wrong(
        "the order of the codes turned round, and not the bytes",
        lambda c: _first_in_the_high_bits,
        keeps=0,
        sentence="the codes of each group are in reverse order: code 0 is moved up the farthest. Move code i up by "
        "bits * i.",
        see=PACKING,
    ),
    Wrong(
        "the high byte first",
        lambda c: _high_byte_first,
        keeps=0,
        sentence="the number of each group is right, and its bytes are in reverse order: the lowest byte comes first.",
        see=PACKING,
    ),
    Wrong(
        "one code a byte",
        lambda c: _fields_of(8),
        keeps=0,
        sentence="this keeps one code in each byte: 8 bits for each, whatever `bits` says.",
        see="notebook 05, section 2",
    ),
    Wrong(
        "two codes a byte",
        lambda c: _fields_of(4),
        keeps=0,
        sentence="each code has a field of 4 bits, two a byte. A code has `bits` bits, and the next one follows "
        "without a gap, over the end of a byte.",
        see=PACKING,
    ),
    Wrong(
        "the rest is dropped",
        lambda c: lambda codes, bits, fill: reference(codes[: len(codes) // 8 * 8], bits, fill),
        keeps=3,
        sentence="the last codes are dropped where they do not fill a group of eight. Fill the group up, and keep it.",
        see=PACKING,
    ),
    Wrong(
        "filled with code 0",
        lambda c: lambda codes, bits, fill: _filled_otherwise(codes, bits, 0),
        keeps=3,
        sentence="the last group is filled up with code 0. Fill it with `fill_code`.",
        see=PACKING,
    ),
    Wrong(
        "filled with the last code",
        lambda c: lambda codes, bits, fill: _filled_otherwise(codes, bits, int(codes[-1])),
        keeps=3,
        sentence="the last group is filled up with copies of the last code. Fill it with `fill_code`.",
        see=PACKING,
    ),
    Wrong(
        "filled in front",
        lambda c: (
            lambda codes, bits, fill: reference(
                torch.cat([torch.full((-len(codes) % 8,), fill, dtype=torch.uint8), codes]), bits, fill
            )
        ),
        keeps=3,
        sentence="the codes that fill up stand in front, and move all the others. They belong behind the last code.",
        see=PACKING,
    ),
    Wrong(
        "a group of padding where nothing is missing",
        lambda c: _full_group_of_padding,
        keeps=1,
        sentence="where the codes fill their groups, this adds a group of padding. What is missing is -n % 8: nothing, "
        "if 8 divides n.",
        see=PACKING,
    ),
    Wrong(
        "as few bytes as possible",
        lambda c: _as_few_bytes_as_possible,
        keeps=3,
        sentence="the last group ends with the last byte that is needed. This format fills the group up to eight "
        "codes, so that the number of bytes is a multiple of `bits`.",
        see=PACKING,
    ),
    Wrong(
        "shifted in eight bits",
        lambda c: _shifted_in_uint8,
        keeps=0,
        sentence="the codes are moved up inside eight bits, and what goes over the top is lost. Convert them to int64 "
        "first: a group of eight is a number of 8 * bits bits.",
        see=PACKING,
    ),
    Wrong(
        "the codes are added",
        lambda c: lambda codes, bits, fill: _bytes(_groups(codes, fill).sum(dim=1), bits),
        keeps=0,
        sentence="the eight codes are added up without being moved: they cannot be told apart again. Code i is moved "
        "up by bits * i first.",
        see=PACKING,
    ),
    Wrong(
        "moved by one bit too few",
        lambda c: (
            lambda codes, bits, fill: _bytes((_groups(codes, fill) << (bits - 1) * torch.arange(8)).sum(dim=1), bits)
        ),
        keeps=0,
    ),
    Wrong(
        "groups of codes that lie apart",
        lambda c: _columns,
        keeps=0,
        sentence="a group is made of codes that lie apart. Eight neighbors share a group: codes 0 to 7, and so on.",
        see=PACKING,
    ),
    Wrong(
        "three bits, whatever is asked",
        lambda c: lambda codes, bits, fill: reference(codes, 3, fill),
        keeps=0,
        sentence="this packs with 3 bits, whatever `bits` says: larger codes run into their neighbors.",
        see=PACKING,
    ),
    Wrong(
        "this cohort's bits, whatever is asked", lambda c: lambda codes, bits, fill: reference(codes, c.bits, fill), 0
    ),
    Wrong("a fill code of its own", lambda c: lambda codes, bits, fill: reference(codes, bits, 2), keeps=3),
    Wrong(
        "bytes of 64 bits",
        lambda c: lambda *case: reference(*case).long(),
        keeps=3,
        sentence="the bytes are right, and each is stored in 64 bits. Convert them with .to(torch.uint8).",
        see=PACKING,
    ),
    Wrong(
        "the codes are moved in place",
        lambda c: _in_place,
        keeps=3,
        sentence="the bytes are right, but the codes that you were given are changed. Work on a copy.",
        see=PACKING,
    ),
    Wrong("float64 is assumed", lambda c: _float64, keeps=0),
    Wrong(
        "lora_edu",
        lambda c: lambda codes, bits, fill: quantization.pack(codes, torch.linspace(-1, 1, 2**bits)),
        keeps=0,
    ),
    Wrong("bitsandbytes", lambda c: _bitsandbytes, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: reference,
    right={
        "strings of bits": lambda c: with_bit_strings,
        "np.packbits, an extra keyword": lambda c: with_packbits,
        "one large number": lambda c: as_one_large_number,
        "bit by bit": lambda c: bit_by_bit,
    },
    wrong=[*WRONG, *cheats("3.4", reference)],
)
