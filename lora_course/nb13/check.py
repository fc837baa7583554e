"""The checks of notebook 13: is a difference luck?"""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside

__all__ = ["beside", "standard_errors"]

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
