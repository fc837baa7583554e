"""The structure of the package: what may import what. The picture of it stands in CONTRIBUTING.md.

Arrows only go down: a file imports from its own floor or a lower one, and from there never up again. Three marked
imports lead from the core down to the engine, each in one place.
"""

import ast
import graphlib
import re
from pathlib import Path

import pytest
from conftest import ROOT

import lora_edu

PACKAGE = ROOT / "lora_edu"
CORE = ("lora_numpy", "lora", "codebooks", "quantization", "qlora", "gpt", "training")
CORE_LINES = 1670

# From the ground up. A name stands for a file of the package's root or for a room.
FLOORS = (
    {"files", "records", "downloads", "tensor_files", "checks", "command", "layers", "adapters"},
    {"engine"},
    {"texts"},
    set(CORE),
    {"calibration", "measures", "rounding", "observing", "peft_io", "variants"},
    {"memory", "models"},
    {"experiments"},
    {"alive", "figures", "exercises"},
    {"assignments", "setup"},
    {"__main__"},
)
# core file -> the engine's module that it may import
DOORS = {"quantization": "kernels", "qlora": "compiling", "training": "run"}


def imports(path: Path) -> set[str]:
    """The modules of lora_edu that a file imports, anywhere in it: `lora_edu.engine.kernels` -> "engine.kernels"."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "lora_edu":
            inside = node.module.removeprefix("lora_edu").lstrip(".")
            for alias in node.names:
                name = f"{inside}.{alias.name}".lstrip(".")
                found.add(name if exists(name) else inside or lora_edu._HOME.get(alias.name, alias.name))
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("lora_edu.") for a in node.names if a.name.startswith("lora_edu.")}
    return found


def exists(name: str) -> bool:
    return home(name).exists()


def home(module: str) -> Path:
    """The file of a module, or of a room."""
    path = PACKAGE.joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").exists() else path / "__init__.py"


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


GRAPH = {
    module_name(path): imports(path)
    for path in sorted(PACKAGE.rglob("*.py"))
    if path.parent != PACKAGE or path.stem != "__init__"
}


def floor(module: str) -> int:
    room = module.split(".")[0]
    found = [height for height, rooms in enumerate(FLOORS) if room in rooms]
    assert found, f"lora_edu.{module} stands on no floor: add it to FLOORS"
    return found[0]


@pytest.mark.parametrize("module", GRAPH)
def test_arrows_only_go_down(module):
    for other in GRAPH[module]:
        assert floor(other) <= floor(module), f"lora_edu.{module} imports lora_edu.{other}, which stands above it"


def test_no_circle():
    """A room's own package is not above it."""
    above = {m: {other for other in found if not f"{m}.".startswith(f"{other}.")} for m, found in GRAPH.items()}
    graphlib.TopologicalSorter(above).prepare()  # CycleError names the circle


def test_the_core_reaches_the_engine_by_three_doors():
    for module in CORE:
        reached = {other for other in GRAPH[module] if other.split(".")[0] == "engine"}
        assert reached == ({f"engine.{DOORS[module]}"} if module in DOORS else set())
    for module, door in DOORS.items():
        text = (PACKAGE / f"{module}.py").read_text()
        (line,) = re.findall(r"^\s*(?:from|import) lora_edu\.engine.*", text, re.M)
        assert "# the door" in line, f"mark the import of engine.{door} in {module}.py"


def test_the_core_is_an_hour_s_reading():
    lines = {module: len((PACKAGE / f"{module}.py").read_text().splitlines()) for module in CORE}
    assert sum(lines.values()) <= CORE_LINES, lines


@pytest.mark.parametrize("module", GRAPH)
def test_a_file_is_one_idea(module):
    assert len(home(module).read_text(encoding="utf-8").splitlines()) <= 350


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
        for names in re.findall(r"from lora_edu[\w.]* import ([^\\\"#]*)", path.read_text(encoding="utf-8")):
            private = [name for name in re.split(r"[,\s]+", names) if name.startswith("_")]
            assert not private, f"{path.name} imports {private}"
