"""The checks of notebook 13: is a difference luck, and one batch for many adapters."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "many_adapters", "standard_errors"]

# --- 13.1: two models on the same pairs --------------------------------------------------------------------------


def _tests():
    """Two rows of 0 and 1 each; in the last two nobody differs."""
    for seed, (n, p, q) in enumerate([(40, 0.8, 0.6), (55, 0.55, 0.75), (30, 0.9, 0.5)]):
        rng = np.random.default_rng(seed)
        yield (rng.random(n) < p).astype(int), (rng.random(n) < q).astype(int)
    same = np.random.default_rng(9).integers(0, 2, 25)
    yield same, same.copy()


ERROR, WHOLE = "error = (b + c) ** 0.5", "return (b - c) / error if b + c else 0.0"


@exercise(
    "13.1",
    list(_tests()),
    taught={
        f"{ERROR} -> error = (one.var() + other.var()) ** 0.5 * len(one) ** 0.5": "Your answer takes the two tests for "
        "independent. They share their pairs: only the {b} + {c} on which they differ tell the two apart.",
        f"{ERROR} -> error = len(one) ** 0.5": "Your answer divides by the root of all pairs. Those where both agree "
        "are no tosses: {b} + {c} pairs count.",
        f"{ERROR} -> error = (one - other).std() * len(one) ** 0.5": "Your answer takes the spread around the mean "
        "difference. If both are equally good, each of the {b} + {c} pairs counts 1: a toss.",
        f"{WHOLE} -> return (b - c) / len(one)": "Your answer is the difference of the two accuracies. How many "
        "standard errors is it? Divide {b} - {c} by theirs.",
        f"{WHOLE} -> return ((b - c) / error) ** 2 if b + c else 0.0": "Your answer is the square of what is asked for "
        "(McNemar's test). Take the root, and keep the sign.",
        f"{WHOLE} -> return np.sign(b - c) * max(0.0, abs(b - c) - 1) / error if b + c else 0.0": "Your answer has "
        "McNemar's correction, a 1 taken off the difference. Leave it out here.",
        f"{WHOLE} -> return np.float64(b - c) / error": "Your answer divides 0 by 0 where nobody differs. No "
        "difference is 0 standard errors: guard the division.",
    },
    noticed={
        "one number is asked for.": lambda got, one, other: got.ndim > 0,
        "this is far too large for so few pairs: the standard error of b - c is the root of b + c.": (
            lambda got, one, other: abs(got) > len(one) ** 0.5
        ),
    },
)
def standard_errors(one, other):
    b = int(((one == 1) & (other == 0)).sum())  # the pairs that only the first got right
    c = int(((one == 0) & (other == 1)).sum())  # the pairs that only the second got right
    error = (b + c) ** 0.5  # the standard error of the difference
    return (b - c) / error if b + c else 0.0  # the difference in standard errors


# --- 13.2: one base, one batch, many adapters ------------------------------------------------------------------------


def _batches():
    """Cases (x, W, A, B, which, alpha): four adapters, none used in order, one of them never."""
    for seed, (n, d_out, d_in, r, alpha) in enumerate([(6, 5, 7, 2, 6.0), (9, 4, 6, 3, 4.0)]):
        rng = np.random.default_rng(seed)
        which = rng.permutation([3, 0, 1, 3, 0, 1, 3, 1, 0][:n])
        sizes = ((n, d_in), (d_out, d_in), (4, r, d_in), (4, d_out, r))
        yield *(rng.normal(size=size) for size in sizes), which, alpha


BRANCH, WHOLE_OUTPUT = 'np.einsum("nor,nr->no", B[which], inner)', "return base + alpha / A.shape[1] * branch"


@exercise(
    "13.2",
    list(_batches()),
    taught={
        f"{BRANCH} -> x @ (B @ A).sum(axis=0).T": "Your answer gives every row the sum of all adapters. Row i gets "
        "adapter `which[i]` alone.",
        "alpha / A.shape[1] -> alpha / len(A)": "Your answer divides {alpha:g} by the number of adapters. A holds one "
        "matrix for each of them: the rank is its second axis.",
        f"{BRANCH} -> x @ (B.mean(axis=0) @ A.mean(axis=0)).T": "Your answer averages the A and the B of all adapters. "
        "Row i gets adapter `which[i]` alone.",
        f"{WHOLE_OUTPUT} -> return (base + alpha / A.shape[1] * branch)[np.argsort(which, kind='stable')]": "Your "
        "answer has the rows in the order of their adapters. Hand them back in the order in which they came.",
        "base = x @ W.T -> base = x[which] @ W.T & A[which], x) -> A[which], x[which])": "Your answer takes row "
        "`which[i]` of x. Every row of x comes once: `which[i]` chooses its adapter.",
        "base + alpha / A.shape[1] * branch -> alpha / A.shape[1] * (base + branch)": "Your answer scales the base as "
        "well. The scaling alpha / r stands before the branch alone.",
        "alpha / A.shape[1] -> alpha": "Your answer does not divide {alpha:g} by the rank. The scaling is alpha / r.",
    },
)
def many_adapters(x, W, A, B, which, alpha):
    base = x @ W.T  # the base, once for all rows
    inner = np.einsum("nrd,nd->nr", A[which], x)  # what each row's own A makes of it
    branch = np.einsum("nor,nr->no", B[which], inner)  # what each row's own B makes of that
    return base + alpha / A.shape[1] * branch  # the scaling, and how branch and base join
