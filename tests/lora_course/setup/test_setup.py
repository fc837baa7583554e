"""Set-up: interrupted at any moment it mends itself; what goes wrong is one sentence; Ctrl-C belongs to the program."""

import ast
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar
from unittest.mock import Mock

import pytest
from conftest import ROOT
from stopped_runs import Killed

from lora_course import __main__ as commands
from lora_course.setup import environment


@pytest.fixture
def clone(tmp_path, monkeypatch):
    """A clone in which nothing was installed, and uv is played by a class that writes a few files."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / "tested-versions.txt").write_text("torch==2.13.0")
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    monkeypatch.setattr(environment, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(environment, "NEWEST_VENV", tmp_path / ".venv-newest")
    monkeypatch.setattr(environment, "_installed_here", lambda: False)
    monkeypatch.setattr(environment, "find_installer", PlayedUv)
    monkeypatch.setattr(PlayedUv, "asked", [])
    return tmp_path


PIECES = ("bin/python", "pip-24.dist-info")
PACKAGES = ("torch/__init__.py", "torch-2.dist-info", "numpy/__init__.py", "numpy-2.dist-info")


class PlayedUv:
    """Makes an environment, and writes what it is asked to install."""

    asked: ClassVar[list] = []

    def __init__(self, python, new_venv):
        for name in PIECES if new_venv else ():
            write(name)

    def install(self, what, versions, anew, upgrade):
        self.asked.append((what, versions and versions.name, anew, upgrade))
        for name in PACKAGES:
            write(name)


def write(name, venv=None):
    venv = venv or environment.VENV
    packages = venv / ("Lib" if os.name == "nt" else "lib/python3.11") / "site-packages"
    path = environment.venv_python(venv) if name == "bin/python" else packages / name
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

    with monkeypatch.context() as patch, pytest.raises((Killed, KeyboardInterrupt, environment.SetupError)):
        patch.setitem(globals(), "write", stopping)
        if moment == len(PIECES) + len(PACKAGES):
            patch.setattr(environment, "configure_lab", Mock(side_effect=error))
        environment.setup()
    (environment.VENV / "half").write_text("of a package")  # what an installer could not know to be incomplete
    environment.setup()
    assert "half" not in pieces()
    assert {Path(name).name for name in (*PIECES, *PACKAGES)} | {"installed.json"} <= pieces()
    assert not list(clone.glob("build/discarded-*"))
    monkeypatch.setattr(PlayedUv, "install", Mock(side_effect=error))
    environment.setup()  # and now there is nothing to do


def test_setup_installs_only_when_the_files_or_the_extras_changed(clone):
    environment.setup()
    environment.setup()
    environment.setup("test")
    environment.setup()
    environment.setup("book,test")
    (clone / "pyproject.toml").write_text("[project] # changed")
    environment.setup()  # and what was there besides stays there
    (clone / "tested-versions.txt").write_text("torch==2.14.0")
    environment.setup("test")
    asked = [what.removeprefix(str(clone)) for what, *_ in PlayedUv.asked]
    assert asked == ["", "[test]", "[book,test]", "[book,test]", "[book,test]"]
    assert all(rest == ["tested-versions.txt", False, False] for _, *rest in PlayedUv.asked)


def test_the_newest_releases_have_an_environment_of_their_own_and_come_anew_each_time(clone, monkeypatch):
    monkeypatch.setattr(PlayedUv, "__init__", lambda self, python, new_venv: write("bin/python", new_venv))
    environment.setup("test")
    for _ in range(2):
        assert environment.setup("test", newest=True).is_relative_to(clone / ".venv-newest")
    assert [rest for _, *rest in PlayedUv.asked] == [["tested-versions.txt", False, False], *[[None, False, True]] * 2]


def test_a_python_that_nobody_has_tested_gets_the_ranges_and_a_sentence(clone, monkeypatch, capsys):
    monkeypatch.setattr(environment, "TESTED_PYTHONS", ((3, 1), (3, 2)))
    environment.setup()
    assert PlayedUv.asked == [(str(clone), None, False, False)]
    assert "nobody has tested versions for Python 3" in capsys.readouterr().out


def test_an_environment_made_by_hand_is_added_to_and_never_replaced(clone, monkeypatch):
    for name in (*PIECES, "mine/__init__.py"):
        write(name)
    with monkeypatch.context() as patch, pytest.raises(environment.SetupError, match="stopped"):
        patch.setattr(environment, "configure_lab", Mock(side_effect=KeyboardInterrupt))
        environment.setup()
    environment.setup()
    assert "__init__.py" in pieces()
    assert [anew for *_, anew, _ in PlayedUv.asked] == [True, True]  # who knows what was whole


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


def test_an_installer_that_changes_nothing_costs_nothing(clone, monkeypatch):
    environment.setup()
    (clone / "pyproject.toml").write_text("[project] # changed")
    whole = pieces()
    with monkeypatch.context() as patch, pytest.raises(environment.SetupError, match="no network"):
        patch.setattr(PlayedUv, "install", Mock(side_effect=environment.SetupError("no network")))
        environment.setup()
    assert pieces() == whole
    environment.setup()
    assert len(PlayedUv.asked) == 2


def test_two_set_ups_do_not_meet(clone):
    pytest.importorskip("fcntl")
    with environment._alone(), pytest.raises(environment.SetupError, match="another set-up is at work"):
        environment.setup()


def test_without_a_network_the_texts_are_missing_and_the_lab_opens(monkeypatch, capsys):
    monkeypatch.setattr(environment, "setup", lambda extra, newest: Path(sys.executable))
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: Mock(returncode=1))
    commands.setup()
    assert "Some texts could not be downloaded" in capsys.readouterr().out


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
