"""Random sequences of what a reader may do to a model with adapters, beside a twin in NumPy that does the same.

The twin knows one line, y = x (W + s B A)^T + b, and what each operation does to its four arrays. After every operation
the model computes what the twin computes; an operation that is refused has changed nothing.
"""

import copy
import os

import numpy as np
import pytest
import torch
from torch import nn

from lora_edu import dequantize_linears, load_adapter, nf_codebook, quantize_linears, save_adapter
from lora_edu.lora import add_lora, load_adapter_state, lora_layers, merge, unload, unmerge

SIDES = (24, 40)  # in, out: no matrix is square, and the last block of 64 is short
BLOCK, RANK = 64, 3


class Twin:
    """W is what is stored; `added` are s, B and A as they were merged into it."""

    def __init__(self, linear):
        self.W, self.b = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
        self.A, self.B, self.s = np.zeros((RANK, SIDES[0])), np.zeros((SIDES[1], RANK)), 2.0
        self.added, self.nf4, self.largest = None, False, np.abs(self.W).max()

    def __call__(self, x):
        update = 0 if self.added is not None else self.s * self.B @ self.A
        return x @ (self.W + update).T + self.b

    def round(self):
        """To the nearest level of each block, as float32 counts."""
        flat, levels = self.W.ravel().astype(np.float32), nf_codebook(4).numpy()
        for start in range(0, flat.size, BLOCK):
            block = flat[start : start + BLOCK]
            scale = np.abs(block).max()
            block[:] = levels[np.abs((block / scale)[:, None] - levels).argmin(1)] * scale
        return flat.reshape(self.W.shape)


def adopt(found, wanted, before, largest):
    """What was rounded, found in the model. The twin counts in more digits: where two roundings are as near, either."""
    found = found.detach().double().numpy()
    further = np.abs(found - before) - np.abs(wanted - before)
    assert (further <= 1e-6 * largest).all()
    return found


def refuses(action, *arguments):
    with pytest.raises((ValueError, RuntimeError)):
        action(*arguments)


# Each takes the model, the twin, a generator and a folder, and returns the model.


def do_merge(model, twin, rng, folder):
    if twin.nf4:
        refuses(merge, model)
        return model
    if twin.added is None:
        twin.added = (twin.s, twin.B, twin.A)
        twin.W = twin.W + twin.s * twin.B @ twin.A
        twin.largest = max(twin.largest, np.abs(twin.W).max())  # what float32 has lost there, unmerging does not bring
    return merge(model)


def do_unmerge(model, twin, rng, folder):
    if twin.added is not None:
        s, B, A = twin.added
        twin.W, twin.added = twin.W - s * B @ A, None
    return unmerge(model)


def do_load(model, twin, rng, folder):
    """Nothing is loaded into what is merged. Who writes into it changes what is added next, and not what was."""
    twin.A, twin.B = rng.normal(size=twin.A.shape), rng.normal(size=twin.B.shape) / 4
    state = {"0.lora_A": torch.tensor(twin.A).float(), "0.lora_B": torch.tensor(twin.B).float()}
    if twin.added is None:
        return load_adapter_state(model, state)
    refuses(load_adapter_state, model, state)
    for name, tensor in state.items():
        model.get_parameter(name).data.copy_(tensor)
    return model


def do_turn_the_dial(model, twin, rng, folder):
    (layer,) = lora_layers(model).values()
    layer.scaling = twin.s = float(rng.choice([0.5, 1.0, 3.0]))
    if twin.added is None or twin.s == twin.added[0]:
        return model
    refuses(model, torch.ones(1, SIDES[0]))  # it would not be heard
    return do_unmerge(model, twin, rng, folder)


def do_copy(model, twin, rng, folder):
    other = copy.deepcopy(model)
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.zero_()  # nothing is shared with the copy
    return other


def do_half(model, twin, rng, folder):
    """To 16 bits and back: codes and constants of a 4-bit layer stay as they are."""
    model = model.half().float()
    (layer,) = lora_layers(model).values()
    tensors = {"A": layer.lora_A, "B": layer.lora_B, "b": layer.bias, **({} if twin.nf4 else {"W": layer.base.weight})}
    for name, tensor in tensors.items():
        before = getattr(twin, name)
        setattr(twin, name, halved(tensor, before, twin.largest if name == "W" else np.abs(before).max()))
    if twin.added is not None:
        s, B, A = twin.added
        twin.added = (s, halved(layer.added_B, B, np.abs(B).max()), halved(layer.added_A, A, np.abs(A).max()))
    return model


def halved(tensor, before, largest):
    return adopt(tensor, before.astype(np.float32).astype(np.float16), before, largest)


def do_quantize(model, twin, rng, folder):
    """Adapters out, codes in, an adapter as before on top."""
    refuses(quantize_linears, model)
    if twin.added is not None or twin.nf4:
        return model
    (layer,) = lora_layers(model).values()
    factors = {f"0.{name}": getattr(layer, name).detach().clone() for name in ("lora_A", "lora_B")}
    quantize_linears(unload(model), block_size=BLOCK, double_quant=False)
    load_adapter_state(add_lora(model, RANK, RANK * twin.s, ["0"]), factors)
    twin.W, twin.nf4 = adopt(model[0].base.weight, twin.round(), twin.W, twin.largest), True
    return model


def do_dequantize(model, twin, rng, folder):
    twin.nf4 = False
    return dequantize_linears(model)


def do_state_dict(model, twin, rng, folder):
    """Into a model of the same make with other numbers. What is merged does not go into what is not."""
    state, other = copy.deepcopy(model.state_dict()), copy.deepcopy(model)
    if twin.added is not None:
        refuses(unmerge(copy.deepcopy(model)).load_state_dict, state)
    for name, tensor in (*other.named_parameters(), *other.named_buffers()):
        if tensor.is_floating_point() and not name.endswith("codebook"):  # which is known, and part of no state
            tensor.data.normal_()
    other.load_state_dict(state)
    return other


def do_save(model, twin, rng, folder):
    if twin.added is not None:
        refuses(save_adapter, model, folder)
        return model
    save_adapter(model, folder)
    return load_adapter(unload(model), folder)


OPERATIONS = [action for name, action in list(globals().items()) if name.startswith("do_")]


def run(seed, folder):
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(*SIDES))
    twin = Twin(model[0])
    add_lora(model, RANK, 2.0 * RANK, ["0"])
    (layer,) = lora_layers(model).values()
    twin.A = layer.lora_A.detach().double().numpy()
    x, done = rng.normal(size=(5, SIDES[0])), []
    for number in rng.integers(len(OPERATIONS), size=10):
        done.append(OPERATIONS[number].__name__)
        model = OPERATIONS[number](model.eval(), twin, rng, folder).eval()
        with torch.no_grad():
            got = model(torch.tensor(x).float()).double().numpy()
        off = np.abs(got - twin(x)).max() / max(1, np.abs(twin(x)).max())
        assert off < 2e-5, (seed, done, off)


@pytest.fixture(autouse=True)
def no_power_failure(monkeypatch):
    """What is saved here thousands of times need not reach the disk."""
    monkeypatch.setattr(os, "fsync", lambda number: None)


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_a_sequence_computes_what_its_twin_computes(start, tmp_path):
    for seed in range(start, start + 100):
        run(seed, tmp_path / "adapter")


@pytest.mark.slow
def test_twenty_thousand_sequences(tmp_path):
    for seed in range(1000, 21000):
        run(seed, tmp_path / "adapter")
