"""What installs packages: uv, which takes seconds, or pip where uv cannot be had.

Only the standard library is imported. uv does not read pip's settings: what somebody told pip (an index, a folder of
wheels, a certificate) is passed on.
"""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

PYTORCH = "https://download.pytorch.org/whl/cpu/torch/"  # PyTorch's own index, of builds with and without CUDA
PATIENCE = 3  # seconds for it to answer: uv would try for longer
NO_NETWORK = re.compile(
    "dns error|Failed to fetch|client error|Temporary failure|ConnectionError|NewConnection|Connection to|"
    "ConnectTimeout|getaddrinfo|No matching distribution|Network is unreachable|ProxyError|network connectivity"
)
SETTING = re.compile(r"^[:\w]+\.([a-z-]+)=(.+)$", re.M)  # of `pip config list`: :env:.find-links='/wheels'
OFFLINE = "the course cannot be installed: no network, or no way through it to the package index"


class SetupError(RuntimeError):
    """The set-up cannot go on; the message says what is missing."""


class Pip:
    """The pip of an environment. It takes minutes where uv takes seconds."""

    def __init__(self, python: Path):
        self.command = [str(python), "-m", "pip"]

    def install(self, what: str, versions: Path | None, anew: bool, upgrade: bool) -> None:
        """versions: a file of those to take. anew: also what is there. upgrade: also where an older one would do."""
        print("installing the course with pip: minutes the first time, for torch is large", flush=True)
        command = [*self.command, "install", "--editable", what, "--no-input", "--retries=2"]
        command += ["--disable-pip-version-check"]
        command += ["--constraint", str(versions)] if versions else []
        command += ["--force-reinstall"] if anew else []
        command += ["--upgrade", "--upgrade-strategy=eager"] if upgrade else []
        if subprocess.run(command).returncode:
            raise SetupError("pip could not install the course: its last lines above say why")


class Uv:
    """A uv, and the environment that it installs into."""

    def __init__(self, uv: str, python: Path, pip_settings: dict[str, list[str]]):
        self.uv = uv
        self.python = python
        self.environ = os.environ | _environ(pip_settings)
        self.options = uv_options(pip_settings)
        self.constraints = pip_settings.get("constraint", [])

    def install(self, what: str, versions: Path | None, anew: bool, upgrade: bool) -> None:
        """versions: a file of those to take. anew: also what is there. upgrade: also where an older one would do.

        Raises SetupError.
        """
        command = [self.uv, "pip", "install", "--python", str(self.python), "--editable", what, *self.options]
        command += ["--reinstall"] if anew else []
        command += ["--upgrade"] if upgrade else [f"--constraints={file}" for file in self.constraints]
        command += torch_backend()
        with_versions = [*command, "--constraints", str(versions)] if versions else command
        problem = self._resolve(with_versions)
        if problem and versions and "No solution found" in problem:
            print("  the tested versions cannot be had here: the newest that fit are installed", flush=True)
            with_versions = command
            problem = self._resolve(with_versions)
        if problem and NO_NETWORK.search(problem):
            raise SetupError(OFFLINE)
        if problem:
            raise SetupError(f"uv cannot install the course: {problem}")
        print("installing the course: torch is large, the first time it is downloaded", flush=True)
        if subprocess.run(with_versions, env=self.environ).returncode:  # its progress is on the screen
            raise SetupError("uv could not install the course: its last lines above say why")

    def _resolve(self, command: list[str]) -> str | None:
        """Look for versions that fit, install nothing. Returns what uv says if there are none."""
        tried = subprocess.run([*command, "--dry-run"], env=self.environ, capture_output=True, text=True)
        return tried.stderr.strip() if tried.returncode else None


def find_installer(python: Path, new_venv: Path | None) -> Uv | Pip:
    """What installs for this interpreter. new_venv: a folder in which it has to be made first.

    Raises SetupError if there is neither uv nor a pip.
    """
    if new_venv:
        print(f"creating {new_venv} with Python {sys.version.split()[0]}", flush=True)
        _make_venv(new_venv, shutil.which("uv"))
    uv = find_uv(python)
    if uv:
        return Uv(uv, python, pip_settings())
    if _runs([str(python), "-m", "pip", "--version"]):
        return Pip(python)
    raise SetupError(f"{python} has no pip, and there is no uv: install one of them, or move its folder away")


