"""Wrong answers that know nothing of the subject: the same ones for every task of assignment 3."""

import copy
from collections.abc import Callable

import torch

from classroom.cheats import constantly, exiting, printing, replacing_allclose
from classroom.solutions import Wrong
from lora_edu.assignments.core import load

COHORTS = ("formative", "2026a")


def cheats(number: str, right: Callable) -> list[Wrong]:
    """Printing, giving back what the visible check expects, replacing the functions that compare, leaving."""
    return [
        Wrong("prints the result and returns nothing", lambda c: printing(right), keeps=0),
        Wrong("returns the answer of a visible case", lambda c: constantly(_learned(number, right, c)[0][1]), keeps=0),
        Wrong("knows all visible cases by heart", lambda c: _by_heart(_learned(number, right, c)), keeps=0),
        Wrong("replaces the functions that compare", lambda c: replacing_allclose(_zeros_like(right)), keeps=0),
        Wrong("leaves the program", lambda c: exiting, keeps=0),
    ]


def _learned(number: str, right: Callable, constants) -> list[tuple]:
    """The arguments of each visible case, and what is right there."""
    assignments = [load("a3_nf4", cohort) for cohort in COHORTS]
    ours = next((a for a in assignments if a.constants == constants), assignments[0])
    cases = [case[:-1] if case[-1] in ("plain", "ties", "zeros") else case for case in ours.cases(number, "visible")]
    return [(case, right(*copy.deepcopy(case))) for case in cases]


def _by_heart(learned: list[tuple]) -> Callable:
    def answer(*arguments):
        found = (result for case, result in learned if all(map(_equal, case, arguments)))
        return copy.deepcopy(next(found, learned[0][1]))

    return answer


def _equal(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b


def _zeros_like(right: Callable) -> Callable:
    def answer(*arguments):
        result = right(*arguments)
        return tuple(part * 0 for part in result) if isinstance(result, tuple) else result * 0

    return answer
