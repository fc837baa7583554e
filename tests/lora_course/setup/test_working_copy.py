"""`lora-edu lab` opens a copy of the course, from a clone and from a wheel, and never writes over it."""

import errno
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import PAGES, ROOT

from lora_course import __main__ as program
from lora_course.setup import environment, working_copy

NOTEBOOKS = [path.name for path in PAGES]


def test_the_copy_holds_the_course_and_nothing_of_the_teacher_s(tmp_path):
    copy = working_copy.copy_course(tmp_path)
    assert copy == tmp_path / "lora-edu-course"
    assert sorted(path.name for path in copy.glob("*.ipynb")) == NOTEBOOKS
    assert all((copy / f"{page}.md").exists() for page in ("glossary", "scaling", "in_practice"))
    folders = {path.parent.name for path in (copy / "assignments").rglob("*") if path.is_file()}
    assert folders == {"a1_lora_numpy", "a2_lora_torch", "a3_nf4", "a4_qlora"}


def test_what_is_written_in_the_copy_is_kept(tmp_path, capsys):
    copy = working_copy.copy_course(tmp_path)
    (copy / NOTEBOOKS[0]).write_text("mine")
    (copy / NOTEBOOKS[1]).unlink()
    (copy / "notes.txt").write_text("mine too")
    assert working_copy.copy_course(tmp_path) == working_copy.copy_course(copy) == copy  # not a copy inside the copy
    assert (copy / NOTEBOOKS[0]).read_text() == "mine" and (copy / "notes.txt").exists()
    assert (copy / NOTEBOOKS[1]).read_bytes() == (ROOT / "notebooks" / NOTEBOOKS[1]).read_bytes()
    assert "newer" not in capsys.readouterr().out  # the reader changed a file; the course did not


def test_fresh_starts_over_and_keeps_the_old_copies(tmp_path, capsys):
    for text in ("first", "second"):
        copy = working_copy.copy_course(tmp_path)
        (copy / NOTEBOOKS[0]).write_text(text)
        working_copy.copy_course(tmp_path, fresh=True)
    aside = sorted(tmp_path.glob("lora-edu-course-*"))
    assert [(folder / NOTEBOOKS[0]).read_text() for folder in aside] == ["first", "second"]
    assert (copy / NOTEBOOKS[0]).read_bytes() == (ROOT / "notebooks" / NOTEBOOKS[0]).read_bytes()
    assert capsys.readouterr().out.count("your old copy is kept as") == 2


def test_a_newer_course_is_announced_and_not_copied_over(tmp_path, capsys, monkeypatch):
    course = tmp_path / "course"
    course.mkdir()
    (course / "00.ipynb").write_text("old")
    monkeypatch.setattr(working_copy, "course_folder", lambda: course)
    copy = working_copy.copy_course(tmp_path)
    (copy / working_copy.RECORD).unlink()  # as if the first copying had been interrupted
    working_copy.copy_course(tmp_path)
    (course / "00.ipynb").write_text("new")
    capsys.readouterr()
    working_copy.copy_course(tmp_path)
    assert "newer versions of 00.ipynb" in capsys.readouterr().out
    assert (copy / "00.ipynb").read_text() == "old"


def test_with_a_damaged_record_the_copy_opens_and_is_kept(tmp_path):
    """What else is no record, tests/lora_course/running/test_results_damage.py asks of the same reader."""
    copy = working_copy.copy_course(tmp_path)
    (copy / NOTEBOOKS[0]).write_text("mine")
    (copy / working_copy.RECORD).unlink()
    os.mkfifo(copy / working_copy.RECORD)
    assert working_copy.copy_course(tmp_path) == working_copy.copy_course(copy) == copy
    assert (copy / NOTEBOOKS[0]).read_text() == "mine" and (copy / working_copy.RECORD).is_file()


def test_a_disk_that_is_full(tmp_path, monkeypatch):
    def full(source, target):
        Path(target).write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device", str(target))

    monkeypatch.setattr(working_copy.shutil, "copyfile", full)
    with pytest.raises(SystemExit, match=r"error: .*\.ipynb: No space left on device"):
        program.guarded(lambda: working_copy.copy_course(tmp_path))
    assert not [path for path in (tmp_path / "lora-edu-course").rglob("*") if path.is_file()]
    monkeypatch.undo()
    assert (working_copy.copy_course(tmp_path) / NOTEBOOKS[0]).exists()


def test_lab_opens_the_copy(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(program, "setup", lambda: None)
    monkeypatch.setattr(program.environment, "hand_over", commands.append)
    monkeypatch.setattr(environment, "home", lambda: tmp_path)
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "elsewhere")
    monkeypatch.setattr(sys, "argv", ["lora-edu", "lab", "--fresh", "--plain", "--port", "9000"])
    program.main()
    (command,) = commands
    assert f"--ServerApp.root_dir={tmp_path / 'lora-edu-course'}" in command and "--port=9000" in command
    opened = next(part for part in command if part.startswith("--LabApp.default_url=/lab/tree/"))
    assert (tmp_path / "lora-edu-course" / opened.removeprefix("--LabApp.default_url=/lab/tree/")).exists()
    settings, _, others = os.environ["JUPYTER_CONFIG_PATH"].partition(os.pathsep)
    chosen = json.loads((Path(settings) / "labconfig" / "default_setting_overrides.json").read_text())
    assert others == "elsewhere" and chosen["@jupyter-widgets/jupyterlab-manager:plugin"] == {"saveState": True}
    assert chosen["@jupyterlab/notebook-extension:tracker"] == {"windowingMode": "none"}  # --plain


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from the clone, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_a_wheel_carries_the_course(wheel):
    inside = wheel / "lora_course" / "notebooks"
    assert sorted(path.name for path in inside.glob("*.ipynb")) == NOTEBOOKS
    assert (inside / "figures" / "devices.png").exists() and (inside / "glossary.md").exists()
    assert (wheel / "lora_edu" / "py.typed").exists()  # a reader's own type checker looks for it
    assert not [path for path in wheel.rglob("*") if path.name in ("source", "classroom", "graders", "tests")]
    practice = {path.relative_to(inside): path.read_text("utf-8") for path in inside.glob("assignments/*/*")}
    assert len(practice) == 8 and not [text for text in practice.values() if "### BEGIN" in text or "points(" in text]


def test_from_a_wheel_the_course_is_copied_into_the_folder_where_one_is(wheel, tmp_path):
    code = (
        f"import sys; sys.path.insert(0, {str(wheel)!r})\n"
        "import lora_edu; from lora_course.setup import environment, working_copy\n"
        f"assert lora_edu.__file__.startswith({str(wheel)!r})\n"
        "print(working_copy.copy_course(environment.home()))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert sorted(path.name for path in (tmp_path / "lora-edu-course").glob("*.ipynb")) == NOTEBOOKS
