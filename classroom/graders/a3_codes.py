"""Exercise 3.3, the nearest level, and ties go up: the reference, other right answers, and wrong ones."""

from classroom.graders import a3_codes_answers as answers
from classroom.graders.a3_cheats import cheats
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
CODES = "notebook 06, section 3"

WRONG = [
    Wrong(
        "ties go down",
        lambda c: answers.ties_down,
        keeps=4,
        sentence="only ties are wrong: a value in the middle between two levels gets the lower code, as in "
        "bitsandbytes. Here it gets the higher one: compare with the mid-points by >=, and not by >.",
        see=CODES,
    ),
    Wrong(
        "ties go outward",
        lambda c: answers.outward,
        keeps=4,
        sentence="only ties are wrong, and only below 0: there they go to the level farther from 0. Up means the "
        "higher code on both sides.",
        see=CODES,
    ),
    Wrong(
        "ties by the sign of the weight",
        lambda c: answers.up_or_down_by_weight,
        keeps=4,
    ),
    Wrong(
        "0 / 0 becomes code 0",
        lambda c: answers.not_guarded,
        keeps=4,
        sentence="in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: "
        "its values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.",
        see=BLOCKS,
    ),
    Wrong(
        "0 / 0 becomes the last code",
        lambda c: lambda *case: answers.not_guarded(*case, nan_counts=True),
        keeps=4,
        sentence="in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which a search puts behind "
        "every mid-point: its values get the last code. They must get the code of the level 0: divide by 1 "
        "there.",
        see=BLOCKS,
    ),
    Wrong(
        "the guard of an absmax",
        lambda c: answers.clamped,
        keeps=0,
        sentence="this keeps the divisor above a small positive number, and so replaces every negative constant. That "
        "guard is for an absmax, which is never negative: replace only the constants that are 0.",
        see=BLOCKS,
    ),
    Wrong(
        "the sign of the constant is dropped",
        lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.abs().repeat_interleave(size)[: v.numel()])),
        keeps=0,
        sentence="this divides by the magnitude of the constant. Divide by the constant itself: in a block with a "
        "negative one, all signs turn.",
        see=BLOCKS,
    ),
    Wrong(
        "constants repeated in turn",
        lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.repeat(size)[: v.numel()])),
        keeps=0,
        sentence="the constants are dealt out in turn, one value each. The first block_size values share the first "
        "constant: `repeat_interleave` does that, `repeat` does not.",
        see=BLOCKS,
    ),
    Wrong(
        "the neighbor's constant",
        lambda c: answers.otherwise(lambda v, k, size: answers.guarded(k.roll(1).repeat_interleave(size)[: v.numel()])),
        keeps=0,
        sentence="each block is divided by the constant of the block before it.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: answers.otherwise(lambda v, k, size: k[k.abs().argmax()]),
        keeps=0,
        sentence="all blocks are divided by one constant, the largest. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong(
        "not scaled",
        lambda c: answers.otherwise(lambda v, k, size: 1.0),
        keeps=0,
        sentence="the values are not divided by the constants of their blocks. The levels stand for values between -1 "
        "and 1.",
        see=CODES,
    ),
    Wrong(
        "the level below",
        lambda c: answers.level_below,
        keeps=0,
        sentence="this takes the highest level that is not above the value. The nearest level may be the one above: "
        "the mid-points decide.",
        see=CODES,
    ),
    Wrong(
        "one code too high",
        lambda c: answers.one_more,
        keeps=0,
        sentence="each code is one too high. Codes count from 0: the code is the number of mid-points that are passed.",
        see=CODES,
    ),
    Wrong(
        "levels instead of codes",
        lambda c: lambda v, constants, codebook, size: codebook[answers.reference(v, constants, codebook, size).long()],
        keeps=0,
        sentence="these are the levels. Stored is the code of each, its index in the codebook.",
        see=CODES,
    ),
    Wrong(
        "codes of 64 bits",
        lambda c: lambda *case: answers.reference(*case).long(),
        keeps=4,
        sentence="the codes are right, and each takes 64 bits. Convert them with .to(torch.uint8).",
        see=CODES,
    ),
    Wrong(
        "the values are scaled in place",
        lambda c: answers.in_place,
        keeps=4,
        sentence="the codes are right, but what you were given is changed: an operation in place works on the caller's "
        "tensor. Compute in a new one.",
        see=CODES,
    ),
    Wrong("the zeros among the constants are replaced in place", lambda c: answers.guard_in_place, keeps=4),
    Wrong("a loop that divides by 0", lambda c: answers.loop_without_a_guard, keeps=4),
    Wrong(
        "the short last block is dropped",
        lambda c: answers.whole_blocks_only,
        keeps=3,
        sentence="the short last block is missing. Its values need codes too.",
        see=BLOCKS,
    ),
    Wrong("a row is a block", lambda c: lambda v, k, book, size: answers.reference(v, k, book, v.shape[-1]), keeps=0),
    Wrong("block size 64 always", lambda c: lambda v, k, book, size: answers.reference(v, k, book, 64), keeps=0),
    Wrong("equal steps, whatever the codebook", lambda c: answers.hard_coded_half, keeps=0),
    Wrong("float64 is assumed", lambda c: answers.float64_assumed, keeps=0),
    Wrong(
        "lora_edu, its steps",
        lambda c: answers.lora_edu_steps,
        keeps=0,
    ),
    Wrong("lora_edu, its codes of values that were scaled by hand", lambda c: answers.lora_edu_codes, keeps=4),
    Wrong("lora_edu, its blocks", lambda c: answers.lora_edu_blocks, keeps=0),
    Wrong("bitsandbytes", lambda c: answers.bitsandbytes_, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "all distances, from the top": lambda c: answers.distances,
        "a search, an extra keyword": lambda c: answers.searched,
        "NumPy, float64, block by block": lambda c: answers.in_numpy,
        "one value at a time": lambda c: answers.one_by_one,
    },
    wrong=[*WRONG, *cheats("3.3", answers.reference)],
)
