"""What can go wrong with a checkpoint gives one clear error each, and the last good one still loads."""

import errno
import functools
import json
import os
import pickle
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError, safe_open
from stopped_runs import assert_goes_on, counting, go_on, refused, stored_steps, with_adapters

import lora_edu
from lora_edu import GPT, files, tensor_files
from lora_edu.engine import checkpoints
from lora_edu.training import model_loss


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
    ids=["os", "safetensors"],
)
def test_a_full_disk(tiny_gpt, tiny_text, stopped, monkeypatch, error):
    def full(tensors, path, metadata=None):
        path.write_bytes(b"half a file")
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save_file", full)
        message = r"6.* could not be written \(No space left on device.*\)\. The last good .* is step-00000004\."
        with pytest.raises(OSError, match=message):
            go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    assert stored_steps(stopped) == [2, 4] and not list(stopped.glob(".partial-*"))
    assert_goes_on(tiny_gpt, tiny_text, stopped)


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
    assert_goes_on(tiny_gpt, tiny_text, stopped)


def test_a_folder_that_cannot_be_written_to_is_noticed_before_training(tiny_gpt, tiny_text, stopped, monkeypatch):
    def read_only(file, *arguments, real=os.open, **options):
        if str(file).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(file, *arguments, **options)

    model, steps_made = with_adapters(tiny_gpt), []
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", read_only)
        with pytest.raises(OSError, match=r"cannot write to the folder .*run \(Read-only file system\): permit"):
            go_on(model, tiny_text, stopped, loss_fn=counting(steps_made))
        patch.undo()
        patch.setattr("tempfile.mkdtemp", raising(OSError(errno.EROFS, "Read-only file system")))
        with pytest.raises(OSError, match=r"could not be written \(cannot write to the folder .*Read-only file sys"):
            go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    assert not steps_made
    assert_goes_on(tiny_gpt, tiny_text, stopped)
    with pytest.raises(NotADirectoryError, match=r"cannot write to the folder .* \(Not a directory\)"):
        go_on(model, tiny_text, stopped / ".lock" / "run")


def scaled(factor):
    def loss_fn(model, inputs, targets):
        return factor * model_loss(model, inputs, targets)

    return loss_fn


class Smoothed:
    def __init__(self, share):
        self.share = share

    def __call__(self, model, inputs, targets):
        return (1 + self.share) * model_loss(model, inputs, targets)


OTHERS = {
    "another function": (model_loss, scaled(1.0)),
    "another number around it": (scaled(2.0), scaled(3.0)),
    "another number in it": (lambda m, x, y: 2.0 * model_loss(m, x, y), lambda m, x, y: 3.0 * model_loss(m, x, y)),
    "another name in it": (lambda m, x, y: model_loss(m, x, y).abs(), lambda m, x, y: model_loss(m, x, y).square()),
    "another object": (Smoothed(0.1), Smoothed(0.2)),
    "another partial": (functools.partial(model_loss), functools.partial(scaled(2.0))),
}


@pytest.mark.parametrize(("first", "second"), OTHERS.values(), ids=OTHERS)
def test_another_loss(tiny_gpt, tiny_text, tmp_path, first, second):
    def run(loss_fn, **options):
        return go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", 2, loss_fn=loss_fn, **options)

    history = run(first)
    with pytest.raises(ValueError, match="a checkpoint of another run: loss_fn is .* there and .* here"):
        run(second)
    assert run(first) == history  # the control


def test_a_second_run_changes_nothing_before_it_is_refused(tiny_gpt, tiny_text, stopped):
    def refused_and_unchanged(error, words):
        model = with_adapters(tiny_gpt)
        with refused(model, error, words):
            go_on(model, tiny_text, stopped)

    lock = files.take_lock(stopped / ".lock")
    refused_and_unchanged(BlockingIOError, "another process is writing to .*: wait for its end")
    lock.release()
    (stopped / ".lock").unlink(missing_ok=True)
    (stopped / ".lock").mkdir()
    refused_and_unchanged(OSError, ".lock is in the way: it is no lock file, remove it")
    (stopped / ".lock").rmdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "take_lock", raising(PermissionError(errno.EACCES, "Permission denied")))
        refused_and_unchanged(PermissionError, "Permission denied.*permit it, or name another folder")
    assert_goes_on(tiny_gpt, tiny_text, stopped)


def raising(error):
    def raises(*_, **__):
        raise error

    return raises


def one_number(model, text):
    model = with_adapters(model)
    model.final_norm.weight.data[3] += 1e-7
    return model, text


def other_heads(model, text):
    heads = GPT(replace(model.config, n_heads=4)).eval()
    heads.load_state_dict(model.state_dict())
    return with_adapters(heads), text


def adapters(**options):
    return lambda model, text: (with_adapters(model, **options), text)


same = adapters()  # as in the run that was stopped


