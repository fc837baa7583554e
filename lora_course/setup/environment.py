"""Set the course up: a virtual environment, the tested versions, JupyterLab's settings.

This runs before anything is installed, so only the standard library is imported. uv does the work: the one on the PATH,
or one that pip brings into `.venv`; where uv cannot be had, pip does the same more slowly. Both take the versions of
`tested-versions.txt`. The file `.venv/installed.json` says that all went well. Without it an environment that has our
mark, `.venv/made-by-lora-edu`, is made anew. What somebody else made (`uv venv`, say) is added to and never removed.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lora_course.setup.installers import Pip, SetupError, Uv, find_installer

ROOT = Path(__file__).parent.parent.parent  # the clone
VENV = ROOT / ".venv"
NEWEST_VENV = ROOT / ".venv-newest"  # of `make newest`
TESTED = "tested-versions.txt"
TESTED_PYTHONS = ((3, 11), (3, 14))  # the first and the last for which `make lock` finds versions
COURSE = ""  # no extra of pyproject.toml: all that the notebooks need is in the default


def home() -> Path:
    """Where the reader's copy and what the course writes go: into the clone, or, without one, into this folder."""
    return ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()


def course_python() -> Path:
    """The interpreter that the course runs with: this one if the course is installed in it, else the clone's .venv."""
    return Path(sys.executable) if _installed_here() else venv_python(VENV)


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def setup(extra: str = COURSE, newest: bool = False) -> Path:
    """Create .venv and install the course with its dependencies, unless that is done already. Returns the interpreter.

    extra: optional groups of pyproject.toml, such as "test" or "test,book". Nothing is installed again until
    pyproject.toml or the tested versions change. newest: the newest releases, in an environment of their own.
    """
    if extra == COURSE and not newest and _installed_here():
        return Path(sys.executable)
    if not (ROOT / "pyproject.toml").exists():
        if absent := _absent():
            raise SetupError(f"{sys.executable} lacks {', '.join(absent)}: install the course without --no-deps")
        raise SetupError(f"{ROOT} is not a clone of the course: run this from the folder that holds pyproject.toml")
    if os.pathsep in str(ROOT):
        raise SetupError(f"no environment can be made in {ROOT}: use a folder without {os.pathsep!r} in its name")
    environment = Environment(NEWEST_VENV if newest else VENV)
    extras = set(extra.split(",")) if extra else set()
    if newest or not environment.has(extras):
        try:
            with _alone():
                environment.install(extras, newest)
        except KeyboardInterrupt:
            raise SetupError("stopped. The same command starts the set-up again") from None
    return environment.python


