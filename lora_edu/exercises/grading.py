"""Checks for the exercises in the notebooks. A check that fails says which mistake it recognizes.

An exercise is a reference solution, a few well-known wrong ones with the sentence that helps, and cases that tell them
apart (alpha is never equal to the rank, no matrix is square). The learner's function is run on all cases:

    returns ... (the untouched stub)     a card: "Exercise 9.1: not done yet"
    equals the reference                 a card: "Exercise 9.1: correct"
    returns None                         WrongAnswer: "did you forget `return`?"
    equals a wrong solution              WrongAnswer with that mistake's sentence
    exchanges or ignores arguments       WrongAnswer with their names (`probing`)
    changes what it was given            the same; of a right answer it is said on its card
    is right after one small change      the same, with the change's place and kind (`repair`)
    shows a symptom                      WrongAnswer with what is wrong: "not a whole number", "the sign is wrong"
    stops with an error                  WrongAnswer with what the error means (`stopping`)
    anything else                        WrongAnswer with the smallest failing case

The checks of the assignments (`lora_edu.assignments`) speak in the same way and share what is compared and how.
`progress()` shows what is done, in all notebooks; `lora_edu.exercises.cards` is how it looks.
"""

import contextlib
import copy
import importlib
import io
import linecache
import pkgutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lora_edu import exercises
from lora_edu.exercises import cards, probing, repair
from lora_edu.exercises.cards import CORRECT, NOT_DONE, NOT_RIGHT, UNCHECKED, WrongAnswer, after
from lora_edu.exercises.comparing import RESULT, first_difference, parts, recognized
from lora_edu.exercises.describing import describe, in_lines
from lora_edu.exercises.formulas import Formula, value_of
from lora_edu.exercises.stopping import GIVEN, parameters, why_it_stopped
from lora_edu.exercises.symptoms import symptom, up_to_a_factor

TRUE_OR_FALSE = "your function returned True or False, an answer to a question. A number was asked for."
FORGOTTEN_RETURN = "your function returned None: did you forget `return`?"

QUICK = 0.5  # seconds: a learner's function that takes longer for all cases is not run again with changed arguments

last_result = ""
_results: dict[str, str] = {}  # number of an exercise -> what its check said last
_announced: dict[str, tuple[str, ...]] = {}  # number of a graded exercise -> title, minutes, points


