"""The glossary: each term leads to a section that exists, terms are in order, and each has one line."""

import json
import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \| \[(\d\d), (.+)\]\((.+?\.ipynb)#(.+)\) \|$")
ROWS = [line for line in (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").splitlines() if "**" in line]


def sections(path: Path) -> list[str]:
    """The titles of a notebook's sections."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) + "\n" for cell in cells if cell["cell_type"] == "markdown")
    return re.findall(r"^## (.+?)\s*$", text, re.MULTILINE)


def test_there_are_terms_in_order():
    terms = [ROW.match(row)[1] for row in ROWS]
    assert len(terms) > 40 and terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("**")[1])
def test_the_link_leads_to_a_section(row):
    _, meaning, number, title, file, anchor = ROW.match(row).groups()
    assert (NOTEBOOKS / file).exists() and file.startswith(number)
    assert title in sections(NOTEBOOKS / file), f"{file} has no section {title!r}; it has {sections(NOTEBOOKS / file)}"
    assert anchor == title.replace(" ", "-")  # the anchors of Jupyter's headings
    assert len(meaning.split()) <= 28