def hand_over(command: list[str]) -> None:
    """Go on as another program, and end as it ends. Ctrl-C is its own affair then: JupyterLab asks, a training run
    writes its checkpoint. It stays in the reader's folder: a file named on the command line is the same there."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)  # Windows has no exec: wait, whatever is pressed
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(process.wait())


class Environment:
    """A folder such as .venv, which holds an interpreter and what is installed for it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = venv_python(folder)
        self.stamp = folder / "installed.json"  # {"of": a checksum, "extras": [...]}, or missing
        self.mark = folder / "made-by-lora-edu"

    def has(self, extras: set[str]) -> bool:
        """Whether these extras were installed, from the files as they are now."""
        stamp = self._read_stamp()
        return self.python.exists() and stamp["of"] == _checksum() and extras <= set(stamp["extras"])

    def install(self, extras: set[str], newest: bool = False) -> None:
        """Install the course with these extras, beside those that are there.

        Whatever ends the process in here, the next set-up mends the environment.
        """
        stamp = self._read_stamp()
        extras = extras | set(stamp["extras"])
        whole = bool(stamp["of"])
        installer = self._prepare(whole)
        self.stamp.unlink(missing_ok=True)
        before = self._installed()
        try:
            installer.install(_what(extras), _versions(newest), anew=not (whole or self._is_ours()), upgrade=newest)
        except SetupError:
            if whole and self._installed() == before:  # no network, perhaps: nothing is lost
                self._write_stamp(stamp)
            raise
        configure_lab(self.folder / "etc" / "jupyter")
        self._write_stamp({"of": _checksum(), "extras": sorted(extras)})

    def _prepare(self, whole: bool) -> Uv | Pip:
        """See to it that there is an environment to install into, and find what installs."""
        if os.path.lexists(self.folder) and not self._is_ours() and not self.python.exists():
            raise SetupError(f"{self.folder} has no mark of this set-up, and it has no Python: move it away")
        if self._is_ours() and not (whole and self.python.exists()):
            self._discard()
        new = not self.folder.exists()
        if new:
            self.folder.mkdir()
            self.mark.touch()
        return find_installer(self.python, self.folder if new else None)

    def _is_ours(self) -> bool:
        """Whether this set-up made the folder; without doubt, or we do not remove it."""
        return self.mark.exists() or (self.folder.is_dir() and not any(self.folder.iterdir()))

    def _discard(self) -> None:
        """Remove the folder: first its name, in one step, so that half of it is never taken for an environment."""
        aside = ROOT / "build" / f"discarded-{os.getpid()}"
        try:
            self.folder.rename(aside)
        except OSError as error:
            what = f"{self.folder} is not complete and cannot be removed ({error})"
            raise SetupError(f"{what}: remove it by hand") from error
        for old in aside.parent.glob("discarded-*"):
            shutil.rmtree(old, ignore_errors=True)

    def _installed(self) -> list[str]:
        packages = next(self.folder.glob("lib/python*/site-packages"), self.folder / "Lib" / "site-packages")
        return sorted(path.name for path in packages.glob("*.dist-info"))

    def _read_stamp(self) -> dict:
        try:
            return json.loads(self.stamp.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {"of": "", "extras": []}

    def _write_stamp(self, stamp: dict) -> None:
        beside = self.stamp.with_suffix(".partial")
        beside.write_text(json.dumps(stamp), encoding="utf-8")
        beside.replace(self.stamp)


def _what(extras: set[str]) -> str:
    return f"{ROOT}[{','.join(sorted(extras))}]" if extras else str(ROOT)


def _versions(newest: bool) -> Path | None:
    """The file of the tested versions; None where the ranges of pyproject.toml decide."""
    tested = ROOT / TESTED
    if newest or not tested.exists():
        return None
    first, last = TESTED_PYTHONS
    if not first <= sys.version_info[:2] <= last:
        here = "{}.{}".format(*sys.version_info)
        print(f"  nobody has tested versions for Python {here} yet: the newest that fit are installed", flush=True)
        return None
    return tested


def _checksum() -> str:
    """Of the files that say what is installed, and of where they are: a clone that moves is set up again."""
    files = [ROOT / "pyproject.toml", ROOT / TESTED]
    written = b"".join(file.read_bytes() for file in files if file.exists())
    return hashlib.sha256(written + os.fsencode(ROOT)).hexdigest()


@contextmanager
def _alone() -> Iterator[None]:
    """Raises SetupError while another process installs."""
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "setup.lock").open("w") as file:
        try:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except ImportError:
            pass  # Windows
        except OSError:
            raise SetupError(f"another set-up is at work in {ROOT}: wait for its end") from None
        yield


def _installed_here() -> bool:
    """Whether the running interpreter has the course and all that it needs, in an environment that is not .venv."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return False  # ours: look whether pyproject.toml changed
    return any(importlib.metadata.distributions(name="lora-edu")) and not _absent()


def _absent() -> list[str]:
    """What the notebooks need and this interpreter lacks: nothing, unless the course came alone (`--no-deps`)."""
    return [name for name in ("torch", "jupyterlab", "ipywidgets") if importlib.util.find_spec(name) is None]


def configure_lab(folder: Path, plain: bool = False) -> None:
    """JupyterLab does not ask about news or updates, for the course works offline; and sliders are saved with their
    notebook, so that it shows them when it is opened again. folder: one in which Jupyter looks for its settings.
    plain: all cells are in the page, also those out of sight, for a screen reader and for the browser's search."""
    folder = folder / "labconfig"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
    }
    if plain:
        settings["@jupyterlab/notebook-extension:tracker"] = {"windowingMode": "none"}
    (folder / "default_setting_overrides.json").write_text(json.dumps(settings), encoding="utf-8")
