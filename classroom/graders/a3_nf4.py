"""Assignment 3: the right answers, and edits of the notebook's that are wrong, with the points that each keeps."""

from classroom.solutions import Answer, Solutions
from lora_edu import quantization

# --- 3.1: a codebook with two offsets --------------------------------------------------------------------------------

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
        "NumPy": f"{GIVEN} -> return (levels / levels.max()).double().numpy()",
    },
    wrong=[
        ("mirrored", f"{GIVEN} -> return -(levels / levels.max()).flip(0)", 0,
         "this is the mirror image, with its exact 1 on the wrong side. The constant of a block keeps its sign, so the "
         "value that it came from is scaled to +1, never to -1.", RECIPE),
        ("the offsets swapped", "offset_below, offset_above): -> offset_above, offset_below):", 1,
         "the two sides have each other's offset: the levels under 0 start at `offset_below`.", RECIPE),
        ("one offset for both sides", "side(offset_below, -> side(offset_above,", 1,
         "both sides start at `offset_above`, as both sides of NF4 start at one offset. Here the side below 0 has one "
         "of its own.", RECIPE),
        ("no exact 0", "0.0, *side -> *side", 0,
         "this has no exact 0. A weight of 0, as in padding, must come back as 0.", RECIPE),
        ("the finite part of Eq. 4", f"{SORTED} -> {EQ_4}; levels = (q[2:-1] + q[1:-2]) / 2", 0,
         "this is the finite part of Eq. 4. Start at the offsets, and give each side steps of its own.", QUANTILES),
        ("not divided by the largest", f"{GIVEN} -> return levels", 1,
         "this forgets to divide by the largest level. The codebook must end at 1, so that the value that gave a block "
         "its constant comes back exactly.", RECIPE),
        ("each side divided by its own end",
         f"{LIST} -> [*np.divide(negative, -negative[0]), 0.0, "
         "*np.divide(side(offset_above, above), side(offset_above, 1))]", 1,
         "each side is divided by its own end, and so the codebook begins at -1. Divide all levels by the largest: "
         "here no value is ever scaled to exactly -1 by its own constant, and the lower end need not be there.",
         RECIPE),
        ("not sorted",
         f"{GIVEN} -> return torch.cat([levels[: below + 1], levels[below + 1 :].flip(0)]) / levels.max()", 1,
         "these are the right levels, but those above 0 stand in falling order. The codebook is sorted.", RECIPE),
        ("equal steps between the ends", f"{GIVEN} -> low = levels[0] / levels.max(); return "
         "np.append(np.linspace(low, 0, below + 1)[:-1], np.linspace(0, 1, above + 1))", 1,
         "the ends are right, and between them the *levels* have equal steps. Take equal steps in probability, and the "
         "quantile of each.", QUANTILES),
    ],
)  # fmt: skip


# --- 3.2: the nearest level ------------------------------------------------------------------------------------------

BLOCKS, CODES = "notebook 05, section 4", "notebook 06, section 3"
LOOP = "for midpoint in (codebook[:-1] + codebook[1:]) / 2:\n        codes += scaled >= midpoint"
GUARDED, EACH = "torch.where(constants == 0, 1, constants)", "divisor[: values.numel()]"

ENCODE = Solutions(
    reference=Answer("a3_nf4", "encode", names={"quantization": quantization}),
    right={
        "a search": f"{LOOP} -> "
        'codes = torch.searchsorted((codebook[1:] + codebook[:-1]) / 2, scaled, side="right").byte()',
        "float64, NumPy": "values.flatten() / -> values.flatten().double() / & return codes -> return codes.numpy()",
    },
    wrong=[
        ("ties go down", "scaled >= -> scaled >", 6,
         "only ties are wrong: a value in the middle between two levels gets the lower code, as in bitsandbytes. Here "
         "it gets the higher one: compare with the mid-points by >=, and not by >.", CODES),
        ("0 / 0 becomes code 0", f"{GUARDED} -> constants", 7,
         "in a block of zeros the constant is 0, and 0 / 0 is NaN (not a number), which is above no mid-point: its "
         "values get code 0, the lowest level. They must get the code of the level 0: divide by 1 there.", BLOCKS),
        ("the guard of an absmax", f"{GUARDED} -> constants.clamp(min=1e-30)", 4,
         "this keeps the divisor above a small positive number, and so replaces every negative constant. That guard is "
         "for an absmax, which is never negative: replace only the constants that are 0.", BLOCKS),
        ("the sign of the constant is dropped", f"{GUARDED} -> {GUARDED}.abs()", 4,
         "this divides by the magnitude of the constant. Divide by the constant itself: in a block with a negative "
         "one, all signs turn.", BLOCKS),
        ("levels instead of codes", "return codes -> return codebook[codes.long()]", 0,
         "these are the levels. Stored is the code of each, its index in the codebook.", CODES),
        ("codes of 64 bits", "torch.uint8 -> torch.int64", 7),
        ("the values are scaled in place",
         f"values.flatten() / {EACH} -> values.view(-1).div_({EACH})", 7),
        ("the short last block is dropped",
         "return codes -> return codes[: values.numel() // block_size * block_size]", 4,
         "the short last block is missing. Its values need codes too.", BLOCKS),
        ("calls lora_edu", f"{LOOP} -> "
         "codes = quantization.nearest_code(quantization.normalize(values.flatten(), constants, block_size), codebook)",
         2),
    ],
)  # fmt: skip


