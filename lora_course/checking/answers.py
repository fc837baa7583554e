"""A learner's function on all cases of an exercise, and what there is to say about it: see `exercise`."""

import contextlib
import copy
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from lora_course.checking import probing, repair
from lora_course.checking.asked import Asked, Solution
from lora_course.checking.comparing import RESULT, equal, first_difference, is_numbers, parts, recognized
from lora_course.checking.describing import describe, shown, within
from lora_course.checking.grading import FORGOTTEN_RETURN, TRUE_OR_FALSE
from lora_course.checking.reached import computed, how_far
from lora_course.checking.stopping import GIVEN, TooSlow, in_pythons_words, limited, parameters, where, why_it_stopped
from lora_course.checking.symptoms import as_numpy, symptom

SECONDS = 10  # after so long an answer does not come back
QUICK = 0.5  # seconds of its own time: an answer that takes longer for all cases is not run again
NOT_BACK = "your function has not come back: does a loop end?"
SEVERAL = "one number is asked for, not a list or an array."
EARLIER_RIGHT = (
    "as far as I can see, your earlier steps are right, though I do not look at the order of their numbers. Look at "
    "the last step:"
)
WHICH_STEP = "I can't tell which of your steps is wrong. These are the steps of a right answer:"
PROMISE = "promise"
EXAMPLE, PYTHON = "An example:", "In Python's words:"  # what stands behind them does not count as words