@dataclass(frozen=True)
class Exercise:
    """One exercise; calling it with the learner's function checks that function."""

    number: str
    reference: Callable
    cases: Sequence[tuple]
    misconceptions: dict[str, Callable] = field(default_factory=dict)  # sentence -> the wrong solution
    # For what no listed mistake gives: sentence -> whether it is true of a result, (array, *case) -> bool.
    symptoms: dict[str, Callable] = field(default_factory=dict)
    # What is compared, where it is more than the result: of a learner's class, say. Either one value, or a dictionary
    # of promises, {"the base's bias is kept": True, "the output": y}: then a broken promise is called by its name.
    observe: Callable = lambda solution, *case: solution(*case)
    # A sentence from the results of all cases together; or nothing.
    together: Callable = lambda results, cases: ""
    # A sentence about a wrong result that is none of the known mistakes, from the result and its case; or nothing.
    explain: Callable = lambda result, *case: ""
    # For what shows no symptom that is known without the exercise, either: sentences that are true of all wrong cases,
    # or of one.
    broadly: dict[str, Callable] = field(default_factory=dict)
    # What the answer is a sum of, so that a wrong formula is shown beside the right one.
    formula: Formula | None = None
    # The same from the first wrong case.
    otherwise: Callable = lambda result, *case: ""
    _made: dict[Callable, list[dict]] = field(default_factory=dict, compare=False, repr=False)

    def __call__(self, attempt: Callable) -> None:
        start, names = time.perf_counter(), parameters(attempt)
        handed = copy.deepcopy(list(self.cases))  # a function that changes its inputs changes only a copy
        results = [self._run(attempt, i, given) for i, given in enumerate(handed)]
        quick = time.perf_counter() - start < QUICK
        if all(result is ... for result in results):
            return record(self.number, NOT_DONE)
        if all(result is None for result in results):
            raise wrong(self.number, FORGOTTEN_RETURN)
        if all(isinstance(result, bool | np.bool_) for result in results) and not self._asks_yes_or_no():
            raise wrong(self.number, TRUE_OR_FALSE)
        got, expected = [parts(result) for result in results], self._made_by(self.reference)
        if all(isinstance(result, tuple) for result in results) and all(_is_array(e.get(RESULT)) for e in expected):
            raise wrong(self.number, f"your function returns {len(results[0])} things, in a tuple. One was asked for.")
        failed = [i for i in range(len(got)) if first_difference(got[i], expected[i])]
        names = names if len(names) == len(self.cases[0]) else []  # an observer may hand over other things
        changes = self._overwritten(handed, names)
        if not failed:
            return record(self.number, CORRECT, changes)
        first = failed[0]
        known = ((sentence, self._made_by(mistake)) for sentence, mistake in self.misconceptions.items())
        sentence = recognized(got, known) or probing.exchanged(got, self._reference_on, list(self.cases), names)
        if sentence:
            raise wrong(self.number, sentence)
        place = quick and self._place(attempt, first, lambda changed: self._is(changed, first, got[first]))
        sentence = self._noticed(self.symptoms, got, failed) or self.together(results, self.cases)
        if place:
            raise wrong(self.number, f"{sentence or 'nearly right.'} {place}")
        sentence = sentence or self.explain(results[first], *self.cases[first])
        if sentence:
            raise wrong(self.number, sentence)
        looks = self._looks_like(got, expected, names)
        if not looks and self.formula and quick:
            looks = self.formula.compared(self._number(attempt), self._number(self.reference), self.cases[first], names)
        if not looks and quick:
            cases = [self.cases[i] for i in self._beginning_with(first)]
            looks = probing.ignored(self._seen(attempt), self._seen(self.reference), cases, names)
        looks = looks or self._noticed(self.broadly, got, failed, everywhere=True)
        looks = looks or probing.only_where(failed, list(self.cases), names)
        looks = looks or self._noticed(self.broadly, got, failed)
        looks = looks or self.otherwise(results[first], *self.cases[first])
        smallest = f"for ({self._shown(self.cases[first])}) " + first_difference(got[first], expected[first])
        text = f"{looks} An example: {smallest}" if looks else smallest
        raise wrong(self.number, f"{text}. Besides, {changes}" if changes else text)

    def _place(self, attempt: Callable, first: int, fails_alike: Callable) -> str:
        """Where one change makes the answer right; a change is tried first in the case that has failed."""
        expected, order = self._made_by(self.reference), self._beginning_with(first)
        return repair.located(
            attempt, lambda changed: all(self._is(changed, i, expected[i]) for i in order), fails_alike
        )

    def _is(self, solution: Callable, i: int, wanted: dict) -> bool:
        """Whether a solution gives in one case what is wanted."""
        return not first_difference(parts(self._observe(solution, self.cases[i])), wanted)

    def _beginning_with(self, first: int) -> list[int]:
        return sorted(range(len(self.cases)), key=lambda i: i != first)

    def _noticed(self, said: dict, got: list[dict], failed: list[int], everywhere: bool = False) -> str | None:
        """The first sentence that is true of the result in a case that failed, or in all of them."""
        for sentence, is_so in said.items():
            true = (_holds(is_so, got[i].get(RESULT), self.cases[i]) for i in failed)
            if all(true) if everywhere else any(true):
                return sentence
        return None

    def _number(self, solution: Callable) -> Callable:
        """The solution as a function of a case that gives a number, or None."""
        seen = self._seen(solution)
        return lambda case: value_of(seen(case))

    def _looks_like(self, got: list[dict], expected: list[dict], names: list[str]) -> str | None:
        """A sentence that needs no knowledge of the exercise: transposed, twice too large, added up ..."""
        both = list(zip(got, expected, strict=True))
        if not all(RESULT in e and {**g, RESULT: 0} == {**e, RESULT: 0} for g, e in both):  # another part is wrong
            return None
        mine, right = ([parts[RESULT] for parts in observed] for observed in (got, expected))
        counted_twice = probing.counted_twice(mine, right, list(self.cases), names)
        return symptom(mine, right) or counted_twice or up_to_a_factor(mine, right)

    def _overwritten(self, handed: list[tuple], names: list[str]) -> str:
        """Which arguments are not as they were, although the reference leaves them alone."""
        if not names or not _changed_places(self.cases, handed):
            return ""
        spared = copy.deepcopy(list(self.cases))
        for given in spared:
            self.observe(self.reference, *given)
        places = _changed_places(self.cases, handed) - _changed_places(self.cases, spared)
        if not places:
            return ""
        changed = " and ".join(f"`{names[k]}`" for k in sorted(places))
        return (
            f"your function changes {changed}, which it was given: to whoever called it the old numbers are lost. "
            "`-=` and methods that end in `_` do that. Work on a copy, or make a new array."
        )

    def _run(self, attempt: Callable, i: int, given: tuple) -> Any:
        case, start = self.cases[i], time.perf_counter()
        try:
            return self.observe(attempt, *given)
        except Exception as error:
            meaning = why_it_stopped(error, attempt, case)
            given = "" if GIVEN in meaning else f" for ({self._shown(case)})"
            words = f"your function stopped with {type(error).__name__} ({error}){given}{_where(error)}"
            quick = time.perf_counter() - start < QUICK
            place = self._place(attempt, i, self._stops(i, type(error))) if quick else ""
            told = [meaning, place, f"In Python's words: {words}"] if meaning else [f"{words}.", place]
            raise wrong(self.number, " ".join(filter(None, told))) from error

    def _stops(self, i: int, kind: type) -> Callable:
        """Whether a solution stops in a case with this error."""

        def stops(solution: Callable) -> bool:
            with contextlib.suppress(kind):
                return self._observe(solution, self.cases[i]) is kind  # it did not stop
            return True

        return stops

    def _seen(self, solution: Callable) -> Callable[[tuple], Any]:
        """The solution as a function of a case: what is observed, as plain data, or None where it stops; no output."""

        def answer(case: tuple) -> dict | None:
            try:
                with contextlib.redirect_stdout(io.StringIO()):
                    return parts(self._observe(solution, case))
            except Exception:  # what a changed argument does to a learner's function is not the learner's mistake
                return None

        return answer

    def _asks_yes_or_no(self) -> bool:
        return isinstance(self._observe(self.reference, self.cases[0]), bool | np.bool_)

    def _reference_on(self, cases: list[tuple]) -> list[dict]:
        """What the reference gives for other cases; nothing where it stops for one of them."""
        made = [self._seen(self.reference)(case) for case in cases]
        return [] if None in made else made

    def _made_by(self, solution: Callable) -> list[dict]:
        """What the reference or a known mistake gives in all cases; kept, for they give the same every time."""
        if solution not in self._made:
            with np.errstate(all="ignore"):  # what a known mistake divides by 0 is not the learner's
                self._made[solution] = [parts(self._observe(solution, case)) for case in self.cases]
        return self._made[solution]

    def _observe(self, solution: Callable, case: tuple) -> Any:
        return self.observe(solution, *copy.deepcopy(case))  # a function that changes its inputs changes only a copy

    def _shown(self, case: tuple) -> str:
        return ", ".join(describe(argument) for argument in case)


