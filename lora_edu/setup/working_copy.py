"""The reader's own copy of the course: what `lora-edu lab` opens, so that reading changes no file of the course.

Only the standard library is imported here: `lora_edu.__main__` reads this before anything is installed.
"""

import hashlib
import json
import shutil
from datetime import date
from pathlib import Path

NAME = "lora-edu-course"  # the folder of the copy
RECORD = ".course.json"  # in it: the sha256 of each file as it was copied
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
    target = beside if (beside / RECORD).exists() else beside / NAME  # called from inside the copy: not a copy in it
    if fresh and target.exists():
        aside = _free_name(target)
        target.rename(aside)
        print(f"your old copy is kept as {aside}", flush=True)
    new = not target.exists()
    newer = _add_missing(course_folder(), target)
    if new:
        print(f"the course was copied to {target}: what you do there is kept", flush=True)
    if newer:
        print(
            f"your copy is kept as it is; of the course there are newer versions of {', '.join(newer)}. "
            "--fresh starts over and keeps your copy aside.",
            flush=True,
        )
    return target


def _add_missing(course: Path, target: Path) -> list[str]:
    """Copy what is missing, and name the files that have changed in the course since they were copied."""
    record = target / RECORD
    copied = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    newer = []
    for source in sorted(path for pattern in COURSE_FILES for path in course.glob(pattern) if path.is_file()):
        name, mine = source.relative_to(course).as_posix(), target / source.relative_to(course)
        if not mine.exists():
            mine.parent.mkdir(parents=True, exist_ok=True)
            partial = mine.with_name(f".{mine.name}.partial")
            shutil.copyfile(source, partial)
            partial.replace(mine)  # whole, or not there
            copied[name] = _sha256(mine)
        elif copied.setdefault(name, _sha256(mine)) != _sha256(source):
            newer.append(name)
    record.write_text(json.dumps(copied, indent=1), encoding="utf-8")
    return newer


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _free_name(target: Path) -> Path:
    """`lora-edu-course-2026-01-31`, with a number behind it if there is one of that day."""
    dated = target.with_name(f"{target.name}-{date.today()}")
    numbered = (dated.with_name(f"{dated.name}-{number}") for number in range(2, 1000))
    return next(path for path in (dated, *numbered) if not path.exists())
