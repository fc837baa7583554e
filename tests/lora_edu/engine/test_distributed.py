"""Several processes compute what one computes, only trainable parameters' gradients travel, and nothing hangs.

The processes are real ones, started by torchrun on this machine, and talk through gloo.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from stopped_runs import stored_steps
from two_processes import METHODS, SEQ, TEXT, build, first_gradients, trained

from lora_course.__main__ import guarded
from lora_course.programs.train import main
from lora_edu import adapter_state, evaluate, load_adapter, load_base, train
from lora_edu.engine import distributed
from lora_edu.records import read_record
from lora_edu.training import History

SCRIPT = Path(__file__).with_name("two_processes.py")
PATH = f"{ROOT}{os.pathsep}{ROOT / 'tests'}"


def torchrun(*arguments, folder, timeout=120):
    """Two processes; returns the finished run."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": PATH, "LORA_EDU_SIZE": "laptop"}
    command += map(str, arguments)
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=timeout)


RUNS = [("cpu", "qlora"), *(pytest.param(("cpu", method), marks=pytest.mark.slow) for method in ("full", "lora"))]
TWO_GPUS = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA GPUs")
RUNS += [pytest.param(("cuda", method), marks=[TWO_GPUS, pytest.mark.slow]) for method in METHODS]


@pytest.fixture(scope="module", params=RUNS, ids="-".join)
def two(request, tmp_path_factory):
    """What two processes computed: numbers, tensors, on which kind of device and by which method."""
    folder, (device, method) = tmp_path_factory.mktemp("two"), request.param
    run = torchrun(SCRIPT, folder, device, method, folder=folder)
    assert run.returncode == 0, run.stderr
    assert "Warning: `" not in run.stderr  # no deprecated option of DDP
    return json.loads((folder / "numbers.json").read_text()), load_file(folder / "tensors.safetensors"), device, method


