"""What a check says in the end: a card for a right answer, an error for a wrong one, and `progress()` over all of them.

    record("9.1", CORRECT)          a card: "Exercise 9.1: correct"
    raise wrong("9.1", sentence)    WrongAnswer: "Exercise 9.1: ..."

How a wrong answer finds its sentence is said in `exercise`. The checks of the assignments (`lora_course.assignments`)
speak in the same way. `lora_course.checking.cards` is how it looks.
"""

import argparse
import importlib
import itertools
import pkgutil
from typing import Any

import lora_course
from lora_course.checking import cards
from lora_course.checking.cards import CORRECT, NOT_DONE, NOT_RIGHT, UNCHECKED, WrongAnswer, after
from lora_course.checking.describing import in_lines
from lora_course.drawing.tables import table

TRUE_OR_FALSE = "your function returned True or False. What is asked for is no yes or no."
FORGOTTEN_RETURN = "your function returned None: did you forget `return`?"

last_result = ""
_results: dict[str, str] = {}  # number of an exercise -> what its check said last
_announced: dict[str, tuple[str, ...]] = {}  # number of a graded exercise -> title, minutes, points


def record(number: str, result: str, besides: str = "") -> None:
    """Show what a check found, and what is to know besides; keep the first for `progress()`."""
    global last_result
    _keep(number, result)
    last_result = f"Exercise {number}: {result}" + (f". But {besides}" if besides else "")
    cards.show(cards.RIGHT if result == CORRECT else cards.OPEN, last_result)


def wrong(number: str, text: str) -> WrongAnswer:
    """The error that a check raises; kept for `progress()` as "not right yet"."""
    _keep(number, NOT_RIGHT)
    return WrongAnswer(f"Exercise {number}: {text}")


def announce(number: str, *columns: str) -> None:
    """Make a graded exercise known to `progress()`: title, minutes, points."""
    _announced[number] = columns


def _keep(number: str, result: str) -> None:
    """Remember a result; of a notebook's exercise also when the kernel is gone. Of a graded one the last try counts."""
    _results[number] = result if number in _announced else after(_results.get(number), result)
    if number not in _announced and result != NOT_DONE:
        cards.remember(number, result)


def progress() -> None:
    """Show what is done: in an assignment each of its exercises, else those of all notebooks."""
    numbers = sorted(_announced or _known_numbers(), key=lambda number: [int(part) for part in number.split(".")])
    if _announced:
        said = {number: _results.get(number, UNCHECKED) for number in numbers}
        rows = [(number, f"{cards.ICONS[said[number]]} {said[number]}", *_announced[number]) for number in numbers]
        return table(("exercise", "check", "title", "time", "points"), rows, cards.summary(numbers, _results))
    kept = cards.remembered()
    results = {number: after(kept.get(number), _results.get(number, NOT_DONE)) for number in numbers}
    columns = (CORRECT, NOT_RIGHT, NOT_DONE)
    rows = []
    for notebook, group in itertools.groupby(numbers, lambda number: int(number.split(".")[0])):
        here = list(group)
        rows.append((f"{notebook:02d}", *(cards.listing(here, results, column) for column in columns)))
    header = ("notebook", *(f"{cards.ICONS[column]} {column}" for column in columns))
    table(header, rows, cards.summary(numbers, results))


def main() -> None:
    argparse.ArgumentParser(
        prog="lora-edu progress",
        description="Show which exercises of all notebooks are done in your copy of the course.",
    ).parse_args()
    progress()


def _known_numbers() -> set[str]:
    """The numbers of the exercises of all notebooks."""
    rooms = (info.name for info in pkgutil.iter_modules(lora_course.__path__, "lora_course.") if ".nb" in info.name)
    modules = [importlib.import_module(f"{room}.check") for room in rooms]
    numbers = (getattr(value, "number", "") for module in modules for value in vars(module).values())
    return {number for number in numbers if isinstance(number, str) and number}


def beside(my_guess: Any, measured: Any) -> None:
    """Print what was measured, and the guess beside it. JupyterLab labels a folded output with the first line."""
    told = in_lines(measured) + ("" if my_guess is None else f"     your guess: {my_guess}")
    print("what was measured:", told, sep="\n")
