"""Wrong answers made from parts: where an answer is a formula of several parts, each part has mistakes of its own."""

import itertools
from collections.abc import Callable, Sequence

import numpy as np

Options = dict  # a wrong option of a part -> the sentence that helps


def combinations(
    formula: Callable,
    cases: Sequence[tuple],
    parts: dict[str, tuple[object, Options]],
    besides: dict[str, Callable],
    in_pairs: int = 4,
) -> dict[str, Callable]:
    """The answers with a mistake in one part, and with two of the frequent ones: sentence -> wrong solution.

    formula(*case, **options) computes an answer, a number or an array. parts: name -> (the right option, its wrong
    ones, frequent ones first); the first `in_pairs` of each part are combined with those of other parts. Of two
    mistakes that give the same answers the first one stays, and what gives the right answers is no mistake.
    """
    right = {name: option for name, (option, _) in parts.items()}
    found = dict(besides)
    seen = {_answers(formula, cases, right), *(_answers(mistake, cases, {}) for mistake in besides.values())}
    for count in (1, 2):
        for names in itertools.combinations(parts, count):
            options = [list(parts[name][1].items())[: in_pairs if count == 2 else None] for name in names]
            for chosen in itertools.product(*options):
                mistake = right | dict(zip(names, (option for option, _ in chosen), strict=True))
                answers = _answers(formula, cases, mistake)
                if answers not in seen:
                    seen.add(answers)
                    found[" And ".join(text for _, text in chosen)] = _with(formula, mistake)
    return found


def _with(formula: Callable, options: dict) -> Callable:
    return lambda *case: formula(*case, **options)


def _answers(formula: Callable, cases: Sequence[tuple], options: dict) -> tuple:
    with np.errstate(all="ignore"):
        return tuple(_digits(np.asarray(formula(*case, **options), dtype=np.float64)) for case in cases)


def _digits(array: np.ndarray) -> tuple:
    """Shape and numbers as the checks compare them: counts in full, others to five digits of the largest."""
    if np.all(np.isclose(array, np.round(array), rtol=1e-12, atol=1e-12)):  # norm / norm may be a digit off 1
        return array.shape, *(np.round(array) + 0.0).flat
    largest = np.abs(array).max(where=np.isfinite(array), initial=0) or 1.0
    return array.shape, f"{largest:.5g}", *(f"{value:.5f}" for value in (np.round(array / largest, 5) + 0.0).flat)
