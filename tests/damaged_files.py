"""Damages of a stored file, drawn by hypothesis: what the tests of adapters and of checkpoints share."""

import os
import pickle
import re
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st

from lora_edu.peft_io import PREFIX

CHANGES = {
    "a shape that broadcasts": lambda t: t[:1].clone(),
    "one number": lambda t: t.flatten()[:1].clone(),
    "another order of sides": lambda t: t.T.contiguous(),
    "NaN": lambda t: t.clone().index_fill_(0, torch.tensor([0]), float("nan")),
    "infinite": lambda t: t.clone().index_fill_(0, torch.tensor([0]), float("inf")),
    "whole numbers": lambda t: t.int(),
    "missing": lambda t: None,
}
KINDS = ("truncated", "flipped", "flipped", "pickle", "fifo", "folder", "tensor", "tensor", "tensor", "extra")
GARBAGE = ["", "[]", "null", "{", "{}", '{"peft_type": "LORA", "r": 0, "lora_alpha": 4}', "[" * 100_000]


@st.composite
def damages(draw: st.DrawFn, rewrite: Callable, garble: Callable) -> tuple[str, Callable[[Path], None]]:
    """What is done in words, and a function that does it to the file at a path.

    rewrite(path, change) writes the file anew with its tensors changed, and garble(path, text) puts a text where
    the settings should be.
    """
    kind, change = draw(st.sampled_from((*KINDS, "settings"))), draw(st.sampled_from(sorted(CHANGES)))
    place, bit = draw(st.floats(0, 1, exclude_max=True)), draw(st.integers(0, 7))
    garbage = draw(st.sampled_from(GARBAGE))

    def changed(tensors):
        names = sorted(name for name, tensor in tensors.items() if tensor.ndim == 2 and "random" not in name)
        name = names[int(place * len(names))]
        if kind == "extra":
            return tensors | {re.sub(r"blocks\.\d", "blocks.9", name): tensors[name].clone()}
        tensors[name] = CHANGES[change](tensors[name])
        return {name: tensor for name, tensor in tensors.items() if tensor is not None}

    def damage(path):
        content = bytearray(path.read_bytes())
        if kind == "truncated":
            path.write_bytes(content[: int(place * len(content))])
        elif kind == "flipped":  # one bit, in the header or in a value
            content[int(place * len(content))] ^= 1 << bit
            path.write_bytes(content)
        elif kind == "pickle":
            path.write_bytes(pickle.dumps({"a": [1.0] * bit}))
        elif kind in ("fifo", "folder"):
            path.unlink()
            os.mkfifo(path) if kind == "fifo" else path.mkdir()
        elif kind == "settings":
            garble(path, garbage)
        else:
            rewrite(path, changed)

    return f"{kind} {change} {place:.3f} {bit} {garbage[:9]}", damage


# --- of an adapter's tensors: a change for `save_file(change(load_file(path)), path)` ---------------------------------


def each(change, only=""):
    return lambda tensors: {name: change(value) if only in name else value for name, value in tensors.items()}


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def without(word):
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


def added(name, value):
    return lambda tensors: tensors | {f"{PREFIX}{name}": value}
