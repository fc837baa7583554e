"""Telegrams out of presidents' sentences: the pairs, a count of the words put back, and a rule that knows no model.

    sentence   Various plans have been proposed for payment of the public debt.
    telegram   various plans proposed payment public debt

The way there is a rule of one line, right every time. The way back is the task.
"""

import random
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from difflib import SequenceMatcher

import numpy as np
from torch import Tensor

from lora_edu.texts import load_text

# What a telegram leaves out. "not" and "no" stay: without them it would say the opposite.
SMALL = frozenset(
    "a an the of to in on at by for with from and or is are was were be been has have had do does did will would "
    "shall should may might can could it its this that these those which who as so very upon into".split()
)
SENTENCE = re.compile(r"[A-Z][A-Za-z ,;:'-]+[.?!]")  # without numbers, quotations and brackets
CUT_OFF = re.compile(r"\b(?:[A-Z]{2,}|(?:St|Mr|Dr|Gen)\.$)")  # a heading, or the end of no sentence
Pair = tuple[str, str]  # a telegram and its sentence
Pairs = Sequence[Pair]


def words(text: str) -> list[str]:
    return re.findall(r"[a-z][a-z'-]*", text.lower())


def telegram(sentence: str) -> str:
    return " ".join(word for word in words(sentence) if word not in SMALL)


def pairs_of(text: Tensor, fewest: int, most: int) -> dict[str, str]:
    """Sentence -> telegram for each sentence of so many words in a text (n_bytes,): each once."""
    found = {}
    for paragraph in bytes(text.tolist()).decode("utf-8").split("\n"):
        for sentence in re.split(r"(?<=[.?!])\s+(?=[A-Z])", paragraph.strip()):
            if fewest <= len(sentence.split()) <= most and SENTENCE.fullmatch(sentence):
                short = telegram(sentence)
                if not CUT_OFF.search(sentence) and len(short.split()) >= 3:
                    found[sentence] = short
    return found


def pairs(fewest: int = 8, most: int = 16) -> tuple[list[Pair], list[Pair]]:
    """The pairs of the training addresses and those of the held-out ones, each shuffled once and for all.

    A held-out sentence that a president had said before, in a training address, is dropped.
    """
    train, held = (pairs_of(part, fewest, most) for part in load_text("speeches"))
    found = [(short, sentence) for sentence, short in train.items()]
    unseen = [(short, sentence) for sentence, short in held.items() if sentence not in train]
    for rows in (found, unseen):
        random.Random(0).shuffle(rows)
    return found, unseen


# --- the measure -----------------------------------------------------------------------------------------------------


def gaps(short: str, answer: str) -> list[tuple[int, str]]:
    """Each word of an answer, with the gap of the telegram in which it stands; -1 for the telegram's own words.

    Gap 0 lies before the telegram's first word.
    """
    kept, said = short.split(), words(answer)
    runs = SequenceMatcher(None, said, kept, autojunk=False).get_matching_blocks()
    place = {run.a + i: run.b + i for run in runs for i in range(run.size)}  # which word of the telegram it is
    found, gap = [], 0
    for i, word in enumerate(said):
        gap = place[i] + 1 if i in place else gap
        found.append((-1 if i in place else gap, word))
    return found


def put_back(short: str, answer: str) -> Counter:
    """The words that an answer adds to a telegram, each with its gap: (0, "the") stands before the first word."""
    return Counter(one for one in gaps(short, answer) if one[0] >= 0)


def counts(rows: Pairs, answers: Iterable[str]) -> np.ndarray:
    """(n, 3): of the words an answer puts back, how many are right, how many it says, how many are due."""
    found = []
    for (short, sentence), answer in zip(rows, answers, strict=True):
        said, due = put_back(short, answer), put_back(short, sentence)
        found.append([(said & due).total(), said.total(), due.total()])
    return np.array(found)


def f1(counted: np.ndarray) -> np.ndarray:
    """Counts of sentences, (..., n, 3) -> F1 of all their words together, in percent: (...)."""
    right, said, due = np.moveaxis(counted.sum(axis=-2), -1, 0)
    return 200 * right / (said + due)


def resampled(n: int, draws: int = 2000) -> np.ndarray:
    """Which of n sentences stand in each draw of the bootstrap: (draws, n). The same for all arms."""
    return np.random.default_rng(0).integers(n, size=(draws, n))


def interval(counted: np.ndarray) -> tuple[float, float, float]:
    """F1 of one arm, and the 95% interval of other sentences: (n, 3), or (n_seeds, n, 3), whose counts are added."""
    together = counted.reshape(-1, *counted.shape[-2:]).sum(axis=0)  # (n, 3)
    low, high = np.percentile(f1(together[resampled(len(together))]), [2.5, 97.5])
    return float(f1(together)), low, high


# --- the rule --------------------------------------------------------------------------------------------------------


class GapRule:
    """Between two words of a telegram it puts what stood there most often in the pairs that it saw.

    Where it never saw the two side by side, it puts what most often stood before the second.
    """

    def __init__(self, seen: Pairs):
        self.between: dict[Pair, Counter] = defaultdict(Counter)
        self.before: dict[str, Counter] = defaultdict(Counter)
        for _, sentence in seen:
            left, fill = "^", []
            for word in [*words(sentence), "$"]:
                if word in SMALL:
                    fill.append(word)
                else:
                    self.between[left, word][" ".join(fill)] += 1
                    self.before[word][" ".join(fill)] += 1
                    left, fill = word, []

    def __call__(self, short: str) -> str:
        said, left = [], "^"
        for word in [*short.split(), "$"]:
            known = self.between.get((left, word)) or self.before.get(word) or Counter([""])
            said += [known.most_common(1)[0][0], word]
            left = word
        return " ".join(part for part in said[:-1] if part).capitalize() + "."
