import copy
from contextlib import nullcontext
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from stopped_runs import assert_unchanged, everything, refused, stopped_in, with_adapters
from torch import nn

from lora_edu.observing import layer_inputs, surprise
from lora_edu.texts import spread_windows
from lora_edu.training import evaluate, learning_rate_factor, pick_device, train, training_step

QUICK = {"seq_len": 16, "batch_size": 4, "progress": False, "device": "cpu"}


def test_the_same_seed_gives_the_same_curve_bit_for_bit(tiny_gpt, tiny_text):
    """The state outside does not matter."""
    curves = []
    for seed in (5, 5, 6):
        model = with_adapters(tiny_gpt)
        torch.manual_seed(len(curves))
        history = train(model, tiny_text, 12, seed=seed, **QUICK)
        curves.append((history.train_loss, history.validation_loss))
    assert curves[0] == curves[1] != curves[2]


def test_what_a_history_holds(tiny_gpt, tiny_text):
    seen = []
    history = train(tiny_gpt, tiny_text, 7, eval_every=3, on_evaluation=lambda *pair: seen.append(pair), **QUICK)
    assert len(history.train_loss) == 7
    assert history.tokens_per_second == pytest.approx(7 * 4 * 16 / history.seconds)
    assert not history.interrupted and history.stopped == ""
    assert [done for done, _ in history.validation_loss] == [0, 3, 6, 7] and seen == history.validation_loss


def test_the_stop_button_returns_the_history_and_a_usable_model(tiny_gpt, tiny_text, capsys):
    def stopped(**options):
        with stopped_in(3, KeyboardInterrupt()):
            return train(tiny_gpt, tiny_text, 50, **QUICK | options)

    history = stopped()
    assert history.interrupted and len(history.train_loss) == 3 and history.stopped == "stopped after 3 of 50 steps"
    assert all(p.isfinite().all() and p.grad is None for p in tiny_gpt.parameters()) and not tiny_gpt.training
    assert tiny_gpt.generate("low", 5).startswith("low") and capsys.readouterr().out == ""
    stopped(progress=True)
    assert capsys.readouterr().out == "stopped after 3 of 50 steps\n"  # below the bar, in whatever notebook


NOT_FINITE = {
    "a loss": lambda loss: loss * float("nan"),
    "a gradient": lambda loss: loss + (0 * loss).sqrt(),  # the square root has an infinite slope at 0
}


@pytest.mark.parametrize("burst", NOT_FINITE.values(), ids=NOT_FINITE)
def test_what_is_not_finite_stops_and_harms_no_weight(tiny_gpt, tiny_text, burst):
    def loss_fn(model, inputs, targets):
        loss = model(inputs, targets)[1]
        return burst(loss) if model.training else loss

    with refused(tiny_gpt, FloatingPointError, r"the loss became nan at step 1.*smaller learning rate \(now 0.003\)"):
        train(tiny_gpt, tiny_text, 5, loss_fn=loss_fn, **QUICK)
    assert not tiny_gpt.training


def test_evaluation_is_the_mean_over_the_windows(tiny_gpt, tiny_text):
    tokens = tiny_text.validation  # 100 tokens: 6 windows of 16
    starts = torch.linspace(0, 100 - 17, 6).long()
    losses = [tiny_gpt(tokens[s : s + 16][None], tokens[s + 1 : s + 17][None])[1].item() for s in starts]
    assert evaluate(tiny_gpt, tokens, seq_len=16) == pytest.approx(sum(losses) / 6, rel=1e-6)
    assert evaluate(tiny_gpt, tokens, seq_len=16, batch_size=16) == pytest.approx(sum(losses) / 6, rel=1e-6)


def test_the_schedule():
    factors = [learning_rate_factor(step, 100, 10, 0.1) for step in range(101)]
    assert factors[0] == 0.1 and factors[9] == factors[10] == 1.0
    assert factors[55] == pytest.approx(0.55) and factors[100] == pytest.approx(0.1)
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_clipping_bounds_the_gradient(tiny_gpt, tiny_text):
    optimizer = torch.optim.SGD(tiny_gpt.parameters(), lr=1.0)
    before = nn.utils.parameters_to_vector(tiny_gpt.parameters()).clone()
    tokens = tiny_text.train[:17].long()[None]
    training_step(tiny_gpt, tokens[:, :-1], tokens[:, 1:], optimizer, max_grad_norm=0.01)
    moved = nn.utils.parameters_to_vector(tiny_gpt.parameters()) - before
    assert moved.norm().item() == pytest.approx(0.01, rel=1e-3)


