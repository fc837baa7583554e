"""No message is false: many wrong answers to every exercise, and each claim of a message held against the answer."""

import re
from collections.abc import Callable, Iterator

import numpy as np
from test_exercises import EACH, cell, said

from lora_course.checking.answers import Answer
from lora_course.checking.comparing import RESULT, is_numbers
from lora_course.checking.exercise import Exercise
from lora_course.checking.symptoms import as_numpy


def changed(asked, change: Callable) -> Callable:
    """The right answer, and then one thing more."""
    return lambda *case: change(asked.reference(*case))


def stops(*case):
    raise RuntimeError("nothing works")


CHANGES: dict[str, Callable] = {
    "None": lambda right: None,
    "a word": lambda right: "seven",
    "a list": lambda right: [right],
    "a pair": lambda right: (right, right),
    "a dictionary": lambda right: {"answer": right},
    "yes": lambda right: True,
    "one number": lambda right: 7,
    "nothing at all": lambda right: np.zeros(0),
    "a factor": lambda right: right * 3.7,
    "a half": lambda right: right / 2,
    "upside down": lambda right: 1 / right,
    "the sign": lambda right: -right,
    "too large": lambda right: right + 3,
    "transposed": lambda right: right.T,
    "another axis": lambda right: right[None],
    "the sum": lambda right: right.sum(),
    "backwards": lambda right: right[::-1],
    "sorted": lambda right: np.sort(right),
    "rounded": lambda right: right.round(),
    "nan": lambda right: right * np.nan,
}


def answers(asked) -> Iterator[tuple[str, Callable]]:
    yield "stops", stops
    if asked.observe is Exercise.observe:  # else the observer hands over something else than the case
        first = asked.reference(*asked.cases[0])
        yield "hard-coded", lambda *case: first
    for name, change in CHANGES.items():
        yield name, changed(asked, change)


def ratios(answer: Answer) -> np.ndarray:
    """What was got divided by what is right, wherever that can be divided."""
    found = [np.ones(0)]
    for got, right in zip(answer.got, answer.asked.right, strict=True):
        mine, expected = as_numpy(got[RESULT]), as_numpy(right[RESULT])
        found.append((mine[expected != 0] / expected[expected != 0]).ravel())
    return np.concatenate(found)


def everywhere(answer: Answer, holds: Callable) -> bool:
    pairs = zip(answer.got, answer.asked.right, strict=True)
    return all(holds(as_numpy(got[RESULT]), as_numpy(right[RESULT])) for got, right in pairs)


# What a message claims -> whether it is so, of the answer and of what was found in the message.
CLAIMS: dict[str, Callable] = {
    "returned None": lambda a, found: all(result is None for result in a.results),
    "returned True or False": lambda a, found: all(isinstance(result, bool | np.bool_) for result in a.results),
    r"returns (\d+) things, in a tuple": lambda a, found: all(len(result) == int(found[1]) for result in a.results),
    r"returns ([\d,.e-]+) in every case": lambda a, found: np.allclose(
        [as_numpy(got[RESULT]) for got in a.got], float(found[1].replace(",", "")), rtol=1e-4
    ),
    "returns something else than numbers": lambda a, found: not any(is_numbers(got[RESULT]) for got in a.got),
    "not a number \\(nan\\)": lambda a, found: any(np.isnan(as_numpy(got[RESULT])).any() for got in a.got),
    "not a list or an array": lambda a, found: any(len(got[RESULT]["shape"]) for got in a.got),
    r"this is ([\d.,]+) times": lambda a, found: np.allclose(ratios(a), float(found[1].replace(",", "")), rtol=1e-3),
    r"this is 1 / ([\d.,]+) of": lambda a, found: np.allclose(
        ratios(a), 1 / float(found[1].replace(",", "")), rtol=1e-3
    ),
    "the sign is wrong everywhere": lambda a, found: everywhere(a, lambda got, right: np.allclose(got, -right)),
    "this is upside down": lambda a, found: everywhere(a, lambda got, right: np.allclose(got * right, 1)),
    "this is transposed": lambda a, found: everywhere(a, lambda got, right: np.allclose(got, right.T)),
    "this is zero everywhere": lambda a, found: everywhere(a, lambda got, right: not got.any()),
    "your function stopped with": lambda a, found: a.stopped is not None,
}


@EACH
def test_no_message_claims_what_is_not_so(asked):
    heard = 0
    for name, attempt in answers(asked):
        asked.wrong_tries = 1
        with np.errstate(all="ignore"):
            answer = Answer(asked, attempt)
            text = answer.said()
        for claim, is_so in CLAIMS.items():
            if found := re.search(claim, text):
                heard += 1
                assert is_so(answer, found), (name, text)
        if answer.stopped is None and not answer.failed:  # the change changed nothing
            assert not text, (name, text)
        else:
            assert text, name
    assert heard >= 3


@EACH
def test_no_step_is_missed_that_is_there(asked):
    """Where only the last step has gone wrong, all earlier ones are found."""
    head, _, last = asked.source.source.rstrip().rpartition("    return ")
    expression = last.split("  # ")[0]
    source = f"{head}    return ({expression}) * 3.7 + 1".replace(f"def {asked.source.name}(", "def f(")
    attempt = cell(source, **asked.reference.__globals__)
    assert "I can't find" not in said(asked, attempt, tries=1)
