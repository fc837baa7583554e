"""The checks: the reference passes, every misconception is named, anything else gets its smallest failing case."""

import importlib
import pkgutil

import numpy as np
import pytest
import torch

from lora_edu import exercises
from lora_edu.exercises import grading
from lora_edu.exercises.grading import Exercise

MODULES = [
    importlib.import_module(f"lora_edu.exercises.{info.name}") for info in pkgutil.iter_modules(exercises.__path__)
]
ALL = {value.number: value for module in MODULES for value in vars(module).values() if isinstance(value, Exercise)}


@pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
def test_the_reference_is_correct_in_numpy_torch_and_float32(exercise, capsys):
    exercise(exercise.reference)
    if exercise.observe is not Exercise.observe:
        return  # of a class, numbers are observed; there is nothing to convert
    exercise(lambda *case: torch.tensor(np.asarray(exercise.reference(*case))))
    exercise(lambda *case: np.asarray(exercise.reference(*case), dtype=np.float32))
    assert capsys.readouterr().out == f"Exercise {exercise.number}: correct\n" * 3


@pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
def test_every_misconception_is_recognized_by_its_own_sentence(exercise):
    assert exercise.misconceptions
    for sentence, mistake in exercise.misconceptions.items():
        with pytest.raises(AssertionError) as error:
            exercise(mistake)
        assert str(error.value) == f"Exercise {exercise.number}: {sentence}"


@pytest.mark.parametrize("exercise", ALL.values(), ids=ALL)
def test_an_untouched_stub_is_not_an_error(exercise, capsys):
    exercise(lambda *case: ...)
    assert capsys.readouterr().out == f"Exercise {exercise.number}: not done yet\n"
    assert grading.last_result.endswith("not done yet")


EXAMPLE = Exercise("1.1", lambda x, k: x * k, [(np.ones((2, 3)), 2.0)], {"this adds.": lambda x, k: x + k})


@pytest.mark.parametrize(
    ("attempt", "message"),
    [
        (lambda x, k: x + k, "Exercise 1.1: this adds."),
        (
            lambda x, k: (x * k).T,
            r"for \(array of shape \(2, 3\), 2.0\) the result should have shape \(2, 3\), got \(3, 2\)",
        ),
        (lambda x, k: x * k * [1, 1, 5], r"entry \[0, 2\] should be 2, got 10"),
        (lambda x, k: x * float("nan"), r"entry \[0, 0\] should be 2, got nan"),
        (lambda x, k: "six", "the result should be numbers, got str"),
        (lambda x, k: x / [], "your function stopped with ValueError"),
    ],
)
def test_other_mistakes_get_the_smallest_failing_case(attempt, message):
    with pytest.raises(AssertionError, match=message):
        EXAMPLE(attempt)


@pytest.mark.parametrize(
    ("argument", "text"),
    [
        (2.5, "2.5"),
        (torch.tensor(2.5), "2.5"),
        ((64, 48), "(64, 48)"),
        (torch.zeros(2, 3).shape, "torch.Size([2, 3])"),
        ([1.5, 2], "[1.5, 2]"),
        ([0.0] * 5, "array of shape (5,)"),
        ("plain", "'plain'"),
        ({"a": torch.zeros(2, 3), "b": [1, 2]}, "{'a': array of shape (2, 3), 'b': [1, 2]}"),
        ([("linear", (67, 49), False)], "[('linear', (67, 49), False)]"),
        ([torch.zeros(2, 3), torch.ones(1, requires_grad=True)], "[array of shape (2, 3), array of shape (1,)]"),
        (list("abcdefgh"), "['a', 'b', 'c', 'd', ... 8 in all]"),
    ],
)
def test_an_argument_is_shown_in_a_few_words(argument, text):
    assert grading.describe(argument) == text


def test_a_guess_stands_beside_the_measurement(capsys):
    grading.beside(None, "3 GB")
    grading.beside(5, "3 GB")
    assert capsys.readouterr().out == "measured: 3 GB\nmeasured: 3 GB     your guess: 5\n"


def test_a_function_that_changes_its_inputs_fools_nobody():
    exercise = Exercise(
        "1.1", lambda x: x - x.mean(), [(torch.arange(3.0),)], {"mean left in": lambda x: x.sub_(0)}
    )  # fmt: skip
    with pytest.raises(AssertionError, match="mean left in"):
        exercise(lambda x: x)
    for wrong in (lambda x: x.zero_(), lambda x: x.add_(1)):  # a reference run on what is left would agree
        with pytest.raises(AssertionError, match="entry"):
            exercise(wrong)
    exercise(lambda x: x.sub_(x.mean()))  # a right answer in place is right, as often as it is checked
    exercise(lambda x: x.sub_(x.mean()))


def test_progress_lists_what_is_done_and_what_is_not(capsys, monkeypatch):
    monkeypatch.setattr(grading, "_results", {})
    monkeypatch.setattr(grading, "_announced", {})
    monkeypatch.setattr(grading, "_loaded", lambda: [])
    grading.progress()
    assert "run its first cells" in capsys.readouterr().out
    for number in ("7.1", "7.2", "7.10"):
        grading.announce(number, f"title of {number}", "5 min")
    exercises = [Exercise(number, lambda x: x, [(1.0,)]) for number in ("7.1", "7.2", "7.10")]
    exercises[0](lambda x: x)
    with pytest.raises(AssertionError):
        exercises[2](lambda x: x + 1)
    capsys.readouterr()
    grading.progress()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("   ")[0].strip() for line in lines] == ["7.1", "7.2", "7.10", "1 of 3 done"]
    assert "correct" in lines[0] and "not checked yet" in lines[1] and "not right yet" in lines[2]
    assert lines[0].index("title") == lines[1].index("title") and lines[0].endswith("5 min")


def test_progress_knows_the_exercises_of_the_notebook(capsys):
    grading.progress()
    out = capsys.readouterr().out
    assert all(number in out for number in ALL)
