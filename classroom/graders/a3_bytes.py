"""Exercise 3.3, eight codes without a gap: the reference, other right answers, and wrong ones."""

import torch

from classroom.graders import a3_bytes_answers as answers
from classroom.solutions import Solutions, Wrong

PACKING = "notebook 06, section 3"

WRONG = [
    Wrong("the first code in the high bits", lambda c: lambda *case: answers.first_in_the_high_bits(*case, turned=True),
          0,
          "the first code of a group lies in its highest bits, as in bitsandbytes. Here it lies in the lowest "
          "bits of the first byte: code i is moved up by bits * i.", PACKING),
    Wrong("the order of the codes turned round, and not the bytes", lambda c: answers.first_in_the_high_bits, 0,
          "the codes of each group are in reverse order: code 0 is moved up the farthest. Move code i up by bits * i.",
          PACKING),
    Wrong("the high byte first", lambda c: answers.high_byte_first, 0,
          "the number of each group is right, and its bytes are in reverse order: the lowest byte comes first.",
          PACKING),
    Wrong("one code a byte", lambda c: answers.fields_of(8), 0,
          "this keeps one code in each byte: 8 bits for each, whatever `bits` says.", PACKING),
    Wrong("two codes a byte", lambda c: answers.fields_of(4), 0,
          "each code has a field of 4 bits, two a byte. A code has `bits` bits, and the next one follows "
          "without a gap, over the end of a byte.", PACKING),
    Wrong("the rest is dropped",
          lambda c: lambda codes, bits, fill: answers.reference(codes[: len(codes) // 8 * 8], bits, fill), 4,
          "the last codes are dropped where they do not fill a group of eight. Fill the group up, and keep it.",
          PACKING),
    Wrong("filled with code 0", lambda c: lambda codes, bits, fill: answers.filled_otherwise(codes, bits, 0), 4,
          "the last group is filled up with code 0. Fill it with `fill_code`.", PACKING),
    Wrong("filled with the last code",
          lambda c: lambda codes, bits, fill: answers.filled_otherwise(codes, bits, int(codes[-1])), 4,
          "the last group is filled up with copies of the last code. Fill it with `fill_code`.", PACKING),
    Wrong(
        "filled in front",
        lambda c: (
            lambda codes, bits, fill: answers.reference(
                torch.cat([torch.full((-len(codes) % 8,), fill, dtype=torch.uint8), codes]), bits, fill
            )
        ),
        4,
        "the codes that fill up stand in front, and move all the others. They belong behind the last code.",
        PACKING,
    ),
    Wrong("a group of padding where nothing is missing", lambda c: answers.full_group_of_padding, 3,
          "where the codes fill their groups, this adds a group of padding. What is missing is -n % 8: nothing, "
          "if 8 divides n.", PACKING),
    Wrong("as few bytes as possible", lambda c: answers.as_few_bytes_as_possible, 4,
          "the last group ends with the last byte that is needed. This format fills the group up to eight "
          "codes, so that the number of bytes is a multiple of `bits`.", PACKING),
    Wrong("shifted in eight bits", lambda c: answers.shifted_in_uint8, 0,
          "the codes are moved up inside eight bits, and what goes over the top is lost. Convert them to int64 "
          "first: a group of eight is a number of 8 * bits bits.", PACKING),
    Wrong("the codes are added", lambda c: answers.added, 0,
          "the eight codes are added up without being moved: they cannot be told apart again. Code i is moved "
          "up by bits * i first.", PACKING),
    Wrong("groups of codes that lie apart", lambda c: answers.far_apart, 0,
          "a group is made of codes that lie apart. Eight neighbors share a group: codes 0 to 7, and so on.", PACKING),
    Wrong("three bits, whatever is asked", lambda c: lambda codes, bits, fill: answers.reference(codes, 3, fill), 0,
          "this packs with 3 bits, whatever `bits` says: larger codes run into their neighbors.", PACKING),
    Wrong("bytes of 64 bits", lambda c: lambda *case: answers.reference(*case).long(), 5,
          "the bytes are right, and each is stored in 64 bits. Convert them with .to(torch.uint8).", PACKING),
    Wrong("the codes are moved in place", lambda c: answers.in_place, 5,
          "the bytes are right, but the codes that you were given are changed. Work on a copy.", PACKING),
    Wrong("lora_edu", lambda c: answers.lora_edu_, 0),
]  # fmt: skip

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "strings of bits": lambda c: answers.with_bit_strings,
        "np.packbits, an extra keyword": lambda c: answers.with_packbits,
        "one large number": lambda c: answers.as_one_large_number,
    },
    wrong=[*WRONG],
)
