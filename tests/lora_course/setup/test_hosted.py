"""The cell below the title of every notebook installs the course on Colab and Kaggle, and does nothing elsewhere."""

import importlib.util
import subprocess
import sys

import nbformat
import pytest
from conftest import PAGES
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

import lora_edu
from lora_course.setup import hosted

WHEEL = f"lora_edu-{lora_edu.__version__}-py3-none-any.whl"
ON = {"Colab": "COLAB_RELEASE_TAG", "Kaggle": "KAGGLE_KERNEL_RUN_TYPE"}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_notebook_has_the_cell_below_its_title_and_folded(path):
    title, first = nbformat.read(path, as_version=4).cells[:2]
    assert title.source.startswith("# ")
    how = f"make notebooks ARGS=notebooks/{path.name}"
    assert hosted.is_hosted(first) and first.source == hosted.SOURCE and first.metadata == hosted.METADATA, how
    assert first.execution_count is None and not first.outputs, how


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs the cell as on a platform, with wheels below a root of its own, and returns the commands that it calls."""

    def run_cell(platform, wheels, installed=False):
        commands = []
        for name, variable in ON.items():
            monkeypatch.setenv(variable, "1") if name == platform else monkeypatch.delenv(variable, raising=False)
        for wheel in wheels:
            (tmp_path / wheel).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / wheel).touch()
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
        monkeypatch.setattr(subprocess, "run", lambda command, check: commands.append(command))
        exec(compile(hosted.SOURCE.replace("/kaggle", f"{tmp_path}/kaggle"), "cell", "exec"), {})
        return commands

    return run_cell


@pytest.mark.parametrize(("platform", "wheel"), [("Colab", WHEEL), ("Kaggle", f"kaggle/input/a-data-set/{WHEEL}")])
def test_on_a_platform_the_wheel_is_installed_and_nothing_that_is_there_is_changed(run, tmp_path, platform, wheel):
    course, reader = run(platform, [wheel])
    assert course[:4] == [sys.executable, "-m", "pip", "install"] and course[-2] == "--no-deps"
    assert (tmp_path / course[-1]).samefile(tmp_path / wheel) and reader[-1].startswith("gguf")
    assert run(platform, [wheel], installed=True) == []  # run again: nothing to do


def test_without_the_wheel_the_cell_says_what_to_upload(run):
    with pytest.raises(AssertionError, match=f"Upload {WHEEL} of the release"):
        run("Colab", [])


def test_the_cell_can_be_put_in_again_and_again():
    notebook = new_notebook(cells=[new_markdown_cell("# A title"), new_code_cell("1", execution_count=1)])
    for _ in range(2):
        notebook = hosted.add(notebook)
    assert [cell.get("execution_count") for cell in notebook.cells] == [None, None, 1]
    nbformat.validate(notebook)
