"""A run that is killed, at any moment, goes on to the same bits; and no moment leaves it without a good file."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import BENCHMARKS, ROOT
from killed_run import run
from stopped_runs import Killed, assert_goes_on, at_the_third_call, go_on, stored_steps, with_adapters

SCRIPT = Path(__file__).with_name("killed_run.py")


def start(folder, steps, moment=""):
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), moment]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def uninterrupted(steps):
    """The same run in this process, without a folder."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return json.loads(json.dumps(run(steps)))
    finally:
        torch.set_num_threads(threads)


def test_killed_while_a_checkpoint_is_half_written(tmp_path):
    process = start(tmp_path, 8, "half-written")
    assert process.communicate(timeout=60)[0] == "" and process.returncode == -signal.SIGKILL
    assert stored_steps(tmp_path) == [0, 2] and len(list(tmp_path.glob(".partial-*"))) == 1
    finished = start(tmp_path, 8)
    assert json.loads(finished.communicate(timeout=60)[0]) == uninterrupted(8) and finished.returncode == 0
    assert stored_steps(tmp_path) == [6, 8] and not list(tmp_path.glob(".partial-*"))  # and the remains are gone


@pytest.mark.slow
def test_killed_ten_times_at_random():
    """In short what `make torture` does: full, LoRA and QLoRA, in one process and in two."""
    command = [sys.executable, str(BENCHMARKS / "torture.py"), "--kills", "10"]
    subprocess.run(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True, timeout=300)


def test_an_old_file_is_removed_only_after_the_new_one_is_there(tiny_gpt, tiny_text, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise Killed

    for moment in ("replace", "fsync"):  # before the rename; before the bytes are on the disk
        folder = tmp_path / moment
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(os, moment, at_the_third_call(killed, getattr(os, moment)))
            go_on(with_adapters(tiny_gpt), tiny_text, folder)
        assert stored_steps(folder) == [0, 2]
        assert_goes_on(tiny_gpt, tiny_text, folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Path, "unlink", killed)  # after the rename, before the oldest is removed
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "three")
    assert stored_steps(tmp_path / "three") == [0, 2, 4]
    assert_goes_on(tiny_gpt, tiny_text, tmp_path / "three")
