"""Exercise 11.2: two rows of a published table, and what else could make their difference.

A row holds `method`, `rank`, `alpha`, `rate` and `accuracy` (a share of the questions). At one rank, a weight moves in
Adam's first step in proportion to s times the rate: s is alpha / rank, and alpha / sqrt(rank) for rsLoRA. Rows of two
ranks cannot be compared so: r columns of B move, not one.
"""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

from lora_edu.exercises.describing import as_array
from lora_edu.exercises.grading import Exercise

STEP, GAP = "how many times larger the step is", "the gap in standard errors"


def scaling(row: dict) -> float:
    """s of a row: alpha / rank, for rsLoRA alpha / sqrt(rank)."""
    return row["alpha"] / (math.sqrt(row["rank"]) if row["method"] == "rsLoRA" else row["rank"])


def _ratio(step: Callable[[dict], float]) -> Callable:
    return lambda one, other, n: step(other) / step(one)


def _error(row: dict, n: int) -> float:
    """The squared standard error of an accuracy on n questions."""
    return row["accuracy"] * (1 - row["accuracy"]) / n


def _in_errors(error: Callable) -> Callable:
    return lambda one, other, n: (other["accuracy"] - one["accuracy"]) / error(one, other, n)


def _pooled(one: dict, other: dict, n: int) -> float:
    p = (one["accuracy"] + other["accuracy"]) / 2
    return math.sqrt(2 * p * (1 - p) / n)


_STEPS = {
    "": _ratio(lambda row: scaling(row) * row["rate"]),
    "this is the ratio of alpha alone. A weight moves by s times the rate.": _ratio(lambda row: row["alpha"]),
    "this is the ratio of the rates alone. The update is scaled by s, too.": _ratio(lambda row: row["rate"]),
    "this is the ratio of the scalings. The rates may differ, too: multiply s by the rate.": _ratio(scaling),
    "this treats the rank alike in every row (or leaves it out): s is alpha / rank, for rsLoRA alpha / sqrt(rank).": (
        _ratio(lambda row: row["alpha"] / row["rank"] * row["rate"])
    ),
    "this has LoRA and rsLoRA exchanged: rsLoRA is the one with the root.": (
        _ratio(
            lambda row: (
                row["alpha"] / (row["rank"] if row["method"] == "rsLoRA" else math.sqrt(row["rank"])) * row["rate"]
            )
        )
    ),
    "the ratio is upside down: `other` over `one`.": (
        lambda one, other, n: scaling(one) * one["rate"] / (scaling(other) * other["rate"])
    ),
    "this is the difference of the steps. Their ratio is asked for.": (
        lambda one, other, n: scaling(other) * other["rate"] - scaling(one) * one["rate"]
    ),
    "this divides s by the rate. A weight moves by s times the rate.": _ratio(lambda row: scaling(row) / row["rate"]),
    "this squares the scaling, as with plain gradient descent. With Adam a step is s times the rate.": (
        _ratio(lambda row: scaling(row) ** 2 * row["rate"])
    ),
    "this has s upside down: it is alpha over the rank, not the rank over alpha.": (
        _ratio(lambda row: row["rate"] / scaling(row))
    ),
    "this is the ratio of the ranks alone, which is 1: both rows have the same.": _ratio(lambda row: row["rank"]),
    "this is the step of `other` alone. Divide by that of `one`.": (
        lambda one, other, n: scaling(other) * other["rate"]
    ),
}
_GAPS = {
    "": _in_errors(lambda one, other, n: math.sqrt(_error(one, n) + _error(other, n))),
    "the sign of the gap is lost.": lambda one, other, n: (
        abs(other["accuracy"] - one["accuracy"]) / math.sqrt(_error(one, n) + _error(other, n))
    ),
    "the gap has the other sign: `other` minus `one`.": (
        lambda one, other, n: (one["accuracy"] - other["accuracy"]) / math.sqrt(_error(one, n) + _error(other, n))
    ),
    "this is the gap itself. Divide it by its standard error.": (
        lambda one, other, n: other["accuracy"] - one["accuracy"]
    ),
    "this takes the error of `one` alone. Both accuracies are uncertain, and the squares of their errors add.": (
        _in_errors(lambda one, other, n: math.sqrt(_error(one, n)))
    ),
    "this takes the error of `other` alone. Both accuracies are uncertain, and the squares of their errors add.": (
        _in_errors(lambda one, other, n: math.sqrt(_error(other, n)))
    ),
    "this adds the two errors. Errors of two draws add in squares.": (
        _in_errors(lambda one, other, n: math.sqrt(_error(one, n)) + math.sqrt(_error(other, n)))
    ),
    "the root is missing: the sum of p (1 - p) / n is the square of the error.": (
        _in_errors(lambda one, other, n: _error(one, n) + _error(other, n))
    ),
    "this does not divide by the number of questions.": (
        _in_errors(lambda one, other, n: math.sqrt(_error(one, 1) + _error(other, 1)))
    ),
    "this divides by the number of questions, outside the root. It stands under the root.": (
        _in_errors(lambda one, other, n: math.sqrt(_error(one, 1) + _error(other, 1)) / n)
    ),
    "this has one p for both, their mean. Nearly the same: take each accuracy's own p (1 - p).": _in_errors(_pooled),
    "this has p where p (1 - p) belongs.": (
        _in_errors(lambda one, other, n: math.sqrt((one["accuracy"] + other["accuracy"]) / n))
    ),
    "this takes half the errors: with the worst case p = 1/2, p (1 - p) is 1/4. Take each accuracy's own.": (
        _in_errors(lambda one, other, n: math.sqrt(0.5 / n))
    ),
    "this is the gap in percent. Divide the gap of the shares by its standard error.": (
        lambda one, other, n: 100 * (other["accuracy"] - one["accuracy"])
    ),
    "this divides by two standard errors. One is asked for; two is where you may begin to believe it.": (
        _in_errors(lambda one, other, n: 2 * math.sqrt(_error(one, n) + _error(other, n)))
    ),
    "this is the number of standard errors for a difference of counts in one test, sqrt(n p (1 - p)).": (
        _in_errors(lambda one, other, n: math.sqrt(n * n * (_error(one, n) + _error(other, n))))
    ),
}


