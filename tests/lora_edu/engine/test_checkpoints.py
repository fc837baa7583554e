"""A run that is stopped goes on to the same curve and adapters, to the bit."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from stopped_runs import (
    QUICK,
    Killed,
    assert_goes_on,
    assert_same,
    counting,
    go_on,
    stop_in_step,
    stored_steps,
    with_adapters,
)

from lora_edu.engine import checkpoints
from lora_edu.engine.checkpoints import random_states, set_random_states
from lora_edu.engine.run import finish_first
from lora_edu.training import model_loss, train

ENDS = {"killed": Killed(), "stopped": KeyboardInterrupt()}
QUICKLY = {("full", "stopped"), ("qlora", "killed")}  # the others take their time in `make test-all`
WAYS = [
    pytest.param(method, end, marks=[] if (method, end) in QUICKLY else [pytest.mark.slow])
    for method in ("full", "lora", "qlora")
    for end in ENDS
]


@pytest.mark.parametrize(("method", "end"), WAYS)
def test_a_run_that_ended_in_any_step_goes_on_to_the_same_bits(tiny_gpt, tiny_text, tmp_path, method, end):
    error = ENDS[end]
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
    def stop(path):
        raise KeyboardInterrupt

    model = with_adapters(tiny_gpt).train()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoints, "read_checkpoint", stop)
        history = go_on(model, tiny_text, stopped)
    assert history.stopped == "stopped after 0 of 6 steps" and not model.training
    assert stored_steps(stopped) == [2, 4]
    assert_goes_on(tiny_gpt, tiny_text, stopped)  # the folder is free too


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, Killed])
def test_the_stop_signal_is_as_it_was_after_an_error_in_a_step(tiny_gpt, tiny_text, error):
    before, inside = signal.getsignal(signal.SIGINT), []

    def fails(model, inputs, targets):
        if model.training:
            inside.append(signal.getsignal(signal.SIGINT))
            raise error
        return model_loss(model, inputs, targets)

    try:
        train(tiny_gpt, tiny_text, 3, loss_fn=fails, **QUICK)
    except (ZeroDivisionError, Killed) as caught:  # an error that somebody holds on to holds no handler
        assert caught.__traceback__ and signal.getsignal(signal.SIGINT) is before
    assert inside[0] is not before and signal.getsignal(signal.SIGINT) is before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_on_a_gpu(tiny_gpt, tiny_text, tmp_path):
    options = QUICK | {"device": "cuda"}
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    history = train(reference, tiny_text, 6, **options)
    with pytest.raises(Killed):
        go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", **options, loss_fn=stop_in_step(3, Killed()))
    torch.cuda.manual_seed(9)
    assert_same(model, go_on(model, tiny_text, tmp_path / "run", **options), reference, history)
