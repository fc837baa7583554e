"""Assignment 3, blocks and a relative of NF4: exercise 3.3, better constants for the same codes; and all of them."""

import torch
from torch.nn.functional import pad

from classroom.graders.a3_codes import CODEBOOK, ENCODE
from classroom.solutions import Answer, Solutions


def broadcast(c):
    def answer(values, codes, codebook, block_size):
        missing = (0, -values.numel() % block_size)
        w = pad(values.flatten(), missing).view(-1, block_size)  # (n_blocks, block_size)
        q = pad(codebook[codes.long()], missing).view(-1, block_size)
        squares = torch.einsum("bi,bi->b", q, q)
        constants = torch.einsum("bi,bi->b", w, q) / torch.where(squares == 0, 1, squares)
        return constants, (torch.linalg.norm(w - q * constants[:, None]) / torch.linalg.norm(w)).item()

    return answer


BLOCKS, ERROR, LEVELS, TEXT = (
    "notebook 05, section 4", "notebook 05, section 1", "notebook 06, section 3", "exercise 3.3",
)  # fmt: skip
GIVEN, BEST = (
    "flat, levels = values.flatten(), codebook[codes.long()]",
    "(w * q).sum() / (q * q).sum().clamp(min=1e-30)",
)
OFF = "(flat - rounded).norm() / flat.norm()"

REFIT = Solutions(
    reference=Answer("a3_nf4", "refit"),
    right={
        "broadcasting, einsum": broadcast,
        "NumPy, float64, least squares": f"{BEST} -> torch.tensor("
        "np.linalg.lstsq(q.double().numpy()[:, None], w.double().numpy(), rcond=None)[0][0])",
    },
    wrong=[
        ("the absmax", f"{BEST} -> w.abs().max()", 0,
         "these constants are the absmax of each block. The question is which constant makes the squared error of the "
         "block smallest, for the codes that are given.", BLOCKS),
        ("the constant with its sign", f"{BEST} -> w[w.abs().argmax()]", 0,
         "these are the values of the largest magnitude. They make one value of each block exact; the question is "
         "which constant makes the squared error of the whole block smallest.", BLOCKS),
        ("the mean of the ratios", f"{BEST} -> (w / q)[q != 0].mean().nan_to_num()", 0,
         "this is the mean of the ratios w / q. It lets small levels count as much as large ones: write the squared "
         "error as a function of the constant, and set its derivative to 0.", TEXT),
        ("the ratio of the sums", f"{BEST} -> (w.sum() / q.sum()).nan_to_num(0, 0, 0)", 0,
         "this is the sum of w over the sum of q, where values of both signs cancel. Multiply by q before summing: the "
         "derivative of (w - s q)^2 is -2 q (w - s q).", TEXT),
        ("the ratio of the norms", f"{BEST} -> w.norm() / q.norm().clamp(min=1e-30) * (w * q).sum().sign()", 0,
         "this is the ratio of two norms. It gives the rounded block the *length* of the block, which is not where it "
         "comes closest.", TEXT),
        ("the other way round", f"{BEST} -> (w * q).sum() / (w * w).sum()", 0,
         "this divides by the sum of w * w. That is the best factor from the weights to the levels; the question is "
         "the one from the levels to the weights.", TEXT),
        ("the codes taken for levels", "codebook[codes.long()] -> codes.float()", 0,
         "the codes themselves are fitted to the weights. A code is an index: look its level up in the codebook.",
         LEVELS),
        ("the nearest codes are looked for again", f"{GIVEN} -> flat = values.flatten(); tops = torch.stack("
         "[w[w.abs().argmax()] for w in flat.split(block_size)]).repeat_interleave(block_size)[: len(flat)]; "
         "levels = codebook[((flat / tops)[:, None] - codebook).abs().argmin(dim=1)]", 0,
         "the weights are quantized again, and the codes that you are given are not used. They stay, whatever they "
         "are: only the constants are new.", LEVELS),
        ("0 / 0", ".clamp(min=1e-30) -> ", 0,
         "in a block with no level but 0 the constant is 0 / 0, which is NaN (not a number), and so is the error. Take "
         "0 there.", BLOCKS),
        ("the last block is padded with code 0", f"{GIVEN} -> more = 0, -values.numel() % block_size; "
         "flat, codes = (torch.nn.functional.pad(part, more) for part in (values.flatten(), codes)); "
         "levels = codebook[codes.long()]", 0,
         "the short last block is filled up with code 0, which stands for the lowest level and not for the level 0: "
         "its padding takes part in the fit.", BLOCKS),
        ("one constant for all", "for w, q in blocks -> for w, q in [(flat, levels)] * len(list(blocks))", 0,
         "this is the best single constant for the whole tensor. Each block has its own.", "notebook 05, section 3"),
        ("the short last block is dropped", f"{GIVEN} -> whole = values.numel() // block_size * block_size; "
         "flat, levels = values.flatten()[:whole], codebook[codes.long()][:whole]", 0,
         "the short last block is missing, in the constants and in the error.", BLOCKS),
        ("the error squared", f"{OFF} -> ({OFF}) ** 2", 6,
         "the constants are right. The error is the square of ||W - W'|| / ||W||: take the root.", ERROR),
        ("the mean squared error", f"{OFF} -> (flat - rounded).square().mean()", 6,
         "the constants are right. The error is the mean squared error, which changes with the unit of the weights; "
         "divide norms: ||W - W'|| / ||W||.", ERROR),
        ("divided by the rounded norm", "/ flat.norm() -> / rounded.norm()", 6,
         "the constants are right. The error is divided by the norm of the rounded weights; the weights themselves are "
         "what we compare with.", ERROR),
        ("the mean of the blocks' errors", f"{OFF} -> torch.stack([(w - r).norm() / w.norm() for w, r in "
         "zip(flat.split(block_size), rounded.split(block_size))]).mean()", 6,
         "the constants are right. The error is the mean of the blocks' relative errors; take one norm over all "
         "weights.", ERROR),
        ("the error in code space", "return constants -> k = torch.where(constants == 0, 1, constants)"
         ".repeat_interleave(block_size)[: len(flat)]; flat, rounded = flat / k, rounded / k; return constants", 6,
         "the constants are right. The error is measured between scaled weights and levels, where a block of tiny "
         "weights counts as much as one of large weights: multiply by the constants first.", "notebook 06, section 7"),
        ("the weights are changed",
         "= values.flatten(), -> = values.flatten().clone(), & "
         "return constants -> values -= rounded.view(values.shape); return constants", 8),
    ],
)  # fmt: skip

SOLUTIONS = {"3.1": CODEBOOK, "3.2": ENCODE, "3.3": REFIT}
