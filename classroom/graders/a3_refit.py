"""Exercise 3.6, better constants for the same codes: the reference, other right answers, and wrong ones."""

from classroom.graders import a3_refit_answers as answers
from classroom.graders.a3_cheats import cheats
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
ERROR = "notebook 05, section 1"
LEVELS = "notebook 06, section 3"

WRONG = [
    Wrong(
        "the absmax",
        lambda c: answers.fitting(answers.absmax),
        keeps=0,
        sentence="these constants are the absmax of each block. The question is which constant makes the squared error "
        "of the block smallest, for the codes that are given.",
        see=BLOCKS,
    ),
    Wrong(
        "the signed constant of 3.1",
        lambda c: answers.fitting(answers.signed),
        keeps=0,
        sentence="these are the constants of exercise 3.1. They make one value of each block exact; the question is "
        "which constant makes the squared error of the whole block smallest.",
        see=BLOCKS,
    ),
    Wrong(
        "the mean of the ratios",
        lambda c: answers.fitting(answers.mean_ratio),
        keeps=0,
        sentence="this is the mean of the ratios w / q. It lets small levels count as much as large ones: write the "
        "squared error as a function of the constant, and set its derivative to 0.",
        see=ERROR,
    ),
    Wrong(
        "the ratio of the sums",
        lambda c: answers.fitting(answers.ratio_of_sums),
        keeps=0,
        sentence="this is the sum of w over the sum of q, where values of both signs cancel. Multiply by q before "
        "summing: the derivative of (w - s q)^2 is -2 q (w - s q).",
        see=ERROR,
    ),
    Wrong(
        "the ratio of the norms",
        lambda c: answers.fitting(answers.ratio_of_norms),
        keeps=0,
        sentence="this is the ratio of two norms. It gives the rounded block the *length* of the block, which is not "
        "where it comes closest.",
        see=ERROR,
    ),
    Wrong(
        "the other way round",
        lambda c: answers.fitting(answers.other_way_round),
        keeps=0,
        sentence="this divides by the sum of w * w. That is the best factor from the weights to the levels; the "
        "question is the one from the levels to the weights.",
        see=ERROR,
    ),
    Wrong(
        "the codes taken for levels",
        lambda c: answers.fitting(look_up=lambda flat, codes, codebook, block_size: codes.float()),
        keeps=0,
        sentence="the codes themselves are fitted to the weights. A code is an index: look its level up in the "
        "codebook.",
        see=LEVELS,
    ),
    Wrong(
        "the nearest codes are looked for again",
        lambda c: answers.fitting(look_up=answers.looked_up_again),
        keeps=0,
        sentence="the weights are quantized again, and the codes that you are given are not used. They stay, whatever "
        "they are: only the constants are new.",
        see=LEVELS,
    ),
    Wrong(
        "0 / 0",
        lambda c: answers.fitting(answers.best_and_unchecked),
        keeps=0,
        sentence="in a block with no level but 0 the constant is 0 / 0, which is NaN (not a number), and so is the "
        "error. Take 0 there.",
        see=BLOCKS,
    ),
    Wrong(
        "the last block is padded with code 0",
        lambda c: answers.padded_with_code_0,
        keeps=0,
        sentence="the short last block is filled up with code 0, which stands for the lowest level and not for the "
        "level 0: its padding takes part in the fit.",
        see=BLOCKS,
    ),
    Wrong(
        "one constant for all",
        lambda c: answers.one_for_all,
        keeps=0,
        sentence="this is the best single constant for the whole tensor. Each block has its own.",
        see="notebook 05, section 3",
    ),
    Wrong("a row is a block", lambda c: answers.wrong_axis, keeps=0),
    Wrong(
        "the short last block is dropped",
        lambda c: answers.whole_blocks_only,
        keeps=0,
        sentence="the short last block is missing, in the constants and in the error.",
        see=BLOCKS,
    ),
    Wrong(
        "the largest error",
        lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).abs().max() / flat.abs().max()),
        keeps=3,
        sentence="the constants are right. The error is that of the worst weight; take norms over all of them: ||W - "
        "W'|| / ||W||.",
        see=ERROR,
    ),
    Wrong(
        "the error squared",
        lambda c: answers.fitting(error=lambda *of_all: answers.relative(*of_all) ** 2),
        keeps=3,
        sentence="the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.",
        see=ERROR,
    ),
    Wrong(
        "the mean squared error",
        lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).square().mean()),
        keeps=3,
        sentence="the constants are right. The error is the mean squared error, which changes with the unit of the "
        "weights; divide norms: ||W - W'|| / ||W||.",
        see=ERROR,
    ),
    Wrong(
        "the norm of the error",
        lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).norm()),
        keeps=3,
        sentence="the constants are right. The error is not divided by the norm of the weights.",
        see=ERROR,
    ),
    Wrong(
        "divided by the rounded norm",
        lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).norm() / rounded.norm()),
        keeps=3,
        sentence="the constants are right. The error is divided by the norm of the rounded weights; the weights "
        "themselves are what we compare with.",
        see=ERROR,
    ),
    Wrong(
        "the mean of the blocks' errors",
        lambda c: answers.with_mean_of_block_errors,
        keeps=3,
        sentence="the constants are right. The error is the mean of the blocks' relative errors; take one norm over "
        "all weights.",
        see=ERROR,
    ),
    Wrong(
        "the error in code space",
        lambda c: answers.fitting(error=answers.in_code_space),
        keeps=3,
        sentence="the constants are right. The error is measured between scaled weights and levels, where a block of "
        "tiny weights counts as much as one of large weights: multiply by the constants first.",
        see="notebook 06, section 6",
    ),
    Wrong(
        "the mean of absolute errors",
        lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).abs().sum() / flat.abs().sum()),
        keeps=3,
        sentence="the constants are right. The error adds magnitudes; a Frobenius norm is the root of the sum of "
        "squares.",
        see=ERROR,
    ),
    Wrong(
        "the error in percent",
        lambda c: answers.fitting(error=lambda *of_all: 100 * answers.relative(*of_all)),
        keeps=3,
        sentence="the constants are right. The error is in percent; the ratio itself is asked for.",
        see=ERROR,
    ),
    Wrong(
        "the weights are changed",
        lambda c: answers.in_place,
        keeps=4,
        sentence="constants and error are right, but the weights that you were given are changed: what is left of them "
        "is the error. Subtract into a new tensor.",
        see=ERROR,
    ),
    Wrong("only the constants", lambda c: lambda *case: answers.reference(*case)[0], keeps=0),
    Wrong("block size 64 always", lambda c: lambda v, codes, book, size: answers.reference(v, codes, book, 64), 0),
    Wrong("float64 is assumed", lambda c: answers.float64_assumed, keeps=0),
    Wrong("lora_edu", lambda c: answers.lora_edu_, keeps=0),
    Wrong("bitsandbytes", lambda c: answers.bitsandbytes_, keeps=0),
]

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "broadcasting, einsum": lambda c: answers.broadcast,
        "NumPy, float64, least squares": lambda c: answers.in_numpy,
        "one weight at a time, an extra keyword": lambda c: answers.one_by_one,
    },
    wrong=[*WRONG, *cheats("3.6", answers.reference)],
)
