"""The glossary: each term names the section that it leads to, terms are in order, and each has one line."""

import re
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \| \[(\d\d), (.+)\]\((.+?\.ipynb)#(.+)\) \|$")
ROWS = [line for line in (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").splitlines() if "**" in line]


def test_there_are_terms_in_order():
    terms = [ROW.match(row)[1] for row in ROWS]
    assert len(terms) > 40 and terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("**")[1])
def test_a_row_says_where_its_link_leads_and_is_short(row):
    _, meaning, number, title, file, anchor = ROW.match(row).groups()
    assert file.startswith(number) and anchor == title.replace(" ", "-")  # that it is there, tests/test_links.py asks
    assert len(meaning.split()) <= 28
