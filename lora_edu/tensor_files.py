"""Tensors in files: the one way in which the course reads them, and checksums over them.

Files are safetensors. Nothing is ever unpickled: a pickle can run any code.
"""

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from lora_edu.records import staging

if TYPE_CHECKING:  # importing the package must stay light
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
PICKLED = re.compile(rb"PK\x03\x04|\x80[\x02-\x05]")  # the zip archive of torch.save; a pickle's mark, and its protocol


def read_tensors(path: Path, advice: str) -> tuple[dict[str, "Tensor"], dict[str, str]]:
    """All tensors of a safetensors file and its metadata, read and checked as a whole.

    Raises ValueError for what is no regular file (a pipe would wait for ever), for a pickle, for a damaged file and for
    numbers that are not finite; OSError for a file that may not be read. advice: the end of the message, what to do.
    """
    if not path.is_file():
        raise ValueError(f"{path} is not a regular file: {advice}")
    try:
        path.open("rb").close()  # safetensors would call a file that may not be read "no such file"
    except OSError as error:
        raise type(error)(f"{path} cannot be read ({error.strerror}): permit it") from error
    try:
        with safe_open(path, "pt") as file:
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}
            metadata = file.metadata() or {}
    except (SafetensorError, ValueError, TypeError, RuntimeError) as error:
        what = "is a pickle, which can run any code and is never opened" if is_pickle(path) else "is damaged"
        raise ValueError(f"{path} {what} ({error}): {advice}") from error
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.itemsize == 1:
            raise ValueError(f"{path} holds {name} as {tensor.dtype}, with which nothing is computed: {advice}")
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise ValueError(f"{path} is damaged ({name} has values that are not finite): {advice}")
    return tensors, metadata


def write_sealed(path: Path, tensors: dict[str, "Tensor"]) -> None:
    """Write tensors with a checksum over all of them. Raises OSError."""
    from safetensors.torch import save_file

    with staging(path) as target:
        save_file(tensors, target, metadata={"checksum": seal(tensors, {})})


def read_sealed(path: Path, advice: str) -> dict[str, "Tensor"]:
    """The tensors that `write_sealed` wrote. Raises what `read_tensors` raises, and ValueError for another content."""
    tensors, metadata = read_tensors(path, advice)
    if metadata.get("checksum") != seal(tensors, {}):
        raise ValueError(f"{path} is damaged (its content is not what was written): {advice}")
    return tensors


def misfit(tensors: dict[str, "Tensor"], expected: dict[str, "Tensor"], any_float: bool = False) -> str | None:
    """The first difference in names, shapes or types between tensors and those expected, in words; None if they fit.

    any_float: another floating-point type will do.
    """
    for name in sorted(tensors.keys() | expected.keys()):
        if name not in tensors:
            return f"there is no tensor {name}"
        if name not in expected:
            return f"there is an unexpected tensor {name}"
        there, here = tensors[name], expected[name]
        if there.shape != here.shape:
            return f"{name} has shape {tuple(there.shape)} and not {tuple(here.shape)}"
        if there.dtype != here.dtype and not (any_float and there.is_floating_point()):
            return f"{name} is of type {there.dtype} and not {here.dtype}"
    return None


def seal(tensors: dict[str, "Tensor"], record: dict) -> str:
    """A SHA-256 over a file's content: names, types, shapes and every byte of its tensors, and a record."""
    record = {name: value for name, value in record.items() if name != "sha256"}
    digest = hashlib.sha256(json.dumps([sorted(tensors), record], sort_keys=True).encode())
    digest.update(fingerprint(tensors[name] for name in sorted(tensors)).encode())
    return digest.hexdigest()


def fingerprint(tensors: Iterable["Tensor"]) -> str:
    """A SHA-256 over tensors: types, shapes and every byte. About a second per gigabyte."""
    from torch import uint8

    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(shape_and_type(tensor).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(uint8).numpy())
    return digest.hexdigest()


def shape_and_type(tensor: "Tensor") -> str:
    """Such as "8x64 float32"."""
    return f"{'x'.join(map(str, tensor.shape))} {str(tensor.dtype).removeprefix('torch.')}"


def is_pickle(path: Path) -> bool:
    """By its name or first bytes, whether a file that is no safetensors is a pickle, or the archive around one."""
    with path.open("rb") as file:
        return path.suffix in PICKLES or bool(PICKLED.match(file.read(4)))
