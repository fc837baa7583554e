"""Where files are, and who may write: the data that ships with the package, the cache for downloads, locks."""

import os
from pathlib import Path

from filelock import FileLock, Timeout
from platformdirs import user_cache_path


def data_file(name: str) -> Path:
    """The path of a file that ships with the course, such as `base-laptop.safetensors`.

    An installed wheel carries the files inside the package; a clone has them in `data/` beside it.
    """
    package = Path(__file__).parent
    inside = package / "data" / name
    return inside if inside.exists() else package.parent / "data" / name


def cache_dir() -> Path:
    """The folder for downloads: `LORA_EDU_CACHE` if it is set, else the user's cache folder of this system."""
    chosen = os.environ.get("LORA_EDU_CACHE")
    return Path(chosen).expanduser() if chosen else user_cache_path("lora-edu", appauthor=False)


def take_lock(path: Path, wait: float = 0) -> FileLock:
    """Hold the lock file `path`, in a folder that is made if need be, until it is released or the process ends.

    wait: seconds; -1 waits for ever. Raises BlockingIOError if another process holds it for longer, OSError if the
    folder cannot be written to, or if something else lies in the lock's place.
    """
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and (path.is_symlink() or not path.is_file()):
            raise FileExistsError(None, f"{path.name} is in the way: it is no lock file, remove it")
        lock.acquire(timeout=wait)
    except Timeout as error:
        raise BlockingIOError(f"another process is writing to {path.parent} at this moment") from error
    except OSError as error:
        raise type(error)(f"cannot write to the folder {path.parent} ({error.strerror})") from error
    except NotImplementedError:
        pass  # a file system without locks
    return lock
