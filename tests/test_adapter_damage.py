"""Whatever is wrong with an adapter's file, it is refused with the model unchanged; or nothing that counts is wrong."""

import os
import pickle

import pytest
import torch
from conftest import moved
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from lora_edu.gpt import GPT, GPTConfig
from lora_edu.lora import add_lora, lora_layers
from lora_edu.peft_io import CONFIG, WEIGHTS, load_adapter, save_adapter

CHANGES = {
    "a shape that broadcasts": lambda t: t[:1].clone(),
    "another order of sides": lambda t: t.T.contiguous(),
    "NaN": lambda t: t.clone().index_fill_(0, torch.tensor([0]), float("nan")),
    "infinite": lambda t: t.clone().index_fill_(0, torch.tensor([0]), float("inf")),
    "whole numbers": lambda t: t.int(),
    "missing": lambda t: None,
}
GARBAGE = ["", "[]", "null", "{", "{}", '{"peft_type": "LORA", "r": 0, "lora_alpha": 4}', "[" * 100_000]


def small():
    torch.manual_seed(0)
    return GPT(GPTConfig(context=16, n_layers=1, n_heads=2, d_model=8, vocab_size=32))


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    model = moved(add_lora(small(), rank=3, alpha=7, targets=("q_proj", "up_proj")))
    return save_adapter(model, tmp_path_factory.mktemp("adapter"))


@st.composite
def damages(draw):
    """A function that damages the adapter in a folder, and what it does in words."""
    kinds = ("truncated", *["flipped"] * 3, "tensor", "tensor", "config", "pickle", "fifo", "folder", "extra")
    kind, name = draw(st.sampled_from(kinds)), draw(st.sampled_from([CONFIG, WEIGHTS]))
    place, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    change, garbage = draw(st.sampled_from(sorted(CHANGES))), draw(st.sampled_from(GARBAGE))

    def damage(folder):
        path, weights = folder / name, folder / WEIGHTS
        content = bytearray(weights.read_bytes())
        if kind == "truncated":
            path.write_bytes(path.read_bytes()[: int(place * path.stat().st_size)])
        elif kind == "flipped":  # one bit, in the header or in a value
            content[int(place * len(content))] ^= 1 << bit
            weights.write_bytes(content)
        elif kind == "config":
            (folder / CONFIG).write_text(garbage)
        elif kind == "pickle":
            weights.write_bytes(pickle.dumps({"a": [1.0] * bit}))
        elif kind in ("fifo", "folder"):
            path.unlink()
            os.mkfifo(path) if kind == "fifo" else path.mkdir()
        else:
            state = load_file(weights)
            first = sorted(state)[int(place * len(state))]
            state[first] = CHANGES[change](state[first]) if kind == "tensor" else state[first]
            if kind == "extra":
                state[first.replace("blocks.0", "blocks.9")] = state[first].clone()
            save_file({key: tensor for key, tensor in state.items() if tensor is not None}, weights)  # and no sha256

    return f"{kind} {name} {change} {place:.3f} {bit} {garbage[:9]}", damage


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes with names")
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damages())
def test_a_damaged_adapter_changes_nothing(adapter, tmp_path_factory, damage):
    what, damaged = damage
    folder = tmp_path_factory.mktemp("damaged")
    for name in (CONFIG, WEIGHTS):
        (folder / name).write_bytes((adapter / name).read_bytes())
    damaged(folder)
    model, whole = small(), load_adapter(small(), adapter).state_dict()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    try:
        state = load_adapter(model, folder).state_dict()
        assert state.keys() == whole.keys() and all(torch.equal(state[name], whole[name]) for name in whole), what
    except ValueError as error:
        assert str(folder) in str(error) or "adapter" in str(error) or "rank" in str(error), what
        after = model.state_dict()
        assert after.keys() == before.keys() and all(torch.equal(after[name], before[name]) for name in before), what
        assert all(parameter.requires_grad for parameter in model.parameters()), what


def test_the_control_what_is_not_damaged_is_read(adapter, tmp_path):
    state = load_file(adapter / WEIGHTS)
    save_file(state, tmp_path / WEIGHTS)  # as PEFT writes it: without a sha256
    (tmp_path / CONFIG).write_bytes((adapter / CONFIG).read_bytes())
    assert len(lora_layers(load_adapter(small(), tmp_path))) == 2