def _make_venv(folder: Path, uv: str | None) -> None:
    if uv:
        # the folder has our mark in it already, which --allow-existing keeps
        command = [uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(folder)]
        made = subprocess.run(command, capture_output=True, text=True)
        if made.returncode:
            raise SetupError(f"uv cannot create {folder}: {made.stderr.strip()}")
        return
    try:
        venv.create(folder, with_pip=True, symlinks=os.name != "nt")
    except (subprocess.CalledProcessError, OSError) as error:
        raise SetupError(
            f"cannot create {folder} ({error}). On Debian, Ubuntu: sudo apt install python3-venv"
        ) from error


def find_uv(python: Path) -> str | None:
    """The uv on the PATH, or the one in an environment; pip brings it if it is not there. None if it cannot.

    Raises SetupError without a network.
    """
    on_path = shutil.which("uv")
    if on_path:
        return on_path
    inside = python.with_name("uv.exe" if os.name == "nt" else "uv")
    if not inside.exists():
        print("  getting uv, which installs the rest in seconds", flush=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries=1", "uv"]
        said = subprocess.run(pip, capture_output=True, text=True)
        if said.returncode and NO_NETWORK.search(said.stdout + said.stderr):
            raise SetupError(OFFLINE)
    return str(inside) if _runs([str(inside), "--version"]) else None


def _runs(command: list[str]) -> bool:
    try:
        return not subprocess.run(command, capture_output=True).returncode
    except OSError:
        return False


# --- what pip was told -----------------------------------------------------------------------------------------------


def pip_settings() -> dict[str, list[str]]:
    """The settings of the pip of this interpreter, from its files and from the environment: {"find-links": [...]}."""
    if importlib.util.find_spec("pip") is None:
        return {}
    listed = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    settings: dict[str, list[str]] = {}
    for name, value in SETTING.findall(listed):
        settings[name] = list(dict.fromkeys([*settings.get(name, []), *str(ast.literal_eval(value)).split()]))
    return settings


def uv_options(settings: dict[str, list[str]]) -> list[str]:
    """pip's settings as options of uv."""
    options = [f"--default-index={url}" for url in settings.get("index-url", [])[-1:]]
    more = settings.get("extra-index-url", [])
    options += [f"--index={url}" for url in more]
    options += ["--index-strategy=unsafe-best-match"] if more else []  # the best of all indexes, as pip takes it
    options += [f"--find-links={place}" for place in settings.get("find-links", [])]
    options += [f"--allow-insecure-host={host}" for host in settings.get("trusted-host", [])]
    if settings.get("no-index", ["false"])[-1] in ("1", "true", "True", "yes"):
        options.append("--no-index")
    return options


def _environ(settings: dict[str, list[str]]) -> dict[str, str]:
    environ = {}
    for name, variable in (("cert", "SSL_CERT_FILE"), ("client-cert", "SSL_CLIENT_CERT"), ("proxy", "ALL_PROXY")):
        if name in settings:
            environ[variable] = settings[name][-1]
    return environ


# --- torch -----------------------------------------------------------------------------------------------------------


def torch_backend() -> list[str]:
    """On Linux the package index has torch with CUDA, some 3 GB. From PyTorch's own index uv takes what the machine
    needs: for its NVIDIA driver, or for the processor alone, a tenth of that. Where there is no way to that index,
    torch comes from where all else comes from. UV_TORCH_BACKEND=cu126 (or cpu) says it by hand."""
    if sys.platform == "darwin" or "UV_TORCH_BACKEND" in os.environ:
        return []
    if answers(PYTORCH):
        return ["--torch-backend=auto"]
    print("  no way to download.pytorch.org: torch comes from the package index", flush=True)
    return []


def answers(url: str) -> bool:
    """Whether a server answers in time. By a process of its own: looking up a name here would know no limit."""
    ask = f"from urllib.request import Request, urlopen; urlopen(Request({url!r}, method='HEAD'))"
    try:
        return not subprocess.run([sys.executable, "-c", ask], capture_output=True, timeout=PATIENCE).returncode
    except subprocess.TimeoutExpired:
        return False
