"""A lock on a folder that dies with the process that holds it, however the process ends."""

import os
from pathlib import Path
from typing import TextIO

try:
    import fcntl
except ImportError:  # Windows has none: two runs at once in one folder are not noticed there
    fcntl = None


def lock_folder(folder: Path) -> TextIO:
    """Make a folder if need be and lock it; it is free again when the returned file is closed.

    Raises PermissionError if the folder cannot be written to, BlockingIOError if another process holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = open(folder / ".lock", "a", encoding="utf-8")  # it stays open: that is the lock
    except OSError as error:
        raise PermissionError(
            f"cannot write to the folder {folder} ({os.strerror(error.errno)}): permit it, or name another one"
        ) from error
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise BlockingIOError(
            f"another run is writing to {folder} at this moment: wait for its end, or name another folder for this one"
        ) from error
    except OSError:
        pass  # a file system without locks
    return file
