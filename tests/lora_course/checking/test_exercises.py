"""Of every exercise: its solutions pass, its taught mistakes are named, its messages are short. Then each look."""

import ast
import importlib
import linecache
import math
import pkgutil
import re
import time

import numpy as np
import pytest
import torch

import lora_course
from lora_course.checking import grading
from lora_course.checking.answers import EXAMPLE, PYTHON, Answer
from lora_course.checking.comparing import recognized
from lora_course.checking.describing import MOST_WORDS
from lora_course.checking.exercise import Exercise, exercise
from lora_course.checking.grading import WrongAnswer

MODULES = [
    importlib.import_module(info.name)
    for info in pkgutil.walk_packages(lora_course.__path__, "lora_course.")
    if re.search(r"\.nb\d\d\.check", info.name)
]
ALL = {value.number: value for module in MODULES for value in vars(module).values() if isinstance(value, Exercise)}
EACH = pytest.mark.parametrize("asked", ALL.values(), ids=ALL)


def said(asked, attempt, tries=0):
    """The message about a wrong answer, after so many other wrong tries."""
    asked.wrong_tries = tries
    with pytest.raises(WrongAnswer) as error, np.errstate(all="ignore"):
        asked(attempt)
    text = str(error.value).removeprefix(f"Exercise {asked.number}: ")
    assert len(re.split(f"{EXAMPLE}|{PYTHON}| Besides, your function changes", text)[0].split()) <= MOST_WORDS, text
    return text


def cell(source, **known):
    """A function as a cell of a notebook defines it: its source is in `linecache`."""
    file = f"/tmp/ipykernel_1/{abs(hash(source))}.py"
    linecache.cache[file] = (len(source), None, source.splitlines(keepends=True), file)
    space = {"np": np, "torch": torch, "math": math, **known}
    exec(compile(source, file, "exec"), space)
    return space["f"]


# --- of every exercise -----------------------------------------------------------------------------------------------


@EACH
def test_the_reference_is_correct_in_numpy_torch_and_float32(asked, capsys):
    asked(asked.reference)
    asked(asked.source.solution())
    if asked.observe is Exercise.observe:  # of a layer or a class, there is nothing to convert
        asked(lambda *case: torch.tensor(np.asarray(asked.reference(*case))))
        asked(lambda *case: np.asarray(asked.reference(*case), dtype=np.float32))
    assert set(capsys.readouterr().out.splitlines()) == {f"Exercise {asked.number}: correct"}


@EACH
def test_every_taught_mistake_is_wrong_distinct_and_named(asked):
    made = [asked.right, *asked.known.values()]
    assert not any(recognized(one, [("the same", other)]) for k, one in enumerate(made) for other in made[:k])
    for change, sentence in asked.taught.items():
        answer = Answer(asked, asked.source.edited(change).solution())
        assert said(asked, answer.attempt) and answer.look == ("taught", answer._told(sentence))


@EACH
def test_an_untouched_stub_and_one_constant(asked, capsys):
    asked(lambda *case: ...)
    assert capsys.readouterr().out == f"Exercise {asked.number}: not done yet\n"
    assert "look at" not in said(asked, lambda *case: 0)
    assert said(asked, lambda *case: None) == grading.FORGOTTEN_RETURN


@EACH
def test_steps_have_comments(asked):
    steps = [node for step in asked.source.body for node in ast.walk(step) if isinstance(node, ast.stmt)]
    comments = [asked.source.comment(step) for step in steps]
    assert sum(map(bool, comments)) >= 2


# --- the mechanism ---------------------------------------------------------------------------------------------------


@exercise(
    "1.1",
    [(10, 3, True), (13, 4, False), (7, 5, True), (8, 4, True)],
    taught={"if on else 8 -> if on else 0": "Your answer counts nothing where it is off. {n} things take {result}."},
    noticed={"this is below zero.": lambda got, n, k, on: got < 0},
)
def COUNT(n, k, on):
    blocks = math.ceil(n / k)  # the number of blocks
    shelf = 4 * n if on else 8  # the room of the shelf
    return blocks + shelf  # the sum


def rooms(n, k, on, off=8):
    return 4 * n if on else off


def unlike(n, k, on):
    return 17 + n**3 % 41 * k + on


