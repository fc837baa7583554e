"""Assignment 3, blocks and a relative of NF4: exercise 3.3, better constants for the same codes; and all of them."""

from classroom.graders.a3_codes import CODEBOOK, ENCODE
from classroom.solutions import Answer, Solutions

BLOCKS, ERROR, LEVELS = "notebook 05, section 4", "notebook 05, section 1", "notebook 06, section 3"
BEST = "(w * q).sum() / (q * q).sum().clamp(min=1e-30)"
OFF = "(flat - rounded).norm() / flat.norm()"

REFIT = Solutions(
    reference=Answer("a3_nf4", "refit"),
    right={
        "einsum, NumPy": f"{BEST} -> torch.einsum('i,i', w, q) / (q @ q).clamp(min=1e-30) & "
        "return constants, -> return constants.numpy(),",
        "NumPy, float64, least squares": f"{BEST} -> torch.tensor("
        "np.linalg.lstsq(q.double().numpy()[:, None], w.double().numpy(), rcond=None)[0][0])",
    },
    wrong=[
        ("the absmax", f"{BEST} -> w.abs().max()", 0,
         "these constants are the absmax of each block. The question is which constant makes the squared error of the "
         "block smallest, for the codes that are given.", BLOCKS),
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
