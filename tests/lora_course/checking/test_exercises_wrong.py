"""What is said of one exercise alone: what is noticed of its result, what its cases are made for, what misled once.

The mistakes that an exercise teaches, and what is said of all of them, stand in test_exercises and test_probing.
"""

from statistics import NormalDist

import numpy as np
import pytest
from test_exercises import said

from lora_course.checking.comparing import plain
from lora_course.checking.symptoms import symptom
from lora_course.nb01 import check as nb01
from lora_course.nb02 import check as nb02
from lora_course.nb03 import check as nb03
from lora_course.nb04 import check as nb04
from lora_course.nb05 import check as nb05
from lora_course.nb06 import check as nb06
from lora_course.nb07 import check as nb07
from lora_course.nb09 import check as nb09
from lora_course.nb11 import check as nb11
from lora_course.nb13 import check as nb13
from lora_course.nb14 import check as nb14
from lora_course.nb15 import check as nb15
from lora_course.nb16 import check as nb16
from lora_edu.codebooks import nf_codebook
from lora_edu.rounding import bits_per_weight, round_in_blocks, total_bits

CODEBOOK = nf_codebook(4).numpy()


def eq_4_with_infinite_ends(offset, half):
    q = [-np.inf, *(NormalDist().inv_cdf(i / (2 * half + 1)) for i in range(1, 2 * half + 1)), np.inf]
    return np.convolve(q, [0.5, 0.5], mode="valid")


def closed_form(bits, budget, scale_bits):
    return 2.0 ** np.ceil(np.log2(scale_bits / (budget - bits)))


