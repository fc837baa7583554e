"""Whatever is wrong with a checkpoint's file or folder: one clear error, nothing changed, the last good file loads."""

import errno
import json
import os
import pickle
import re
from functools import partial
from pathlib import Path

import pytest
import torch
from damaged_files import DAMAGES, GARBAGE
from safetensors import safe_open
from safetensors.torch import save_file
from stopped_runs import assert_goes_on, counted, go_on, refused, stored_steps, with_adapters

import lora_edu
from lora_edu import files
from lora_edu.engine import checkpoints
from lora_edu.engine.checkpoints import read_checkpoint, seal, write_checkpoint

NEWEST = "step-00000004.safetensors"
RECORD = {"run": {"steps": "6"}, "history": {"train_loss": [5.5, 5.25]}}
TENSORS = {"parameter.blocks.0.w": torch.arange(12.0).view(3, 4), "batches": torch.arange(8, dtype=torch.uint8)}


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()


def garble(path, text):
    save_file(read(path)[0], path, metadata={"checkpoint": text})


ALL_DAMAGES = DAMAGES | {f"record {text[:9]}": partial(garble, text=text) for text in GARBAGE}


@pytest.mark.parametrize("damage", ALL_DAMAGES.values(), ids=ALL_DAMAGES)
def test_a_damaged_file_is_never_read(tmp_path, damage):
    path = tmp_path / NEWEST
    write_checkpoint(path, dict(TENSORS), dict(RECORD))
    record, tensors = read_checkpoint(path)  # the control
    assert record["history"] == RECORD["history"]
    assert all(torch.equal(TENSORS[name], tensors[name]) for name in TENSORS)
    damage(path)
    with pytest.raises(ValueError, match=r"4\.safetensors is .*delete it"):
        read_checkpoint(path)


def test_a_file_of_an_earlier_version(stopped):
    record = {"settings": {}, "history": {}}
    garble(stopped / NEWEST, json.dumps(record | {"sha256": seal(read(stopped / NEWEST)[0], record)}))
    with pytest.raises(ValueError, match="4.safetensors was written by an earlier version of this package: delete it"):
        read_checkpoint(stopped / NEWEST)


def test_a_truncated_file_changes_nothing_and_the_one_before_it_loads(tiny_gpt, tiny_text, stopped):
    newest, model = stopped / NEWEST, with_adapters(tiny_gpt)
    os.truncate(newest, newest.stat().st_size - 1)
    with refused(model, ValueError, r"4.safetensors is damaged .*delete it.* from step-00000002"):
        go_on(model, tiny_text, stopped)
    newest.unlink()
    with counted() as calls:
        assert_goes_on(tiny_gpt, tiny_text, stopped)
    assert sum(calls) == 6 + 4  # a whole run, and one from step 2


@pytest.mark.skipif(os.name == "nt", reason="limits on the size of a file are a matter of POSIX")
def test_a_real_write_that_fails_in_the_middle(tiny_gpt, tiny_text, stopped):
    import resource

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes: less than a checkpoint
    try:
        with pytest.raises(OSError, match=r"could not be written \(File too large.*good checkpoint is step-00000004"):
            go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert stored_steps(stopped) == [2, 4] and not list(stopped.glob(".partial-*"))
    assert_goes_on(tiny_gpt, tiny_text, stopped)


def test_a_folder_that_cannot_be_used_is_noticed_before_training(tiny_gpt, tiny_text, stopped, monkeypatch):
    def stops(error, words, folder=stopped):
        model = with_adapters(tiny_gpt)
        with counted() as calls, refused(model, error, words):
            go_on(model, tiny_text, folder)
        assert not calls

    def read_only(file, *arguments, real=os.open, **options):
        if str(file).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(file, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        stops(OSError, r"cannot write to the folder .*run \(Read-only file system\): permit it, or name another folder")
    lock = files.take_lock(stopped / ".lock")
    stops(BlockingIOError, "another process is writing to .*: wait for its end")
    lock.release()
    stops(NotADirectoryError, r"cannot write to the folder .* \(Not a directory\)", stopped / ".lock" / "run")
    (stopped / ".lock").unlink()
    (stopped / ".lock").mkdir()
    stops(OSError, ".lock is in the way: it is no lock file, remove it")
    (stopped / ".lock").rmdir()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.distributed, "total", lambda step: 0)  # of two processes, one finds nothing there
        stops(ValueError, "the processes do not see the same files in .*run: name a folder that they share")
    assert_goes_on(tiny_gpt, tiny_text, stopped)


class Trap:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_pickle_is_refused_and_not_opened(tiny_gpt, tiny_text, stopped, tmp_path):
    newest, foreign = stopped / NEWEST, tmp_path / "foreign" / "checkpoint.pt"
    newest.write_bytes(pickle.dumps(Trap()))
    foreign.parent.mkdir()
    foreign.write_bytes(pickle.dumps(Trap()))
    for folder, words in {
        stopped: "4.safetensors is a pickle, .* is never opened",
        foreign.parent: "checkpoint.pt is a pickle, which can run any code when it is opened",
        foreign: "checkpoint.pt is a file: checkpoint= names a folder, which need not exist yet",
    }.items():
        with pytest.raises(ValueError, match=words):
            go_on(with_adapters(tiny_gpt), tiny_text, folder)


def test_the_package_never_unpickles():
    for path in Path(lora_edu.__file__).parent.rglob("*.py"):
        found = re.search(r"torch\.(load|save)\(|^\s*(import|from) (pickle|dill|joblib)", path.read_text(), re.M)
        assert not found, path


def test_a_checkpoint_is_safetensors_and_json_that_anybody_can_read(stopped):
    with safe_open(stopped / NEWEST, "np") as file:
        record = json.loads(file.metadata()["checkpoint"])
        names = set(file.keys())
        assert file.get_tensor("parameter.blocks.0.attention.q_proj.lora_A").shape == (2, 16)
        assert file.get_tensor("optimizer.blocks.0.attention.q_proj.lora_A.step") == 4
    assert record["run"]["lr"] == "0.003" and len(record["history"]["train_loss"]) == 4
    assert "batches" in names and not any("final_norm" in name for name in names)  # it is frozen


def test_the_folder_may_be_deep_and_new_and_only_two_files_stay(tiny_gpt, tiny_text, tmp_path):
    folder = tmp_path / "runs" / "of today"
    go_on(with_adapters(tiny_gpt), tiny_text, str(folder))
    assert stored_steps(folder) == [4, 6]
    assert [path.name for path in folder.iterdir() if path.suffix != ".safetensors"] == [".lock"]