@pytest.fixture(autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def part(tensors, head):
    return {name.removeprefix(head): value for name, value in tensors.items() if name.startswith(head)}


def test_the_first_gradients_are_those_of_one_process(two):
    numbers, tensors, device, method = two
    loss, gradients, sent = first_gradients(build(method, device), torch.device(device))
    assert numbers["processes"] == 2 and sent == 0  # one process sends nothing
    assert numbers["loss"] == pytest.approx(loss, rel=1e-6)
    theirs = part(tensors, "gradient.")
    assert theirs.keys() == gradients.keys()
    ours, others = (torch.cat([g[name].flatten() for name in gradients]) for g in (gradients, theirs))
    slack = 10 if device == "cuda" else 1  # its sums run in other orders for other batch sizes
    assert ours.norm() > 0.1 and (others - ours).norm() <= slack * 1e-6 * ours.norm()
    for name, gradient in gradients.items():  # and each tensor on its own; float32 sums in another order
        assert (theirs[name] - gradient).norm() <= slack * (1e-5 * gradient.norm() + 1e-9), name


def test_after_20_steps_the_parameters_are_those_of_one_process(two):
    numbers, tensors, device, method = two
    model = build(method, device)
    start = {name: p.detach().cpu().clone() for name, p in model.named_parameters()}
    history, after = trained(model, torch.device(device))
    theirs = part(tensors, "after.")
    for name, value in after.items():
        assert (start[name] - value).abs().max() > 1e-4 or value.ndim == 1, name  # the matrices did move
        if name.endswith("k_proj.bias"):
            continue  # (full only) the softmax ignores it: its gradient is rounding, which Adam makes as large as any
        slack = 10 if device == "cuda" else 1
        apart, moved = (theirs[name] - value).norm(), (start[name] - value).norm()
        assert apart <= slack * 1e-3 * moved, name
        if method != "full":  # where it has millions of numbers, a few gradients are mostly rounding, as above
            assert (theirs[name] - value).abs().max() <= slack * 1e-5, name
    assert numbers["same_on_all"]
    assert numbers["history"]["train_loss"] == pytest.approx(history.train_loss, rel=1e-5)
    validation = [loss for _, loss in history.validation_loss]
    assert [loss for _, loss in numbers["history"]["validation_loss"]] == pytest.approx(validation, rel=1e-5)


def test_only_gradients_of_trainable_parameters_travel(two):
    numbers, method = two[0], two[3]
    of_method = sum(p.numel() for p in load_base("laptop", "cpu").parameters()) if method == "full" else 147_456
    assert numbers["trainable"] == of_method
    assert numbers["bytes"] == numbers["history"]["gradient_bytes"] == 4 * of_method  # float32


def test_two_processes_go_on_where_they_were_stopped(two):
    assert two[0]["resumed"] is True


def test_fewer_windows_than_processes(two):
    numbers, _, device, _ = two
    loss = evaluate(build("full", device), TEXT.validation, seq_len=SEQ, max_windows=1, autocast=False)
    assert numbers["one window"] == pytest.approx(loss, rel=1e-6)


@pytest.mark.slow
def test_the_program_in_two_processes(tmp_path):
    options = ["--steps", 1, "--batch-size", 2, "--seq-len", 16, "--device", "cpu", "--checkpoint", "run"]
    run = torchrun("-m", "lora_edu", "train", *options, folder=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.splitlines()[0] == "qlora: 147,456 of 3,503,616 parameters are trained (4.21%)"
    assert run.stdout.count("step 1: validation loss") == 1  # one process speaks
    assert "each computes 1 of the 2 windows" in run.stdout and "589,824 bytes of gradients" in run.stdout
    adapter = adapter_state(load_adapter(load_base("laptop", "cpu"), tmp_path / "build" / "qlora-shakespeare"))
    assert sum(tensor.numel() for tensor in adapter.values()) == 147_456
    assert stored_steps(tmp_path / "run") == [0, 1]


# --- in this process -----------------------------------------------------------------------------------------------


def program(*arguments):
    """Run the program here; returns its exit code."""
    quick = ["--batch-size", "2", "--seq-len", "16", "--device", "cpu"]
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: main([*map(str, arguments), *quick]))
    return stop.value.code


@pytest.mark.parametrize("method", METHODS)
def test_the_program_in_one_process(tmp_path, capsys, method):
    arguments = ["--method", method, "--steps", 2, "--output", tmp_path / "out", "--checkpoint", tmp_path / "run"]
    assert program(*arguments) == 0
    first = capsys.readouterr().out
    assert "in one process: no gradients travel" in first and f"written to {tmp_path / 'out'}" in first
    files = {path.name for path in (tmp_path / "out").iterdir()}
    weights = {"model.safetensors"} if method == "full" else {"adapter_config.json", "adapter_model.safetensors"}
    assert files == weights | {"training.json"}
    log = read_record(tmp_path / "out" / "training.json")
    assert log["recipe"]["method"] == method and [done for done, _ in log["validation_loss"]] == [0, 2]
    written = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    assert program(*arguments) == 0  # a finished run: nothing is trained
    assert "validation loss" not in capsys.readouterr().out
    assert written == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}


def test_what_the_program_refuses(tmp_path, monkeypatch, tiny_gpt, tiny_text):
    assert "no linear layer is named queries" in program("--output", tmp_path / "out", "--targets", "queries")
    monkeypatch.setattr(distributed, "processes", lambda: 3)
    message = "a batch of 2 windows cannot be split over 3 processes"
    assert message in program("--output", tmp_path / "out") and not (tmp_path / "out").exists()
    with pytest.raises(ValueError, match=message):
        train(tiny_gpt, tiny_text, 1, batch_size=2)


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ValueError, match="each process needs a GPU of its own: torchrun --nproc-per-node=1"):
        with distributed.join(torch.device("cuda")):
            pass


def test_a_stopped_program_writes_no_result_and_goes_on(tmp_path, stop_in_update, capsys):
    made = stop_in_update(0)
    arguments = ["--steps", 2, "--output", tmp_path / "out", "--checkpoint", tmp_path / "run"]
    assert program(*arguments) == 130
    printed = capsys.readouterr().out
    assert "stopped after 1 of 2 steps, so nothing was written to" in printed and "goes on from" in printed
    assert not (tmp_path / "out").exists()
    assert program(*arguments) == 0 and len(made) == 2 and (tmp_path / "out" / "adapter_config.json").exists()


def test_an_adapter_that_cannot_be_written_is_not_taken_for_a_full_model(tiny_gpt, tmp_path):
    from lora_course.programs.train import save
    from lora_edu.lora import add_lora, merge

    with pytest.raises(ValueError, match="the adapters are merged"):
        save(merge(add_lora(tiny_gpt, 2, 4)), tmp_path, argparse.Namespace(), History())
    assert not list(tmp_path.iterdir())
