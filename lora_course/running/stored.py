"""What is stored of an experiment: `data/results/<name>.json`, read again and checked."""

from pathlib import Path

from lora_edu import files, records


def load_results(name: str) -> dict:
    """The stored result of an experiment: command, seed, versions, machine, settings of each arm, and the arms."""
    path = results_folder() / f"{name}.json"
    if not path.exists():
        raise FileNotFoundError(f"no stored result at {path}: run lora-edu experiment {name}")
    return read(path)


def results_folder() -> Path:
    return files.data_file("results")


def read(path: Path) -> dict:
    """A stored result. Raises ValueError for a file that is cut off, damaged or something else, and leaves it alone."""
    try:
        found = records.read_record(path)
        del found["checksum"]
        if not isinstance(found.get("arms"), dict):
            raise ValueError("it has no arms")
    except ValueError as error:
        advice = f"put the right file back, or delete it and run lora-edu experiment {path.stem}"
        raise ValueError(f"{path} is not a stored result: {error}; {advice}") from error
    return found
