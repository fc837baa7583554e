"""A run that is killed, at any moment, goes on to the same bits; and no moment leaves it without a good file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BENCHMARKS, ROOT
from stopped_runs import Killed, assert_goes_on, at_the_third_call, go_on, stored_steps, with_adapters

from lora_edu.engine import checkpoints


@pytest.mark.slow
def test_killed_ten_times_at_random():
    """In short what `make torture` does: full, LoRA and QLoRA, in one process and in two."""
    command = [sys.executable, str(BENCHMARKS / "torture.py"), "--kills", "10"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)


def killed(*_, **__):
    raise Killed


def half_written(tensors, path, metadata):
    path.write_bytes(b"half a file")
    raise Killed


@pytest.mark.parametrize(
    ("place", "name", "ends", "there"),
    [
        (checkpoints, "save_file", half_written, [0, 2]),
        (os, "fsync", killed, [0, 2]),  # before the bytes are on the disk
        (os, "replace", killed, [0, 2]),  # before the rename
        (Path, "unlink", killed, [0, 2, 4]),  # before the oldest is removed
    ],
)
def test_an_old_file_is_removed_only_after_the_new_one_is_there(
    tiny_gpt, tiny_text, tmp_path, monkeypatch, place, name, ends, there
):
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, name, ends if place is Path else at_the_third_call(ends, getattr(place, name)))
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path)
    assert stored_steps(tmp_path) == there
    (tmp_path / ".partial-x").mkdir()  # what a process leaves that is killed while it writes
    assert_goes_on(tiny_gpt, tiny_text, tmp_path)
    assert stored_steps(tmp_path) == [4, 6] and not list(tmp_path.glob(".partial-*"))
