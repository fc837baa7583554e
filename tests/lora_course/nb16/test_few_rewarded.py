"""The few numbers of notebook 10 by a reward, and the control that reads, on a tiny model."""

import copy

import pytest
import torch

from lora_course.nb10 import lab_few
from lora_course.nb16 import lab as nb16
from lora_course.nb16 import lab_few as few
from lora_course.running import finetune
from lora_edu.texts import Text


@pytest.fixture
def tiny(tiny_gpt, monkeypatch):
    """Prompts of 6 bytes, 8 new ones, 6 roll-outs, 4 steps."""
    read, held_out = (
        torch.tensor(list(line * 40), dtype=torch.uint8) for line in (b"we were here. ", b"a dog ran by. ")
    )
    for module in (lab_few, finetune):
        monkeypatch.setattr(module, "load_base", lambda size, device: copy.deepcopy(tiny_gpt))
    monkeypatch.setattr(nb16, "load_text", lambda name: Text(train=read, validation=held_out))
    for name, value in {"NEW": 8, "PROMPT": 6, "ROLLOUTS": 6}.items():
        monkeypatch.setattr(nb16, name, value)
    monkeypatch.setattr(few, "STEPS", 4)
    monkeypatch.setattr(few, "HELD_OUT", 12)
    kept = (nb16.shipped, few.written)
    for function in kept:
        function.cache_clear()
    yield tiny_gpt
    for function in kept:
        function.cache_clear()


def test_what_is_measured_on_was_written_after_held_out_prompts(tiny):
    texts, held_out = few.written()
    assert texts.shape == (4 * 6, 6 + 8) and held_out.shape == (12, 6 + 8)
    held = {tuple(row[:6].tolist()) for row in held_out}
    validation = nb16.load_text("speeches").validation
    assert held <= {tuple(validation[i : i + 6].tolist()) for i in range(len(validation) - 5)}


def test_at_rate_0_it_is_the_base_and_reading_lowers_the_loss(tiny, monkeypatch):
    texts = torch.full((24, 6 + 8), ord("a"))
    monkeypatch.setattr(few, "written", lambda: (texts, texts[:12]))
    base = few.few_rewarded("bias", 0.0, read=True)["nll"]
    ours = -nb16.at_tokens(nb16.new_log_probs(tiny, texts), texts).mean()
    assert base == pytest.approx(ours.item(), abs=1e-4)
    assert few.few_rewarded("bias", 0.1, read=True)["nll"] < base - 0.01


def test_a_reward_trains_the_few_numbers_and_nothing_else(tiny):
    model = few.rewarded("bias", 0.1, seed=0)
    moved = {
        name
        for name, p in model.named_parameters()
        if name == "lm_head.bias" or not torch.equal(p, tiny.get_parameter(name))
    }
    assert moved == {"lm_head.bias"} and model.lm_head.bias.any()
