"""Calling nbgrader in the teacher's folder, as a program of its own, and reading its gradebook."""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig
from pathlib import Path

from classroom import folders


class NbgraderFailed(RuntimeError):
    """nbgrader ended with an error; the message has its last lines."""


def run(*arguments: str, log: Path | None = None, allow_failure: bool = False, **environment: str) -> str:
    """Run `nbgrader ...` from the teacher's folder. Returns what it said; writes it to `log` as well.

    Raises NbgraderFailed if it ends with an error, unless that is allowed, and ModuleNotFoundError where it is missing.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise ModuleNotFoundError('nbgrader is missing: pip install "lora-edu[classroom]"')
    done = program("nbgrader", *arguments, **environment)
    if log:
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(done.stdout, encoding="utf-8")
    if done.returncode and not allow_failure:
        raise NbgraderFailed(f"nbgrader {arguments[0]} failed:\n" + "\n".join(done.stdout.splitlines()[-12:]))
    return done.stdout


def recompute_penalties(name: str) -> None:
    """Points off for being late, from the score and the settings as they are now."""
    done = program("classroom.lateness", name)
    if done.returncode:
        raise NbgraderFailed("points off for being late could not be computed:\n" + done.stdout[-800:])


def program(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m module ...` from the teacher's folder; stdout has what it said, errors included."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=folders.required(),
        env={**os.environ, "PATH": _path(), "PYTHONPATH": _python_path(), **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _path() -> str:
    """PATH with the programs of this Python first: nbgrader calls alembic by its name, and .venv may not be active."""
    return os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])


def _python_path() -> str:
    """PYTHONPATH with the clone first: nbgrader's configuration and the hidden tests import `classroom`."""
    return os.pathsep.join(filter(None, [str(folders.CLONE), os.environ.get("PYTHONPATH")]))


def gradebook():
    """nbgrader's gradebook of the teacher's folder, as a context manager."""
    from nbgrader.api import Gradebook

    root = folders.required()
    settings = (root / "nbgrader_config.py").read_text(encoding="utf-8")
    course = re.search(r"""course_id\s*=\s*["'](.+?)["']""", settings)
    return Gradebook(f"sqlite:///{root / 'gradebook.db'}", course_id=course[1] if course else "")
