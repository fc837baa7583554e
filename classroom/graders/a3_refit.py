"""Exercise 3.4, better constants for the same codes: the reference, other right answers, and wrong ones."""

from classroom.graders import a3_refit_answers as answers
from classroom.solutions import Solutions, Wrong

BLOCKS = "notebook 05, section 4"
ERROR = "notebook 05, section 1"
LEVELS = "notebook 06, section 3"

WRONG = [
    Wrong("the absmax", lambda c: answers.fitting(answers.absmax), 0,
          "these constants are the absmax of each block. The question is which constant makes the squared error "
          "of the block smallest, for the codes that are given.", BLOCKS),
    Wrong("the constant with its sign", lambda c: answers.fitting(answers.signed), 0,
          "these are the values of the largest magnitude. They make one value of each block exact; the question is "
          "which constant makes the squared error of the whole block smallest.", BLOCKS),
    Wrong("the mean of the ratios", lambda c: answers.fitting(answers.mean_ratio), 0,
          "this is the mean of the ratios w / q. It lets small levels count as much as large ones: write the "
          "squared error as a function of the constant, and set its derivative to 0.", "exercise 3.4"),
    Wrong("the ratio of the sums", lambda c: answers.fitting(answers.ratio_of_sums), 0,
          "this is the sum of w over the sum of q, where values of both signs cancel. Multiply by q before "
          "summing: the derivative of (w - s q)^2 is -2 q (w - s q).", "exercise 3.4"),
    Wrong("the ratio of the norms", lambda c: answers.fitting(answers.ratio_of_norms), 0,
          "this is the ratio of two norms. It gives the rounded block the *length* of the block, which is not "
          "where it comes closest.", "exercise 3.4"),
    Wrong("the other way round", lambda c: answers.fitting(answers.other_way_round), 0,
          "this divides by the sum of w * w. That is the best factor from the weights to the levels; the "
          "question is the one from the levels to the weights.", "exercise 3.4"),
    Wrong("the codes taken for levels",
          lambda c: answers.fitting(look_up=lambda flat, codes, codebook, block_size: codes.float()), 0,
          "the codes themselves are fitted to the weights. A code is an index: look its level up in the codebook.",
          LEVELS),
    Wrong("the nearest codes are looked for again", lambda c: answers.fitting(look_up=answers.looked_up_again), 0,
          "the weights are quantized again, and the codes that you are given are not used. They stay, whatever "
          "they are: only the constants are new.", LEVELS),
    Wrong("0 / 0", lambda c: answers.fitting(answers.best_and_unchecked), 0,
          "in a block with no level but 0 the constant is 0 / 0, which is NaN (not a number), and so is the "
          "error. Take 0 there.", BLOCKS),
    Wrong("the last block is padded with code 0", lambda c: answers.padded_with_code_0, 0,
          "the short last block is filled up with code 0, which stands for the lowest level and not for the "
          "level 0: its padding takes part in the fit.", BLOCKS),
    Wrong("one constant for all", lambda c: answers.one_for_all, 0,
          "this is the best single constant for the whole tensor. Each block has its own.", "notebook 05, section 3"),
    Wrong("the short last block is dropped", lambda c: answers.whole_blocks_only, 0,
          "the short last block is missing, in the constants and in the error.", BLOCKS),
    Wrong("the largest error",
          lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).abs().max() / flat.abs().max()), 4,
          "the constants are right. The error is that of the worst weight; take norms over all of them: ||W - "
          "W'|| / ||W||.", ERROR),
    Wrong("the error squared", lambda c: answers.fitting(error=lambda *of_all: answers.relative(*of_all) ** 2), 4,
          "the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.", ERROR),
    Wrong("the mean squared error",
          lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).square().mean()), 4,
          "the constants are right. The error is the mean squared error, which changes with the unit of the "
          "weights; divide norms: ||W - W'|| / ||W||.", ERROR),
    Wrong("the norm of the error", lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).norm()), 4,
          "the constants are right. The error is not divided by the norm of the weights.", ERROR),
    Wrong("divided by the rounded norm",
          lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).norm() / rounded.norm()), 4,
          "the constants are right. The error is divided by the norm of the rounded weights; the weights "
          "themselves are what we compare with.", ERROR),
    Wrong("the mean of the blocks' errors", lambda c: answers.with_mean_of_block_errors, 4,
          "the constants are right. The error is the mean of the blocks' relative errors; take one norm over "
          "all weights.", ERROR),
    Wrong("the error in code space", lambda c: answers.fitting(error=answers.in_code_space), 4,
          "the constants are right. The error is measured between scaled weights and levels, where a block of tiny "
          "weights counts as much as one of large weights: multiply by the constants first.", "notebook 06, section 7"),
    Wrong("the mean of absolute errors",
          lambda c: answers.fitting(error=lambda flat, rounded, k: (flat - rounded).abs().sum() / flat.abs().sum()), 4,
          "the constants are right. The error adds magnitudes; a Frobenius norm is the root of the sum of squares.",
          ERROR),
    Wrong("the error in percent", lambda c: answers.fitting(error=lambda *of_all: 100 * answers.relative(*of_all)), 4,
          "the constants are right. The error is in percent; the ratio itself is asked for.", ERROR),
    Wrong("the weights are changed", lambda c: answers.in_place, 5,
          "constants and error are right, but the weights that you were given are changed: what is left of them "
          "is the error. Subtract into a new tensor.", "exercise 3.4"),
    Wrong("lora_edu", lambda c: answers.lora_edu_, 0),
]  # fmt: skip

SOLUTIONS = Solutions(
    reference=lambda c: answers.reference,
    right={
        "broadcasting, einsum": lambda c: answers.broadcast,
        "NumPy, float64, least squares": lambda c: answers.in_numpy,
        "one weight at a time, an extra keyword": lambda c: answers.one_by_one,
    },
    wrong=[*WRONG],
)
