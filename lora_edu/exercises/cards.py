"""How a check looks: a card with an icon, words and a color; and what a reader has done, in a small file.

Everything has a text beside its HTML, for a terminal and for readers who hear the page.
"""

import json
from collections.abc import Sequence
from html import escape

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display

from lora_edu import files

Kind = tuple[str, str]  # icon, color of the edge
RIGHT: Kind = ("✓", "#00805C")
OPEN: Kind = ("○", "#6E6E6E")
WRONG: Kind = ("✗", "#B87000")
ICONS = {"correct": RIGHT[0], "not done yet": OPEN[0], "not checked yet": OPEN[0], "not right yet": WRONG[0]}


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
    publish(f'<div style="{style}"><b style="color: {color}">{icon}</b> {_with_code(text)}</div>', text)


def show_list(rows: Sequence[Sequence[str]], summary: str, header: Sequence[str] = ()) -> None:
    """Display rows of text as a table, with a line below it."""
    all_rows = [*([header] if header else []), *rows]
    widths = [max(len(row[i]) for row in all_rows if i < len(row)) for i in range(max(map(len, all_rows)))]
    lines = [
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=False)).rstrip() for row in all_rows
    ]
    head = "".join(f'<th scope="col" style="text-align: left">{_with_icon(text)}</th>' for text in header)
    body = "".join(f"<tr>{_row_head(row[0])}{''.join(map(_cell, row[1:]))}</tr>" for row in rows)
    html = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table><p>{escape(summary)}</p>"
    publish(html, "\n".join([*lines, summary]))


def publish(html: str, text: str) -> None:
    if InteractiveShell.initialized():
        display({"text/html": html, "text/plain": text}, raw=True)
    else:
        print(text)


def _row_head(text: str) -> str:
    return f'<th scope="row" style="text-align: left; font-weight: normal">{_with_icon(text)}</th>'


def _cell(text: str) -> str:
    return f'<td style="text-align: left">{_with_icon(text)}</td>'


def _with_icon(text: str) -> str:
    return f"{ICONS[text]} {escape(text)}" if text in ICONS else escape(text)


def _with_code(text: str) -> str:
    """Text as HTML; what stands between backquotes is code."""
    parts = escape(text, quote=False).split("`")
    if len(parts) % 2 == 0:  # a backquote without its partner
        return "`".join(parts)
    return "".join(f"<code>{part}</code>" if i % 2 else part for i, part in enumerate(parts))


# --- what is done, kept when the kernel is gone ----------------------------------------------------------------------


def remembered() -> dict[str, str]:
    """Number of an exercise -> the last result of its check, in any notebook of this user; empty if there is none."""
    try:
        return dict(json.loads((files.cache_dir() / "progress.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def remember(number: str, result: str) -> None:
    """Keep a result. Outside a notebook nothing is kept, and a folder that cannot be written is no reason to stop."""
    if not InteractiveShell.initialized():
        return
    try:
        with files.staging(files.cache_dir() / "progress.json") as target:
            target.write_text(json.dumps(remembered() | {number: result}), encoding="utf-8")
    except OSError:
        pass