class Answer:
    """A learner's function on all cases, and what there is to say about it."""

    def __init__(self, asked: Asked, attempt: Solution) -> None:
        self.asked, self.attempt, self.cases = asked, attempt, list(asked.cases)
        self.names = self._names()
        self.handed = copy.deepcopy(self.cases)
        self.results: list[Any] = []
        self.stopped: BaseException | None = None
        begin = time.thread_time()
        try:
            with limited(SECONDS):
                for given in self.handed:
                    self.results.append(asked.observe(attempt, *given))
        except (Exception, SystemExit, TooSlow) as error:
            self.stopped = error
        self.quick = time.thread_time() - begin < QUICK
        self.got = [parts(result) for result in self.results]
        self.failed = [k for k, seen in enumerate(self.got) if first_difference(seen, asked.right[k])]

    def _names(self) -> list[str]:
        """What the arguments are called: in the learner's function, in what looks at it, or in the right one."""
        functions = (parameters(self.attempt), parameters(self.asked.observe)[1:], parameters(self.asked.reference))
        named = [names for names in functions if len(names) == len(self.cases[0])]
        return named[0] if named else []

    # --- the message ---

    def said(self) -> str:
        """What is wrong; empty if nothing is."""
        if self.stopped is not None:
            return self._of_the_stop(self.stopped)
        if not self.failed:
            return ""
        kind, sentence = self.look
        if kind in ("form", "observed"):  # of what is no number or no layer at all, no case says more
            return sentence
        example = f"{EXAMPLE} {self._given(self.first)}"
        if kind != PROMISE:  # which is the difference itself
            example += f": {first_difference(self.got[self.first], self.right)}"
        changes = f" Besides, {self.overwritten}" if self.overwritten else ""
        return f"{sentence} {example}.{changes}".strip()

    @cached_property
    def look(self) -> tuple[str, str]:
        return next(self.looks())

    def looks(self) -> Iterator[tuple[str, str]]:
        """What can be said, as (kind, sentence): from what is known of this exercise to what is known of none."""
        results = (self.got[k].get(RESULT) for k in self.failed)
        yield from (("observed", said) for said in results if isinstance(said, str) and " " in said)
        form, noticed = next(self._of_its_form(), self._constant()), self._noticed()
        if not form and (said := self._taught()):  # one number in every case is no belief, whatever else gives it
            yield "taught", self._told(said)
        if not form and (said := self._exchanged()):
            yield "taught", said
        if place := self._place(self.first, self._gives(self.got, self.first)):
            yield "place", after(form or noticed or "nearly right.", place)
        if form:
            missing = self._constant() and self._first_missing()
            yield ("step", within(form, missing)) if missing else ("form", within(form, noticed))
        missing = self._first_missing()
        if said := within(noticed, self._looks_like(), missing):
            yield "step" if missing else "symptom", said
        if RESULT not in self.right:
            yield PROMISE, f"{first_difference(self.got[self.first], self.right)}."
        yield "steps", self._all_steps()

    def _of_its_form(self) -> Iterator[str]:
        results, right = self.results, self.asked.right
        if all(result is None for result in results):
            yield FORGOTTEN_RETURN
        if all(isinstance(result, bool | np.bool_) for result in results) and not self._asks_yes_or_no():
            yield TRUE_OR_FALSE
        if all(isinstance(result, tuple) for result in results) and all(_is_array(seen.get(RESULT)) for seen in right):
            yield f"your function returns {len(results[0])} things, in a tuple. One was asked for."
        kinds = {seen[RESULT].get("unknown") for seen in self.got if isinstance(seen.get(RESULT), dict)}
        if len(kinds) == 1 and None not in kinds and all(is_numbers(seen.get(RESULT)) for seen in right):
            yield f"your function returns something else than numbers: {kinds.pop()}."

    def _constant(self) -> str:
        """One number for everything, where more than one is asked for: nothing is claimed of how it is made."""
        values: list[Any] = [seen.get(RESULT) for seen in self.got]
        numbers = len(values) > 1 and all(is_numbers(value) and not value["shape"] for value in values)
        same = numbers and all(equal(value, values[0]) for value in values)
        if not same or all(r == self.right for r in self.asked.right):
            return ""
        return (
            f"your function returns {shown(values[0]['values'][0])} in every case that is tried, whatever it is given."
        )

    def _taught(self) -> str | None:
        return recognized(self.got, ((self.asked.taught[change], made) for change, made in self.asked.known.items()))

    def _told(self, sentence: str) -> str:
        return sentence.format(**self._steps, result=_number(self.right.get(RESULT)))

    def _noticed(self) -> str:
        """The first sentence that is true of the case that is shown."""
        got, case = self.got[self.first], self.cases[self.first]
        if _is_array(got.get(RESULT)) and len(got[RESULT]["values"]) != 1 and not _is_array(self.right.get(RESULT, {})):
            return SEVERAL
        if got.keys() != self.right.keys():  # a dictionary where numbers are asked for
            return ""
        return next((said for said, is_so in self.asked.noticed.items() if _holds(is_so, got, case)), "")

    def _exchanged(self) -> str | None:
        def made(cases: list[tuple]) -> list[dict]:
            """What the right answer gives; nothing where it stops or takes long."""
            with contextlib.suppress(Exception, TooSlow), repair.silence(), limited(1):
                return [self.asked.seen(self.asked.reference, case) for case in cases]
            return []

        return probing.exchanged(self.got, made, self.cases, self.names)

    def _place(self, first: int, fails_alike: Callable) -> str:
        """Where one change makes the answer right. first: the case that has failed."""
        return repair.located(self.attempt, self._gives(self.asked.right, first), fails_alike) if self.quick else ""

    def _gives(self, wanted: list[dict], first: int) -> Callable[[Solution], bool]:
        """Whether a function gives what is wanted in all cases; it is tried first in the one that has failed."""
        order = sorted(range(len(self.cases)), key=lambda k: k != first)
        seen = self.asked.seen
        return lambda changed: not any(first_difference(seen(changed, self.cases[k]), wanted[k]) for k in order)

    def _looks_like(self) -> str | None:
        if not all(list(seen) == [RESULT] for seen in (*self.got, *self.asked.right)):
            return None
        mine, right = ([seen[RESULT] for seen in made] for made in (self.got, self.asked.right))
        return symptom(mine, right)

    def _first_missing(self) -> str:
        """The first step whose value is nowhere in the answer; the last one if it has those of all others."""
        source, case = self.asked.source, self.cases[self.first]
        seen = computed(self.attempt, lambda solution: self.asked.seen(solution, case))
        step, all_there = how_far(source, self._steps, seen)
        if step and seen:
            return _not_found(source.comment(step), source.number(step, self._values()))
        last = source.comment(source.body[-1])
        return f"{EARLIER_RIGHT} {last}." if all_there else ""

    def _all_steps(self) -> str:
        steps = [self.asked.source.words(step, self._values()) for step in self.asked.source.steps]
        return within(WHICH_STEP, *(f"{step}." for step in steps))

    # --- what it stands on ---

    @property
    def first(self) -> int:
        return self.failed[0]

    @property
    def right(self) -> dict:
        return self.asked.right[self.first]

    @cached_property
    def _steps(self) -> dict[str, Any]:
        """What the arguments and the steps of the reference are in the first case that failed."""
        return self.asked.source.values(lambda solution: self.asked.seen(solution, self.cases[self.first]))

    def _values(self) -> dict[str, Any]:
        """The same from the second wrong try on; the first one is for thinking."""
        return self._steps if self.asked.wrong_tries else {}

    def _asks_yes_or_no(self) -> bool:
        return isinstance(self.asked.observe(self.asked.reference, *copy.deepcopy(self.cases[0])), bool | np.bool_)

    @cached_property
    def overwritten(self) -> str:
        """Which arguments are not as they were, although the reference leaves them alone."""
        changed = _changed_places(self.cases, self.handed) if self.names else set()
        if changed:
            spared = copy.deepcopy(self.cases)
            for given in spared:
                self.asked.observe(self.asked.reference, *given)
            changed -= _changed_places(self.cases, spared)
        if not changed:
            return ""
        return (
            f"your function changes {' and '.join(f'`{self.names[k]}`' for k in sorted(changed))}, which it was given: "
            "to whoever called it the old numbers are lost. `-=` and methods that end in `_` do that. Work on a copy, "
            "or make a new array."
        )

    def _of_the_stop(self, error: BaseException) -> str:
        k = len(self.results)  # the case in which it stopped
        if isinstance(error, TooSlow):
            return f"{NOT_BACK} {EXAMPLE} {self._given(k)}{where(error)}."
        meaning = why_it_stopped(error, self.attempt, self.cases[k])

        def stops(solution: Solution) -> bool:
            with contextlib.suppress(type(error)):
                return self.asked.seen(solution, self.cases[k]) is error  # it did not stop
            return True

        place = self._place(k, stops)
        given = "" if GIVEN in meaning else f" {self._given(k)}"
        words = f"your function stopped with {in_pythons_words(error)}{given}{where(error)}."
        return f"{within(meaning, place)} {PYTHON} {words}" if meaning or place else words

    def _given(self, k: int) -> str:
        """The arguments of a case, by their names."""
        values = list(map(describe, self.cases[k]))
        if self.names:
            values = [f"`{name}` = {value}" for name, value in zip(self.names, values, strict=True)]
        return f"for {', '.join(values[:-1])}{' and ' * (len(values) > 1)}{values[-1]}" if values else "here"