# --- bad input -----------------------------------------------------------------------------------------------------


def test_devices(monkeypatch):
    monkeypatch.setenv("LORA_EDU_DEVICE", "cpu")
    assert pick_device().type == "cpu"
    with pytest.raises(ValueError, match="device must be 'cpu' or 'cuda', got 'mps'"):
        pick_device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this torch sees no CUDA GPU"):
        pick_device("cuda")


@pytest.mark.parametrize(
    ("tokens", "error", "message"),
    [
        (lambda tokens: tokens / 2, TypeError, "tokens, which are whole numbers, got a tensor of torch.float32"),
        (lambda tokens: tokens.tolist(), TypeError, "tokens, which are whole numbers, got list"),
        (lambda tokens: tokens.int() + 200, ValueError, "from 0 to 255, the model's vocabulary, got 3"),
        (lambda tokens: tokens.int() - 120, ValueError, "from 0 to 255, the model's vocabulary, got -"),
    ],
)
def test_bad_tokens(tiny_gpt, tiny_text, tokens, error, message):
    for part in ("train", "validation"):
        with pytest.raises(error, match=rf"data\.{part} must be .*{message}"):
            train(tiny_gpt, tiny_text._replace(**{part: tokens(getattr(tiny_text, part))}), 3, **QUICK)
    with pytest.raises(error, match=f"tokens must be .*{message}"):
        evaluate(tiny_gpt, tokens(tiny_text.validation), seq_len=16)


def test_training_where_no_gradient_is_taken(tiny_gpt, tiny_text):
    with torch.no_grad(), pytest.raises(RuntimeError, match=r"inside torch\.no_grad\(\), where nothing can be learned"):
        train(tiny_gpt, tiny_text, 3, **QUICK)


# --- evaluation ----------------------------------------------------------------------------------------------------


CALLS = {
    "generate": lambda model, tokens: model.generate("low", 2),
    "evaluate": lambda model, tokens: evaluate(model, tokens, seq_len=16),
    "layer_inputs": lambda model, tokens: layer_inputs(model, tokens, 16),
    "surprise": lambda model, tokens: surprise(model, "low rank."),
}


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_whatever_ends_a_call_each_part_has_its_own_mode_and_no_hook(tiny_gpt, tiny_text, monkeypatch, call, stopped):
    tiny_gpt.train().blocks[0].eval()
    before = everything(tiny_gpt)
    if stopped:
        monkeypatch.setattr(torch.nn.LayerNorm, "forward", Mock(side_effect=KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt) if stopped else nullcontext():
        call(tiny_gpt, tiny_text.validation)
    assert_unchanged(tiny_gpt, before)
    assert not any(module._forward_hooks for module in tiny_gpt.modules())


@pytest.mark.parametrize("length", range(2**24 + 18, 2**24 + 22))
def test_the_last_window_of_a_text_of_more_tokens_than_float32_can_count(length):
    """It rounds some of the last starts up, beyond the end."""
    assert spread_windows(torch.zeros(1, dtype=torch.uint8).expand(length), 16, 3).shape == (3, 17)


# --- a run that was stopped ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "made", [None, 2.5, (torch.ones(()), 1), torch.ones(3), torch.ones((), dtype=torch.int64)], ids=str
)
def test_a_loss_function_that_returns_no_loss(tiny_gpt, tiny_text, made):
    for call in (lambda: train(tiny_gpt, tiny_text, 2, loss_fn=lambda *_: made, **QUICK),
                 lambda: evaluate(tiny_gpt, tiny_text.validation, seq_len=16, loss_fn=lambda *_: made)):  # fmt: skip
        with refused(tiny_gpt, TypeError, "loss_fn must return the mean loss, a tensor of one number, got "):
            call()


def test_numbers_of_numpy_are_numbers(tiny_gpt, tiny_text, tmp_path):
    options = {"seed": 3, "batch_size": 4, "seq_len": 16, "warmup_steps": 1, "eval_windows": 4}
    again = copy.deepcopy(tiny_gpt)
    plain = train(tiny_gpt, tiny_text, 2, **(QUICK | options))
    numpy = {name: np.int64(value) for name, value in options.items()}
    with_numpy = train(again, tiny_text, np.int64(2), checkpoint=tmp_path, **(QUICK | numpy))
    assert with_numpy.train_loss == plain.train_loss
    assert all(map(torch.equal, tiny_gpt.parameters(), again.parameters()))
    assert train(again, tiny_text, np.int64(2), checkpoint=tmp_path, **(QUICK | numpy)) == with_numpy
