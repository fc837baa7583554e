"""Whatever is wrong with an adapter's file, it is refused with the model unchanged; or nothing that counts is wrong."""

import os
import shutil

import pytest
import torch
from conftest import moved
from damaged_files import DAMAGES, GARBAGE
from stopped_runs import assert_unchanged, everything

from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora
from lora_edu.peft_io import CONFIG, WEIGHTS, load_adapter, save_adapter

CASES = [(name, what, damage) for name in (CONFIG, WEIGHTS) for what, damage in DAMAGES.items()]
CASES += [(CONFIG, text[:9], lambda path, text=text: path.write_text(text)) for text in GARBAGE]


def small():
    torch.manual_seed(0)
    return GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=8, vocab_size=32))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    model = moved(add_lora(small(), rank=3, alpha=7, targets=("q_proj", "up_proj")))
    return save_adapter(model, tmp_path_factory.mktemp("adapter"))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@pytest.mark.parametrize(("name", "what", "damage"), CASES)
def test_a_damaged_adapter_changes_nothing(adapter, tmp_path, name, what, damage):
    folder = shutil.copytree(adapter, tmp_path / "damaged")
    damage(folder / name)
    model, whole = small(), load_adapter(small(), adapter).state_dict()
    before = everything(model)
    try:
        state = load_adapter(model, folder).state_dict()
        assert state.keys() == whole.keys() and all(torch.equal(state[name], whole[name]) for name in whole), what
    except ValueError as error:
        assert str(folder) in str(error) or "adapter" in str(error) or "rank" in str(error), what
        assert_unchanged(model, before)
