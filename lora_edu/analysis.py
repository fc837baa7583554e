"""Measures that the notebooks use: how far apart two weights are, and how much of a text follows a style."""

import re

from torch import Tensor

SPEAKER_LINE = re.compile(r"\*\*[A-Z][A-Z .,'-]*\*\*")


def relative_error(original: Tensor, changed: Tensor) -> float:
    """The relative Frobenius error ||W - W'|| / ||W||: 0 for no change, 1 for a loss of everything."""
    return ((original - changed).norm() / original.norm()).item()


def speaker_share(text: str) -> float:
    """The share of the non-empty lines that are `**SPEAKER**` lines, the mark of the plays' Markdown."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return sum(bool(SPEAKER_LINE.fullmatch(line)) for line in lines) / len(lines) if lines else 0.0
