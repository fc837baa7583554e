"""What is written so that it is whole: beside its place and then renamed; a record with a checksum of its own.

A record is a JSON file: a stored result, the log of a training run, what a reader has done. Its checksum is made when
it is written; a digit that is another one later is noticed. What is damaged is moved aside, never written over.
Only the standard library is imported here: the set-up reads this before anything is installed.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path


@contextmanager
def staging(target: Path) -> Iterator[Path]:
    """Write beside the target, then rename: a reader sees the whole file (or folder) or none at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
    except OSError as error:  # the same type of error in words that name the folder
        raise type(error)(f"cannot write to the folder {target.parent} ({error.strerror})") from error
    try:
        yield folder / target.name
        written = folder / target.name
        if written.is_file():
            written.chmod(0o644)  # a cache may be shared by a class
            with written.open("rb+") as file:
                os.fsync(file.fileno())  # a rename must not reach the disk before the bytes when the power fails
        os.replace(written, target)
    except Exception as error:
        if type(error).__name__ == "SafetensorError":  # its own word for a full disk
            raise OSError(f"cannot write {target} ({error}): make room there, or name another folder") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_record(path: Path, record: dict) -> None:
    """Write a record as JSON, one of its keys a line, with its checksum. Raises OSError."""
    record = json.loads(json.dumps(record, allow_nan=False))  # as it comes back: a key is a string then
    record |= {"checksum": checksum(record)}
    lines = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in record.items()]
    with staging(path) as target:
        target.write_text("{" + ",\n ".join(lines) + "}\n", encoding="utf-8")


def read_record(path: Path) -> dict:
    """The dictionary in a JSON file. Raises ValueError, in words, for whatever else is there: a pipe (it would wait for
    ever), half a file, no checksum, another content than it was made for."""
    if not path.is_file():
        raise ValueError("it is not a regular file")
    try:
        found = json.loads(path.read_bytes())
        json.dumps(found, allow_nan=False)
    except OSError as error:
        raise ValueError(f"it cannot be read, {error.strerror}") from error
    except RecursionError as error:
        raise ValueError("it is nested without end") from error
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, no dictionary")
    if "checksum" not in found:
        raise ValueError("it has no checksum")
    if found["checksum"] != checksum(found):
        raise ValueError("its content is not what was written")
    return found


def checksum(record: dict) -> str:
    """A SHA-256 over everything in a record but its checksum."""
    rest = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(path: Path) -> Path:
    """Give what lies at a path another name, with today's date in it, and return that name. Raises OSError."""
    dated = path.with_name(f"{path.stem}-{date.today()}{path.suffix}")
    numbered = (dated.with_name(f"{dated.stem}-{number}{path.suffix}") for number in range(2, 1000))
    free = next(name for name in (dated, *numbered) if not os.path.lexists(name))
    return path.rename(free)
