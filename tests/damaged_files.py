"""Damages of a stored file: what the tests of adapters and of checkpoints share."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

from lora_edu.peft_io import PREFIX


def cut(share: float) -> Callable[[Path], None]:
    return lambda path: os.truncate(path, int(share * path.stat().st_size))


def flipped(share: float) -> Callable[[Path], None]:
    """One bit, in the header or in a value."""

    def damage(path):
        content = bytearray(path.read_bytes())
        content[int(share * len(content))] ^= 4
        path.write_bytes(content)

    return damage


def instead(make: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda path: (path.unlink(), make(path))


DAMAGES = {
    **{f"cut at {share}": cut(share) for share in (0, 0.001, 0.1, 0.5, 0.999)},
    **{f"a bit at {percent}%": flipped(percent / 100) for percent in range(0, 100, 3)},
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"a": [1.0]})),
    "a pipe": instead(lambda path: os.mkfifo(path)),
    "a folder": instead(Path.mkdir),
}
GARBAGE = ["", "[]", "null", "{", "{}", '{"peft_type": "LORA", "r": 0, "lora_alpha": 4}', "[" * 100_000]


# --- of an adapter's tensors: a change for `save_file(change(load_file(path)), path)` ---------------------------------


def each(change, only=""):
    return lambda tensors: {name: change(value) if only in name else value for name, value in tensors.items()}


def renamed(old, new):
    return lambda tensors: {name.replace(old, new): value for name, value in tensors.items()}


def without(word):
    return lambda tensors: {name: value for name, value in tensors.items() if word not in name}


def added(name, value):
    return lambda tensors: tensors | {f"{PREFIX}{name}": value}
