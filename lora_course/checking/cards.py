"""How a check looks: a card with an icon, words and a color; and what a reader has done, in a small file.

Everything has a text beside its HTML, for a terminal and for readers who hear the page.
"""

import os
import re
from collections.abc import Iterable
from contextlib import suppress
from html import escape
from pathlib import Path

from IPython.core.interactiveshell import InteractiveShell

from lora_course.drawing.tables import publish
from lora_course.setup.working_copy import COPY, PROGRESS, RECORD
from lora_edu import files
from lora_edu.records import read_record, set_aside, write_record

Kind = tuple[str, str]  # icon, color of the edge
RIGHT: Kind = ("✓", "#00805C")
OPEN: Kind = ("○", "#6E6E6E")
WRONG: Kind = ("✗", "#B87000")


class WrongAnswer(AssertionError):
    """A wrong answer. In a notebook it shows a card and one line, and none of the course's own code."""

    shown = False

    def _render_traceback_(self) -> list[str]:
        if not self.shown:  # IPython asks twice
            show(WRONG, str(self))
        self.shown = True
        return ["Not right yet: see the card above. Change your function, run its cell, then run this one again."]


def show(kind: Kind, text: str) -> None:
    """Display a card; where there is no notebook, print its text."""
    icon, color = kind
    style = f"border-left: 4px solid {color}; padding: 0.3em 0.8em"
    html = f'<div style="{style}"><b style="color: {color}">{icon}</b> {_with_code(text)}</div>'
    publish({"text/html": html, "text/plain": text})


def _with_code(text: str) -> str:
    """Text as HTML; what stands between two backquotes is code."""
    return re.sub("`([^`]*)`", r"<code>\1</code>", escape(text, quote=False))


# --- what is done, kept when the kernel is gone ----------------------------------------------------------------------

NOT_DONE, CORRECT, NOT_RIGHT, UNCHECKED = "not done yet", "correct", "not right yet", "not checked yet"
ICONS = {CORRECT: RIGHT[0], NOT_DONE: OPEN[0], UNCHECKED: OPEN[0], NOT_RIGHT: WRONG[0]}
ONCE_RIGHT = "correct (last try: not right)"


def after(before: str | None, now: str) -> str:
    """What is known of an exercise after a check. Once right stays right, and a stub says nothing."""
    if now == NOT_DONE:
        return before or now
    was_right = before in (CORRECT, ONCE_RIGHT)
    return ONCE_RIGHT if was_right and now != CORRECT else now


def listing(numbers: Iterable[str], results: dict[str, str], column: str) -> str:
    """The exercises with this result. One that was right before, and is not now, says so beside its number."""
    said = []
    for number in numbers:
        if results[number] == column:
            said.append(number)
        elif results[number] == ONCE_RIGHT and column == CORRECT:
            said.append(f"{number} {ONCE_RIGHT.removeprefix(CORRECT).strip()}")
    return " ".join(said)


def summary(numbers: Iterable[str], results: dict[str, str]) -> str:
    numbers = list(numbers)
    return f"{sum(results.get(number) in (CORRECT, ONCE_RIGHT) for number in numbers)} of {len(numbers)} done"


def progress_file() -> Path:
    """In the reader's copy of the course in which we are, or which lies in this folder; else in the cache."""
    here = Path.cwd()
    for folder in (here, *here.parents, here / COPY):
        if (folder / RECORD).exists():
            return folder / PROGRESS
    return files.cache_dir() / "progress.json"


def remembered() -> dict[str, str]:
    """Number of an exercise -> what is known of it, from the notebooks of this copy; empty if there is nothing.

    A damaged file is moved aside.
    """
    path = progress_file()
    try:
        kept = read_record(path) if os.path.lexists(path) else {}
        kept.pop("checksum", None)
        if unknown := set(map(str, kept.values())) - {CORRECT, NOT_RIGHT, ONCE_RIGHT}:
            raise ValueError(f"it holds {min(unknown)[:40]!r}")
        return kept
    except ValueError as error:
        with suppress(OSError):
            print(f"{path} is damaged ({error}). It is kept as {set_aside(path).name}; progress begins anew")
        return {}


def remember(number: str, result: str) -> None:
    """Keep a result. Outside a notebook nothing is kept, and a folder that cannot be written is no reason to stop.

    The file is read and written under a lock, so that two kernels that check at once keep both marks.
    """
    if not InteractiveShell.initialized():
        return
    with suppress(OSError):
        path = progress_file()
        name = path.name.strip(".")
        lock = files.take_lock(path.with_name(f".{name}.lock"), wait=10)  # two notebooks may check at once
        try:
            kept = remembered()
            write_record(path, kept | {number: after(kept.get(number), result)})
        finally:
            lock.release()
