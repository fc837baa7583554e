"""Exercises 3.1, a codebook with two offsets, and 3.2, the nearest level: right answers, and edits that are wrong."""

from statistics import NormalDist

import numpy as np

from classroom.solutions import Answer, Solutions, Wrong
from lora_edu import quantization


def one_list_of_probabilities(c):
    def answer(below, above, offset_below, offset_above):
        lower = np.linspace(1 - offset_below, 0.5, below + 1)  # ends in 1/2, whose quantile is the zero
        upper = np.linspace(0.5, offset_above, above + 1)[1:]
        scaled = NormalDist(0, 1 / NormalDist().inv_cdf(offset_above))
        levels = np.array([scaled.inv_cdf(p) for p in np.concatenate([lower, upper])])
        levels[below] = 0
        return levels.astype(np.float32)

    return answer


QUANTILES, RECIPE = "notebook 06, section 1", "notebook 06, section 2"
LIST = "[*negative, 0.0, *side(offset_above, above)]"
SORTED, GIVEN = f"levels = torch.tensor(sorted({LIST}))", "return levels / levels.max()"
Q = "Q = NormalDist().inv_cdf; n = below + above + 1"
EQ_4 = f"{Q}; q = torch.tensor([-torch.inf, *(Q(i / (n + 1)) for i in range(1, n + 1)), torch.inf])"

CODEBOOK = Solutions(
    reference=Answer("a3_nf4", "quantile_codebook"),
    right={
        "torch's quantiles": "NormalDist().inv_cdf(probability) for -> "
        "torch.special.ndtri(torch.tensor(probability, dtype=torch.float64)).item() for",
        "NumPy, one list of probabilities": one_list_of_probabilities,
    },
    wrong=[
        ("mirrored", f"{GIVEN} -> return -(levels / levels.max()).flip(0)", 0,
         "this is the mirror image, with its exact 1 on the wrong side. The constant of a block keeps its sign, so the "
         "value that it came from is scaled to +1, never to -1.", RECIPE),
        ("the numbers of levels swapped", "codebook(below, above, -> codebook(above, below,", 0,
         "the two sides have each other's number of levels: `below` counts the levels under 0.", RECIPE),
        ("the offsets swapped", "offset_below, offset_above): -> offset_above, offset_below):", 1,
         "the two sides have each other's offset: the levels under 0 start at `offset_below`.", RECIPE),
        ("one offset for both sides", "side(offset_below, -> side(offset_above,", 1,
         "both sides start at `offset_above`, as both sides of NF4 start at one offset. Here the side below 0 has one "
         "of its own.", RECIPE),
        ("no exact 0", "0.0, *side -> *side", 0,
         "this has no exact 0. A weight of 0, as in padding, must come back as 0.", RECIPE),
        ("several zeros", "count + 1)[:-1] -> count + 1)", 0),
        ("Eq. 4 taken literally", f"{SORTED} -> {EQ_4}; levels = (q[1:] + q[:-1]) / 2 & {GIVEN} -> return levels", 0,
         "this is Eq. 4 of the paper taken literally: the quantiles of the probabilities 0 and 1 are infinite. The "
         "outermost probabilities are the offsets.", QUANTILES),
        ("the finite part of Eq. 4", f"{SORTED} -> {EQ_4}; levels = (q[2:-1] + q[1:-2]) / 2", 0,
         "this is the finite part of Eq. 4. Start at the offsets, and give each side steps of its own.", QUANTILES),
        ("middles of equally likely bins",
         f"{SORTED} -> {Q}; levels = torch.tensor([Q((i + 0.5) / n) for i in range(n)])", 0,
         "these are the middles of equally likely bins. They leave the offsets and the two sides unused.", RECIPE),
        ("not divided by the largest", f"{GIVEN} -> return levels", 1,
         "this forgets to divide by the largest level. The codebook must end at 1, so that the value that gave a block "
         "its constant comes back exactly.", RECIPE),
        ("each side divided by its own end",
         f"{LIST} -> [*np.divide(negative, -negative[0]), 0.0, "
         "*np.divide(side(offset_above, above), side(offset_above, 1))]", 1,
         "each side is divided by its own end, and so the codebook begins at -1. Divide all levels by the largest: "
         "here no value is ever scaled to exactly -1 by its own constant, and the lower end need not be there.",
         RECIPE),
        ("one probability too few on each side", "count + 1) -> count)", 0,
         "each side has one level too few. From the offset to 1/2, both counted, are count + 1 probabilities; the last "
         "one is left out.", RECIPE),
        ("not sorted",
         f"{GIVEN} -> return torch.cat([levels[: below + 1], levels[below + 1 :].flip(0)]) / levels.max()", 1,
         "these are the right levels, but those above 0 stand in falling order. The codebook is sorted.", RECIPE),
        ("equal steps between the ends", f"{GIVEN} -> low = levels[0] / levels.max(); return "
         "np.append(np.linspace(low, 0, below + 1)[:-1], np.linspace(0, 1, above + 1))", 1,
         "the ends are right, and between them the *levels* have equal steps. Take equal steps in probability, and the "
         "quantile of each.", QUANTILES),
    ],
)  # fmt: skip


