"""`lora-edu fetch`: everything that the course downloads, by name, into the cache."""

from lora_edu import downloads
from lora_edu.texts import available_texts, load_text


def fetch_all(names: list[str] | None = None) -> None:
    """Fetch by name; "texts" stands for the three texts, no name for everything. Prints where each one is."""
    wanted: list[str] = []
    for name in names or downloads.sources():
        wanted += available_texts() if name == "texts" else [name]
    for name in wanted:
        if downloads.source(name)["kind"] == "text":
            load_text(name)
            place = downloads.cached(name, ".safetensors")
        else:
            place = downloads.model_folder(name)
        print(f"{name:12} {place}")
