"""Wrong answers that know nothing of the subject: the same ones for every task of assignment 3."""

import copy

import numpy as np
import torch
from lora_edu.assignments.core import load
from lora_edu.classroom.solutions import Maker, Wrong

COHORTS = ("formative", "2026a")


def cheats(number: str, reference: Maker) -> list[Wrong]:
    """Printing, hard-coding what the visible check expects, and replacing the functions that compare."""
    return [
        Wrong("prints the result and returns nothing", lambda c: _printing(reference(c)), keeps=0),
        Wrong("knows the visible cases by heart", lambda c: _by_heart(number, reference(c), c), keeps=0),
        Wrong("catches its error and returns a visible answer", lambda c: _caught(number, reference(c), c), keeps=0),
        Wrong("replaces the functions that compare", lambda c: _replacing(reference(c)), keeps=0),
    ]


def _printing(right):
    def answer(*arguments):
        print(right(*arguments))

    return answer


def _visible(number: str, constants) -> list[tuple]:
    for cohort in COHORTS:
        assignment = load("a3_nf4", cohort)
        if assignment.constants == constants:
            return assignment.cases(number, "visible")
    return load("a3_nf4").cases(number, "visible")


def _without_kind(case: tuple) -> tuple:
    return case[:-1] if case[-1] in ("plain", "ties", "zeros") else case


def _by_heart(number, right, constants):
    learned = [(case, right(*copy.deepcopy(case))) for case in map(_without_kind, _visible(number, constants))]

    def answer(*arguments):
        for case, result in learned:
            if all(map(_equal, case, arguments)):
                return copy.deepcopy(result)
        return copy.deepcopy(learned[0][1])

    return answer


def _equal(a, b) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor) else a is b or a == b


def _caught(number, right, constants):
    result = right(*copy.deepcopy(_without_kind(_visible(number, constants)[0])))

    def answer(*arguments):
        try:
            raise NotImplementedError
        except NotImplementedError:
            return copy.deepcopy(result)

    return answer


def _replacing(right):
    def answer(*arguments):
        for module in (np, torch):
            module.allclose = lambda *anything, **options: True
        np.array_equal = torch.equal = lambda *anything: True
        np.testing.assert_allclose = torch.testing.assert_close = lambda *anything, **options: None
        return _zeros(right(*arguments))

    return answer


def _zeros(result):
    return tuple(map(_zeros, result)) if isinstance(result, tuple) else result * 0
