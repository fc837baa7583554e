"""On a card without bfloat16 of its own, training computes in float16 and scales its gradients."""

import copy
import shutil

import pytest
import torch
from stopped_runs import QUICK, Killed, assert_same, stopped_in
from torch.amp import GradScaler

from lora_edu import train
from lora_edu.engine import precision, run

TINY_LOSS = 2.0**-18  # as small as the gradients of a batch of so many more tokens
HALF = QUICK | {"autocast": True}


@pytest.fixture
def old_card(monkeypatch):
    monkeypatch.setattr(precision, "half_type", lambda device: torch.float16)


def losses(model, text, autocast):
    """The loss before and after 60 steps of training in full."""

    def loss_fn(model, inputs, targets):
        return TINY_LOSS * model(inputs, targets)[1]

    run = dict(lr=1e-2, batch_size=8, seq_len=16, warmup_steps=2, device="cpu", progress=False, loss_fn=loss_fn)
    return [loss / TINY_LOSS for _, loss in train(model, text, 60, autocast=autocast, **run).validation_loss]


def test_the_loss_halves_in_float16_as_in_float32_with_the_scaler_alone(tiny_text, tiny_gpt, old_card, monkeypatch):
    before, after = losses(copy.deepcopy(tiny_gpt), tiny_text, autocast=False)
    start, scaled = losses(copy.deepcopy(tiny_gpt), tiny_text, autocast=True)
    assert after < before / 2 and scaled < start / 2 and scaled == pytest.approx(after, rel=0.1)
    monkeypatch.setattr(run, "gradient_scaler", lambda device, autocast: precision.UNSCALED)
    start, unscaled = losses(copy.deepcopy(tiny_gpt), tiny_text, autocast=True)
    assert unscaled > 0.99 * start  # the control: every gradient was rounded to zero


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), torch.float16), ((8, 0), torch.bfloat16)])
def test_the_type_follows_the_card(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert precision.half_type(torch.device("cuda")) == expected
    assert precision.half_type(torch.device("cpu")) == torch.bfloat16


def test_a_step_that_was_scaled_too_much_is_left_out_and_the_scale_halved(tiny_text, tiny_gpt, old_card, monkeypatch):
    scaler = GradScaler("cpu", init_scale=2.0**40)
    monkeypatch.setattr(run, "gradient_scaler", lambda device, autocast: scaler)
    before = [parameter.clone() for parameter in tiny_gpt.parameters()]
    train(tiny_gpt, tiny_text, 1, **HALF)
    assert scaler.get_scale() == 2.0**39
    assert all(torch.equal(now, old) for now, old in zip(tiny_gpt.parameters(), before, strict=True))


def test_a_gradient_that_is_no_number_ends_the_run_all_the_same(tiny_text, tiny_gpt, old_card):
    def nan_gradient(model, inputs, targets):
        return (next(model.parameters()).sum() * 0).sqrt()  # 0; its derivative is inf * 0

    with pytest.raises(FloatingPointError, match="the loss became nan at step 17"):  # the scale was 2^16
        train(tiny_gpt, tiny_text, 30, loss_fn=nan_gradient, **HALF)


def test_the_scale_is_kept_in_a_checkpoint(tiny_text, tiny_gpt, old_card, monkeypatch, tmp_path):
    """The scale falls until it fits. A run that goes on without it would leave steps out once more."""
    monkeypatch.setattr(run, "gradient_scaler", lambda device, autocast: GradScaler("cpu", init_scale=2.0**30))
    expected = train(reference := copy.deepcopy(tiny_gpt), tiny_text, 30, **HALF)
    options = HALF | {"checkpoint": tmp_path / "run", "checkpoint_every": 20}
    with pytest.raises(Killed), stopped_in(25, Killed()):
        train(copy.deepcopy(tiny_gpt), tiny_text, 30, **options)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    with monkeypatch.context() as patch:
        patch.setattr(GradScaler, "load_state_dict", lambda scaler, stored: None)
        other = train(copy.deepcopy(tiny_gpt), tiny_text, 30, **HALF | {"checkpoint": tmp_path / "copy"})
    assert other.train_loss != expected.train_loss  # the control
    model = copy.deepcopy(tiny_gpt)
    assert_same(model, train(model, tiny_text, 30, **options), reference, expected)
    monkeypatch.setattr(run, "gradient_scaler", lambda device, autocast: precision.UNSCALED)
    with pytest.raises(ValueError, match="float16 is True there and False here"):  # on another card
        train(copy.deepcopy(tiny_gpt), tiny_text, 30, **options)
