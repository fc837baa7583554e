"""Nothing lost: a run that is stopped, killed or cannot write goes on to the same curve and adapters, to the bit."""

import copy
import errno
import json
import os
import pickle
import random
import re
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from killed_run import run
from safetensors import SafetensorError, safe_open

import lora_edu
from lora_edu import checkpoint_files, checkpoints
from lora_edu.checkpoint_files import checkpoint_paths
from lora_edu.checkpoints import random_states, set_random_states
from lora_edu.gpt import GPT, GPTConfig
from lora_edu.interrupts import finish_first
from lora_edu.lora import add_lora
from lora_edu.qlora import quantize_linears
from lora_edu.training import model_loss, train

SCRIPT = Path(__file__).with_name("killed_run.py")
QUICK = {"seq_len": 16, "batch_size": 4, "progress": False, "device": "cpu", "eval_every": 2}


class Killed(BaseException):
    """Ends a run at once, as SIGKILL would: `train` knows nothing of it."""


def with_adapters(model, method="qlora", dropout=0.3, **options):
    """A copy of a model, ready for a method."""
    model = copy.deepcopy(model)
    if method == "qlora":
        quantize_linears(model)
    if method != "full":
        torch.manual_seed(1)
        add_lora(model, **({"rank": 2, "alpha": 4, "targets": "all-linear", "dropout": dropout} | options))
    return model


def stop_in_step(step, error):
    """A loss function that raises in the forward pass of a step (counted from 0)."""
    seen = []

    def loss_fn(model, inputs, targets):
        seen.append(model.training)
        if sum(seen) == step + 1 and model.training:
            raise error
        return model_loss(model, inputs, targets)

    return loss_fn


def assert_same(model, history, other_model, other_history):
    assert history.train_loss == other_history.train_loss
    assert history.validation_loss == other_history.validation_loss
    state, other = model.state_dict(), other_model.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


@pytest.fixture
def stopped(tiny_gpt, tiny_text, tmp_path):
    """A folder with the checkpoints of steps 2 and 4 of a run of 6 steps."""
    with pytest.raises(Killed):
        train(with_adapters(tiny_gpt), tiny_text, 6, loss_fn=stop_in_step(5, Killed()), **QUICK,
              checkpoint=tmp_path / "run", checkpoint_every=2)  # fmt: skip
    assert [path.name for path in checkpoint_paths(tmp_path / "run")] == [
        "step-00000002.safetensors",
        "step-00000004.safetensors",
    ]
    return tmp_path / "run"


def go_on(model, text, folder, steps=6, **options):
    """The same command again."""
    return train(model, text, steps, checkpoint=folder, checkpoint_every=2, **(QUICK | options))


def assert_goes_on(tiny_gpt, tiny_text, folder):
    """The run in the folder ends as one that was never stopped."""
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = train(reference, tiny_text, 6, **QUICK)
    assert_same(model, go_on(model, tiny_text, folder), reference, history)


