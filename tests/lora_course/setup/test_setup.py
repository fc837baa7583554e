"""Set-up: interrupted at any moment it mends itself; what goes wrong is one sentence; Ctrl-C belongs to the program."""

import ast
import io
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import pytest
from conftest import ROOT
from stopped_runs import Killed

from lora_course import __main__ as commands
from lora_course.setup import environment


@pytest.fixture
def empty(tmp_path, monkeypatch):
    """A clone in which nothing was installed."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "_installed_here", lambda: False)
    return tmp_path


@pytest.fixture
def clone(empty, monkeypatch):
    """A clone in which `venv` and pip are played by functions that write a few files."""
    monkeypatch.setattr(environment, "_pip_starts", environment._has_pip)
    monkeypatch.setattr(environment, "_create_venv", lambda: [write(name) for name in PIECES])
    monkeypatch.setattr(environment, "_pip", lambda *arguments: [write(name) for name in PACKAGES])
    return empty


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

    with monkeypatch.context() as patch, pytest.raises((Killed, environment.SetupError)):
        patch.setitem(globals(), "write", stopping)
        if moment == len(PIECES) + len(PACKAGES):
            patch.setattr(environment, "configure_lab", Mock(side_effect=error))
        environment.setup()
    (environment.VENV / "half").write_text("of a package")  # what pip could not know to be incomplete
    environment.setup()
    assert "half" not in pieces() and "unfinished" not in pieces()
    assert {Path(name).name for name in (*PIECES, *PACKAGES)} | {"installed-course"} <= pieces()
    assert not list(clone.glob("build/discarded-*"))
    monkeypatch.setattr(environment, "_pip", Mock(side_effect=error))
    environment.setup()  # and now there is nothing to do


def test_setup_installs_only_when_pyproject_changed(clone, monkeypatch):
    monkeypatch.setattr(environment, "_pip", pip := Mock())
    environment.setup()
    environment.setup()
    assert pip.call_count == 1 and pip.call_args.args[-1] == str(clone)  # no extra: nothing to forget
    environment.setup("test")
    assert pip.call_count == 2 and pip.call_args.args[-1].endswith("[test]")
    (clone / "pyproject.toml").write_text("[project] # changed")
    environment.setup()
    assert pip.call_count == 3


def test_an_environment_made_by_hand_is_never_replaced(clone, monkeypatch):
    for name in PIECES:
        write(name)
    with monkeypatch.context() as patch, pytest.raises(environment.SetupError, match="stopped"):
        patch.setattr(environment, "configure_lab", Mock(side_effect=KeyboardInterrupt))
        environment.setup()
    with pytest.raises(environment.SetupError, match="installing into it was stopped: move it away, or make it again"):
        environment.setup()
    assert "__main__.py" in pieces()


def test_a_venv_without_pip_that_somebody_made_stays(clone):
    """As `uv venv` makes it."""
    write("bin/python")
    write("torch/__init__.py")
    for _ in range(2):  # and no mark stays that would say something else the next time
        with pytest.raises(environment.SetupError, match="has no pip: run `uv pip"):
            environment.setup()
    assert {"python", "__init__.py"} <= pieces()
    write("pip/__main__.py")
    environment.setup()


TAKEN = {
    "a file": lambda path: path.write_text("~/.virtualenvs/course"),  # as pipenv writes it
    "a folder of mine": lambda path: (path / "notes").mkdir(parents=True),
    "a link to nowhere": lambda path: path.symlink_to(path.with_name("gone")),
}


@pytest.mark.parametrize("make", TAKEN.values(), ids=TAKEN)
def test_what_lies_in_the_place_of_the_venv_is_left_alone(clone, make):
    make(environment.VENV)
    with pytest.raises(environment.SetupError, match="has no mark of this set-up, and it has no Python: move it away"):
        environment.setup()
    assert os.path.lexists(environment.VENV) and not list(clone.glob("build/discarded-*"))


def test_a_clone_that_may_not_be_written_to(clone, monkeypatch):
    refused = PermissionError(13, "Permission denied", str(clone / "build"))
    monkeypatch.setattr(Path, "mkdir", Mock(side_effect=refused))
    with pytest.raises(SystemExit, match=r"error: .*build: Permission denied"):
        commands.guarded(environment.setup)


def test_pip_that_changes_nothing_costs_nothing(clone, monkeypatch):
    environment.setup()
    (clone / "pyproject.toml").write_text("[project] # changed")
    whole = pieces()
    monkeypatch.setattr(environment, "_pip", Mock(side_effect=environment.SetupError("no network")))
    with pytest.raises(environment.SetupError, match="no network"):
        environment.setup()
    assert pieces() == whole


def test_two_set_ups_do_not_meet(clone):
    pytest.importorskip("fcntl")
    with environment._alone(), pytest.raises(environment.SetupError, match="another set-up is at work"):
        environment.setup()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("WARNING: Retrying after connection broken by 'NewConnectionError'\n"
         "ERROR: No matching distribution found for torch\n", "no network, or no way through it"),
        ("ERROR: Could not install packages: [Errno 28] No space left on device\n", "the disk is full"),
        ("ERROR: something else\n", "ERROR: something else"),
    ],
)  # fmt: skip
def test_where_pip_fails_the_reason_is_said_and_the_log_named(tmp_path, monkeypatch, said, error):
    pip = Mock(stdout=io.StringIO(said), **{"wait.return_value": 1})
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment.subprocess, "Popen", lambda *_, **__: pip)
    with pytest.raises(environment.SetupError, match=error) as caught:
        environment._pip("install")
    log = tmp_path / "build" / "setup.log"
    assert str(log) in str(caught.value) and log.read_text() == said


def test_who_waits_reads_what_pip_said_last(capsys):
    environment._tick(Mock(wait=Mock(side_effect=[False] * 60 + [True])), ["Collecting numpy", "Downloading torch"])
    said = capsys.readouterr().out.splitlines()
    assert [line.rstrip() for line in said] == ["  30 s  Downloading torch", "  60 s  Downloading torch"]


PLACES = {  # what is changed about a Linux without NVIDIA's driver, whether PyTorch's index is asked, what is said
    "as it is": (lambda patch: None, True, "torch for the processor alone comes from"),
    "no way there": (lambda patch: patch(environment, "_answers", lambda url: False), False, "no way to download.py"),
    "a driver": (lambda patch: patch(environment.shutil, "which", lambda name: f"/usr/bin/{name}"), False, ""),
    "a Mac": (lambda patch: patch(environment.sys, "platform", "darwin"), False, ""),
    "a torch": (lambda patch: [write(name) for name in (*PIECES, "torch/__init__.py")], False, ""),
}


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_without_a_driver_torch_without_cuda_comes_first_and_may_fail(clone, monkeypatch, capsys, place, fails):
    change, asked, words = PLACES[place]
    (clone / "pyproject.toml").write_text('[project]\ndependencies = ["numpy>=1", "torch>=2.5,<3"]')
    failing = [environment.SetupError("the disk is full")] * (asked and fails)
    monkeypatch.setattr(environment, "_pip", pip := Mock(side_effect=[*failing, None, None]))
    monkeypatch.setattr(environment, "_answers", lambda url: True)
    monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(environment.shutil, "which", lambda name: None)
    monkeypatch.setattr(environment.sys, "platform", "linux")
    change(monkeypatch.setattr)
    environment.setup()
    first = [("install", "torch>=2.5,<3", "--index-url=https://download.pytorch.org/whl/cpu")] * asked
    assert [call.args for call in pip.call_args_list] == [*first, ("install", "--editable", str(clone))]
    said = capsys.readouterr().out
    assert words in said and ("the disk is full. So torch comes from the package index" in said) == bool(failing)


def test_a_server_that_does_not_answer_costs_little(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # it takes the call, and says nothing
        address, start = f"http://127.0.0.1:{silent.getsockname()[1]}/", time.monotonic()
        monkeypatch.setattr(environment, "PATIENCE", 0.3)
        assert not environment._answers(address) and time.monotonic() - start < 20
    monkeypatch.setattr(environment, "PATIENCE", 60)
    assert not environment._answers(address)  # nobody is there
    assert environment._answers(Path(__file__).as_uri())


def test_without_a_network_the_texts_are_missing_and_the_lab_opens(monkeypatch, capsys):
    monkeypatch.setattr(environment, "setup", lambda extra: Path(sys.executable))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Mock(returncode=1))
    commands.setup()
    assert "The texts are not all here" in capsys.readouterr().out


@pytest.mark.parametrize("name", [f"{p}/__{n}__.py" for p in ("lora_edu", "lora_course") for n in ("init", "main")])
def test_an_old_python_can_read_as_far_as_the_sentence(name):
    ast.parse((ROOT / name).read_text(), feature_version=(3, 6))


SLOW_TO_STOP = """
import signal, sys, time
from pathlib import Path
try:
    print(Path.cwd(), flush=True)
    time.sleep(60)
except KeyboardInterrupt:
    time.sleep(1)  # a checkpoint is written
    Path(sys.argv[1]).touch()
    sys.exit(7)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no process groups of this kind")
def test_ctrl_c_lets_the_program_finish(tmp_path):
    """What is handed over to stays in the reader's folder, too."""
    code = "import sys; from lora_course.setup import environment; environment.hand_over(sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-c", SLOW_TO_STOP, str(tmp_path / "written")]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                               start_new_session=True, env=os.environ | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert Path(process.stdout.readline().strip()).samefile(tmp_path)
    time.sleep(0.1)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it: to all of them
    process.wait(timeout=20)
    assert (tmp_path / "written").exists() and process.returncode == 7


def test_threads_do_not_spin_for_long_unless_the_user_says_so(monkeypatch):
    seen = []
    monkeypatch.setattr(commands, "program", lambda *_: seen.append(os.environ["GOMP_SPINCOUNT"]))
    monkeypatch.setattr(sys, "argv", ["lora-edu", "progress"])
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    commands.main()
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    commands.main()
    assert seen == ["5000", "7"]
