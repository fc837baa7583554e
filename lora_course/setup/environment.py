"""Set the course up: a virtual environment, the packages, the texts. Runs before anything is installed.

Only the standard library is imported here, since this is what installs the rest. While something is installed, the file
`.venv/unfinished` is there: whoever finds it later knows that this was interrupted, and makes the environment anew.
Only an environment with our mark in it, `.venv/made-by-lora-edu`, is ever replaced. What somebody else made (`uv venv`,
say) is added to, or left as it is.
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
import threading
import tomllib
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent  # the clone
VENV = ROOT / ".venv"
COURSE = ""  # no extra of pyproject.toml: all that the notebooks need is in the default
CPU_TORCH = "https://download.pytorch.org/whl/cpu"  # PyTorch's index of builds without CUDA
PATIENCE = 3  # seconds for it to answer: pip would try for minutes
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
            raise SetupError(f"{sys.executable} lacks {', '.join(absent)}: install the course without --no-deps")
        raise SetupError(f"{ROOT} is not a clone of the course: run this from the folder that holds pyproject.toml")
    if os.pathsep in str(ROOT):
        raise SetupError(f"no environment can be made in {ROOT}: use a folder without {os.pathsep!r} in its name")
    stamp = VENV / f"installed-{extra or 'course'}"
    wanted = hashlib.sha256((ROOT / "pyproject.toml").read_bytes()).hexdigest()
    installed_for, *there = stamp.read_text(encoding="utf-8").split("\n") if stamp.is_file() else [""]
    if not os.path.lexists(_mark()) and _has_pip() and installed_for == wanted and not set(there) - _packages():
        return venv_python()
    with _unfinished():
        if not venv_python().exists():
            _create_venv()
        if not _pip_starts():
            raise SetupError(
                f"{VENV} has no pip: run `uv pip install pip` in it, or move it away, for another to be made"
            )
        print("installing the course: minutes the first time, for torch is large", flush=True)
        _torch_without_cuda()
        _pip("install", "--editable", f"{ROOT}[{extra}]" if extra else str(ROOT))
        configure_lab(VENV / "etc" / "jupyter")
        stamp.write_text("\n".join([wanted, *sorted(_packages())]), encoding="utf-8")
    return venv_python()


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


def _pip_starts() -> bool:
    return _has_pip() and not subprocess.run([venv_python(), "-m", "pip", "--version"], capture_output=True).returncode


def _ours() -> bool:
    """Whether this set-up made .venv; without doubt, or we do not remove it."""
    return (VENV / "made-by-lora-edu").exists() or (VENV.is_dir() and not any(VENV.iterdir()))


@contextmanager
def _unfinished() -> Iterator[None]:
    """Whatever ends the process in this block, the next set-up mends .venv, or makes it anew if it never worked."""
    with _alone():
        stopped = os.path.lexists(_mark())
        if os.path.lexists(VENV) and (stopped or not venv_python().exists()):
            if not _ours():
                what = "installing into it was stopped" if stopped else "it has no Python"
                raise SetupError(f"{VENV} has no mark of this set-up, and {what}: move it away, or make it again")
            if not (venv_python().exists() and any(VENV.glob("installed-*"))):
                _discard()
        if not VENV.exists():
            VENV.mkdir()
            (VENV / "made-by-lora-edu").touch()
        before = _installed()
        _mark().touch()
        try:
            yield
        except SetupError:
            if not _ours() or (before and _installed() == before):
                _mark().unlink()  # pip gave up before it changed anything (no network, perhaps), or it is not ours
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


def _packages() -> set[str]:
    """What lies in site-packages, by names without a version: an update is no loss."""
    return {path.name for path in _site_packages().glob("[!_]*") if path.suffix not in (".dist-info", ".pth")}


def _installed_here() -> bool:
    """Whether the running interpreter has the course and all that it needs, in an environment that is not .venv."""
    if Path(sys.prefix).resolve() == VENV.resolve():
        return False  # ours: look whether pyproject.toml changed
    return any(importlib.metadata.distributions(name="lora-edu")) and not _absent()


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
        raise SetupError(f"cannot create {VENV} ({error}). On Debian, Ubuntu: sudo apt install python3-venv") from error


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


def _torch_without_cuda() -> None:
    """On Linux the package index has torch with CUDA, some 3 GB. Where there is no NVIDIA driver and no torch yet,
    PyTorch's own build for the processor comes first, a tenth of that; where it is not to be had, the other will do."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [line for line in project.get("dependencies", []) if line.startswith("torch")]
    there = (_site_packages() / "torch").exists() or importlib.util.find_spec("torch")
    driver = shutil.which("nvidia-smi") or Path("/proc/driver/nvidia").exists()
    if sys.platform != "linux" or not wanted or there or driver:
        return
    instead = "torch comes from the package index, as a rule with CUDA (3 GB)"
    if not _answers(f"{CPU_TORCH}/torch/"):
        return print(f"  no NVIDIA driver, but no way to download.pytorch.org either: {instead}", flush=True)
    print("  no NVIDIA driver: torch for the processor alone comes from download.pytorch.org", flush=True)
    try:
        _pip("install", *wanted, f"--index-url={CPU_TORCH}")
    except SetupError as error:
        print(f"  {error}. So {instead}", flush=True)


