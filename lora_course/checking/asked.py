"""What an exercise asks for, and all that follows from it: what is right, and what each known mistake gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lora_course.checking import repair
from lora_course.checking.comparing import parts
from lora_course.checking.reference import Reference, copied

Solution = Callable[..., Any]


@dataclass(eq=False)
class Asked:
    """What an exercise asks for: its right answer, the cases, and what people believe instead."""

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
    # On another page: the section there -> the section that is meant in the sentences; see `Exercise.on_page`.
    sections: dict[int, int] = field(default_factory=dict)
    moved: bool = False  # whether the check stands on another page than the exercise's own
    wrong_tries: int = field(default=0, init=False)

    @cached_property
    def right(self) -> list[dict]:
        return self.made_by(self.reference)

    @cached_property
    def source(self) -> Reference:
        return Reference(self.reference)

    @cached_property
    def known(self) -> dict[str, list[dict]]:
        """What the reference gives with each taught mistake."""
        with repair.silence():
            return {change: self.made_by(self.source.edited(change).solution()) for change in self.taught}

    def made_by(self, solution: Solution) -> list[dict]:
        """What is observed of a solution as plain data, in all cases."""
        return [self.seen(solution, case) for case in self.cases]

    def seen(self, solution: Solution, case: tuple) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # what a mistake divides by 0 is not the learner's
            return parts(self.observe(solution, *copied(case)))  # what is changed in place is a copy
