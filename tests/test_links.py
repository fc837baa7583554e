"""Every link of a page leads to a heading that is there, by the anchor that JupyterLab gives it."""

import re
from pathlib import Path

import nbformat
import pytest

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
PAGES = sorted([*NOTEBOOKS.glob("*.ipynb"), *NOTEBOOKS.glob("*.md")])


def prose(path: Path) -> str:
    """The Markdown of a page."""
    if path.suffix == ".md":
        return path.read_text(encoding="utf-8")
    cells = nbformat.read(path, as_version=4).cells
    return "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")


TEXTS = {path.name: prose(path) for path in PAGES}
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
