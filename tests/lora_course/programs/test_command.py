"""The command line: one sentence where something is wrong, before the work; a result outlives what comes after it."""

import errno
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from conftest import ROOT

from lora_course import __main__ as commands
from lora_course import experiments as runs
from lora_course.programs import command, pretrain
from lora_course.programs import train as finetune
from lora_course.setup import doctor
from lora_course.setup import jupyter as lab
from lora_edu import History


@pytest.fixture(autouse=True)
def logs_as_before():
    yield
    logging.disable(logging.NOTSET)


def called(monkeypatch, *words):
    """Call `lora-edu` in this process. Returns its exit code or last sentence; None if it simply ends."""
    monkeypatch.setattr(sys, "argv", ["lora-edu", *map(str, words)])
    monkeypatch.setattr(commands.environment, "setup", lambda: sys.executable)
    try:
        return commands.main()
    except SystemExit as stop:
        return stop.code


# --- the first minute ------------------------------------------------------------------------------------------------


def test_alone_it_prints_help_and_a_typo_gets_a_suggestion(monkeypatch, capsys):
    assert called(monkeypatch) == 0 and "voice" in capsys.readouterr().out
    assert called(monkeypatch, "--version") == 0 and re.fullmatch(r"lora-edu \d+\.\d+\.\d+\n", capsys.readouterr().out)
    assert called(monkeypatch, "voise", "my.txt") == 2 and "did you mean voice?" in capsys.readouterr().err
    assert "did you mean update-rank?" in called(monkeypatch, "experiment", "updaterank")


def test_every_experiment_says_what_it_asks_and_how_long_it_takes(monkeypatch, capsys):
    assert called(monkeypatch, "experiment") is None
    said = capsys.readouterr().out.splitlines()[1:]
    rows = [re.fullmatch(r"(\S+) +[1-9]\d* (questions|[01]\d.*): \S.+", line)[1] for line in said]
    assert rows == list(runs.EXPERIMENTS)


# --- what is refused, before anything is loaded ----------------------------------------------------------------------

