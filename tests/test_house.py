"""The structure of the two packages: what may import what. CONTRIBUTING.md shows it as a picture, compared here.

Arrows only go down. `lora_edu` is the library that a reader keeps: it knows nothing of the course, and in it a file
imports from its own floor or a lower one. `lora_course` stands behind the notebooks, a room a page: a page stands on
earlier pages only, a tool on no page, and what is above all pages says so.
"""

import ast
import functools
import graphlib
import re
import sys
from pathlib import Path

import pytest
from conftest import ROOT

import lora_edu

PACKAGES = ("lora_edu", "lora_course")
CORE = ("lora_numpy", "lora", "codebooks", "quantization", "qlora", "gpt", "training")
DOOR = "lora_edu.__main__"  # `python -m lora_edu` is the one arrow from the library up to the course

# The library from the ground up. A name stands for a file of the package's root or for a room.
FLOORS = (
    {"files", "records", "downloads", "tensor_files", "checks", "layers", "adapters"},
    {"engine"},
    {"texts"},
    set(CORE),
    {"calibration", "measures", "rounding", "observing", "peft_io", "variants"},
    {"memory", "models"},
)
# core file -> the engine's module that it may import
DOORS = {"quantization": "kernels", "qlora": "compiling", "training": "run"}
# The course beside its pages.
TOOLS = {"checking", "drawing", "running", "programs", "alive", "setup", "assignments"}
ABOVE = {"experiments", "__main__"}  # the register of the long experiments, and the command line


def python_files(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_name(path): path for package in PACKAGES for path in python_files(package)}
TREES = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in FILES.items()}


def imports(module: str) -> set[str]:
    """The modules of both packages that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(TREES[module]):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in PACKAGES:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                inside = f"lora_edu.{lora_edu._HOME[alias.name]}" if alias.name in lora_edu._HOME else node.module
                found.add(name if name in FILES else inside if node.module == "lora_edu" else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES}
    return found


GRAPH = {module: imports(module) for module in FILES}
LIBRARY = [module for module in GRAPH if module.startswith("lora_edu.") and module != DOOR]
COURSE = [module for module in GRAPH if module.startswith("lora_course.")]


def room(module: str) -> str:
    """The room of the course in which a module stands, or else the library: "nb07", "drawing", "lora_edu"."""
    package, *inside = module.split(".")
    return inside[0] if package == "lora_course" and inside else package


def page(name: str) -> float | None:
    """The number of a page's room, None for another room. The tour stands on the core, 00 to 09."""
    return 9.5 if name == "tour" else int(name[2:]) if re.fullmatch(r"nb\d\d", name) else None


def floor(module: str) -> int:
    name = module.split(".")[1]
    found = [height for height, rooms in enumerate(FLOORS) if name in rooms]
    assert found, f"{module} stands on no floor: add it to FLOORS"
    return found[0]


@pytest.mark.parametrize("module", LIBRARY)
def test_the_library_knows_nothing_of_the_course_and_its_arrows_go_down(module):
    for other in GRAPH[module] - {"lora_edu"}:
        assert other.startswith("lora_edu."), f"{module} imports {other}: the library knows nothing of the course"
        assert floor(other) <= floor(module), f"{module} imports {other}, which stands above it"


@pytest.mark.parametrize("module", COURSE)
def test_a_page_stands_on_earlier_pages_only_and_a_tool_on_no_page(module):
    here = room(module)
    assert page(here) is not None or here in TOOLS | ABOVE, f"{module} has no room: add it to TOOLS"
    for other in map(room, GRAPH[module]):
        number = page(other)
        if here not in ABOVE:
            assert other not in ABOVE, f"{module} imports {other}, which stands above the pages"
        if here in TOOLS:
            assert number is None, f"{module} is a tool and imports the page {other}"
        elif page(here) is not None and number is not None:
            assert number <= page(here), f"{module} imports the later page {other}"


def test_the_door_is_a_few_lines():
    assert GRAPH[DOOR] == {"lora_course.__main__"}
    assert len(FILES[DOOR].read_text().splitlines()) <= 8


def test_the_command_line_works_before_anything_is_installed():
    """`python -m lora_edu lab` sets the course up: what it imports on its way is the standard library alone."""
    seen, waiting = set(), [DOOR]
    while waiting:
        module = waiting.pop()
        parts = module.split(".")
        packages = {".".join(parts[:length]) for length in range(1, len(parts))}  # each is imported before it
        fresh = ({module} | packages) - seen
        seen |= fresh
        for name in fresh:
            top = ast.Module([node for node in TREES[name].body if isinstance(node, ast.Import | ast.ImportFrom)], [])
            names = {a.name for n in ast.walk(top) if isinstance(n, ast.Import) for a in n.names}
            names |= {n.module for n in top.body if isinstance(n, ast.ImportFrom)}
            foreign = {other.split(".")[0] for other in names} - sys.stdlib_module_names - set(PACKAGES)
            assert not foreign, f"{name} imports {foreign}, and is needed before anything is installed"
            waiting += GRAPH[name] - seen
    assert "lora_course.setup.environment" in seen and len(seen) < 15


