"""Where the teacher's files lie: the folder notebooks/assignments of a clone."""

import json
import os
from pathlib import Path
from typing import Any

from lora_edu.records import staging

HANDED_IN = "handed-in.txt"  # the names of all files of a student; only notebooks are unpacked
VARIABLE = "LORA_EDU_CLASSROOM"
CLONE = Path(__file__).resolve().parent.parent


def required() -> Path:
    """The folder with source/ that LORA_EDU_CLASSROOM names, else one above the working directory, else the clone's.

    Raises FileNotFoundError where the variable names a folder that is not there.
    """
    if os.environ.get(VARIABLE):
        folder = Path(os.environ[VARIABLE]).absolute()
        if not folder.is_dir():
            raise FileNotFoundError(f"{VARIABLE} names {folder}, which is no folder")
        return folder
    here = Path.cwd()
    above = (folder for folder in (here, *here.parents) if (folder / "nbgrader_config.py").exists())
    return next(above, CLONE / "notebooks" / "assignments")


def kept(path: Path) -> Any:
    """What `keep` wrote there as JSON; None where there is no such file."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None


def keep(path: Path, content: Any) -> None:
    """Write a text, or anything else as JSON: the whole of it, or nothing."""
    with staging(path) as part:
        part.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def hidden_file(name: str, cohort: str) -> Path:
    """What the hidden tests expect: the teacher's, never released."""
    return required() / "hidden" / cohort / f"{name}.json"