REFUSED = {
    "train --lr 0": "lr must be positive",
    "train --rank -3 --method full": "rank must be a whole number of at least 1",
    "train --rank 4 --method full": "--rank is for adapters",
    "train --steps 0": "steps must be",
    "train --eval-every 0": "eval_every must be",
    "train --output file/below": "cannot write to the folder file/below",
    "pretrain --steps 0": "steps must be a whole number of at least 1",
    "pretrain --steps 1": "base-laptop.safetensors is there already: .* --replace",
    "pretrain --folder file": "cannot write to the folder file",
    "experiment formats --folder file": "cannot write to the folder file",
    "gpu": "device 'cuda' was asked for, but this torch sees no CUDA GPU",
    "qlora --folder file": "cannot write to the folder file",
    "lab --port 0": "PORT is a number from 1 to 65535, such as 8888, got 0",
    "lab --port 65536": "PORT is a number from 1 to 65535, such as 8888, got 65536",
    "voice missing.txt": "there is no file missing.txt",
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder to stand in, with a file where a folder is asked for, and no model that could be loaded."""
    (tmp_path / "file").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("LORA_EDU_SIZE", "LORA_EDU_DEVICE"):
        monkeypatch.delenv(name, raising=False)  # what a command sets is gone after the test
    for module, name in ((finetune, "load_base"), (pretrain, "train"), (runs, "run_arm")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("too late"))
    yield tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("line", REFUSED)
def test_what_cannot_be_meant_is_refused_in_a_sentence(folder, monkeypatch, line):
    assert re.match(f"error: .*{REFUSED[line]}", called(monkeypatch, *line.split()))


@pytest.mark.parametrize(("name", "sentence"), [
    ("RANK", "RANK must be the number that torchrun sets, got 'nonsense'"),
    ("LORA_EDU_SIZE", "unknown LORA_EDU_SIZE 'nonsense'"),
    ("LORA_EDU_DEVICE", "device must be 'cpu' or 'cuda', got 'nonsense'"),
])  # fmt: skip
def test_nonsense_in_the_environment(folder, monkeypatch, name, sentence):
    monkeypatch.setenv(name, "nonsense")
    assert sentence in called(monkeypatch, "train")
    if name != "RANK":
        text, healthy = doctor.report()
        assert f"problem      {sentence}" in text and not healthy


# --- errors become sentences in one place ----------------------------------------------------------------------------


@pytest.mark.parametrize(("action", "sentence"), [
    (lambda: command.check_output(Path(__file__)), "error: cannot write to the folder"),  # ours
    (lambda: json.loads("{"), "error: JSONDecodeError: .* --debug shows where"),
    (lambda: Path("no/such/file").read_text(), "error: no/such/file: No such file or directory"),
    (Mock(side_effect=KeyError("x")), "error: KeyError: 'x'. The same command with --debug shows where"),
])  # fmt: skip
def test_an_error_is_one_sentence_unless_debug_is_asked_for(action, sentence, monkeypatch):
    with pytest.raises(SystemExit) as stop:
        commands.guarded(action)
    assert re.match(sentence, stop.value.code)
    monkeypatch.setenv("LORA_EDU_DEBUG", "1")
    with pytest.raises((OSError, ValueError, KeyError)):
        commands.guarded(action)


def test_a_stop_says_what_it_left(capsys):
    with pytest.raises(SystemExit) as stop:
        commands.guarded(Mock(side_effect=KeyboardInterrupt("stopped: nothing was written")))
    assert stop.value.code == 130 and capsys.readouterr().err == "stopped: nothing was written\n"


# --- a result is never lost ------------------------------------------------------------------------------------------

TALKS = """
import sys
from pathlib import Path
from lora_course.__main__ import guarded
def work():
    for _ in range(3):
        print("x" * 100_000, flush=True)
    Path(sys.argv[1]).write_text("the result")
    print("written")
guarded(work)
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipe and no such device")
@pytest.mark.parametrize("output", ["a closed pipe", "/dev/full"])
def test_work_goes_on_when_nobody_reads(tmp_path, output):
    if output != "a closed pipe" and not os.path.exists(output):
        pytest.skip("there is no such device")
    read, write = os.pipe()
    target = write if output == "a closed pipe" else os.open(output, os.O_WRONLY)
    os.close(read)
    run = subprocess.run([sys.executable, "-c", TALKS, str(tmp_path / "result")], stdout=target, stderr=subprocess.PIPE,
                         cwd=ROOT)  # fmt: skip
    os.close(write)
    assert (tmp_path / "result").read_text() == "the result" and run.returncode == 0 and not run.stderr


def test_a_result_that_cannot_be_written_is_kept_aside(tmp_path, monkeypatch):
    monkeypatch.setattr(command.tempfile, "tempdir", str(tmp_path))
    with pytest.raises(OSError, match="No such file or directory.*so the result is in") as caught:
        command.keep(lambda path: path.write_text("the result"), tmp_path / "gone" / "result")
    assert Path(str(caught.value).rpartition(" in ")[2]).read_text() == "the result"


def test_training_is_saved_before_its_last_words(monkeypatch, tmp_path, tiny_text, tiny_gpt):
    monkeypatch.setattr(finetune, "load_text", lambda name: tiny_text)
    monkeypatch.setattr(finetune, "load_base", lambda *_: tiny_gpt)
    monkeypatch.setattr(finetune, "train", lambda *_, **__: History(steps=1))
    monkeypatch.setattr(finetune, "report", Mock(side_effect=BrokenPipeError(errno.EPIPE, "Broken pipe")))
    with pytest.raises(BrokenPipeError):
        finetune.main(["--rank", "2", "--device", "cpu", "--output", str(tmp_path / "out")])
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


# --- the lab ---------------------------------------------------------------------------------------------------------


def test_the_lab_has_lora_edu_on_its_path_and_ends_with_the_url(monkeypatch, capsys):
    from jupyter_server.serverapp import ServerApp

    started = []
    monkeypatch.setenv("PATH", "elsewhere")
    monkeypatch.setattr(lab.Lab, "launch_instance", lambda argv: started.append(os.environ["PATH"].split(os.pathsep)))
    monkeypatch.setattr(ServerApp, "start_app", lambda self: self.log.critical("an address of its own"))
    lab.main()
    assert started == [[lab.SCRIPTS, "elsewhere"]]
    assert Path(lab.SCRIPTS) == Path(sys.executable).parent or os.name == "nt"
    monkeypatch.setattr(ServerApp, "public_url", "http://localhost:8888/lab?token=1")
    lab.Server().start_app()
    said = capsys.readouterr()
    *_, own_shell, url = said.out.splitlines()
    assert url.startswith("http://localhost:") and own_shell.endswith("lora-edu doctor") and "address" not in said.err
