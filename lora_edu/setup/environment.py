"""Set the course up: a virtual environment, the packages, the texts. Runs before anything is installed.

Only the standard library is imported here, since this is what installs the rest.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent  # the clone
VENV = ROOT / ".venv"
DEFAULT_EXTRA = "real"  # of pyproject.toml: what notebook 12 reads its model with


class SetupError(RuntimeError):
    """The set-up cannot go on; the message says what is missing."""


def home() -> Path:
    """Where the reader's copy and what the course writes go: into the clone, or, without one, into this folder."""
    return ROOT if (ROOT / "pyproject.toml").exists() else Path.cwd()


def course_python() -> Path:
    """The interpreter that the course runs with: this one if the course is installed in it, else the clone's .venv."""
    return Path(sys.executable) if _installed_here() else venv_python()


def venv_python() -> Path:
    return VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def setup(extra: str = DEFAULT_EXTRA) -> Path:
    """Create .venv and install the course with its dependencies, unless that is done already. Returns the interpreter.

    extra: an optional group of pyproject.toml, such as "test". Nothing is installed again until pyproject.toml
    changes, and a torch that is already in the environment is kept.
    """
    if extra == DEFAULT_EXTRA and _installed_here():
        return Path(sys.executable)
    if not (ROOT / "pyproject.toml").exists():
        raise SetupError(f"{ROOT} is not a clone of the course: run this from the folder that holds pyproject.toml")
    if not venv_python().exists():
        _create_venv()
    stamp = VENV / f"installed-{extra}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        print(
            "installing the course (the first time, torch is the largest part; see the table in the README)", flush=True
        )
        _pip("install", "--editable", f"{ROOT}[{extra}]")
        stamp.write_text(wanted)
    _configure_lab()
    return venv_python()


def _installed_here() -> bool:
    """Whether the running interpreter has the course and all that it needs, in an environment that is not .venv."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return False  # ours: look whether pyproject.toml changed
    try:
        importlib.metadata.version("lora-edu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return all(importlib.util.find_spec(name) for name in ("torch", "jupyterlab", "ipywidgets"))


def _create_venv() -> None:
    # An interpreter that brings a torch of its own (a GPU container, say) shares it, instead of downloading another.
    has_torch = importlib.util.find_spec("torch") is not None
    print(f"creating {VENV} with Python {sys.version.split()[0]}{' and its torch' if has_torch else ''}", flush=True)
    try:
        venv.create(VENV, with_pip=True, symlinks=os.name != "nt", system_site_packages=has_torch)
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(
            f"cannot create {VENV} ({error}). On Debian and Ubuntu the package python3-venv is needed: "
            "sudo apt install python3-venv"
        ) from error


def _configure_lab() -> None:
    """JupyterLab in .venv does not ask about news or updates, for the course works offline; and sliders are saved with
    their notebook, so that it shows them when it is opened again."""
    folder = VENV / "etc" / "jupyter" / "labconfig"
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
        "@jupyter-widgets/jupyterlab-manager:plugin": {"saveState": True},
    }
    (folder / "default_setting_overrides.json").write_text(json.dumps(settings), encoding="utf-8")


def _pip(*arguments: str) -> None:
    command = [str(venv_python()), "-m", "pip", *arguments, "--disable-pip-version-check"]
    if subprocess.run(command).returncode:
        raise SetupError("pip could not install the course: its last lines above say why (no network? disk full?)")