# --- 3.2 --------------------------------------------------------------------------------------------------------------


def in_numpy(c):
    def answer(values, constants, codebook, block_size):
        levels, codes = np.asarray(codebook, dtype=np.float64), []
        for block, constant in zip(values.flatten().split(block_size), np.asarray(constants), strict=True):
            scaled = block.double().numpy() / (constant or 1)
            codes.append(np.digitize(scaled, (levels[1:] + levels[:-1]) / 2))
        return np.concatenate(codes).astype(np.uint8)

    return answer


def of_the_package(c):
    return lambda values, constants, codebook, block_size: quantization.nearest_code(
        quantization.normalize(values.flatten(), constants, block_size), codebook
    )


BLOCKS, CODES = "notebook 05, section 4", "notebook 06, section 3"
LOOP = "for midpoint in (codebook[:-1] + codebook[1:]) / 2:\n        codes += scaled >= midpoint"
GUARDED, EACH = "torch.where(constants == 0, 1, constants)", "divisor[: values.numel()]"

ENCODE = Solutions(
    reference=Answer("a3_nf4", "encode"),
    right={
        "a search": f"{LOOP} -> "
        'codes = torch.searchsorted((codebook[1:] + codebook[:-1]) / 2, scaled, side="right").byte()',
        "NumPy, float64, block by block": in_numpy,
    },
    wrong=[
        ("ties go down", "scaled >= -> scaled >", 6,
         "only ties are wrong: a value in the middle between two levels gets the lower code, as in bitsandbytes. Here "
         "it gets the higher one: compare with the mid-points by >=, and not by >.", CODES),
        ("ties go outward", "scaled >= midpoint -> torch.where(scaled > 0, scaled >= midpoint, scaled > midpoint)", 6,
         "only ties are wrong, and only below 0: there they go to the level farther from 0. Up means the higher code "
         "on both sides.", CODES),
        ("0 / 0 becomes code 0", f"{GUARDED} -> constants", 7,
         "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: its "
         "values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.", BLOCKS),
        ("0 / 0 becomes the last code",
         f"{GUARDED} -> constants & return codes -> codes[scaled.isnan()] = len(codebook) - 1; return codes", 7,
         "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which a search puts behind every "
         "mid-point: its values get the last code. They must get the code of the level 0: divide by 1 there.", BLOCKS),
        ("the guard of an absmax", f"{GUARDED} -> constants.clamp(min=1e-30)", 4,
         "this keeps the divisor above a small positive number, and so replaces every negative constant. That guard is "
         "for an absmax, which is never negative: replace only the constants that are 0.", BLOCKS),
        ("the sign of the constant is dropped", f"{GUARDED} -> {GUARDED}.abs()", 4,
         "this divides by the magnitude of the constant. Divide by the constant itself: in a block with a negative "
         "one, all signs turn.", BLOCKS),
        ("constants repeated in turn", "repeat_interleave -> repeat", 0,
         "the constants are dealt out in turn, one value each. The first block_size values share the first constant: "
         "`repeat_interleave` does that, `repeat` does not.", BLOCKS),
        ("one constant for all", f"{EACH} -> constants[constants.abs().argmax()]", 0,
         "all blocks are divided by one constant, the largest. Each block has its own.", "notebook 05, section 3"),
        ("not scaled", f" / {EACH} -> ", 0,
         "the values are not divided by the constants of their blocks. The levels stand for values between -1 and 1.",
         CODES),
        ("the level below", "(codebook[:-1] + codebook[1:]) / 2 -> codebook[1:]", 0,
         "this takes the highest level that is not above the value. The nearest level may be the one above: the "
         "mid-points decide.", CODES),
        ("levels instead of codes", "return codes -> return codebook[codes.long()]", 0,
         "these are the levels. Stored is the code of each, its index in the codebook.", CODES),
        ("codes of 64 bits", "torch.uint8 -> torch.int64", 7),
        ("the values are scaled in place",
         f"values.flatten() / {EACH} -> values.view(-1).div_({EACH})", 7),
        ("the short last block is dropped",
         "return codes -> return codes[: values.numel() // block_size * block_size]", 4,
         "the short last block is missing. Its values need codes too.", BLOCKS),
        Wrong("calls lora_edu", of_the_package, 2),
    ],
)  # fmt: skip