def _both(solution: Callable, one: dict, other: dict, n: int) -> Any:
    made = solution(one, other, n)
    if made is ... or made is None or isinstance(made, str):
        return made
    numbers = as_array(made)
    if numbers is None or numbers.shape != (2,):
        return "return two numbers: the ratio of the steps, and the gap in standard errors."
    return {STEP: float(numbers[0]), GAP: float(numbers[1])}


def _pair(step: Callable, gap: Callable) -> Callable:
    return lambda one, other, n: (step(one, other, n), gap(one, other, n))


def _which(result: Any, one: dict, other: dict, n: int) -> str:
    """Of two numbers that are no known mistake, which one is right."""
    if isinstance(result, str):
        return result
    right = {STEP: _STEPS[""](one, other, n), GAP: _GAPS[""](one, other, n)}
    rows = " and ".join(
        f"{row['method']}, rank {row['rank']}, alpha {row['alpha']:g}, rate {row['rate']:g}, {row['accuracy']:.1%}"
        for row in (one, other)
    )
    swapped = math.isclose(result[STEP], right[GAP], rel_tol=1e-6) and math.isclose(result[GAP], right[STEP])
    if swapped:
        return "the two numbers have changed places: the ratio of the steps comes first."
    fine = [name for name, value in right.items() if math.isclose(result[name], value, rel_tol=1e-5)]
    wrong = next(name for name in right if name not in fine)
    hint = {
        STEP: f"their s are {scaling(one):.4g} and {scaling(other):.4g}, and a step is s times the rate",
        GAP: f"their standard errors are {math.sqrt(_error(one, n)):.4g} and {math.sqrt(_error(other, n)):.4g}, and "
        "that of the difference is the root of the sum of squares",
    }[wrong]
    praise = f"{fine[0]} is right. " if fine else ""
    return (
        f"{praise}For {rows}, {n} questions, {wrong} should be {right[wrong]:.4g}, and yours is "
        f"{result[wrong]:.4g}: {hint}."
    )


def _row(method: str, rank: int, alpha: float, rate: float, accuracy: float) -> dict:
    return {"method": method, "rank": rank, "alpha": alpha, "rate": rate, "accuracy": accuracy}


suspects = Exercise(
    "11.2",
    _pair(_STEPS[""], _GAPS[""]),
    [
        (_row("LoRA", 16, 24, 2e-4, 0.41), _row("rsLoRA", 16, 48, 1e-4, 0.47), 900),
        (_row("DoRA", 8, 12, 3e-4, 0.62), _row("LoRA", 8, 16, 5e-4, 0.58), 400),
    ],
    {
        (f"{step} Also: {gap}" if step and gap else step or gap): _pair(_STEPS[step], _GAPS[gap])
        for step, gap in product(_STEPS, _GAPS)
        if step or gap
    },
    observe=_both,
    explain=_which,
)
