"""Arguments, results and measurements in a few words, as a check or a page prints them."""

import textwrap
from collections.abc import Iterable
from typing import Any

import numpy as np

MOST_WORDS = 40  # of a message, before its example


def as_array(value: Any) -> np.ndarray | None:
    """A number, list, NumPy array or torch tensor as a float64 array; None for anything else."""
    try:
        return np.asarray(value.detach().cpu().double() if hasattr(value, "detach") else value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):  # the last: of a list with a tensor in training
        return None


def describe(argument: Any) -> str:
    """An argument in an error message: a few numbers or a shape as they are, arrays by their shapes."""
    if type(argument) is dict:  # one of ours says what it is
        return "{" + _listed(f"{key!r}: {describe(value)}" for key, value in argument.items()) + "}"
    array = as_array(argument)
    if isinstance(argument, tuple | list):
        if array is not None:
            return repr(argument) if array.size <= 4 else f"{type(argument).__name__} of shape {array.shape}"
        inner = _listed(map(describe, argument))
        return f"[{inner}]" if isinstance(argument, list) else f"({inner})"
    if array is None or array.ndim:
        return repr(argument) if array is None else f"array of shape {array.shape}"
    return repr(argument.item() if hasattr(argument, "item") else argument)


def _listed(items: Iterable[str], most: int = 4) -> str:
    items = list(items)
    return ", ".join(items[:most] + [f"... {len(items)} in all"] * (len(items) > most))


def in_lines(measured: Any) -> str:
    """Text, or the members of a list or a dictionary, in lines of at most 72 characters.

    In a narrow window JupyterLab breaks a longer line anywhere, also within a word.
    """
    if isinstance(measured, dict):
        measured = [f"{name}: {value}" for name, value in measured.items()]
    text = ", ".join(map(str, measured)) if isinstance(measured, list) else str(measured)
    return "\n".join(textwrap.fill(line, 72, subsequent_indent="  ") for line in text.split("\n"))


def shown(value: Any) -> str:
    """A value in a sentence; a count in full."""
    if isinstance(value, bool | str):
        return str(value)
    is_number = isinstance(value, int | float | np.number)
    if not is_number:
        return describe(value)
    return f"{value:,.0f}" if value == round(value, 0) and abs(value) < 1e15 else f"{value:,.6g}"


def within(*pieces: str | None) -> str:
    """The first pieces that have at most 40 words together."""
    text = ""
    for piece in filter(None, pieces):
        longer = f"{text} {piece[0].upper()}{piece[1:]}" if text else piece
        if text and len(longer.split()) > MOST_WORDS:
            break
        text = longer
    return text