def test_no_circle_of_modules():
    """A room's own package is not above it."""
    above = {m: {other for other in found if not f"{m}.".startswith(f"{other}.")} for m, found in GRAPH.items()}
    graphlib.TopologicalSorter(above).prepare()  # CycleError names the circle


@functools.cache
def rooms() -> dict[str, set[str]]:
    """Every room of the course, and the rooms that it imports."""
    found: dict[str, set[str]] = {}
    for module in COURSE:
        found.setdefault(room(module), set()).update(room(other) for other in GRAPH[module])
    return {name: others - {name} for name, others in found.items()}


def test_no_circle_of_rooms():
    graphlib.TopologicalSorter(rooms()).prepare()


def drawn() -> dict[str, set[str]]:
    """The arrows of the picture in CONTRIBUTING.md, by the names of rooms."""
    picture = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("```mermaid")[1].split("```")[0]
    arrows = re.findall(r"^  (\w+)(?:\[.*\])? --> (.+)$", picture, re.M)
    return {{"command": "__main__"}.get(name, name): set(others.split(" & ")) for name, others in arrows}


def test_contributing_shows_the_house_as_it_is():
    found: dict[str, set[str]] = {}
    for name, others in rooms().items():
        one = {"pages" if page(other) is not None else other for other in {name, *others}}
        here = "pages" if page(name) is not None else name
        found.setdefault(here, set()).update(one - {here, "lora_edu", "lora_course"})
    assert drawn() == {name: others for name, others in found.items() if others}


def test_the_core_reaches_the_engine_by_three_doors():
    for name in CORE:
        reached = {other for other in GRAPH[f"lora_edu.{name}"] if other.startswith("lora_edu.engine")}
        assert reached == ({f"lora_edu.engine.{DOORS[name]}"} if name in DOORS else set())
    for name, door in DOORS.items():
        text = FILES[f"lora_edu.{name}"].read_text()
        (line,) = re.findall(r"^\s*(?:from|import) lora_edu\.engine.*", text, re.M)
        assert "# the door" in line, f"mark the import of engine.{door} in {name}.py"


@pytest.mark.parametrize("package", [*PACKAGES, "classroom", "book"])
def test_a_file_is_one_idea(package):
    for path in python_files(package):
        lines = len(path.read_text(encoding="utf-8").splitlines())
        assert lines <= 350, f"{path.relative_to(ROOT)} has {lines} lines: which second idea is in it?"


def test_no_two_files_have_one_name():
    """But for the three of a page's room, what the language asks for, and a room's file beside a library's."""
    shared = re.compile(r"__\w+__|(check|lab|pictures)(_\w+)?")
    stems = [path.stem for path in FILES.values() if not shared.fullmatch(path.stem)]
    assert sorted(stems) == sorted(set(stems)), sorted({stem for stem in stems if stems.count(stem) > 1})


# Two classes of one name, and why.
SAME_CLASS = {
    "LoRALinear": "02 builds it by hand in NumPy, 04 in torch: a learner is to see that it is one thing",
    "Block": "the GPT's, and a block of the models that assignments look at",
    "Run": "the one training run that `train` talks to, and a run of a wrong answer in the assignments",
    "Pair": "two verb forms that 13 asks about, and a layer with its adapter in the assignments",
}


def test_no_two_classes_have_one_name():
    names = [node.name for tree in TREES.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    assert {name for name in names if names.count(name) > 1} <= set(SAME_CLASS)


def test_contributing_lists_the_public_names():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## What is public")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    assert sorted(name for row in rows for name in re.findall(r"`(\w+)`", row)) == lora_edu.__all__


@pytest.mark.parametrize("place", ["the package's docstring", "README.md"])
def test_the_reading_order_is_told(place):
    text = lora_edu.__doc__ if place.startswith("the") else (ROOT / place).read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if re.match(rf"(\| \[`|    )({'|'.join(CORE)})\b", line)]
    assert [re.search(r"\w+", line)[0] for line in lines] == list(CORE)


def test_no_notebook_imports_a_private_name():
    for path in (ROOT / "notebooks").rglob("*.ipynb"):
        for names in re.findall(r"from lora_(?:edu|course)[\w.]* import ([^\\\"#]*)", path.read_text(encoding="utf-8")):
            private = [name for name in re.split(r"[,\s]+", names) if name.startswith("_")]
            assert not private, f"{path.name} imports {private}"
