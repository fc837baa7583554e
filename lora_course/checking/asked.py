"""What an exercise asks for, and all that follows from it: what is right, and what each known mistake gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from lora_course.checking import repair
from lora_course.checking.comparing import parts
from lora_course.checking.reference import copied
from lora_course.checking.slips import Slips

MOST_TAUGHT = 7

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
    # Without it there is no search for slips: promises say themselves what is wrong.
    searched: bool = True
    wrong_tries: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if len(self.taught) > MOST_TAUGHT:
            raise ValueError(f"exercise {self.number} teaches {len(self.taught)} mistakes, at most {MOST_TAUGHT}")

    @cached_property
    def right(self) -> list[dict]:
        return self.made_by(self.reference)

    @cached_property
    def source(self) -> Slips:
        return Slips(self.reference, self.made_by, self.searched)

    @cached_property
    def versions(self) -> dict[str, Slips]:
        """The reference with each taught mistake."""
        return {change: self.source.edited(change) for change in self.taught}

    @cached_property
    def known(self) -> dict[str, list[dict]]:
        """What each of them gives."""
        with repair.silence():
            return {change: self.made_by(version.solution()) for change, version in self.versions.items()}

    def made_by(self, solution: Solution, only: int | None = None) -> list[dict]:
        """What is observed of a solution as plain data: in all cases, or only in one."""
        return [self.seen(solution, case) for case in (self.cases if only is None else [self.cases[only]])]

    def seen(self, solution: Solution, case: tuple) -> dict[str, Any]:
        with np.errstate(all="ignore"):  # what a mistake divides by 0 is not the learner's
            return parts(self.observe(solution, *copied(case)))  # what is changed in place is a copy
