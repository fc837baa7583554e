"""`make constraints`: the versions of this environment as `constraints.txt`, to be run after a green `make test`.

Only names and versions: no address of an index, no local part such as `+cpu`. Whoever installs with
`pip install -c constraints.txt` gets what the course was last tested with, from wherever pip takes it.
"""

import importlib.metadata
import platform
import re
import sys
import tomllib
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent.parent
EXTRAS = ("classroom", "test")  # what `make test` runs with


def main() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *(line for extra in EXTRAS for line in project["optional-dependencies"][extra])]
    versions = installed(line for line in wanted if not line.startswith(project["name"]))
    lines = [
        f"# The versions of the last green `make test`, on Python {platform.python_version()}. Use: pip install -c"
    ]
    lines += [f"{name}=={version}" for name, version in versions.items()]
    (ROOT / "constraints.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"constraints.txt: {len(versions)} packages")


def installed(requirements: Iterable[str]) -> dict[str, str]:
    """Name and version of each distribution that fulfils the requirements here, and of those that they need in turn.

    Raises SystemExit for a requirement that is not fulfilled: then this is not the environment of a green run.
    """
    versions: dict[str, str] = {}
    seen: set[tuple[str, frozenset]] = set()
    waiting = [(Requirement(line), True) for line in requirements]
    while waiting:
        requirement, direct = waiting.pop()
        name, extras = canonicalize_name(requirement.name), requirement.extras or {""}
        if (name, frozenset(extras)) in seen:
            continue
        seen.add((name, frozenset(extras)))
        try:
            version = importlib.metadata.version(name)
        except PackageNotFoundError:
            if direct:
                sys.exit(f"{requirement} is not installed: run make test first")
            continue  # of another system, or a namesake that something else stands in for
        if direct and not requirement.specifier.contains(version, prereleases=True):
            sys.exit(f"{requirement} is not fulfilled by {version}: run make test first")
        versions[name] = re.sub(r"\+.*", "", version)
        needed = map(Requirement, importlib.metadata.requires(name) or [])
        waiting += [(r, False) for r in needed if not r.marker or any(r.marker.evaluate({"extra": e}) for e in extras)]
    return dict(sorted(versions.items()))


if __name__ == "__main__":
    main()
