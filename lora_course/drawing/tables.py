"""How an output is shown in several forms, and a table: without matplotlib, which a check does not need."""

from collections.abc import Sequence
from html import escape
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import display


def publish(bundle: dict[str, str], metadata: dict | None = None) -> None:
    """Display one output in several forms; where there is no notebook, print its text."""
    if InteractiveShell.initialized():
        display(bundle, raw=True, metadata=metadata)
    else:
        print(bundle["text/plain"])


def table(header: Sequence[str], rows: Sequence[Sequence[Any]], caption: str = "") -> None:
    """Display a table as HTML, with plain text for a terminal. Numbers stand at the right of their column.

    A whole number gets its thousands separated and any other number four digits: hand over text where that is wrong.
    """
    texts = [[cell_text(value) for value in row] for row in rows]
    right = [bool(rows) and all(_is_number(row[column]) for row in rows) for column in range(len(header))]
    how = (header, texts, right, caption)
    publish({"text/html": _html_table(*how), "text/plain": _plain_table(*how)})


def cell_text(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not _is_number(value):
        return "" if value is None else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _html_table(header, texts, right, caption) -> str:
    """Sides are given cell by cell: JupyterLab removes style sheets from a notebook that it does not trust."""
    sides = ["right" if side else "left" for side in right]
    head = "".join(
        f'<th scope="col" style="text-align: {side}">{escape(name)}</th>'
        for name, side in zip(header, sides, strict=True)
    )
    rows = [
        [row_head(row[0], sides[0])]
        + [f'<td style="text-align: {side}">{escape(text)}</td>' for text, side in zip(row[1:], sides[1:], strict=True)]
        for row in texts
    ]
    body = "".join(f"<tr>{''.join(row)}</tr>" for row in rows)
    title = f'<caption style="text-align: left">{escape(caption)}</caption>' if caption else ""
    blank = " \n"  # JupyterLab labels a folded output with the first line of its HTML
    return f"{blank}<table>{title}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def row_head(text: str, side: str = "left") -> str:
    """The first cell of a row: a screen reader says it before each of the others."""
    return f'<th scope="row" style="text-align: {side}; font-weight: normal">{escape(text)}</th>'


def _plain_table(header, texts, right, caption) -> str:
    widths = [max(map(len, column)) for column in zip(header, *texts, strict=True)]
    lines = [
        "   ".join(
            text.rjust(width) if side else text.ljust(width)
            for text, width, side in zip(row, widths, right, strict=True)
        ).rstrip()
        for row in (header, *texts)
    ]
    return "\n".join([caption] * bool(caption) + lines)
