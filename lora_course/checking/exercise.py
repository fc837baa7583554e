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
    shows a symptom                       that (`symptoms`), and
    lacks the value of one step           that step (`reached`)
    breaks a promise                      its name
    anything else                         the steps to compare with

and below it the smallest failing case. CONTRIBUTING.md says how an exercise is written.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from lora_course.checking.answers import Answer
from lora_course.checking.asked import Asked, Solution
from lora_course.checking.grading import CORRECT, NOT_DONE, record, wrong

SECTION = re.compile(r"\bsection (\d+)")


def exercise(number: str, cases: Sequence[tuple], **how: Any) -> Callable[[Solution], "Exercise"]:
    """Make an exercise of the function below: the right answer. how: what `Exercise` has beside these."""
    return lambda reference: Exercise(number, reference, cases, **how)


class Exercise(Asked):
    """One exercise; calling it with the learner's function checks that function."""

    def __call__(self, attempt: Solution) -> None:
        answer = Answer(self, attempt)
        if answer.results and all(result is ... for result in answer.results):
            return record(self.number, NOT_DONE)
        said = self._with_sections(answer.said())
        self.wrong_tries = self.wrong_tries + 1 if said else 0
        if said:
            raise wrong(self.number, said)
        record(self.number, CORRECT, answer.overwritten)

    def on_page(self, sections: dict[int, int]) -> "Exercise":
        """The same exercise for a check on another page, such as the tour.

        sections: section of the exercise's own page -> section of the other page that says the same. A section without
        one is named together with its notebook.
        """
        return replace(self, sections=sections, moved=True)

    def _with_sections(self, said: str) -> str:
        """What is said, with the sections of the page on which the check stands."""
        return SECTION.sub(self._section, said) if self.moved else said

    def _section(self, found: re.Match) -> str:
        section = int(found[1])
        if section in self.sections:
            return f"section {self.sections[section]}"
        return f"section {section} of notebook {int(self.number.split('.')[0]):02d}"
