"""Exercise 3.2, the nearest level, and ties go up: the reference, other right answers, and wrong ones."""

from classroom.graders import a3_codes_answers as answers
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
CODES = "notebook 06, section 3"

WRONG = [
    Wrong("ties go down", lambda c: answers.ties_down, 5,
          "only ties are wrong: a value in the middle between two levels gets the lower code, as in "
          "bitsandbytes. Here it gets the higher one: compare with the mid-points by >=, and not by >.", CODES),
    Wrong("ties go outward", lambda c: answers.outward, 5,
          "only ties are wrong, and only below 0: there they go to the level farther from 0. Up means the "
          "higher code on both sides.", CODES),
    Wrong("0 / 0 becomes code 0", lambda c: answers.not_guarded, 5,
          "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: "
          "its values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.", BLOCKS),
    Wrong("0 / 0 becomes the last code", lambda c: lambda *case: answers.not_guarded(*case, nan_counts=True), 5,
          "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which a search puts behind every "
          "mid-point: its values get the last code. They must get the code of the level 0: divide by 1 there.", BLOCKS),
    Wrong("the guard of an absmax", lambda c: answers.clamped, 0,
          "this keeps the divisor above a small positive number, and so replaces every negative constant. That "
          "guard is for an absmax, which is never negative: replace only the constants that are 0.", BLOCKS),
    Wrong("the sign of the constant is dropped",
          lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.abs().repeat_interleave(size)[: v.numel()])),
          0,
          "this divides by the magnitude of the constant. Divide by the constant itself: in a block with a "
          "negative one, all signs turn.", BLOCKS),
    Wrong("constants repeated in turn",
          lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.repeat(size)[: v.numel()])), 0,
          "the constants are dealt out in turn, one value each. The first block_size values share the first "
          "constant: `repeat_interleave` does that, `repeat` does not.", BLOCKS),
    Wrong(
        "the neighbor's constant",
        lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.roll(1).repeat_interleave(size)[: v.numel()])),
        0,
        "each block is divided by the constant of the block before it.",
        BLOCKS,
    ),
    Wrong("one constant for all", lambda c: answers.otherwise(lambda v, k, size: k[k.abs().argmax()]), 0,
          "all blocks are divided by one constant, the largest. Each block has its own.", "notebook 05, section 3"),
    Wrong("not scaled", lambda c: answers.otherwise(lambda v, k, size: 1.0), 0,
          "the values are not divided by the constants of their blocks. The levels stand for values between -1 and 1.",
          CODES),
    Wrong("the level below", lambda c: answers.level_below, 0,
          "this takes the highest level that is not above the value. The nearest level may be the one above: "
          "the mid-points decide.", CODES),
    Wrong("one code too high", lambda c: answers.one_more, 0,
          "each code is one too high. Codes count from 0: the code is the number of mid-points that are passed.",
          CODES),
    Wrong(
        "levels instead of codes",
        lambda c: lambda v, constants, codebook, size: codebook[answers.reference(v, constants, codebook, size).long()],
        0,
        "these are the levels. Stored is the code of each, its index in the codebook.",
        CODES,
    ),
    Wrong("codes of 64 bits", lambda c: lambda *case: answers.reference(*case).long(), 5,
          "the codes are right, and each takes 64 bits. Convert them with .to(torch.uint8).", CODES),
    Wrong("the values are scaled in place", lambda c: answers.in_place, 5,
          "the codes are right, but what you were given is changed: an operation in place works on the caller's "
          "tensor. Compute in a new one.", CODES),
    Wrong("the short last block is dropped", lambda c: answers.whole_blocks_only, 3,
          "the short last block is missing. Its values need codes too.", BLOCKS),
    Wrong("lora_edu, its steps", lambda c: answers.lora_edu_steps, 0),
]  # fmt: skip

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "all distances, from the top": lambda c: answers.distances,
        "a search, an extra keyword": lambda c: answers.searched,
        "NumPy, float64, block by block": lambda c: answers.in_numpy,
    },
    wrong=[*WRONG],
)
