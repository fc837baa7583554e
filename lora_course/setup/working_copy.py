"""The reader's own copy of the course: what `lora-edu lab` opens, so that reading changes no file of the course.

Only the standard library is imported here: `lora_course.__main__` reads this before anything is installed.
"""

import os
import shutil
from pathlib import Path

from lora_course.setup.installers import SetupError
from lora_edu.records import read_record, set_aside, sha256, staging, write_record

COPY = "lora-edu-course"  # the folder of a reader's copy of the course
RECORD = ".course.json"  # in it: the sha256 of each file as it was copied
PROGRESS = ".progress.json"  # beside it: which exercises are done
COURSE_FILES = ("*.ipynb", "*.md", "figures/*", "assignments/a*/*")  # a teacher's sources and solutions stay away


def course_folder() -> Path:
    """Where the notebooks are: inside an installed wheel, or beside the package in a clone."""
    package = Path(__file__).parent.parent
    inside = package / "notebooks"
    return inside if inside.exists() else package.parent / "notebooks"


def copy_course(beside: Path, fresh: bool = False) -> Path:
    """Copy the course to `beside/lora-edu-course`, say what was done, and return that folder.

    What is there already is kept: only missing files are copied, so a notebook that was removed comes back as new.
    fresh: first set the whole folder aside under another name.
    """
    inside = os.path.lexists(beside / RECORD)  # called from inside the copy: not a copy in it
    target = beside if inside else beside / COPY
    if os.path.lexists(target) and not target.is_dir():
        raise SetupError(f"{target} is not a folder, and your copy of the course belongs there: give it another name")
    if fresh and target.exists():
        print(f"your old copy is kept as {set_aside(target)}", flush=True)
    new = not target.exists()
    newer = _add_missing(course_folder(), target)
    if fresh:
        write_record(target / PROGRESS, {})  # none of its exercises is done
    if new:
        print(f"the course was copied to {target}: what you do there is kept", flush=True)
    if newer:
        print(
            f"your copy is kept; the course has newer versions of {', '.join(newer)}. --fresh starts over", flush=True
        )
    return target


def _add_missing(course: Path, target: Path) -> list[str]:
    """Copy what is missing, and name the files that have changed in the course since they were copied."""
    newer: list[str] = []
    try:
        copied = read_record(target / RECORD)
    except ValueError:  # without a record, or with a damaged one, the copy as it is counts
        copied = {}
    for source in sorted(path for pattern in COURSE_FILES for path in course.glob(pattern) if path.is_file()):
        name, mine = source.relative_to(course).as_posix(), target / source.relative_to(course)
        if not mine.exists():
            with staging(mine) as partial:
                shutil.copyfile(source, partial)
            copied[name] = sha256(mine)
        elif copied.setdefault(name, sha256(mine)) != sha256(source):
            newer.append(name)
    write_record(target / RECORD, copied)
    return newer
