"""Set-up: interrupted at any moment it mends itself; what goes wrong is one sentence; Ctrl-C belongs to the program."""

import ast
import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lora_edu import __main__ as commands
from lora_edu.setup import environment

ROOT = Path(__file__).parent.parent
SENTENCE = "lora-edu needs Python 3.11 or newer, this is 3."


class Killed(BaseException):
    """Ends the set-up at once, as SIGKILL would: nothing is tidied up."""


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in which `venv` and pip are played by functions that write a few files."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "_installed_here", lambda: False)
    monkeypatch.setattr(environment, "_create_venv", lambda: [write(name) for name in PIECES])
    monkeypatch.setattr(environment, "_pip", lambda *arguments: [write(name) for name in PACKAGES])
    return tmp_path


PIECES = ("bin/python", "pip/__init__.py", "pip/__main__.py", "pip-24.dist-info")
PACKAGES = ("torch/__init__.py", "torch-2.dist-info", "numpy/__init__.py", "numpy-2.dist-info")


def write(name):
    packages = environment.VENV / ("Lib" if os.name == "nt" else "lib/python3.11") / "site-packages"
    path = environment.venv_python() if name == "bin/python" else packages / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("whole")


def pieces():
    return {path.name for path in environment.VENV.rglob("*") if path.is_file()}


@pytest.mark.parametrize("error", [Killed, KeyboardInterrupt])
@pytest.mark.parametrize("moment", range(len(PIECES) + len(PACKAGES) + 1))
def test_stopped_at_any_moment_the_next_set_up_mends_it(clone, monkeypatch, error, moment):
    written = []

    def stopping(name, real=write):
        if len(written) == moment:
            raise error
        written.append(name)
        real(name)

    def stopped(*_):
        raise error

    with monkeypatch.context() as patch, pytest.raises((Killed, environment.SetupError)):
        patch.setitem(globals(), "write", stopping)
        if moment == len(PIECES) + len(PACKAGES):
            patch.setattr(environment, "configure_lab", stopped)
        environment.setup()
    (environment.VENV / "half").write_text("of a package")  # what pip could not know to be incomplete
    environment.setup()
    assert "half" not in pieces() and "unfinished" not in pieces()
    assert {Path(name).name for name in (*PIECES, *PACKAGES)} | {"installed-course"} <= pieces()
    assert not list(clone.glob("build/discarded-*"))
    monkeypatch.setattr(environment, "_pip", stopped)
    environment.setup()  # and now there is nothing to do


def test_setup_installs_only_when_pyproject_changed(clone, monkeypatch):
    calls = []
    monkeypatch.setattr(environment, "_pip", lambda *arguments: calls.append(arguments))
    environment.setup()
    environment.setup()
    assert len(calls) == 1 and calls[0][-1] == str(clone)  # no extra: nothing to forget
    environment.setup("test")
    assert len(calls) == 2 and calls[1][-1].endswith("[test]")
    (clone / "pyproject.toml").write_text("[project] # changed")
    environment.setup()
    assert len(calls) == 3


def test_setup_outside_a_clone(clone):
    (clone / "pyproject.toml").unlink()
    with pytest.raises(environment.SetupError, match="is not a clone of the course"):
        environment.setup()


def test_an_environment_without_pip_is_made_anew(clone):
    write("bin/python")  # what the first set-up left behind, before this was looked at
    environment.setup()
    assert "__main__.py" in pieces()


def test_an_environment_made_by_hand_is_never_replaced(clone, monkeypatch):
    for name in PIECES:
        write(name)
    with monkeypatch.context() as patch, pytest.raises(environment.SetupError, match="stopped"):
        patch.setattr(environment, "configure_lab", interrupted)
        environment.setup()
    with pytest.raises(environment.SetupError, match="which you made, was stopped: remove it, and make it again"):
        environment.setup()
    assert "__main__.py" in pieces()


def interrupted(*_):
    raise KeyboardInterrupt


def test_pip_that_changes_nothing_costs_nothing(clone, monkeypatch):
    environment.setup()
    (clone / "pyproject.toml").write_text("[project] # changed")
    whole = pieces()

    def offline(*_):
        raise environment.SetupError("no network")

    monkeypatch.setattr(environment, "_pip", offline)
    with pytest.raises(environment.SetupError, match="no network"):
        environment.setup()
    assert pieces() == whole


def test_two_set_ups_do_not_meet(clone):
    pytest.importorskip("fcntl")
    with environment._alone(), pytest.raises(environment.SetupError, match="another set-up is at work"):
        environment.setup()


@pytest.mark.parametrize(
    ("said", "printed", "error"),
    [
        ("  Downloading torch-2.9.0-cp311-none-any.whl (104.1 MB)\n  Downloading six-1.17.0-py3-none-any.whl (11 kB)\n"
         "Installing collected packages: six, torch\n",
         ["  downloading torch (104.1 MB)", "  installing 2 packages"], None),
        ("WARNING: Retrying after connection broken by 'NewConnectionError'\n"
         "ERROR: No matching distribution found for torch\n", [], "no network, or no way through it"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device\n", [], "the disk is full"),
        ("ERROR: something else\n", [], "ERROR: something else"),
    ],
)  # fmt: skip
def test_pip_is_calm(tmp_path, monkeypatch, capsys, said, printed, error):
    class Pip:
        stdout = io.StringIO(said)

        def wait(self):
            return 1 if error else 0

    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.subprocess, "Popen", lambda *_, **__: Pip())
    if error:
        with pytest.raises(environment.SetupError, match=error) as caught:
            environment._pip("install")
        assert str(tmp_path / "build" / "setup.log") in str(caught.value)
    else:
        environment._pip("install")
    assert capsys.readouterr().out.splitlines() == printed
    assert (tmp_path / "build" / "setup.log").read_text() == said


