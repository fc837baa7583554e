"""Where the teacher's files lie: the folder notebooks/assignments of a clone."""

import os
from pathlib import Path

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


def hidden_file(name: str, cohort: str) -> Path:
    """What the hidden tests expect: the teacher's, never released."""
    return required() / "hidden" / cohort / f"{name}.json"
