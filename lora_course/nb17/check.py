"""The checks of notebook 17: what a row of a task is asked for, and whether two ways differ."""

import numpy as np

from lora_course.checking.exercise import exercise
from lora_course.checking.grading import beside
from lora_course.nb17.lab_telegrams import f1

__all__ = ["beside", "difference", "targets_of"]

AFTER = "np.repeat(-100, width - len(follows))"
ANSWER = "follows[first:]"


@exercise(
    "17.1",
    [
        ([1, 7, 2, 5], [8, 9, 4, 2], 9),
        ([1, 3, 2], [6, 2], 4),  # the longest row of its batch: no padding
        ([1, 4, 4, 9, 2, 5], [7, 2], 12),
    ],
    taught={
        f"{ANSWER} -> np.where({ANSWER} == 2, -100, {ANSWER})": "Your answer leaves out the end of the answer, as a "
        "mask does that looks for the padding's 2. From it a model learns to stop: leave out by place.",
        "first = len(question) - 1 -> first = len(question)": "Your answer leaves out the answer's first token. The "
        "last place of the question, place {first}, is asked for it.",
        "first = len(question) - 1 -> first = 0": "Your answer has the loss count the question, too. It is given: "
        "leave out what its own tokens are asked for.",
        f"{AFTER} -> np.repeat(2, width - len(follows))": "Your answer teaches the padding, too: after an end, another "
        "end. Leave the padded places out.",
        "ids[1:] -> ids[:-1]": "Your answer asks each place for its own token, which was given. Ask for "
        "the one that follows.",
    },
    noticed={
        "a row has `width` places, and this has another number.": lambda got, q, a, width: np.shape(got) != (width,),
        "nothing is asked here: every place is left out.": lambda got, *case: (np.asarray(got) == -100).all(),
    },
)
def targets_of(question, answer, width):
    ids = np.array([*question, *answer])  # the tokens of the whole row
    follows = ids[1:]  # what follows each place
    first = len(question) - 1  # the first place that is asked
    before = np.repeat(-100, first)  # what is left out of the question
    after = np.repeat(-100, width - len(follows))  # what is left out of the padding
    return np.concatenate([before, follows[first:], after])  # all places


def _arms():
    for seed, n in enumerate((14, 20)):
        rng = np.random.default_rng(seed)
        due = rng.integers(2, 8, n)
        hard = rng.uniform(0, 0.9, n)  # a hard sentence is hard for both
        ours, theirs = (
            np.stack([rng.binomial(due, hard * better), due + rng.integers(0, 3, n), due], axis=1)
            for better in (0.9, 0.6)
        )
        yield ours, theirs, rng.integers(n, size=(80, n))


INSIDE = "np.percentile(apart, [2.5, 97.5])"


@exercise(
    "17.2",
    list(_arms()),
    taught={
        f"{INSIDE} -> np.percentile(left, [2.5, 97.5]) - np.percentile(right, [97.5, 2.5])": "Your answer compares the "
        "ends of two intervals, as if the arms met different sentences. They met the same: subtract draw by draw.",
        "theirs[draws] -> theirs[draws[::-1]]": "Your answer gives the two arms different draws. A hard sentence is "
        "hard for both: compare them on the same one.",
        "f1(ours[draws]) -> f1(ours[draws][..., None, :]).mean(1) & f1(theirs[draws]) -> f1(theirs[draws][..., None, "
        ":]).mean(1)": "Your answer averages the F1 of single sentences. Here the words of all sentences count "
        "together.",
        "[2.5, 97.5] -> [5, 95]": "Your answer leaves 5% out on either side: 90 in 100. For 95 it is 2.5%.",
        f"{INSIDE} -> apart.mean() + np.array([-1.96, 1.96]) * apart.std() / len(apart) ** 0.5": "Your answer divides "
        "by the root of the number of draws. More draws make no more sentences: take the draws' own spread.",
        "left - right -> right - left": "Your answer takes ours from theirs. Above zero is to mean that "
        "ours is better.",
    },
)
def difference(ours, theirs, draws):
    left = f1(ours[draws])  # our F1 in each draw
    right = f1(theirs[draws])  # their F1 in each draw
    apart = left - right  # the difference in each draw
    return np.percentile(apart, [2.5, 97.5])  # the interval
