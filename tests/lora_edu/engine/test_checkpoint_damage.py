"""Whatever is wrong with a checkpoint file, it is refused before a number of the model has changed."""

import json
import math
import shutil
from functools import partial

import pytest
import torch
from damaged_files import damages
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from stopped_runs import go_on, refused, with_adapters

from lora_edu.engine.checkpoints import seal
from lora_edu.training import model_loss

NEWEST = "step-00000004.safetensors"


def read(path):
    with safe_open(path, "pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["checkpoint"])


def write(path, tensors, record, sealed):
    """A file as our own code writes it; sealed=False: as before there was a sha256."""
    record = {name: value for name, value in record.items() if name != "sha256"}
    if sealed:
        record["sha256"] = seal(tensors, record)
    save_file(tensors, path, metadata={"checkpoint": json.dumps(record)})


def rewrite(path, change, sealed):
    tensors, record = read(path)
    write(path, change(tensors), record, sealed)


def garble(path, text):
    save_file(read(path)[0], path, metadata={"checkpoint": text})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from([True, False]).flatmap(lambda sealed: damages(partial(rewrite, sealed=sealed), garble)))
def test_a_damaged_file_changes_nothing(tiny_gpt, tiny_text, stopped, damage):
    what, damaged = damage
    folder = shutil.copytree(stopped, stopped.with_name("damaged"), dirs_exist_ok=True)
    model = with_adapters(tiny_gpt)
    note(what)
    try:
        damaged(folder / NEWEST)
        with refused(model, ValueError, r"4\.safetensors is .*(delete it|Use the same settings)"):
            go_on(model, tiny_text, folder)
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize("sealed", [True, False])
def test_a_file_from_before_the_sha256_is_read(tiny_gpt, tiny_text, stopped, sealed):
    """The control: what the generator writes is refused for its damage and not for the way it was written."""
    tensors, record = read(stopped / NEWEST)
    if not sealed:
        del record["history"]["steps"], record["idle"]  # they came with it
    write(stopped / NEWEST, tensors, record, sealed)
    assert len(go_on(with_adapters(tiny_gpt), tiny_text, stopped).train_loss) == 6


HISTORIES = [
    {}, {"train_loss": "abcd"}, {"train_loss": [5.5] * 3}, {"train_loss": [5.5] * 5},
    {"train_loss": [5.5, 5.4, 5.3, 5.2], "steps": 7},
]  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_a_history_of_another_length(tiny_gpt, tiny_text, stopped, history):
    tensors, record = read(stopped / NEWEST)
    write(stopped / NEWEST, tensors, record | {"history": history}, sealed=True)
    model = with_adapters(tiny_gpt)
    with refused(model, ValueError, r"4\.safetensors is damaged \(the history is not that of 4 of 6 .*delete it"):
        go_on(model, tiny_text, stopped)


def test_a_new_file_without_its_sha256(tiny_gpt, tiny_text, stopped):
    """Only what was written before there was one is read without."""
    tensors, record = read(stopped / NEWEST)
    record["history"]["train_loss"][2] += 0.5
    write(stopped / NEWEST, tensors, record, sealed=False)
    with pytest.raises(ValueError, match="4.safetensors is damaged .its content is not what was written.*delete it"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)


def test_a_validation_loss_that_is_no_number_damages_nothing(tiny_gpt, tiny_text, tmp_path):
    def loss_fn(model, inputs, targets, nan=math.nan):
        loss = model_loss(model, inputs, targets)
        return loss if model.training else loss * nan

    def stop(done, loss):
        if done == 4:
            raise KeyboardInterrupt

    first = go_on(with_adapters(tiny_gpt), tiny_text, tmp_path / "run", loss_fn=loss_fn, on_evaluation=stop)
    assert first.interrupted and math.isnan(first.validation_loss[-1][1])
    model, reference = with_adapters(tiny_gpt), with_adapters(tiny_gpt)
    go_on(model, tiny_text, tmp_path / "run", loss_fn=loss_fn)
    go_on(reference, tiny_text, tmp_path / "whole", loss_fn=loss_fn)
    assert all(map(torch.equal, model.parameters(), reference.parameters()))


def test_a_setting_that_is_missing(tiny_gpt, tiny_text, stopped):
    """A checkpoint that does not say all that its curve depends on is no checkpoint of this run."""
    tensors, record = read(stopped / NEWEST)
    del record["settings"]["max_grad_norm"]
    write(stopped / NEWEST, tensors, record, sealed=True)
    with pytest.raises(ValueError, match=r"another run: max_grad_norm is missing there and 1\.0 here"):
        go_on(with_adapters(tiny_gpt), tiny_text, stopped)