# An edit of the reference, or an answer; and what is said of it.
WRONG = [
    (nb01.update_factors, lambda m, r, a: np.linalg.svd(m)[::2], "A (2, 8), got (5, 5) and (8, 8)."),
    (nb01.update_factors, lambda m, r, a: (m[:r], m[:, :r]), "return B first, then A."),
    (nb01.update_factors, lambda m, r, a: m, "should return two matrices"),
    (nb01.update_factors, lambda m, r, a: (0 * m[:, :r], m[:r]), "as in an adapter before its training"),
    (nb02.merged_weight, "weight + update -> weight.__iadd__(update)", "`weight += ...` works in place"),
    (nb03.guess_after, "embedding(tokens) -> embedding(tokens + 1)", "wrong already without"),
    (nb03.head_output, "future, -torch.inf -> future, -1.0 &  / q.shape[-1] ** 0.5 -> ", "row 0 is its own value"),
    (nb03.block_weights, lambda n, d, h: n * (4 * d * d + 2 * d * h + 5 * d + h), "The exercise asks for the"),
    (nb04.grow, lambda *case: nb04.grow.reference(*case)[::-1], "the new A should have the shape (5, 9)"),
    (nb04.grow, "[A, new_rows] -> [new_rows, A]", "row k of A still belongs to"),
    (nb04.grow, lambda A, B, extra: B @ A, "return both factors"),
    (nb05.smallest_block, lambda b, budget, scale: budget > b and closed_form(b, budget, scale), "4, 8, ... weights."),
    (nb05.smallest_block, "1 if budget > bits else 0 -> 1", "the codes alone take the whole budget"),
    (nb05.smallest_block, bits_per_weight, "a block has 1, 2, 4, 8, ... weights"),
    (nb05.round_between, ".clamp(min=1e-30) -> ", "a block of equal values comes back as NaN"),
    (nb05.round_between, "1e-30 -> 1e-3", "a step is kept above a bound"),
    (nb05.round_between, lambda b, bits: round_in_blocks(b, bits, len(b)), "the symmetric ruler of section 2"),
    (nb05.round_between, lambda b, bits: b[:-1], "as many as there were"),
    (nb05.code_error, lambda v, c, top, b: (v - round_in_blocks(v, b, v.numel())).norm() / v.norm(), "values again"),
    (nb05.code_error, lambda v, c, top, b: (v - c * top / c.abs().max()).norm() / v.norm(), "largest code that occurs"),
    (nb05.round_between, lambda b, bits: b.view(-1, 13).flatten(), "multiply the shape's sizes, and compare"),
    (nb06.normal_float, eq_4_with_infinite_ends, "is infinite, as in Eq. 4 taken literally"),
    (nb06.normal_float, lambda offset, half: [NormalDist().inv_cdf(0.0)], "of a probability of 0 or 1, where"),
    (nb06.packed_codes, "astype(int) -> astype(np.int8)", "as in 8 bits with a sign (int8)"),
    (nb06.taken_over, lambda w, q, X: w[1:] * 1.0, "nobody takes the error over"),
    (nb07.round_constants, "max(np.abs(block).max(), 1e-30) -> np.abs(block).max()",
     "Where all constants are equal"),
    (nb07.round_constants, "1e-30 -> 1e-3", "keeps the scale above a bound"),
    (nb07.moved_again, lambda trip, W: 0.0, "0 for every round trip"),
    (nb07.bits_of_constants, total_bits, "this is not a whole number"),
    (nb09.qlora_output, lambda x, c, m, a, b, al: x @ (CODEBOOK[c] * m[:, None]).T, "one number for each block"),
    (nb09.qlora_output, lambda x, c, m, a, b, al: x @ CODEBOOK[c * m[0]].T, "an index is no whole number"),
    (nb11.vera_weight, lambda W, A, B, d, b: W + b[:, None] * B @ (d[:, None] * A), "take the first 5 columns of A"),
    (nb11.suspects, lambda one, other, n: other["rate"] / one["rate"], "return two numbers"),
    (nb11.dora_weight, "W + s * B @ A -> W**3", "every row has the right length"),
    (nb11.plain_lora, lambda A, B, A0, B0: (A - A0, B - B0), "the rank has stayed r"),
    (nb11.plain_lora, lambda A, B, A0, B0: (np.hstack([A, A0]), np.vstack([B, -B0])), "joins along the wrong side"),
    (nb11.plain_lora, lambda A, B, A0, B0: (np.hstack([B, -B0]), np.vstack([A, A0])), "changed places"),
    (nb13.standard_errors, lambda a, b: np.float64(a.sum() - b.sum()) / (a != b).sum() ** 0.5, "guard"),
    (nb13.standard_errors, "(b + c) ** 0.5 -> (len(one) * (one.var() + other.var())) ** 0.5",
     "two tests for independent"),
    (nb13.standard_errors, lambda a, b: 100 * (a.mean() - b.mean()), "far too large for so few pairs"),
    (nb14.most_tokens, lambda c, r, t: max(0, (0.9 * c - r) // t), "Are card and `resident` both in bytes"),
    (nb14.paged_bytes, lambda s, r: [8 * r * a for a, b in s if r * a >= 1e5], "not a list or an array"),
    (nb15.count_intruders, "(W, full_matrices=False) -> (W) & (W + dW, full_matrices=False) -> (W + dW)", "square U"),
    (nb16.advantages, lambda r: (t := np.flip(np.flip(r, 1).cumsum(1), 1)) - t.mean(0), "its own among them"),
    (nb16.divergence, lambda now, before: (np.exp(now) / np.exp(before) - 1 - now + before).mean(), "wrong way round"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "wrong", "sentence"), WRONG, ids=lambda part: getattr(part, "number", ""))
def test_what_a_wrong_answer_is_told(asked, wrong, sentence):
    text = said(asked, asked.source.edited(wrong).solution() if isinstance(wrong, str) else wrong)
    assert sentence in text and "gufunc" not in text


def test_a_count_that_is_nearly_right_is_not_called_transposed():
    assert symptom([plain(39_976_974)], [plain(39_976_960)]).startswith("the first digits are right")


NAN = {"left": np.nan, "right": np.nan}


@pytest.mark.parametrize("how", [lambda y, there: y - there, lambda y, there: there - y, lambda y, there: y / there])
def test_unsorted_runs_are_not_blamed_on_the_line_between_them(how):
    text = said(nb15.extra_forgetting, lambda x, y, runs: how(y, np.interp(x, *zip(*runs, strict=True), **NAN)))
    steps = "I can't tell which of your steps is wrong. These are the steps of a right answer: The order of the runs."
    assert text.startswith(("Your answer leaves the runs in the order in which they come.", steps))