# --- the same to the bit -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
@pytest.mark.parametrize("error", [Killed(), KeyboardInterrupt()], ids=["killed", "stopped"])
def test_a_run_that_ended_in_any_step_goes_on_to_the_same_bits(tiny_gpt, tiny_text, tmp_path, method, error):
    reference = with_adapters(tiny_gpt, method)
    expected = train(reference, tiny_text, 6, **QUICK)
    for step in range(6):
        for every in (1, 4):
            folder = tmp_path / f"{step}-{every}"
            options = QUICK | {"checkpoint": folder, "checkpoint_every": every}
            try:
                first = train(
                    with_adapters(tiny_gpt, method), tiny_text, 6, **options, loss_fn=stop_in_step(step, error)
                )
                assert first.interrupted and len(first.train_loss) == step  # the stop button: nothing is lost
            except Killed:
                pass
            done_before = stored_steps(folder)[-1]
            assert done_before == (step if isinstance(error, KeyboardInterrupt) else step // every * every)
            torch.manual_seed(step)  # the state outside must not matter
            model, steps_made = with_adapters(tiny_gpt, method), []
            history = train(model, tiny_text, 6, **options, loss_fn=counting(steps_made))
            assert_same(model, history, reference, expected)
            assert sum(steps_made) == 6 - done_before and not history.interrupted


@pytest.mark.parametrize("forgotten", ["data", "cpu"])
def test_a_forgotten_random_state_would_be_noticed(tiny_gpt, tiny_text, stopped, monkeypatch, forgotten):
    """The control: without the position in the text, or without dropout's state, the curve is another one."""
    expected = train(with_adapters(tiny_gpt), tiny_text, 6, **QUICK).train_loss

    def incomplete(states, generator, device):
        own = random_states(generator, device)[forgotten]
        set_random_states(states | {forgotten: own[None]}, generator, device)

    monkeypatch.setattr(checkpoints, "set_random_states", incomplete)
    loss = go_on(with_adapters(tiny_gpt), tiny_text, stopped).train_loss
    assert loss[:4] == expected[:4] and loss[4] != expected[4]


def test_a_finished_run_gives_its_history_without_training(tiny_gpt, tiny_text, tmp_path):
    model = with_adapters(tiny_gpt)
    history = go_on(model, tiny_text, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    again, forward_passes = with_adapters(tiny_gpt), []
    repeated = go_on(again, tiny_text, tmp_path / "run", loss_fn=counting(forward_passes))
    assert repeated == history and not forward_passes  # the speed too: it was measured once
    assert_same(again, repeated, model, history)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()} == files


def test_a_run_stopped_before_its_last_validation(tiny_gpt, tiny_text, tmp_path):
    def stop_in_the_last_validation(done, loss):
        if done == 6:
            raise Killed

    with pytest.raises(Killed):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", on_evaluation=stop_in_the_last_validation)
    assert_goes_on(tiny_gpt, tiny_text, tmp_path / "run")
    assert stored_steps(tmp_path / "run") == [4, 6]


def test_the_folder_may_be_deep_and_new_and_only_two_files_stay(tiny_gpt, tiny_text, tmp_path):
    folder = tmp_path / "runs" / "of today"
    train(with_adapters(tiny_gpt), tiny_text, 6, checkpoint=str(folder), checkpoint_every=1, **QUICK)
    assert stored_steps(folder) == [5, 6]
    assert [path.name for path in folder.iterdir() if path.suffix != ".safetensors"] == [".lock"]


def test_what_may_change_between_two_starts(tiny_gpt, tiny_text, stopped):
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = train(reference, tiny_text, 6, **QUICK)
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "lora" in name:
            torch.nn.init.normal_(parameter.requires_grad_())  # adapters drawn anew: the checkpoint has its own
    moved = stopped.rename(stopped.with_name("elsewhere"))
    again = train(model, tiny_text, 6, checkpoint=moved, checkpoint_every=5, **QUICK)
    assert_same(model, again, reference, history)


def test_a_stop_signal_waits_until_the_step_is_done(tiny_gpt, tiny_text, tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def half_a_step(optimizer, *arguments):
        if len(counted) == 2:
            os.kill(os.getpid(), signal.SIGINT)  # the stop button, in the middle of an update
        counted.append(1)
        return step(optimizer, *arguments)

    counted = []
    monkeypatch.setattr(torch.optim.AdamW, "step", half_a_step)
    history = go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run")
    assert history.interrupted and len(history.train_loss) == 3 and stored_steps(tmp_path / "run")[-1] == 3
    assert_goes_on(tiny_gpt, tiny_text, tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_the_stop_signal_in_other_places(tiny_gpt, tiny_text, tmp_path):
    """In a thread, where signals never come, and in a process that was told to ignore them (nohup)."""
    with ThreadPoolExecutor(1) as pool:
        assert len(pool.submit(train, tiny_gpt, tiny_text, 2, **QUICK).result().train_loss) == 2
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with finish_first():
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(tiny_gpt, tiny_text, tmp_path):
    options = QUICK | {"device": "cuda"}
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = train(reference, tiny_text, 6, **options)
    with pytest.raises(Killed):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", **options, loss_fn=stop_in_step(3, Killed()))
    torch.cuda.manual_seed(9)
    assert_same(model, go_on(model, tiny_text, tmp_path / "run", **options), reference, history)


# --- SIGKILL -------------------------------------------------------------------------------------------------------


def start(folder, steps, moment=""):
    command = [sys.executable, str(SCRIPT), str(folder), str(steps), moment]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parent.parent)}
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
def test_killed_ten_times_at_random(tmp_path):
    kills, moments, lots = 0, [], random.Random(0)
    while kills < 10:
        process = start(tmp_path, 400, "slow")
        wanted = lots.choice(["step", "writing"])
        for count, line in enumerate(process.stdout):
            if count >= lots.randint(5, 30) and line.strip() == wanted:
                break
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, "the run ended before it was killed"
        kills += 1
        moments.append((stored_steps(tmp_path)[-1], len(list(tmp_path.glob(".partial-*")))))
    steps = [step for step, _ in moments]
    assert steps == sorted(steps) and 0 < steps[-1] < 400  # each run went on from the one before
    assert any(remains for _, remains in moments), moments  # some of the kills came in the middle of writing
    finished = start(tmp_path, 400)
    assert json.loads(finished.communicate(timeout=120)[0]) == uninterrupted(400)


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


# --- what can go wrong ---------------------------------------------------------------------------------------------


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
        patch.setattr(checkpoint_files, "save_file", full)
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
    def read_only(file, *arguments, real=open, **options):
        if str(file).endswith(".lock"):
            raise OSError(errno.EROFS, "Read-only file system")
        return real(file, *arguments, **options)

    model, steps_made = with_adapters(tiny_gpt), []
    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", read_only)
        with pytest.raises(
            PermissionError, match=r"cannot write to the folder .*run \(Read-only file system\): permit"
        ):
            go_on(model, tiny_text, stopped, loss_fn=counting(steps_made))
    assert not steps_made
    assert_goes_on(tiny_gpt, tiny_text, stopped)
    with pytest.raises(PermissionError, match=r"cannot write to the folder .* \(Not a directory\)"):
        go_on(model, tiny_text, stopped / ".lock" / "run")


def test_a_folder_that_becomes_read_only(tiny_gpt, tiny_text, stopped, monkeypatch):
    def read_only(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    with monkeypatch.context() as patch:
        patch.setattr("tempfile.mkdtemp", read_only)
        with pytest.raises(
            PermissionError, match=r"could not be written \(cannot write to the folder .*Read-only file sys"
        ):
            go_on(with_adapters(tiny_gpt), tiny_text, stopped)
    assert_goes_on(tiny_gpt, tiny_text, stopped)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 8}, "steps is 6 there and 8 here"),
        ({"lr": 0.01}, r"lr is 0\.003 there and 0\.01 here"),
        ({"batch_size": 2, "seed": 3}, "batch_size is 4 there and 2 here; seed is 0 there and 3 here"),
        ({"seq_len": 8}, "seq_len is 16 there and 8 here"),
        ({"eval_every": None}, "eval_every is 2 there and None here"),
        ({"betas": (0.9, 0.999)}, r"betas is \[0\.9, 0\.95\] there and \[0\.9, 0\.999\] here"),
    ],
)
def test_another_configuration(tiny_gpt, tiny_text, stopped, options, message):
    model = with_adapters(tiny_gpt)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=f"step-00000004.safetensors is a checkpoint of another run: {message}"):
        go_on(model, tiny_text, stopped, **options)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert_goes_on(tiny_gpt, tiny_text, stopped)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 4}, r"the trainable .*lora_A is 2x16 float32 there and 4x16 float32 here"),
        ({"alpha": 8}, r"the layer .* is LoRALinear\(alpha=4, rank=2, scaling=2.0\) there and LoRALinear\(alpha=8"),
        ({"dropout": 0.2}, r"the layer .*dropout is Dropout\(p=0.3\) there and Dropout\(p=0.2\) here"),
        ({"targets": ("q_proj",)}, r"is LoRALinear\(alpha=4, rank=2, scaling=2.0\) there and NF4Linear\("),
        ({"method": "lora"}, r"the frozen weights is \w+ there and \w+ here"),
        ({"method": "full"}, r"the trainable .* is missing there and .* float32 here"),
    ],
)
def test_another_model(tiny_gpt, tiny_text, stopped, change, message):
    with pytest.raises(ValueError, match=message):
        go_on(with_adapters(tiny_gpt, **change), tiny_text, stopped)
    assert_goes_on(tiny_gpt, tiny_text, stopped)


