"""The page of the public names, written from `lora_edu._PUBLIC`; Sphinx's autodoc reads signatures and docstrings."""

import inspect
import re
from pathlib import Path

import nbformat

import lora_edu

HEAD = """\
# The public names

What `import lora_edu` gives, file by file: these names stay as they are from version 0.1.0 on. A name is imported from
the package itself, `from lora_edu import add_lora`.
"""
# One of these begins a paragraph of its own: an argument's name, what comes back, what is raised.
ITEM = re.compile(r"(\w+(, \w+)*: |(Returns|Raises|Source)\b)")


def page(notebooks: list[Path]) -> str:
    """The page in Markdown: a section a file, a name with its signature and docstring, the pages that build it."""
    parts, built = [HEAD], pages_by_tag(notebooks)
    for module, names in lora_edu._PUBLIC.items():
        parts += [f"## {module.replace('.', '/')}.py", links("Parts of this file are built in", module, built)]
        for name in names:
            kind = "class" if inspect.isclass(getattr(lora_edu, name)) else "function"
            parts += [f"### {name}", f"```{{eval-rst}}\n.. auto{kind}:: lora_edu.{name}\n```"]
            parts += [links("Built by hand in", f"{module}.{name}", built)]
    return "\n\n".join(filter(None, parts)) + "\n"


def pages_by_tag(notebooks: list[Path]) -> dict[str, str]:
    """What the cells tagged `in-package:` build, `lora.LoRALinear.forward`, with a link to the page of each."""
    found = {}
    for path in notebooks:
        cells = nbformat.read(path, as_version=4).cells
        title = cells[0].source.splitlines()[0].removeprefix("# ")
        tags = [tag for cell in cells for tag in cell.metadata.get("tags", []) if tag.startswith("in-package:")]
        found |= dict.fromkeys((tag.removeprefix("in-package:") for tag in tags), f"[{title}]({path.name})")
    return found


def links(words: str, name: str, built: dict[str, str]) -> str:
    pages = dict.fromkeys(page for tag, page in built.items() if f"{tag}.".startswith(f"{name}."))
    return f"{words} {', '.join(pages)}." if pages else ""


def in_paragraphs(app, what, name, value, options, lines: list[str]) -> None:
    """Called by autodoc for each docstring: arguments, results and errors get a paragraph each."""
    lines[:] = [part for line in lines for part in (["", line] if ITEM.match(line) else [line])]