def _answers(url: str) -> bool:
    """Whether a server answers in time. By a process of its own: looking up a name here would know no limit."""
    ask = f"from urllib.request import Request, urlopen; urlopen(Request({url!r}, method='HEAD'))"
    try:
        return not subprocess.run([sys.executable, "-c", ask], capture_output=True, timeout=PATIENCE).returncode
    except subprocess.TimeoutExpired:
        return False


def _pip(*arguments: str) -> None:
    """Run pip, all that it says into a file. Raises SetupError with the reason if it fails."""
    log = ROOT / "build" / "setup.log"
    log.parent.mkdir(exist_ok=True)
    command = [str(venv_python()), "-m", "pip", *arguments, "--disable-pip-version-check", "--retries=2"]
    command += ["--progress-bar=off", "--no-input"]
    # Half of pip's work is to compile 13,000 files, of which a reader needs few: Python does it at the first import.
    command += [] if sys.dont_write_bytecode else ["--no-compile"]  # where it may keep what it has compiled
    said = [""]
    with log.open("w", encoding="utf-8") as file:
        pipe, out = subprocess.PIPE, subprocess.STDOUT
        process = subprocess.Popen(command, stdout=pipe, stderr=out, text=True, errors="replace")
        over = threading.Event()
        threading.Thread(target=_tick, args=(over, said), daemon=True).start()
        try:
            for line in process.stdout or ():
                file.write(line)
                said.append(line.strip())
        except KeyboardInterrupt:
            process.terminate()
            process.wait()
            raise
        finally:
            over.set()
    if process.wait():
        raise SetupError(f"pip could not install the course: {_reason(said)}. All that it said is in {log}")


def _tick(over: threading.Event, said: list[str]) -> None:
    """Show for how many seconds we have waited, and what pip said last: on a terminal in one line, over which the next
    is written, elsewhere twice a minute."""
    seconds, screen = 0, sys.stdout.isatty()
    while not over.wait(1):
        seconds += 1
        if screen or seconds % 30 == 0:
            width = shutil.get_terminal_size().columns - 3
            print(f"  {f'{seconds} s  {said[-1]}'[:width]:{width}}", end="\r" if screen else "\n", flush=True)


def _reason(said: list[str]) -> str:
    """Why pip failed."""
    text = "\n".join(said)
    if "No space left" in text:
        return "the disk is full"
    if NO_NETWORK.search(text):
        return "no network, or no way through it to the package index"
    errors = [line for line in said if line.startswith("ERROR")]
    return errors[-1] if errors else "it was ended from outside"