def _changed_places(cases: Sequence[tuple], handed: list[tuple]) -> set[int]:
    return {k for case, given in zip(cases, handed, strict=True) for k in probing.overwritten(case, given)}


def _is_array(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.get("shape"))


def _holds(is_so: Callable, values: Any, case: tuple) -> bool:
    if not (isinstance(values, dict) and "values" in values):
        return False
    try:
        return bool(is_so(np.array(values["values"]).reshape(values["shape"]), *case))
    except (ValueError, IndexError, TypeError):  # a result of a shape that the sentence is not about
        return False


def _where(error: Exception) -> str:
    """The line of the learner's own code at which it stopped, where that is known."""
    found, step = "", error.__traceback__
    while step is not None:
        name = step.tb_frame.f_code.co_filename
        if repair.is_a_cell(name):
            line = linecache.getline(name, step.tb_lineno).strip()
            found = f", at the line `{line}`" if line else ""
        step = step.tb_next
    return found


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
        rows = [(number, _results.get(number, UNCHECKED), *_announced[number]) for number in numbers]
        return cards.show_list(rows, cards.summary(numbers, _results))
    kept = cards.remembered()
    results = {number: after(kept.get(number), _results.get(number, NOT_DONE)) for number in numbers}
    columns = (CORRECT, NOT_RIGHT, NOT_DONE)
    notebooks = dict.fromkeys(number.split(".")[0] for number in numbers)
    rows = [
        (f"{int(notebook):02d}", *(cards.listing(notebook, numbers, results, column) for column in columns))
        for notebook in notebooks
    ]
    cards.show_list(rows, cards.summary(numbers, results), ("notebook", *columns))


def _known_numbers() -> set[str]:
    """The numbers of the exercises of all notebooks."""
    names = [info.name for info in pkgutil.iter_modules(exercises.__path__) if info.name.startswith("nb")]
    modules = [importlib.import_module(f"lora_edu.exercises.{name}") for name in names]
    numbers = (getattr(value, "number", "") for module in modules for value in vars(module).values())
    return {number for number in numbers if isinstance(number, str) and number}


def beside(my_guess: Any, measured: Any) -> None:
    """Print what was measured, and the guess beside it. JupyterLab labels a folded output with the first line."""
    told = in_lines(measured) + ("" if my_guess is None else f"     your guess: {my_guess}")
    print("what was measured:", told, sep="\n")