@pytest.mark.parametrize("port", ["0", "-1", "65536", "99999"])
def test_a_port_that_is_none(monkeypatch, port):
    monkeypatch.setattr("sys.argv", ["lora-edu", "lab", "--port", port])
    with pytest.raises(SystemExit, match=f"PORT is a number from 1 to 65535, such as 8888, got {port}"):
        commands.main()


def test_a_folder_with_a_separator_in_its_name(tmp_path, monkeypatch):
    folder = tmp_path / f"a{os.pathsep}b"
    folder.mkdir()
    (folder / "pyproject.toml").touch()
    monkeypatch.setattr(environment, "ROOT", folder)
    monkeypatch.setattr(environment, "_installed_here", lambda: False)
    with pytest.raises(environment.SetupError, match="its name has a '.' in it"):
        environment.setup()


def test_without_a_network_the_texts_are_missing_and_the_lab_opens(monkeypatch, capsys):
    monkeypatch.setattr(environment, "setup", lambda extra: Path(sys.executable))
    monkeypatch.setattr(environment, "run", lambda command: 1)
    commands.setup()
    assert "The texts are not all here" in capsys.readouterr().out
    command = [sys.executable, "-m", "lora_edu", "fetch", "hamlet"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr
    assert said.startswith("error: unknown name 'hamlet'") and "Traceback" not in said


@pytest.mark.parametrize("name", ["__init__", "__main__"])
def test_an_old_python_can_read_as_far_as_the_sentence(name):
    ast.parse((ROOT / "lora_edu" / f"{name}.py").read_text(), feature_version=(3, 6))


def old_pythons():
    there = [shutil.which(f"python3.{minor}") for minor in range(6, 11)]
    there += map(str, Path.home().glob(".pyenv/versions/3.*/bin/python"))
    for python in filter(None, there):
        done = subprocess.run([python, "-c", "import sys; print(sys.version_info[1])"], capture_output=True, text=True)
        if done.returncode == 0 and int(done.stdout) < 11:
            yield python


def test_every_old_python_here_gets_the_sentence():
    for python in old_pythons():
        done = subprocess.run([python, "-m", "lora_edu", "lab"], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 1 and done.stderr.startswith(SENTENCE) and done.stderr.count("\n") == 1, python


SLOW_TO_STOP = """
import signal, sys, time
from pathlib import Path
try:
    print("ready", flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # a checkpoint is written
    Path(sys.argv[1]).touch()
    sys.exit(7)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
@pytest.mark.parametrize("how", ["hand_over", "run"])
def test_ctrl_c_lets_the_program_finish(tmp_path, how):
    code = f"import sys; from lora_edu.setup import environment; environment.{how}(sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-c", SLOW_TO_STOP, str(tmp_path / "written")]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               start_new_session=True)  # fmt: skip
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
    process.wait(timeout=20)
    assert (tmp_path / "written").exists() and (how == "run" or process.returncode == 7)


def test_threads_do_not_spin_for_long_unless_the_user_says_so(monkeypatch):
    from lora_edu import __main__ as program

    seen = []
    monkeypatch.setattr(program, "progress", lambda: seen.append(os.environ["GOMP_SPINCOUNT"]))
    monkeypatch.setattr(sys, "argv", ["lora-edu", "progress"])
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    program.main()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    program.main()
    assert seen == ["5000", "7"]


LAB = """
import sys
from lora_edu.setup import environment
options = ["--no-browser", "--allow-root", "--ServerApp.ip=localhost", f"--ServerApp.root_dir={sys.argv[1]}"]
environment.hand_over([sys.executable, "-m", "lora_edu.setup.lab", *options])
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no terminal of this kind")
def test_ctrl_c_in_the_lab_is_that_of_jupyterlab(tmp_path):
    import pty

    child, terminal = pty.fork()
    if child == 0:
        os.chdir(ROOT)
        os.environ |= {"JUPYTER_RUNTIME_DIR": str(tmp_path / "runtime"), "JUPYTER_CONFIG_DIR": str(tmp_path)}
        os.execv(sys.executable, [sys.executable, "-c", LAB, str(tmp_path)])
    said = b""
    for wanted, answer in ((b"?token=", b"\x03"), (b"(y/[n])?", b"y\n"), (b"Shutdown confirmed", b"")):
        while wanted not in said:
            said += os.read(terminal, 4096)
        time.sleep(0.5)
        os.write(terminal, answer)
    assert os.waitpid(child, 0)[1] == 0
    assert not list((tmp_path / "runtime").glob("jpserver-*"))  # no token stays behind
