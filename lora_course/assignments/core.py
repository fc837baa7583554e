"""What an assignment is: tasks, and constants that are drawn for each cohort.

A module such as `lora_course.assignments.a1_lora_numpy` holds TITLE, TASKS and `draw(rng)`. The same name and cohort
always give the same constants and the same visible cases. Those of the grade are drawn from a word that the teacher
has, and nobody finds it in this package.
"""

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

VISIBLE = "visible"


class Constants(dict):
    """The constants of a cohort; `c.block_size` and `c["block_size"]` are the same. Printed as a small table."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"there is no constant {name!r}; there are {', '.join(self)}") from None

    def __repr__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:{width}}  {value}" for name, value in self.items())


@dataclass(frozen=True)
class Task:
    """One graded exercise.

    parts: the points of each thing observed. A part is earned if it is as expected in all hidden cases, and if the
        answer is at work: it earned a part of `computed`, or what it gave there had to be computed (`verdict.at_work`).
    computed: the parts that nobody gives who has no answer; none named: all whose results are numbers. What needs none,
        such as "unchanged", the output of the untouched model or alpha / rank, is not among them. One that has no
        points is `concluded` from others, and no more than a sign that an answer is at work.
    base: (constants, *case) -> {part: value}, what there is of a computed part without an answer: zeros, the output of
        the base alone. What an answer adds to it shows whether it computes, though it is wrong.
    cases: (constants, rng) -> a list of tuples, the arguments of each case, drawn with the NumPy generator `rng`.
    observe: (answer, constants, *case) -> {part: value}; a value may be a function without arguments, called on its
        own, so that an error in it costs this part alone.
    tolerance: relative to the largest expected number. Numbers that are compared exactly: 0.
    seconds: of the processor that all cases together may take; then what could not be observed is lost.
    concluded: (constants, case, what was observed) -> {part: value}, what the grader works out itself from other parts.
        With "follows": a part's name, that part counts: it is what the answer's own other parts lead to.
    names: of what a case consists of, for messages: "x W alpha"; what is called `_` is not told.
    edition: one more whenever other cases are drawn or something else is observed. What was stored for another edition
        is not compared with an answer.
    """

    number: str
    name: str
    title: str
    minutes: int
    parts: dict[str, float]
    cases: Callable[[Constants, np.random.Generator], list[tuple]]
    observe: Callable[..., dict[str, Any]]
    tolerance: float = 1e-5
    seconds: float = 10
    names: str = ""
    edition: int = 1
    computed: tuple[str, ...] = ()
    base: Callable[..., dict[str, Any]] | None = None
    concluded: Callable[[Constants, tuple, dict], dict[str, Any]] | None = None

    @property
    def points(self) -> float:
        return float(sum(self.parts.values()))

    def knows(self, stored: dict) -> bool:
        """Whether stored expectations are of this edition, with its parts."""
        parts = all(set(case) == set(self.parts) for case in stored["expected"])
        return parts and stored.get("edition", 1) == self.edition


@dataclass(frozen=True)
class Assignment:
    """An assignment with the constants of one cohort."""

    name: str
    title: str
    cohort: str
    constants: Constants
    tasks: dict[str, Task]  # by number

    def cases(self, number: str, word: str = VISIBLE) -> list[tuple]:
        """The cases of a task: the student's check's, or, with the teacher's word, those of the grade, shuffled."""
        rng = np.random.default_rng(_seed(self.name, self.cohort, number, word))
        cases = self.tasks[number].cases(self.constants, rng)
        return cases if word == VISIBLE else [cases[i] for i in rng.permutation(len(cases))]


def names() -> list[str]:
    """The assignments that there are."""
    return sorted(path.stem for path in Path(__file__).parent.glob("a[0-9]_*.py"))


def load(name: str, cohort: str = "formative") -> Assignment:
    """An assignment by its name, with the constants of a cohort. Raises ValueError for an unknown name."""
    if name not in names():
        raise ValueError(f"there is no assignment {name!r}; there are {', '.join(names())}")
    module = import_module(f"lora_course.assignments.{name}")
    drawn = Constants(module.draw(random.Random(_seed(name, cohort))))
    return Assignment(name, module.TITLE, cohort, drawn, {task.number: task for task in module.TASKS})


def constants(name: str, cohort: str = "formative") -> Constants:
    """The constants of an assignment for a cohort."""
    return load(name, cohort).constants


def _seed(*words: str) -> int:
    return int.from_bytes(hashlib.sha256("/".join(words).encode()).digest()[:8], "big")
