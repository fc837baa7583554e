"""What notebook 13 says of its trained models: the share of right pairs, and the interval in which luck lets it lie.

As in `lab_measured`, nothing is written down here: another stored result gives another number.
"""

from statistics import mean, stdev

import numpy as np

from lora_course.nb13.lab import ASKED, MID
from lora_course.nb13.lab_measured import Interval, Numbers, results

ERRORS = 2.571  # how many standard errors luck alone passes once in twenty, with six seeds (Student's t)


def interval(values: list[float]) -> Interval:
    """Where the mean over all seeds lies, by these six, 95 times in 100."""
    half = ERRORS * stdev(values) / len(values) ** 0.5
    return mean(values) - half, mean(values) + half


def right(arm: str, order: str) -> np.ndarray:
    """(pairs,) of 0 and 1: which pairs of this order an arm got right. order: one of ASKED."""
    return np.array([int(digit) for digit in results("agreement")[arm][order]])


def shares(method: str, order: str) -> list[float]:
    """The share of pairs that were right, one number a seed; of a base that was not trained there is one."""
    arms = [arm for arm in results("agreement") if arm == method or arm.rpartition(", seed ")[0] == method]
    return [float(right(arm, order).mean()) for arm in arms]


def luck(one: str, other: str, order: str, seed: int) -> float:
    """By how many standard errors one way got more pairs right than the other: what exercise 13.1 asks for."""
    first, second = (right(f"{way}, seed {seed}", order) for way in (one, other))
    b, c = int((first > second).sum()), int((second > first).sum())
    return (b - c) / (b + c) ** 0.5 if b + c else 0.0


def right_answers() -> Numbers:
    """The share of pairs that LoRA gets right."""
    return {name: interval(shares("lora", order)) for order, name in ASKED.items() if order != f"statement{MID}"}


def counted_answers() -> Numbers:
    """The same of a rival that did learn it from the same bytes, but is told that A and a are one letter."""
    return {"questions, by counting, capitals folded": interval(shares("counted", "question"))}