def after(first: str, said: str) -> str:
    """What is said, after what leads to it where both are short."""
    return said if within(first, said) == first else within(first, said)


def _number(value: Any) -> Any:
    """One number as such, whole if it is."""
    if not is_numbers(value) or value["shape"]:
        return value
    (number,) = value["values"]
    return int(number) if number.is_integer() else number


def _not_found(step: str, number: str) -> str:
    """That a step is missing, with the number that it has in the example, where one is given."""
    called_by_name = step.startswith("the ") and "," not in step
    said = f"I can't find {step} in your function" if called_by_name else f"I can't find this in your function: {step}"
    return f"{said}; in the example below it is {number}." if number else f"{said}."


def _holds(is_so: Callable, seen: dict[str, Any], case: tuple) -> bool:
    """Whether it is true of a result; of promises, of all of them by their names."""
    values = {name: as_numpy(value) if is_numbers(value) else value for name, value in seen.items()}
    result = values[RESULT] if list(values) == [RESULT] else values
    if list(values) == [RESULT] and not is_numbers(seen[RESULT]):
        return False
    try:
        return bool(is_so(result, *case))
    except (ValueError, IndexError, TypeError, KeyError):  # a result of a shape that the sentence is not about
        return False


def _is_array(value: Any) -> bool:
    return is_numbers(value) and bool(value["shape"])


def _changed_places(cases: Sequence[tuple], handed: list[tuple]) -> set[int]:
    return {k for case, given in zip(cases, handed, strict=True) for k in probing.overwritten(case, given)}