def test_another_base_another_text_another_number_of_heads(tiny_gpt, tiny_text, stopped):
    other = with_adapters(tiny_gpt)
    other.final_norm.weight.data[3] += 1e-7  # one frozen number
    with pytest.raises(ValueError, match=r"run: the frozen weights is \w{12} there and \w{12} here\. Use the same"):
        go_on(other, tiny_text, stopped)
    changed = tiny_text._replace(train=tiny_text.train.flip(0))
    with pytest.raises(ValueError, match=r"another run: the text is \w{12} there and \w{12} here\. Use the same"):
        go_on(with_adapters(tiny_gpt), changed, stopped)
    heads = GPT(GPTConfig(context=32, n_layers=2, n_heads=4, d_model=16)).eval()
    heads.load_state_dict(tiny_gpt.state_dict())
    with pytest.raises(
        ValueError, match=r"the layer blocks.0.attention is Attention\(n_heads=2\) there and Attention\(n_"
    ):
        go_on(with_adapters(heads), tiny_text, stopped)
    assert_goes_on(tiny_gpt, tiny_text, stopped)


@pytest.mark.parametrize("size", [0, 5, 100, -1])
def test_a_truncated_file(tiny_gpt, tiny_text, stopped, size):
    newest = stopped / "step-00000004.safetensors"
    os.truncate(newest, size if size >= 0 else newest.stat().st_size - 1)
    message = (
        r"4.safetensors is damaged \(.*\): delete it, and the same command goes on from step-00000002\.safetensors"
    )
    with pytest.raises(ValueError, match=message):
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
    with pytest.raises(
        ValueError, match=r"4.safetensors is a pickle, which can run any code and is never opened \(.*del"
    ):
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


