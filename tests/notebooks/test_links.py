"""Every link of a page leads to a heading that is there; each term of the glossary names the section it leads to."""

import re

import nbformat
import pytest
from conftest import NOTEBOOKS, markdown

from lora_course.nb13.pictures_claims import CLAIMS

TEXTS = {path.name: path.read_text(encoding="utf-8") for path in sorted(NOTEBOOKS.glob("*.md"))}
TEXTS |= {path.name: markdown(nbformat.read(path, as_version=4).cells) for path in sorted(NOTEBOOKS.glob("*.ipynb"))}
ANCHORS = {
    name: {title.replace(" ", "-") for title in re.findall(r"^#{1,6} +(.+?)\s*$", text, re.M)}
    for name, text in TEXTS.items()
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_link_leads_to_a_heading(name):
    for page, anchor in re.findall(r"\]\((\w+\.(?:ipynb|md))?#([^)\s]+)\)", TEXTS[name]):
        there = ANCHORS[page or name]
        if name == "setup.md":  # read on GitHub, before there is a JupyterLab
            there = there | {heading.lower() for heading in there}
        assert anchor in there, f"{name} links to {page}#{anchor}"


@pytest.mark.parametrize("claim", CLAIMS, ids=[f"sentence {number}" for number, _ in enumerate(CLAIMS, 1)])
def test_a_sentence_of_13_leads_to_a_heading(claim):
    file, _, heading = claim.link.partition("#")
    assert heading.replace(" ", "-") in ANCHORS[file]


ROW = re.compile(r"^\| \*\*(.+?)\*\* \| (.+) \| \[(\d\d), (.+)\]\((.+?\.ipynb)#(.+)\) \|$")
ROWS = [line for line in (NOTEBOOKS / "glossary.md").read_text(encoding="utf-8").splitlines() if "**" in line]


def test_there_are_terms_in_order():
    terms = [ROW.match(row)[1] for row in ROWS]
    assert len(terms) > 40 and terms == sorted(terms, key=str.lower) and len(set(terms)) == len(terms)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.split("**")[1])
def test_a_row_says_where_its_link_leads(row):
    _, _, number, title, file, anchor = ROW.match(row).groups()
    assert file.startswith(number) and anchor == title.replace(" ", "-")  # that it is there, a test above asks
