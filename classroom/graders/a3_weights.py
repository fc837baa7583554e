"""Exercise 3.5, from bytes back to weights: the reference, other right answers, and wrong ones."""

import torch

from classroom.graders import a3_weights_answers as answers
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
BACK = "notebook 06, section 3"

WRONG = [
    Wrong("the first code in the high bits", lambda c: answers.decoding(answers.high_first), 0,
          "the first code is taken from the highest bits of a group, as bitsandbytes has it. Here it lies in "
          "the lowest bits of the group's first byte.", BACK),
    Wrong("the bytes of a group turned round", lambda c: answers.decoding(answers.bytes_turned), 0,
          "the bytes of each group are put together in reverse order: the first byte holds the lowest bits.", BACK),
    Wrong(
        "the codes of a group turned round",
        lambda c: answers.decoding(lambda packed, bits: answers.all_codes(packed, bits, place=torch.arange(7, -1, -1))),
        0,
        "the codes of each group come out in reverse order: code i is moved down by bits * i.",
        BACK,
    ),
    Wrong("two codes a byte", lambda c: answers.decoding(answers.nibbles), 0,
          "two codes are taken from each byte. Here eight codes lie in `bits` bytes without a gap, some of them "
          "over the end of a byte.", BACK),
    Wrong("one code a byte", lambda c: answers.decoding(lambda packed, bits: (packed.long() % 2**bits).repeat(3)), 0,
          "one code is taken from each byte, its lowest bits; the other bits of the byte belong to the codes "
          "that follow.", BACK),
    Wrong("the codes themselves", lambda c: answers.decoding(levels=lambda codes, bits: codes.float()), 0,
          "the codes are multiplied by the constants. A code is an index: look its level up in the codebook.", BACK),
    Wrong("equal steps", lambda c: answers.decoding(levels=answers.equal_steps), 0,
          "the codes are taken for equal steps from -1 to 1. Look the level of each up in the codebook.",
          "notebook 06, section 1"),
    Wrong("the constants are forgotten",
          lambda c: answers.decoding(scale=lambda constants, block, size: torch.ones(size)), 0,
          "these are the levels, between -1 and 1. Multiply each by the constant of its block.", BACK),
    Wrong("the sign of the constants is dropped",
          lambda c: answers.decoding(scale=lambda constants, block, size: constants.abs().repeat_interleave(block)), 0,
          "the constants have lost their sign. A block with a negative one comes back with all signs turned.", BACK),
    Wrong("divided by the constants",
          lambda c: answers.decoding(scale=lambda constants, block, size: 1 / constants.repeat_interleave(block)), 0,
          "the levels are divided by the constants. Encoding divides, and decoding multiplies.", BACK),
    Wrong("constants repeated in turn",
          lambda c: answers.decoding(scale=lambda constants, block, size: constants.repeat(block)), 0,
          "the constants are dealt out in turn, one weight each. The first block_size weights share the first "
          "constant: `repeat_interleave` does that, `repeat` does not.", BLOCKS),
    Wrong("the neighbor's constant",
          lambda c: answers.decoding(scale=lambda constants, block, size: constants.roll(1).repeat_interleave(block)),
          0,
          "each block is multiplied by the constant of the block before it.", BLOCKS),
    Wrong("one constant for all",
          lambda c: answers.decoding(scale=lambda k, block_size, size: k[k.abs().argmax()].expand(size)), 0,
          "one constant, the largest, multiplies everything. Each block has its own.", "notebook 05, section 3"),
    Wrong(
        "a constant for each row",
        lambda c: lambda packed, bits, k, book, size, shape: answers.reference(packed, bits, k, book, shape[-1], shape),
        0,
        "each row is multiplied by one constant. Blocks run through the flattened weight, on over the end of a row.",
        BLOCKS,
    ),
    Wrong("columns first",
          lambda c: lambda *case: answers.reference(*case).reshape(tuple(case[-1])[::-1]).T.contiguous(), 0,
          "the weights fill the shape column by column. They were flattened row by row.", BLOCKS),
    Wrong("the padding is not cut off", lambda c: answers.uncut, 3,
          "the codes that fill up the last group come back as weights. Cut them off: the shape says how many "
          "weights there are.", BACK),
    Wrong("the padding is cut off in front", lambda c: answers.padding_first, 3,
          "the padding is cut off at the beginning. It stands at the end.", BACK),
    Wrong("the short last block is dropped", lambda c: answers.whole_blocks_only, 3,
          "the weights of the short last block are 0. It has a constant too.", BLOCKS),
    Wrong("weights in float64", lambda c: lambda *case: answers.reference(*case).double(), 3,
          "the weights are right, and stored in float64: twice the bytes of float32.", "notebook 05, section 1"),
    Wrong("the packed bytes are moved in place", lambda c: answers.in_place, 3,
          "the weights are right, but what you were given is changed: the layer could be decoded only once. "
          "Work on a copy.", BACK),
    Wrong("lora_edu, dequantize", lambda c: answers.lora_edu_, 0),
]  # fmt: skip

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "one large number and a loop": lambda c: answers.one_large_number,
        "NumPy, np.unpackbits, an extra keyword": lambda c: answers.with_unpackbits,
        "padded blocks, einsum": lambda c: answers.in_padded_blocks,
    },
    wrong=[*WRONG],
)
