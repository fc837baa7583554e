"""What a reader builds is what they import: cells tagged `in-package:module.Name` hold the package's own code.

The tag names a function, a class or a method (`gpt.GPT.generate`) of lora_edu. A cell may hold other statements beside
the definition; the definition itself must have the same syntax tree as the package's. Docstrings, annotations, comments
and the layout of lines are left aside, and so are decorators that only refuse a wrong use.
"""

import ast
import re
from pathlib import Path

import nbformat
import pytest
from conftest import ROOT

TAG = "in-package:"
ONLY_REFUSE = {"once_differentiable"}  # decorators that change nothing of what is computed


CELLS = [
    (path.stem, tag, cell.source)
    for path in sorted((ROOT / "notebooks").glob("*.ipynb"))
    for cell in nbformat.read(path, as_version=4).cells
    for tag in cell.metadata.get("tags", [])
    if "package" in tag
]
IDS = [f"{stem[:2]}-{tag.removeprefix(TAG)}" for stem, tag, _ in CELLS]


class Bare(ast.NodeTransformer):
    """Takes docstrings, annotations and decorators that only refuse out of a syntax tree."""

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        if node.value is not None:
            return ast.Assign(targets=[node.target], value=node.value)
        node.annotation = ast.Constant(None)  # "name: type" declares a field: the name stays
        return node

    def visit_ClassDef(self, node):
        return self._without_docstring(node)

    def visit_FunctionDef(self, node):
        node.returns = None
        node.decorator_list = [one for one in node.decorator_list if ast.unparse(one) not in ONLY_REFUSE]
        return self._without_docstring(node)

    def _without_docstring(self, node):
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:]
        self.generic_visit(node)
        return node


def definition(source: str, name: str) -> str:
    """The bare syntax tree of a definition, as text; `name` may be dotted for a method."""
    body, node = ast.parse(source).body, None
    for part in name.split("."):
        matches = [item for item in body if isinstance(item, ast.FunctionDef | ast.ClassDef) and item.name == part]
        assert len(matches) == 1, f"expected one definition of {name!r}, found {len(matches)}"
        node = matches[0]
        body = node.body
    return ast.dump(Bare().visit(node), indent=1)


def home(tag: str) -> tuple[Path, str]:
    """The file that a tag names, which may lie in a room (`memory.paged.adamw`), and the name in it."""
    parts = tag.split(".")
    for length in range(1, len(parts)):
        for package in ("lora_edu", "lora_course"):
            path = (ROOT / package).joinpath(*parts[:length]).with_suffix(".py")
            if path.exists():
                return path, ".".join(parts[length:])
    raise AssertionError(f"the tag names lora_edu.{parts[0]}, which does not exist")


def cell_definition(source: str, name: str) -> str:
    """The definition in a cell; a method stands in a cell as a function of its own, or inside its class."""
    try:
        return definition(source, name)
    except AssertionError:
        return definition(source, name.rsplit(".", 1)[-1])


@pytest.mark.parametrize(("notebook", "tag", "source"), CELLS, ids=IDS)
def test_the_cell_is_the_package_s_code(notebook, tag, source):
    """A tag that is nearly right would switch the comparison off without a word."""
    assert re.fullmatch(TAG + r"\w+(\.\w+)+", tag), f"{notebook}: {tag}"
    path, name = home(tag.removeprefix(TAG))
    in_the_package = definition(path.read_text(encoding="utf-8"), name)
    assert cell_definition(source, name) == in_the_package, f"{notebook}: the cell differs from {path.stem}.{name}"
