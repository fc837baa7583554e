"""What is put right in a hand-in, and said in the table: other letters than UTF-8, another name, a zip in the zip."""

import codecs
import contextlib
import io
import json
import zipfile
from pathlib import PurePosixPath

import nbformat

from classroom import folders
from classroom import obstacles as inspecting

LARGEST = 50_000_000  # bytes of one file


def in_utf8(data: bytes) -> tuple[bytes, str]:
    """A notebook as nbgrader reads it, and how it was written where that was otherwise.

    Any bytes at all are a text in Latin-1, so they must be a notebook; and those that are UTF-8 in other places are a
    damaged file.
    """
    written = data.removeprefix(codecs.BOM_UTF8)
    if written != data:
        return written, "a byte-order mark was taken off"
    damaged = not data.decode("utf-8", "ignore").isascii()
    for encoding in (json.detect_encoding(data), *(() if damaged else ("cp1252", "latin-1"))):
        with contextlib.suppress(Exception):
            text = data.decode(encoding)
            if encoding == "utf-8":
                break
            nbformat.validate(nbformat.reads(text, as_version=4))
            return text.encode(), f"it was written in {encoding}, not in UTF-8"
    return data, ""


def notebooks(file: str, data: bytes) -> list[tuple[str, bytes]]:
    """The notebook that a file is, or the one that is in a zip archive; [] if it is neither."""
    if file.endswith(".ipynb"):
        return [(file, data)]
    if not file.endswith(".zip"):
        return []
    with contextlib.suppress(Exception), zipfile.ZipFile(io.BytesIO(data)) as content:  # an archive may be anything
        found = [
            info for info in content.infolist() if info.filename.endswith(".ipynb") and not is_clutter(info.filename)
        ]
        if len(found) == 1 and found[0].file_size <= LARGEST:
            return [(PurePosixPath(found[0].filename).name, content.read(found[0]))]
    return []


def is_the_assignment(file: str, data: bytes, name: str) -> bool:
    """Whether a notebook of another name, such as a1_lora_numpy-Copy1.ipynb, has all cells that are graded."""
    released = folders.required() / "release" / name / f"{name}.ipynb"
    if not file.startswith(name) or not released.exists():
        return False
    try:
        notebook = nbformat.reads(data.decode(), as_version=4)
        return inspecting.cells_in_the_way(notebook, nbformat.read(released, as_version=4)) is None
    except Exception:
        return False


def is_clutter(path: str) -> bool:
    """Whether a system or Jupyter put this file there."""
    parts = PurePosixPath(path).parts
    return "__MACOSX" in parts or ".ipynb_checkpoints" in parts or parts[-1:] in ((".DS_Store",), ("Thumbs.db",))
