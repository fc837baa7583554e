"""`lora-edu fetch`: everything that the course downloads, by name, into the cache."""

from lora_edu import files
from lora_edu.files import model_folder
from lora_edu.texts import available_texts, load_text


def fetch_all(names: list[str] | None = None) -> None:
    """Fetch by name; "texts" stands for the three texts, no name for everything. Prints where each one is."""
    wanted: list[str] = []
    for name in names or files.sources():
        wanted += available_texts() if name == "texts" else [name]
    for name in wanted:
        if files.source(name)["kind"] == "text":
            load_text(name)
            place = files.cached(name, ".safetensors")
        else:
            place = model_folder(name)
        print(f"{name:12} {place}")