# Functions of which a check cannot read the source: lambdas
WITHOUT_SOURCE = [
    (lambda n, k, on: (-(-n // k) + rooms(n, k, on)) * 3.7, "this is 3.7 times what is asked for, in every"),
    (lambda n, k, on: -(-n // k) + rooms(n, k, on, 0), "counts nothing where it is off. 13 things take 12."),
    (lambda n, k, on: -(-n // k) - rooms(n, k, on), "this is below zero. An"),
    (lambda *case: unlike(*case), "a right answer: The number of blocks. The room of the shelf. The sum."),
    (lambda n, k, on: 7, "returns 7 in every case that is tried"),
    (lambda n, k, on: n > k, "True or False"),
]


@pytest.mark.parametrize(("attempt", "sentence"), WITHOUT_SOURCE)
def test_what_is_said_without_source(attempt, sentence):
    assert sentence in said(COUNT, attempt)


def test_the_right_value_is_shown_at_the_second_try():
    assert "below it is 4" not in said(COUNT, unlike)
    text = said(COUNT, unlike, tries=1)
    assert "I can't find the number of blocks in your function; in the example below it is 4. An" in text
    COUNT(COUNT.reference)
    assert COUNT.wrong_tries == 0


def test_a_number_that_changes_later_is_not_shown():
    source = ALL["5.1"].source
    assert source.words(source.steps[0], {"size": 32}) == "the size at which the search begins"


def layer(make, d_in, rank):
    return {"the base is kept": make(d_in)(rank)}


def larger_than(d_in):
    return d_in.__gt__


def test_the_arguments_are_called_by_their_names():
    text = said(COUNT, cell("def f(n, size, on):\n    return 3 * n * size"))
    assert f"{EXAMPLE} for `n` = 10, `size` = 3 and `on` = True: expected 44, got 90" in text
    asked = Exercise("1.3", larger_than, [(5, 2), (4, 9)], observe=layer)
    text = said(asked, lambda d: d.__lt__)
    assert "for `d_in` = 5 and `rank` = 2: this should be true, and is not: the base is kept." in text


MISTAKES = {
    "n // k + (3 * n + k if on else 8)": "I can't find the number of blocks in your function.",
    "math.ceil(n / k) + n**2 % 7 + (4 * k if on else 9)": "I can't find the room of the shelf in your function.",
    "math.ceil(n / k) ** 2 + 3 * (4 * n if on else 8)": "Look at the last step: the sum.",
}


@pytest.mark.parametrize("body", MISTAKES)
def test_of_several_mistakes_the_first_step_without_its_value_is_named(body):
    """A step that what is right was made of counts as there; where all are there, it is the last."""
    assert f"{MISTAKES[body]} An" in said(COUNT, cell(f"def f(n, k, on):\n    return {body}"))


def most(n, k):
    least = min(n, k)  # the smaller one
    return n / least + 3 * k  # the sum


def test_small_numbers_come_up_by_chance_and_prove_nothing():
    asked = Exercise("1.4", most, [(9, 2), (30, 1)])
    assert "the last step" not in said(asked, cell("def f(n, k):\n    return (n / min(n, k)) ** 2 + 7 * k - n"))


def test_a_message_does_not_depend_on_the_clock(monkeypatch):
    wrong = cell("def f(n, k, on):\n    return n // k + (4 * k if on else 8)")
    text = said(COUNT, wrong)
    for clock in ("perf_counter", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: 1e9)
    assert said(COUNT, wrong) == text


ENDLESS = """def f(n, k, on):
    while n:
        try:
            k += 1
        except Exception:
            pass"""


def test_what_does_not_come_back(monkeypatch):
    monkeypatch.setattr("lora_course.checking.answers.SECONDS", 0.2)
    text = said(COUNT, cell(ENDLESS))
    assert text.startswith("your function has not come back: does a loop end?") and "at the line `" in text
    COUNT(COUNT.reference)  # the timer is gone
    time.sleep(0.3)


def test_who_waits_for_the_processor_is_not_slow_and_who_waits_for_ever_is(monkeypatch):
    def waits(n, k, on):
        time.sleep(0.3 / len(COUNT.cases))
        return COUNT.reference(n, k, on)

    monkeypatch.setattr("lora_course.checking.answers.SECONDS", 0.1)
    COUNT(waits)  # nothing is raised
    monkeypatch.setattr("lora_course.checking.answers.SECONDS", 0.02)  # by the clock five times as long
    assert said(COUNT, waits).startswith("your function has not come back")


def test_an_answer_that_leaves_the_kernel_or_prints(capsys):
    assert "SystemExit" in said(COUNT, lambda n, k, on: exit())
    assert said(COUNT, lambda n, k, on: print("here") or [n])
    assert capsys.readouterr().out == "here\n" * len(COUNT.cases)


def test_all_notebooks_are_counted():
    assert set(ALL) <= grading._known_numbers()