def test_two_runs_at_once(tiny_gpt, tiny_text, stopped):
    messages = []

    def second_run(done, loss):
        with pytest.raises(BlockingIOError) as caught:
            go_on(with_adapters(tiny_gpt), tiny_text, stopped)
        messages.append(str(caught.value))

    if os.name == "nt":
        pytest.skip("Windows has no lock of this kind")
    go_on(with_adapters(tiny_gpt), tiny_text, stopped, on_evaluation=second_run)
    assert messages and re.match(r"another run is writing to .* at this moment: wait for its end, or name", messages[0])
    assert_goes_on(tiny_gpt, tiny_text, stopped)  # the lock is gone with the run


def test_another_version_of_torch_is_named(tiny_gpt, tiny_text, stopped, monkeypatch):
    monkeypatch.setattr(torch, "__version__", "1.2.3")
    with pytest.warns(
        UserWarning, match=r"written with torch \S+, this is torch 1\.2\.3: the run goes on, but its num"
    ):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)


def test_bad_settings(tiny_gpt, tiny_text, tmp_path):
    with pytest.raises(ValueError, match="checkpoint_every must be at least 1 step, got 0"):
        train(tiny_gpt, tiny_text, 3, checkpoint=tmp_path, checkpoint_every=0, **QUICK)


# --- helpers -------------------------------------------------------------------------------------------------------


def stored_steps(folder):
    return [int(path.stem.removeprefix("step-")) for path in checkpoint_paths(folder)]


def at_the_third_call(other, function):
    """A function whose third call is another one."""
    calls = []

    def replaced(*arguments, **options):
        calls.append(1)
        return (other if len(calls) == 3 else function)(*arguments, **options)

    return replaced


def counting(seen):
    """A loss function that notes each forward pass: True in training, False in evaluation."""

    def loss_fn(model, inputs, targets):
        seen.append(model.training)
        return model_loss(model, inputs, targets)

    return loss_fn
