import copy
import json
from functools import partial
from unittest.mock import Mock

import pytest
import torch

from lora_course.experiments import run_arm
from lora_course.nb09 import lab as quality
from lora_course.running import finetune
from lora_edu.lora import lora_layers
from lora_edu.observing import block_linears
from lora_edu.training import evaluate, train


@pytest.fixture
def tiny(in_small, monkeypatch):
    monkeypatch.setitem(quality.TEXT_SIZES, "20 kB", 200)
    return in_small(quality, finetune)


def arm(method, lr=3e-3, steps=8, **options):
    return quality.fine_tuned_loss(method, "20 kB", lr, steps=steps, rank=2, progress=False, **options)


@pytest.mark.parametrize("method", finetune.METHODS)
def test_each_way_learns_and_gives_the_same_numbers_again(tiny, method):
    result = arm(method)
    assert set(result) == {"before", "after", "addresses", "training"}
    assert result["after"] < result["before"]
    assert arm(method) == result and arm(method, seed=1) != result
    json.dumps(result)


def test_without_steps_only_the_change_is_measured(tiny, tiny_text):
    loss = round(evaluate(tiny, tiny_text.validation, seq_len=32), 5)
    assert arm("lora", steps=0) == {"before": loss, "after": loss, "addresses": loss}
    assert arm("qlora", steps=0)["after"] != loss


def test_the_amount_of_text(tiny, monkeypatch):
    monkeypatch.setattr(finetune, "train", remember := Mock(side_effect=partial(train, seq_len=32)))
    for text in quality.TEXT_SIZES:
        quality.fine_tuned_loss("lora", text, 1e-3, steps=1, rank=2, progress=False)
    assert [len(call.args[1].train) for call in remember.call_args_list] == [200, 500]


def test_a_run_that_diverges_is_a_result(tiny, monkeypatch):
    monkeypatch.setattr(finetune, "train", Mock(side_effect=FloatingPointError))
    assert run_arm("qlora-quality", "qlora, 10 steps") == {"diverged": True}


def test_what_each_way_trains(tiny_gpt):
    trainable = {}
    for method in finetune.METHODS:
        model = finetune.prepared(copy.deepcopy(tiny_gpt), method, rank=2, seed=3)
        trainable[method] = {name for name, value in model.named_parameters() if value.requires_grad}
    assert trainable["full"] == {name for name, _ in tiny_gpt.named_parameters()}
    assert trainable["blocks"] == {f"blocks.{path}.weight" for path in block_linears(tiny_gpt)}
    assert all("lora_" in name for name in trainable["lora"]) and len(trainable["lora"]) == 24
    assert trainable["lora"] == trainable["qlora"]
    with pytest.raises(ValueError, match="unknown method 'dora': choose one of full, lora, qlora"):
        finetune.prepared(tiny_gpt, "dora")


def test_one_seed_means_one_start_and_the_readers_state_is_left_alone(tiny_gpt):
    state = torch.get_rng_state()
    models = [finetune.prepared(copy.deepcopy(tiny_gpt), method, 2, seed=3) for method in ("lora", "qlora")]
    other = finetune.prepared(copy.deepcopy(tiny_gpt), "lora", 2, seed=4)
    assert torch.equal(torch.get_rng_state(), state)
    for path, layer in lora_layers(models[0]).items():
        assert all(torch.equal(layer.lora_A, lora_layers(model)[path].lora_A) for model in models)
        assert not torch.equal(layer.lora_A, lora_layers(other)[path].lora_A)
