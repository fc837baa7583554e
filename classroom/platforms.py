"""Grades into the file that Moodle or Canvas exported, so that it can be imported again.

Moodle   "Download grading worksheet": Identifier, Full name, ID number, Email address, Grade
Canvas   Grades, "Export": Student, ID, SIS User ID, SIS Login ID, and a column for each assignment

A student without a grade keeps an empty field: an import then changes nothing.
"""

import csv
import re
from pathlib import Path

from lora_edu.records import staging


def read(export: Path) -> list[dict[str, str]]:
    """The rows of an export. Raises ValueError if it is neither Moodle's nor Canvas'."""
    with open(export, newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    columns = set(rows[0]) if rows else set()
    if not ({"Identifier", "Grade"} <= columns or {"Student", "ID"} <= columns):
        raise ValueError(
            f"{export} is neither Moodle's grading worksheet (columns Identifier and Grade) nor Canvas' export "
            f"(columns Student and ID); it has {', '.join(sorted(columns)) or 'no columns'}"
        )
    return rows


def number(row: dict[str, str]) -> str:
    """What the archive of submissions calls this student: 12345 of "Participant 12345", or Canvas' ID."""
    found = re.search(r"\d+", row.get("Identifier") or row.get("ID") or "")
    return found[0] if found else ""


def fill(
    export: Path, scores: dict[str, str], name: str, target: Path, maximum: float = 30, of: float | None = None
) -> Path:
    """Write the export with our scores in it. scores: the platform's number -> score of `maximum`, "" for none.

    of: what the scores are scaled to. Raises ValueError if no column of Canvas' export has the assignment's name in it,
    or several have, or the column is of another maximum.
    """
    rows = read(export)
    column = "Grade" if "Identifier" in rows[0] else _canvas_column(rows[0], name)
    if of is not None and not of > 0:
        raise ValueError(f"--of is what full marks count on the platform, above 0, got {of:g}")
    of = of or maximum
    if wrong := sorted({most for row in rows if (most := _maximum(row, column)) and most != f"{of:g}"}):
        raise ValueError(
            f"{export}: the column {column!r} is of {' and '.join(wrong)} points, and these scores are of {of:g}. Set "
            f"it to {of:g} on the platform and export again, or say --of {wrong[0]}, which scales the scores"
        )
    for row in rows:
        if scores.get(number(row)):
            row[column] = f"{float(scores[number(row)]) * of / maximum:.5g}"
    with staging(target) as part, open(part, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return target


def _maximum(row: dict[str, str], column: str) -> str:
    """What this row says that the column's full marks are; "" where it says nothing."""
    said = row.get("Maximum grade") or row.get("Maximum Grade") or ""
    if row.get("Student", "").strip() == "Points Possible":
        said = row[column]
    try:
        return f"{float(said.replace(',', '.')):g}"
    except ValueError:
        return said.strip()


def _canvas_column(row: dict[str, str], name: str) -> str:
    found = [column for column in row if name in column]
    if len(found) != 1:
        raise ValueError(
            f"Canvas' export needs exactly one column with {name!r} in its name (call the assignment so in Canvas); "
            f"there are {', '.join(found) or 'none'}, among {', '.join(row)}"
        )
    return found[0]
