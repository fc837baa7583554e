"""Exercise 3.5, from bytes back to weights: the reference, other right answers, and wrong ones."""

import torch

from classroom.graders import a3_weights_answers as answers
from classroom.graders.a3_cheats import cheats
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
BACK = "notebook 06, section 3"

WRONG = [
    Wrong(
        "the first code in the high bits",
        lambda c: answers.decoding(answers.high_first),
        keeps=0,
        sentence="the first code is taken from the highest bits of a group, as bitsandbytes has it. Here it lies in "
        "the lowest bits of the group's first byte.",
        see=BACK,
    ),
    Wrong(
        "the bytes of a group turned round",
        lambda c: answers.decoding(answers.bytes_turned),
        keeps=0,
        sentence="the bytes of each group are put together in reverse order: the first byte holds the lowest bits.",
        see=BACK,
    ),
    Wrong(
        "the codes of a group turned round",
        lambda c: answers.decoding(lambda packed, bits: answers.all_codes(packed, bits, place=torch.arange(7, -1, -1))),
        keeps=0,
        sentence="the codes of each group come out in reverse order: code i is moved down by bits * i.",
        see=BACK,
    ),
    Wrong(
        "two codes a byte",
        lambda c: answers.decoding(answers.nibbles),
        keeps=0,
        sentence="two codes are taken from each byte. Here eight codes lie in `bits` bytes without a gap, some of them "
        "over the end of a byte.",
        see=BACK,
    ),
    Wrong(
        "one code a byte",
        lambda c: answers.decoding(lambda packed, bits: (packed.long() % 2**bits).repeat(3)),
        keeps=0,
        sentence="one code is taken from each byte, its lowest bits; the other bits of the byte belong to the codes "
        "that follow.",
        see=BACK,
    ),
    Wrong(
        "moved up in eight bits",
        lambda c: answers.decoding(answers.gathered_in_uint8),
        keeps=0,
    ),
    Wrong(
        "the codes themselves",
        lambda c: answers.decoding(levels=lambda codes, bits: codes.float()),
        keeps=0,
        sentence="the codes are multiplied by the constants. A code is an index: look its level up in the codebook.",
        see=BACK,
    ),
    Wrong(
        "equal steps",
        lambda c: answers.decoding(levels=answers.equal_steps),
        keeps=0,
        sentence="the codes are taken for equal steps from -1 to 1. Look the level of each up in the codebook.",
        see="notebook 06, section 1",
    ),
    Wrong(
        "the constants are forgotten",
        lambda c: answers.decoding(scale=lambda constants, block, size: torch.ones(size)),
        keeps=0,
        sentence="these are the levels, between -1 and 1. Multiply each by the constant of its block.",
        see=BACK,
    ),
    Wrong(
        "the sign of the constants is dropped",
        lambda c: answers.decoding(scale=lambda constants, block, size: constants.abs().repeat_interleave(block)),
        keeps=0,
        sentence="the constants have lost their sign. A block with a negative one comes back with all signs turned.",
        see=BACK,
    ),
    Wrong(
        "divided by the constants",
        lambda c: answers.decoding(scale=lambda constants, block, size: 1 / constants.repeat_interleave(block)),
        keeps=0,
        sentence="the levels are divided by the constants. Encoding divides, and decoding multiplies.",
        see=BACK,
    ),
    Wrong(
        "constants repeated in turn",
        lambda c: answers.decoding(scale=lambda constants, block, size: constants.repeat(block)),
        keeps=0,
        sentence="the constants are dealt out in turn, one weight each. The first block_size weights share the first "
        "constant: `repeat_interleave` does that, `repeat` does not.",
        see=BLOCKS,
    ),
    Wrong(
        "the neighbor's constant",
        lambda c: answers.decoding(scale=lambda constants, block, size: constants.roll(1).repeat_interleave(block)),
        keeps=0,
        sentence="each block is multiplied by the constant of the block before it.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: answers.decoding(scale=lambda k, block_size, size: k[k.abs().argmax()].expand(size)),
        keeps=0,
        sentence="one constant, the largest, multiplies everything. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong(
        "a constant for each row",
        lambda c: lambda packed, bits, k, book, size, shape: answers.reference(packed, bits, k, book, shape[-1], shape),
        keeps=0,
        sentence="each row is multiplied by one constant. Blocks run through the flattened weight, on over the end of "
        "a row.",
        see=BLOCKS,
    ),
    Wrong(
        "columns first",
        lambda c: lambda *case: answers.reference(*case).reshape(tuple(case[-1])[::-1]).T.contiguous(),
        keeps=0,
        sentence="the weights fill the shape column by column. They were flattened row by row.",
        see=BLOCKS,
    ),
    Wrong("left flat", lambda c: lambda *case: answers.reference(*case).flatten(), keeps=0),
    Wrong(
        "the padding is not cut off",
        lambda c: answers.uncut,
        keeps=3,
        sentence="the codes that fill up the last group come back as weights. Cut them off: the shape says how many "
        "weights there are.",
        see=BACK,
    ),
    Wrong(
        "the padding is cut off in front",
        lambda c: answers.padding_first,
        keeps=3,
        sentence="the padding is cut off at the beginning. It stands at the end.",
        see=BACK,
    ),
    Wrong(
        "the short last block is dropped",
        lambda c: answers.whole_blocks_only,
        keeps=3,
        sentence="the weights of the short last block are 0. It has a constant too.",
        see=BLOCKS,
    ),
    Wrong(
        "one code too high",
        lambda c: answers.decoding(lambda packed, bits: (answers.all_codes(packed, bits) + 1) % 2**bits),
        keeps=0,
    ),
    Wrong(
        "weights in float64",
        lambda c: lambda *case: answers.reference(*case).double(),
        keeps=3,
        sentence="the weights are right, and stored in float64: twice the bytes of float32.",
        see="notebook 05, section 1",
    ),
    Wrong(
        "the packed bytes are moved in place",
        lambda c: answers.in_place,
        keeps=3,
        sentence="the weights are right, but what you were given is changed: the layer could be decoded only once. "
        "Work on a copy.",
        see=BACK,
    ),
    Wrong(
        "this cohort's bits always",
        lambda c: lambda packed, bits, *rest: answers.reference(packed, c.bits, *rest),
        0,
    ),
    Wrong("three bits always", lambda c: lambda packed, bits, *rest: answers.reference(packed, 3, *rest), keeps=0),
    Wrong("float64 is assumed", lambda c: answers.float64_assumed, keeps=0),
    Wrong("lora_edu, dequantize", lambda c: answers.lora_edu_, keeps=0),
    Wrong("lora_edu, unpack", lambda c: answers.decoding(answers.lora_edu_unpack), keeps=0),
    Wrong("bitsandbytes", lambda c: answers.bitsandbytes_, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "one large number and a loop": lambda c: answers.one_large_number,
        "NumPy, np.unpackbits, an extra keyword": lambda c: answers.with_unpackbits,
        "padded blocks, einsum": lambda c: answers.in_padded_blocks,
    },
    wrong=[*WRONG, *cheats("3.5", answers.reference)],
)
