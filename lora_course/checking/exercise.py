"""An exercise: a right answer in commented steps, cases, and the few mistakes that people believe in.

    @exercise("7.1", [(4.127, 64, 256), ...], taught={"int(left) -> round(left)": "You round to the nearest. ..."})
    def bits_of_constants(budget, block_size, second_size):
        share = 32 / second_size  # the block's share of a float32 of the second level
        ...

`bits_of_constants(attempt)` then checks a learner's function: it is run on all cases, and what is wrong passes through
`Answer.looks`, from what is known of this exercise to what is known of none. The first that has a sentence is heard:

    returns ... (the untouched stub)      a card: "Exercise 7.1: not done yet"
    equals the reference                  a card: "Exercise 7.1: correct"
    does not come back, or stops          where, and what that means (`stopping`)
    returns None, True, a tuple, 8 always that, in a sentence
    does what a taught mistake does       its sentence: WHY
    exchanges arguments                   their names (`probing`)
    is right after one small change       the change's place and kind: WHERE (`repair`)
    does what a changed reference does    the step, and the kind of slip (`slips`)
    shows a symptom                       that (`symptoms`)
    has the value of each step but one    that step (`reached`)
    breaks a promise                      its name
    ignores an argument                   that (`probing`)
    anything else                         the steps to compare with

and below it the smallest failing case. CONTRIBUTING.md says how an exercise is written.
"""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lora_course.checking import repair
from lora_course.checking.answers import Answer
from lora_course.checking.comparing import parts
from lora_course.checking.grading import CORRECT, NOT_DONE, record, wrong
from lora_course.checking.reference import copied
from lora_course.checking.slips import Slips

MOST_TAUGHT = 7

Solution = Callable[..., Any]


def exercise(number: str, cases: Sequence[tuple], **how: Any) -> Callable[[Solution], "Exercise"]:
    """Make an exercise of the function below: the right answer. how: what `Exercise` has beside these."""
    return lambda reference: Exercise(number, reference, cases, **how)


@dataclass(eq=False)
class Exercise:
    """One exercise; calling it with the learner's function checks that function."""

    number: str
    reference: Solution
    cases: Sequence[tuple]
    # What people believe, as edits of the reference: "old -> new" -> its sentence; {name} is a step's value in the
    # failing case, {result} what is right there. Edits of one mistake are parted by " & ".
    taught: dict[str, str] = field(default_factory=dict)
    # What can be seen of a result in the first case that failed: sentence -> (result, *case) -> bool.
    noticed: dict[str, Callable] = field(default_factory=dict)
    # What is looked at, where it is more than the result: one value, or promises, {"the base's bias is kept": True},
    # which are called by their names when they are broken. A text says by itself what is wrong.
    observe: Callable[..., Any] = lambda solution, *case: solution(*case)
    # Without it there is no search for slips: promises say themselves what is wrong.
    searched: bool = True
    wrong_tries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if len(self.taught) > MOST_TAUGHT:
            raise ValueError(f"exercise {self.number} teaches {len(self.taught)} mistakes, at most {MOST_TAUGHT}")

    def __call__(self, attempt: Solution) -> None:
        answer = Answer(self, attempt)
        if answer.results and all(result is ... for result in answer.results):
            return record(self.number, NOT_DONE)
        said = answer.said()
        self.wrong_tries = self.wrong_tries + 1 if said else 0
        if said:
            raise wrong(self.number, said)
        record(self.number, CORRECT, answer.overwritten)

    @cached_property
    def right(self) -> list[dict]:
        return self.made_by(self.reference)

    @cached_property
    def source(self) -> Slips:
        return Slips.of(self.reference, self.cases, self.made_by, self.searched)

    @cached_property
    def versions(self) -> dict[str, Slips]:
        """The reference with each taught mistake."""
        return {change: self.source.edited(change) for change in self.taught}

    @cached_property
    def known(self) -> dict[str, list[dict]]:
        """What each of them gives."""
        with repair.silence():
            return {change: self.made_by(version.solution()) for change, version in self.versions.items()}

    @cached_property
    def known_pairs(self) -> dict[tuple[str, str], list[dict]]:
        """What each two of them give together, where both can be done."""
        found = {}
        for k, one in enumerate(self.taught):
            for other in list(self.taught)[k + 1 :]:
                if one.split(" -> ")[0] == other.split(" -> ")[0]:  # two ways to write one line are no two mistakes
                    continue
                with contextlib.suppress(Exception, repair.TooLong), repair.silence():
                    found[one, other] = self.made_by(self.source.edited(f"{one} & {other}").solution())
        return found

    def made_by(self, solution: Solution, only: int | None = None) -> list[dict]:
        """What is observed of a solution as plain data: in all cases, or only in one."""
        return [self.seen(solution, case) for case in (self.cases if only is None else [self.cases[only]])]

    def seen(self, solution: Solution, case: tuple) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # what a mistake divides by 0 is not the learner's
            return parts(self.observe(solution, *copied(case)))  # what is changed in place is a copy
