"""Set the course up: a virtual environment, the packages, the texts. Runs before anything is installed.

Only the standard library is imported here, since this is what installs the rest. While something is installed, the file
`.venv/unfinished` is there: whoever finds it later knows that this was interrupted, and makes the environment anew.
"""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent  # the clone
VENV = ROOT / ".venv"
COURSE = ""  # no extra of pyproject.toml: all that the notebooks need is in the default
BY_HAND = "made by hand"  # a .venv with a torch of one's own choice: nothing that we may replace
LARGE = 20  # MB: a download that is worth a line of its own
NO_NETWORK = re.compile(r"Temporary failure|ConnectionError|NewConnection|Connection to|ConnectTimeout|getaddrinfo|"
                        r"No matching distribution|Network is unreachable|ProxyError")  # fmt: skip


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


def setup(extra: str = COURSE) -> Path:
    """Create .venv and install the course with its dependencies, unless that is done already. Returns the interpreter.

    extra: an optional group of pyproject.toml, such as "test". Nothing is installed again until pyproject.toml
    changes, and a torch that is already in the environment is kept.
    """
    if extra == COURSE and _installed_here():
        return Path(sys.executable)
    if not (ROOT / "pyproject.toml").exists():
        if absent := _absent():
            raise SetupError(
                f"the notebooks need {', '.join(absent)}, which {sys.executable} does not have: install the course "
                "again without --no-deps"
            )
        raise SetupError(f"{ROOT} is not a clone of the course: run this from the folder that holds pyproject.toml")
    if os.pathsep in str(ROOT):
        raise SetupError(
            f"no environment can be made in {ROOT}: its name has a {os.pathsep!r} in it. Use another folder"
        )
    stamp = VENV / f"installed-{extra or 'course'}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    if not _mark().exists() and _has_pip() and stamp.exists() and stamp.read_text() == wanted:
        return venv_python()
    with _unfinished():
        if not _has_pip():
            _create_venv()
        print("installing the course: minutes the first time, for torch is large", flush=True)
        _pip("install", "--editable", f"{ROOT}[{extra}]" if extra else str(ROOT))
        configure_lab(VENV / "etc" / "jupyter")
        stamp.write_text(wanted)
    return venv_python()


def run(command: list[str]) -> int:
    """Run a program to its end, and return its exit code. At Ctrl-C it may finish what it does then."""
    process = subprocess.Popen(command, cwd=home())
    try:
        return process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise


def hand_over(command: list[str]) -> None:
    """Go on as another program, and end as it ends. Ctrl-C is its own affair then: JupyterLab asks, a training run
    writes its checkpoint. It stays in the reader's folder: a file named on the command line is the same there."""
    sys.stdout.flush()
    if os.name != "nt":
        os.execv(command[0], command)
    process = subprocess.Popen(command)  # Windows has no exec: wait, whatever is pressed
    signal.signal(signal.SIGINT, lambda *_: None)
    sys.exit(process.wait())


# --- .venv -----------------------------------------------------------------------------------------------------------


def _mark() -> Path:
    return VENV / "unfinished"


def _site_packages() -> Path:
    return next(VENV.glob("lib/python*/site-packages"), VENV / "Lib" / "site-packages")


def _has_pip() -> bool:
    return venv_python().exists() and (_site_packages() / "pip" / "__main__.py").exists()


@contextmanager
def _unfinished() -> Iterator[None]:
    """Whatever ends the process in this block, the next set-up starts from nothing."""
    with _alone():
        if _mark().exists() and _mark().read_text() == BY_HAND:
            raise SetupError(f"installing into {VENV}, which you made, was stopped: remove it, and make it again")
        if VENV.exists() and (_mark().exists() or not _has_pip()):
            _discard()
        VENV.mkdir(exist_ok=True)
        before = _installed()
        _mark().write_text(BY_HAND if before and not any(VENV.glob("installed-*")) else "")
        try:
            yield
        except SetupError:
            if before and _installed() == before:  # pip gave up before it changed anything: no network, perhaps
                _mark().unlink()
            raise
        except KeyboardInterrupt:
            raise SetupError("stopped. The same command starts the set-up again") from None
        _mark().unlink()


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


def _discard() -> None:
    """Remove .venv: first its name, in one step, so that half of it is never taken for an environment."""
    aside = ROOT / "build" / f"discarded-{os.getpid()}"
    try:
        VENV.rename(aside)
    except OSError as error:
        raise SetupError(f"{VENV} is not complete and cannot be removed ({error}): remove it by hand") from error
    for old in aside.parent.glob("discarded-*"):
        shutil.rmtree(old, ignore_errors=True)


def _installed() -> list[str]:
    return sorted(path.name for path in _site_packages().glob("*.dist-info"))


def _installed_here() -> bool:
    """Whether the running interpreter has the course and all that it needs, in an environment that is not .venv."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return False  # ours: look whether pyproject.toml changed
    try:
        importlib.metadata.version("lora-edu")
    except importlib.metadata.PackageNotFoundError:
        return False
    return not _absent()


def _absent() -> list[str]:
    """What the notebooks need and this interpreter lacks: nothing, unless the course came alone (`--no-deps`)."""
    return [name for name in ("torch", "jupyterlab", "ipywidgets") if importlib.util.find_spec(name) is None]


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


def _pip(*arguments: str) -> None:
    """Run pip: a line for each step, all that it says into a file. Raises SetupError with the reason if it fails."""
    log = ROOT / "build" / "setup.log"
    log.parent.mkdir(exist_ok=True)
    command = [str(venv_python()), "-m", "pip", *arguments, "--disable-pip-version-check", "--retries=2"]
    command += ["--progress-bar=off", "--no-input"]
    said = []
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        )
        try:
            for line in process.stdout:
                file.write(line)
                said.append(line.strip())
                if step := _step(line):
                    print(f"  {step}", flush=True)
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
    if process.wait():
        raise SetupError(f"pip could not install the course: {_reason(said)}. All that it said is in {log}")


def _step(line: str) -> str | None:
    if download := re.match(r"\s*Downloading (?:\S*/)?([\w.]+?)-\d\S* \(([\d.]+) (MB|GB)\)", line):
        name, size, unit = download.groups()
        return f"downloading {name} ({size} {unit})" if unit == "GB" or float(size) >= LARGE else None
    names = line.partition("Installing collected packages: ")[2]
    return f"installing {names.count(',') + 1} packages" if names else None


def _reason(said: list[str]) -> str:
    text = "\n".join(said)
    if "No space left" in text:
        return "the disk is full"
    if NO_NETWORK.search(text):
        return "no network, or no way through it to the package index"
    errors = [line for line in said if line.startswith("ERROR")]
    return errors[-1] if errors else "it was ended from outside"