# --- 3.3: better constants for the same codes ------------------------------------------------------------------------

BLOCKS, ERROR, LEVELS = "notebook 05, section 4", "notebook 05, section 1", "notebook 06, section 3"
TEXT = "exercise 3.3"
BEST = "(w * q).sum() / (q * q).sum().clamp(min=1e-30)"
OFF = "(flat - rounded).norm() / flat.norm()"


def where_q(formula: str) -> str:
    """A formula for the constant of a block, and 0 where all its levels are 0."""
    return f"({formula} if q.any() else q.sum())"


REFIT = Solutions(
    reference=Answer("a3_nf4", "refit"),
    right={
        "einsum, NumPy": f"{BEST} -> torch.einsum('i,i', w, q) / (q @ q).clamp(min=1e-30) & "
        "return constants, -> return constants.numpy(),",
        "NumPy, float64, least squares": f"{BEST} -> torch.tensor("
        "np.linalg.lstsq(q.double().numpy()[:, None], w.double().numpy(), rcond=None)[0][0])",
    },
    wrong=[
        ("the absmax", f"{BEST} -> w.abs().max()", 4,
         "these constants are the absmax of each block. The question is which constant makes the squared error of the "
         "block smallest, for the codes that are given.", BLOCKS),
        ("the absmax with its sign", f"{BEST} -> w[w.abs().argmax()]", 4,
         "these constants are the value with the largest magnitude in each block. They make that value exact; the "
         "question is which constant makes the squared error of the whole block smallest.", BLOCKS),
        ("the sums", f"{BEST} -> {where_q('w.sum() / q.sum()')}", 4,
         "this divides the sum of the weights by the sum of the levels. With that constant the errors of a block add "
         "up to 0; their squares do not have the smallest sum.", TEXT),
        ("divided by the levels", f"{BEST} -> {where_q('(w * q).sum() / q.sum()')}", 4,
         "the denominator is the sum of the levels. Look at the derivative of E once more: what is s multiplied by in "
         "it?", TEXT),
        ("divided by the squares of the weights", f"{BEST} -> {where_q('(w * q).sum() / (w * w).sum()')}", 4,
         "the denominator has the squares of the weights. That is the best factor the other way round, from the "
         "weights to the levels.", TEXT),
        ("divided by the number of values", f"{BEST} -> (w * q).mean()", 4,
         "the denominator is the number of values in the block. Look at the derivative of E once more: what is s "
         "multiplied by in it?", TEXT),
        ("the mean of the ratios", f"{BEST} -> {where_q('(w / q)[q != 0].mean()')}", 4,
         "these constants are the mean of w / q. There a value at a level near 0 decides the most, though s hardly "
         "moves it.", TEXT),
        ("the ratio of the norms", f"{BEST} -> {where_q('w.norm() / q.norm()')}", 4,
         "this is the norm of the weights divided by the norm of the levels. Each block comes back as large as it was, "
         "and the squared error is smallest for another constant.", TEXT),
        ("the results exchanged", f"return constants, ({OFF}).item() -> return ({OFF}).item(), constants", 0,
         "the two results are exchanged: the constants come first, then the relative error.", TEXT),
        ("the codes taken for levels", "codebook[codes.long()] -> codes.float()", 0,
         "the codes themselves are fitted to the weights. A code is an index: look its level up in the codebook.",
         LEVELS),
        ("0 / 0", ".clamp(min=1e-30) -> ", 8,
         "in a block with no level but 0 the constant is 0 / 0, which is NaN (not a number), and so is the error. Take "
         "0 there.", BLOCKS),
        ("the error squared", f"{OFF} -> ({OFF}) ** 2", 6,
         "the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.", ERROR),
        ("divided by the rounded norm", "/ flat.norm() -> / rounded.norm()", 6,
         "the constants are right. The error is divided by the norm of the rounded weights; the weights themselves are "
         "what we compare with.", ERROR),
        ("the weights are changed",
         "= values.flatten(), -> = values.flatten().clone(), & "
         "return constants -> values -= rounded.view(values.shape); return constants", 8),
    ],
)  # fmt: skip


SOLUTIONS = {"3.1": CODEBOOK, "3.2": ENCODE, "3.3": REFIT}
