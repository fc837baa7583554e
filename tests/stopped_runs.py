"""Runs that are stopped and go on: what the tests of checkpoints share."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from lora_edu import add_lora, quantize_linears, train, training
from lora_edu.engine.checkpoints import checkpoint_paths
from lora_edu.training import trainable_parameters

QUICK = {"seq_len": 16, "batch_size": 4, "progress": False, "device": "cpu", "eval_every": 2}


class Killed(BaseException):
    """Ends a run, or the set-up, at once, as SIGKILL would: nothing is tidied up."""


def with_adapters(model, method="qlora", dropout=0.3, **options):
    """A copy of a model, ready for a method."""
    model = copy.deepcopy(model)
    if method == "qlora":
        quantize_linears(model)
    if method != "full":
        torch.manual_seed(1)
        add_lora(model, **({"rank": 2, "alpha": 4, "targets": "all-linear", "dropout": dropout} | options))
    return model


@contextmanager
def stopped_in(step, error):
    """Inside, an error comes in the middle of a step (counted from 0): its batch is drawn, nothing is computed."""
    with counted() as calls, pytest.MonkeyPatch.context() as patch:
        step_made = training.training_step

        def stopping(*arguments, **options):
            if sum(calls) == step:
                raise error
            return step_made(*arguments, **options)

        patch.setattr(training, "training_step", stopping)
        yield


@contextmanager
def counted() -> Iterator[list[bool]]:
    """A list that gets an entry for each step (True) and each evaluation (False) of the runs inside."""
    calls: list[bool] = []
    step, evaluation = training.training_step, training.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "training_step", lambda *args, **kwargs: calls.append(True) or step(*args, **kwargs))
        patch.setattr(training, "evaluate", lambda *args, **kwargs: calls.append(False) or evaluation(*args, **kwargs))
        yield calls


def everything(model: torch.nn.Module) -> dict:
    """All numbers, modes and kinds of layers, frozen or not: what a refused call must leave as it is."""
    return {
        "modules": [(path, type(module), module.training) for path, module in model.named_modules()],
        "trained": [(name, parameter.requires_grad) for name, parameter in model.named_parameters()],
        "numbers": {name: tensor.clone() for name, tensor in model.state_dict().items()},
    }


def assert_unchanged(model: torch.nn.Module, before: dict) -> None:
    after = everything(model)
    numbers = after.pop("numbers"), before["numbers"]
    assert after == {name: before[name] for name in after}
    torch.testing.assert_close(*numbers, rtol=0, atol=0, equal_nan=True)


@contextmanager
def refused(model: torch.nn.Module, error: type[Exception], match: str) -> Iterator[None]:
    """What is done inside raises an error, and nothing of the model has changed."""
    before = everything(model)
    with pytest.raises(error, match=match):
        yield
    assert_unchanged(model, before)


def assert_same(model, history, other_model, other_history):
    assert history.train_loss == other_history.train_loss
    assert history.validation_loss == other_history.validation_loss
    state, other = model.state_dict(), other_model.state_dict()
    assert state.keys() == other.keys() and all(torch.equal(state[name], other[name]) for name in state)


def go_on(model, text, folder, steps=6, **options):
    """The same command again."""
    return train(model, text, steps, checkpoint=folder, checkpoint_every=2, **(QUICK | options))


def assert_goes_on(tiny_gpt, tiny_text, folder):
    """The run in the folder ends as one that was never stopped. Adapters drawn anew are no matter: it has its own."""
    reference, model = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    for parameter in trainable_parameters(model):
        torch.nn.init.normal_(parameter)
    history = train(reference, tiny_text, 6, **QUICK)
    assert_same(model, go_on(model, tiny_text, folder), reference, history)


def stored_steps(folder):
    return [int(path.stem.removeprefix("step-")) for path in checkpoint_paths(folder)]


def at_the_third_call(other, function):
    """A function whose third call is another one."""
    calls = []

    def replaced(*arguments, **options):
        calls.append(1)
        return (other if len(calls) == 3 else function)(*arguments, **options)

    return replaced
