"""Exercise 11.2: two rows of a published table, and what else could make their difference.

A row holds `method`, `rank`, `alpha`, `rate` and `accuracy` (a share of the questions). At one rank, a weight moves in
Adam's first step in proportion to s times the rate: s is alpha / rank, and alpha / sqrt(rank) for rsLoRA. Rows of two
ranks cannot be compared so: r columns of B move, not one.
"""

import numpy as np

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.exercise import exercise

STEP, GAP = "how many times larger the step is", "the gap in standard errors"


def _both(solution, one, other, questions):
    made = solution(one, other, questions)
    if made is ... or made is None:
        return made
    numbers = as_array(made)
    if numbers is None or numbers.shape != (2,):
        return "return two numbers: the ratio of the steps, and the gap in standard errors."
    return {STEP: float(numbers[0]), GAP: float(numbers[1])}


def _row(method, rank, alpha, rate, accuracy):
    return {"method": method, "rank": rank, "alpha": alpha, "rate": rate, "accuracy": accuracy}


ROOTS = 'row["rank"] ** 0.5 if row["method"] == "rsLoRA" else row["rank"]'


@exercise(
    "11.2",
    [
        (_row("LoRA", 16, 24, 2e-4, 0.41), _row("rsLoRA", 16, 48, 1e-4, 0.47), 900),
        (_row("DoRA", 8, 12, 3e-4, 0.62), _row("LoRA", 8, 16, 5e-4, 0.58), 400),
    ],
    taught={
        f"{ROOTS} -> row['rank']": "Your answer divides every alpha by the rank. That of rsLoRA is divided by the root "
        "of the rank: section 1.",
        "alphas / below * rates -> alphas / below": "Your answer compares the two s alone. The rates may differ as "
        "well: a weight moves by s times the rate (section 2).",
        "alphas / below * rates -> (alphas / below) ** 2 * rates": "Your answer has s twice, as with plain gradient "
        "descent. Adam's first step is s times the rate: section 2.",
        "error = squares.sum() ** 0.5 -> error = squares[0] ** 0.5": "Your answer takes the error of `one` alone. Both "
        "accuracies are uncertain, and the squares of their errors add.",
        "error = squares.sum() ** 0.5 -> error = (squares**0.5).sum()": "Your answer adds the two errors. Those of "
        "independent draws add in squares: {error:.3g} in the case below.",
        "p * (1 - p) / questions -> p.mean() * (1 - p.mean()) / questions": "Your answer has one p for both rows, "
        "their mean. It comes close: take each accuracy's own p (1 - p).",
        "p * (1 - p) / questions -> 0 * p + 0.25 / questions": "Your answer takes the largest error that there is, at "
        "p = 1/2. Take each accuracy's own p (1 - p).",
    },
    also=(
        "alphas / below * rates -> alphas",
        "alphas / below * rates -> below",
        "alphas / below * rates -> rates",
        "steps[1] / steps[0] -> steps[1] - steps[0]",
        f"{ROOTS} -> row['rank'] ** 0.5",
        "return steps[1] / steps[0], gap / error -> return steps[1] / steps[0], gap",
        "p[1] - p[0] -> 100 * (p[1] - p[0])",
        "p[1] - p[0] -> abs(p[1] - p[0])",
        "error = squares.sum() ** 0.5 -> error = squares[1] ** 0.5",
        "error = squares.sum() ** 0.5 -> error = squares.sum()",
        "p * (1 - p) / questions -> p * (1 - p)",
        "p * (1 - p) / questions -> p * (1 - p) / questions**2",
        "p * (1 - p) / questions -> p * (1 - p) * questions",
        "p * (1 - p) / questions -> p / questions",
    ),
    observe=_both,
    tries=0.5,
)
def suspects(one, other, questions):
    alphas, rates, p = (np.array([row[key] for row in (one, other)]) for key in ("alpha", "rate", "accuracy"))
    below = np.array(
        [row["rank"] ** 0.5 if row["method"] == "rsLoRA" else row["rank"] for row in (one, other)]
    )  # what alpha is divided by
    steps = alphas / below * rates  # the steps of both rows
    squares = p * (1 - p) / questions  # the squared errors of both accuracies
    error = squares.sum() ** 0.5  # the error of their difference
    gap = p[1] - p[0]  # the gap of the accuracies
    return steps[1] / steps[0], gap / error  # the ratio, or the quotient
