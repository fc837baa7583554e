"""Which words of a roll-out are real: those that stand in the addresses the base was trained on (notebook 16)"""

import functools
import re
from collections import Counter
from collections.abc import Iterator

import torch
from torch import Tensor

from lora_edu.texts import load_text

SEEN = 3  # times: fewer may be a misprint


@functools.cache
def known_words() -> frozenset[str]:
    """The words that stand in the training addresses at least `SEEN` times, in small letters."""
    text = bytes(load_text("speeches").train.tolist()).decode("utf-8", errors="replace").lower()
    return frozenset(word for word, count in Counter(re.findall(r"[a-z]+", text)).items() if count >= SEEN)


def whole_words(tokens: Tensor, prompt: int) -> Iterator[tuple[int, int, str]]:
    """Row, place among the new bytes where it ended, and word, of every word that ended there and began in the window.

    A word that the window cuts off, in front or behind, is none.
    """
    for row, line in enumerate(tokens.tolist()):
        for found in re.finditer(r"[a-z]+", bytes(line).decode("latin-1").lower()):  # one letter for each byte
            if found.start() > 0 and prompt <= found.end() < len(line):
                yield row, found.end() - prompt, found[0]


def marked_words(tokens: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    """1 at each new byte where a word ended, and 1 where it was not a real one: (B, S) -> (B, S - prompt) twice."""
    words, wrong = torch.zeros(2, len(tokens), tokens.shape[1] - prompt)
    for row, place, word in whole_words(tokens, prompt):
        words[row, place] = 1
        wrong[row, place] = word not in known_words()
    return words, wrong