OF_ANOTHER_RUN = [  # the model and the text, options, and what the message names
    (same, {"steps": 8}, "steps is 6 there and 8 here"),
    (same, {"lr": 0.01}, r"lr is 0\.003 there and 0\.01 here"),
    (same, {"batch_size": 2, "seed": 3}, "batch_size is 4 there and 2 here; seed is 0 there and 3 here"),
    (same, {"betas": (0.9, 0.999)}, r"betas is \[0\.9, 0\.95\] there and \[0\.9, 0\.999\] here"),
    (adapters(rank=4), {}, r"the trainable .*lora_A is 2x16 float32 there and 4x16 float32 here"),
    (
        adapters(alpha=8),
        {},
        r"the layer .* is LoRALinear\(alpha=4, rank=2, scaling=2.0\) there and LoRALinear\(alpha=8",
    ),
    (adapters(dropout=0.2), {}, r"the layer .*dropout is Dropout\(p=0.3\) there and Dropout\(p=0.2\) here"),
    (adapters(targets=("q_proj",)), {}, r"is LoRALinear\(alpha=4, rank=2, scaling=2.0\) there and NF4Linear\("),
    (adapters(method="lora"), {}, r"the frozen weights is \w+ there and \w+ here"),
    (adapters(method="full"), {}, r"the trainable .* is missing there and .* float32 here"),
    (one_number, {}, r"the frozen weights is \w{12} there and \w{12} here\. Use the same"),
    (lambda m, text: same(m, text._replace(train=text.train.flip(0))), {}, r"the text is \w{12} there and \w{12}"),
    (other_heads, {}, r"blocks.0.attention is Attention\(n_heads=2\) there and Attention\(n_"),
]


@pytest.mark.parametrize(("make", "options", "message"), OF_ANOTHER_RUN)
def test_a_checkpoint_of_another_run(tiny_gpt, tiny_text, stopped, make, options, message):
    model, text = make(tiny_gpt, tiny_text)
    with refused(model, ValueError, f"step-00000004.safetensors is a checkpoint of another run: .*{message}"):
        go_on(model, text, stopped, **options)
    assert stored_steps(stopped) == [2, 4]


def test_a_truncated_file(tiny_gpt, tiny_text, stopped):
    newest = stopped / "step-00000004.safetensors"
    os.truncate(newest, newest.stat().st_size - 1)
    with pytest.raises(ValueError, match=r"4.safetensors is damaged .*delete it.* from step-00000002"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    newest.unlink()
    model, steps_made = with_adapters(tiny_gpt), []
    go_on(model, tiny_text, shutil.copytree(stopped, stopped.with_name("copy")), loss_fn=counting(steps_made))
    assert sum(steps_made) == 4  # from step 2
    assert_goes_on(tiny_gpt, tiny_text, stopped)


class Trap:
    """Unpickling this would end the test run."""

    def __reduce__(self):
        return os._exit, (3,)


def test_a_pickle_is_refused_and_not_opened(tiny_gpt, tiny_text, stopped, tmp_path):
    newest = stopped / "step-00000004.safetensors"
    newest.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match=r"4.safetensors is a pickle, .* is never opened"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    torch.save({"weight": torch.zeros(3)}, newest)  # a zip archive around a pickle
    with pytest.raises(ValueError, match=r"4.safetensors is a pickle"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    newest.unlink()
    assert_goes_on(tiny_gpt, tiny_text, stopped)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "checkpoint.pt").write_bytes(pickle.dumps(Trap()))
    for folder in (tmp_path / "foreign", tmp_path / "foreign" / "checkpoint.pt"):
        with pytest.raises(ValueError, match=r"checkpoint.pt is a pickle, which can run any code when it is opened"):
            go_on(with_adapters(tiny_gpt), tiny_text, folder)
    (tmp_path / "notes.txt").write_text("a file")
    with pytest.raises(ValueError, match=r"notes.txt is a file: checkpoint= names a folder, which need not exist yet"):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "notes.txt")


@pytest.mark.parametrize("length", [0x80, 0x480, 0x280, 0xFF80, 0x3380, 0x10280])
def test_a_header_whose_length_looks_like_a_pickle_is_no_pickle(length, tmp_path):
    path = tmp_path / "step-00000001.safetensors"
    for kept in (5, 8, 9, 100):
        path.write_bytes((length.to_bytes(8, "little") + b'{"a": 1}' + b" " * length)[:kept])
        assert not tensor_files.is_pickle(path) or (length >= 2**16 and kept <= 8)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps({"a": [1.0]}, protocol=protocol))
        assert tensor_files.is_pickle(path)


def test_the_package_never_unpickles():
    for path in Path(lora_edu.__file__).parent.rglob("*.py"):
        assert not re.search(r"torch\.(load|save)\(|^\s*(import|from) (pickle|dill|joblib)", path.read_text(), re.M), (
            path
        )


def test_a_checkpoint_is_safetensors_and_json_that_anybody_can_read(stopped):
    with safe_open(stopped / "step-00000004.safetensors", "np") as file:
        record = json.loads(file.metadata()["checkpoint"])
        names = set(file.keys())
        assert file.get_tensor("parameter.blocks.0.attention.q_proj.lora_A").shape == (2, 16)
        assert file.get_tensor("optimizer.blocks.0.attention.q_proj.lora_A.step") == 4
    assert record["settings"]["lr"] == 0.003 and len(record["history"]["train_loss"]) == 4
    assert {"random.data", "random.cpu"} <= names and not any("base.codes" in name for name in names)


def test_another_version_of_torch_is_named(tiny_gpt, tiny_text, stopped, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    with pytest.warns(UserWarning, match=r"written with torch \S+, this is torch 1\.2\.3"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)
