"""Which words of a roll-out are real: those that stand in the addresses the base was trained on (notebook 16)"""

import functools
import re
from collections import Counter

import torch
from torch import Tensor

from lora_edu.texts import load_text

SEEN = 3  # times: fewer may be a misprint


@functools.cache
def known_words() -> frozenset[str]:
    """The words that stand in the training addresses at least `SEEN` times, in small letters."""
    text = bytes(load_text("speeches").train.tolist()).decode("utf-8", errors="replace").lower()
    return frozenset(word for word, count in Counter(re.findall(r"[a-z]+", text)).items() if count >= SEEN)


def marked_words(tokens: Tensor, prompt: int) -> tuple[Tensor, Tensor]:
    """1 at each new byte where a word ended, and 1 where it was not a real one: (B, S) -> (B, S - prompt) twice.

    A word that the window cuts off, in front or behind, is none.
    """
    words, wrong = torch.zeros(2, len(tokens), tokens.shape[1] - prompt)
    for row, line in enumerate(tokens.tolist()):
        for found in re.finditer(r"[a-z]+", bytes(line).decode("latin-1").lower()):  # one letter for each byte
            if found.start() > 0 and prompt <= found.end() < len(line):
                words[row, found.end() - prompt] = 1
                wrong[row, found.end() - prompt] = found[0] not in known_words()
    return words, wrong
