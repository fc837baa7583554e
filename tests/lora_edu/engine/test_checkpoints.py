"""A run that is stopped goes on to the same curve and adapters, to the bit."""

import math
import os
import random
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress

import numpy as np
import pytest
import torch
from stopped_runs import (
    QUICK,
    Killed,
    assert_goes_on,
    assert_same,
    at_the_third_call,
    counted,
    go_on,
    stopped_in,
    stored_steps,
    with_adapters,
)  # fmt: skip
from torch import nn

from lora_edu import training
from lora_edu.engine import checkpoints
from lora_edu.engine.run import Run, finish_first
from lora_edu.training import train


@pytest.mark.parametrize(("method", "error"), [("full", KeyboardInterrupt()), ("qlora", Killed())])
def test_a_run_that_ended_in_any_step_goes_on_to_the_same_bits(tiny_gpt, tiny_text, tmp_path, method, error):
    reference = with_adapters(tiny_gpt, method)
    expected = train(reference, tiny_text, 6, **QUICK)
    for step, every in ((0, 1), (1, 4), (2, 1), (3, 4), (5, 1), (5, 4)):
        folder = tmp_path / f"{step}-{every}"
        options = QUICK | {"checkpoint": folder, "checkpoint_every": every}
        try:
            with stopped_in(step, error):
                first = train(with_adapters(tiny_gpt, method), tiny_text, 6, **options)
            assert first.interrupted and len(first.train_loss) == step  # the stop button: nothing is lost
        except Killed:
            pass
        done_before = stored_steps(folder)[-1]
        assert done_before == (step if isinstance(error, KeyboardInterrupt) else step // every * every)
        torch.manual_seed(step)  # the state outside must not matter
        model = with_adapters(tiny_gpt, method)
        with counted() as calls:
            history = train(model, tiny_text, 6, **options)
        assert_same(model, history, reference, expected)
        assert sum(calls) == 6 - done_before and not history.interrupted


class Changing(nn.Module):
    """A model that training changes beside its parameters, with a mask that is not finite."""

    def __init__(self):
        super().__init__()
        self.embedding, self.norm = nn.Embedding(256, 8), nn.BatchNorm1d(8)
        self.head = nn.utils.parametrizations.spectral_norm(nn.Linear(8, 256))
        self.register_buffer("calls", torch.tensor(0))
        self.register_buffer("mask", torch.full((2, 2), -math.inf))

    def forward(self, x):
        self.calls += 1
        return self.head(self.norm(self.embedding(x).flatten(0, 1)))


def drawing(model, inputs, targets):
    """A loss that draws from everything, in evaluation too."""
    noise = random.random() + np.random.rand() + np.random.randn() + random.gauss(0, 1) + torch.rand(()) + model.calls
    return (1 + 0.01 * noise) * nn.functional.cross_entropy(model(inputs), targets.flatten())


def stop_button(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize("stopped", [1, 3, "in a validation"])
def test_buffers_and_random_numbers_go_on_too(tiny_text, tmp_path, monkeypatch, stopped):
    def model():
        torch.manual_seed(0)
        return Changing()

    reference, resumed = model(), model()
    history = train(reference, tiny_text, 6, loss_fn=drawing, **QUICK)
    with monkeypatch.context() as patch, nullcontext() if isinstance(stopped, str) else stopped_in(stopped, Killed()):
        if isinstance(stopped, str):
            patch.setattr(training, "evaluate", at_the_third_call(stop_button, training.evaluate))
        with suppress(Killed):
            assert go_on(model(), tiny_text, tmp_path / "run", loss_fn=drawing).interrupted
    random.seed(7)
    np.random.seed(7)
    assert_same(resumed, go_on(resumed, tiny_text, tmp_path / "run", loss_fn=drawing), reference, history)


def test_the_readers_random_numbers_are_left_alone(tiny_gpt, tiny_text):
    def draws():
        return random.random(), random.gauss(0, 1), np.random.rand(), torch.rand(()).item()

    def expected():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    expected()
    wanted = draws()
    expected()
    train(tiny_gpt, tiny_text, 1, **QUICK)
    assert draws() == wanted


def test_each_step_draws_its_own_random_numbers(tiny_gpt, tiny_text, monkeypatch):
    """Of the step, the seed and the process; neighboring seeds do not share them."""
    drawn = {}
    for seed, rank in ((0, 0), (1, 0), (0, 1)):
        monkeypatch.setattr("lora_edu.engine.distributed.rank", lambda rank=rank: rank)
        settings = {"seed": seed, "batch_size": 1, "autocast": False}
        run = Run(tiny_gpt, torch.optim.SGD(tiny_gpt.parameters()), torch.Generator(), settings, tiny_text)
        for step in range(3):
            run._seed(step)
            drawn[seed, rank, step] = random.random(), np.random.rand(), torch.rand(()).item()
    assert all(len(set(numbers)) == 9 for numbers in zip(*drawn.values(), strict=True))


def test_a_finished_run_gives_its_history_without_training(tiny_gpt, tiny_text, tmp_path):
    model, again = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = go_on(model, tiny_text, tmp_path / "run")
    files = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").iterdir()}
    with counted() as calls:
        repeated = go_on(again, tiny_text, tmp_path / "run")
    assert repeated == history and not calls  # the speed too: it was measured once
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


# --- the stop button -------------------------------------------------------------------------------------------------


def test_a_stop_signal_waits_until_the_step_is_done(tiny_gpt, tiny_text, tmp_path, stop_in_update):
    stop_in_update(2)
    history = go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run")
    assert history.interrupted and len(history.train_loss) == 3 and stored_steps(tmp_path / "run")[-1] == 3
    stop_in_update(-1)
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


def test_the_stop_button_while_a_stored_run_is_put_back(tiny_gpt, tiny_text, stopped):
    model = with_adapters(tiny_gpt).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "read_checkpoint", stop_button)
        history = go_on(model, tiny_text, stopped)
    assert history.stopped == "stopped after 0 of 6 steps" and not model.training
    assert stored_steps(stopped) == [2, 4]
    assert_goes_on(tiny_gpt, tiny_text, stopped.rename(stopped.with_name("elsewhere")))  # the folder is free too


def test_the_stop_signal_is_as_it_was_after_an_error_in_a_step(tiny_gpt, tiny_text):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(ZeroDivisionError) as caught, stopped_in(1, ZeroDivisionError()):
        train(tiny_gpt, tiny_text, 3, **QUICK)
    assert caught.value.__traceback__ and signal.getsignal(signal.SIGINT) is before  # who holds the error holds none


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(tiny_gpt, tiny_text, tmp_path):
    options = QUICK | {"device": "cuda"}
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = train(reference, tiny_text, 6, **options)
    with pytest.raises(Killed), stopped_in(3, Killed()):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", **options)
    torch.cuda.manual_seed(9)
    assert_same(model, go_on(model, tiny_text, tmp_path / "run", **options), reference, history)
