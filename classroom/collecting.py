"""Submissions out of the archives that Moodle and Canvas offer for download, into submitted/<student>/<assignment>/.

Moodle   Jane Doe_12345_assignsubmission_file_/a1_lora_numpy.ipynb     (the number is that of this hand-in)
Canvas   doejane_LATE_12345_67890_a1_lora_numpy-1.ipynb                (the first number is the student's)
other    jane/a1_lora_numpy.ipynb                                      (a folder for each student, which may hold
                                                                       the folder that was handed out)
"""

import contextlib
import re
import shutil
import zipfile
import zlib
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from zoneinfo import ZoneInfo

from classroom import folders, mending
from lora_course.assignments.core import load

MOODLE = re.compile(
    r"(?P<who>[^/]+)_(?P<number>\d+)_assignsubmission_(?P<kind>file|onlinetext)(?:_/(?:.*/)?|_)(?P<file>[^/]+)$"
)
CANVAS = re.compile(r"(?P<who>[^/_]+)(?P<late>_LATE)?_(?P<number>\d+)_\d+_(?P<file>[^/]+)$")


@dataclass
class Entry:
    """One file of an archive: whose it is, and what the learning platform calls them."""

    student: str
    number: str
    file: str
    late: bool | None  # None: this archive does not say, the time decides
    time: str | None  # when it was handed in, where the archive knows
    member: str  # its name in the archive
    note: str = ""  # what was put right, for the table


def collect(name: str, archives: list[Path]) -> tuple[list[Entry], list[str]]:
    """Unpack the archives; a student who handed in something else than before gets a fresh folder, and no old grade.

    Returns what was taken, and what was left out.

    Raises FileNotFoundError or ValueError, before anything is written, for something that is no zip archive and for an
    assignment that is not there.
    """
    load(name)
    taken, left_out, opened = [], [], []
    for archive in archives:
        try:
            opened.append(zipfile.ZipFile(archive))
        except FileNotFoundError:
            raise FileNotFoundError(f"there is no archive {archive}") from None
        except (zipfile.BadZipFile, OSError, ValueError):
            raise ValueError(f"{archive} is not a zip archive: download the submissions once more") from None
    for archive in opened:
        with archive as content:
            entries = read_entries(content, name)
            known = {entry.member for entry in entries}
            twice = {e.member: reason for e in entries if (reason := _overtaken(e, entries))}
            entries = [entry for entry in entries if entry.member not in twice]
            damaged = {e.member: reason for e in entries if (reason := _unusable(e, content))}
            left_out += [f"{member} ({reason})" for member, reason in (twice | damaged).items()]
            for student in sorted({entry.student for entry in entries}):
                theirs = [entry for entry in entries if entry.student == student]
                _replace(content, student, theirs, damaged, name)
            _remember(name, entries)
            taken += entries
            left_out += [
                m for m in content.namelist() if m not in known and not m.endswith("/") and not mending.is_clutter(m)
            ]
    return taken, left_out


def read_entries(content: zipfile.ZipFile, name: str) -> list[Entry]:
    """The files that belong to somebody. Two Moodle students of the same name are told apart by their numbers."""
    entries = [e for info in content.infolist() if not info.is_dir() and (e := _entry(info, name))]
    known, numbers = remembered(name), {}
    for entry in entries:
        numbers.setdefault(entry.student, set()).add(entry.number)
    shared = {student for student, there in numbers.items() if len(there) > 1}
    for entry in entries:
        entry.student = _told_apart(entry, known, entry.student in shared)
    return entries


def _unusable(entry: Entry, content: zipfile.ZipFile) -> str | None:
    if content.getinfo(entry.member).file_size > mending.LARGEST:
        return f"larger than {mending.LARGEST / 1e6:.0f} MB"
    try:
        content.read(entry.member) if entry.file.endswith((".ipynb", ".zip")) else None
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError) as error:
        return f"damaged in the archive: {error}"
    return None


def _overtaken(entry: Entry, entries: list[Entry]) -> str | None:
    same = [other.member for other in entries if (other.student, other.file) == (entry.student, entry.file)]
    return None if entry.member == same[-1] else f"taken for {entry.student} was {same[-1]}"


def _told_apart(entry: Entry, known: dict[str, dict], shared: bool) -> str:
    """The same student in every archive, whether a namesake is in it or not."""
    numbered, before = f"{entry.student}-{entry.number}", known.get(entry.student, {}).get("number", "")
    if not entry.number or (before == entry.number and numbered not in known):
        return entry.student
    return numbered if shared or before or numbered in known else entry.student


def zone_file(name: str) -> Path:
    """The zone of the due time and of the times in Moodle's archive, such as Europe/Berlin; else ours."""
    return folders.required() / "reports" / f"{name}-zone.txt"


def folder_of(student: str, name: str) -> Path:
    return folders.required() / "submitted" / student / name


def remembered(name: str) -> dict[str, dict]:
    """student -> what the last collection knew: the platform's number, late, the name in the archive."""
    return folders.kept(_record(name)) or {}


def _entry(info: zipfile.ZipInfo, name: str) -> Entry | None:
    path, member = _readable(info), info.filename
    if mending.is_clutter(path):
        return None
    moodle, canvas, parts = MOODLE.search(path), CANVAS.search(path), PurePosixPath(path).parts
    if moodle:
        known = zone_file(name).read_text(encoding="utf-8") if zone_file(name).exists() else ""
        when = datetime(*info.date_time, tzinfo=ZoneInfo(known) if known else None)  # Moodle keeps that of the hand-in
        time = when.astimezone(when.tzinfo).isoformat()
        return Entry(_slug(moodle["who"]), moodle["number"], _original(moodle["file"], name), None, time, member)
    if canvas:
        student = f"{_slug(canvas['who'])}_{canvas['number']}"
        return Entry(student, canvas["number"], _original(canvas["file"], name), bool(canvas["late"]), None, member)
    above = parts[:-2] if parts[-2:-1] == (name,) else parts[:-1]  # jane/a1_lora_numpy/a1_lora_numpy.ipynb is jane's
    return Entry(_slug(above[-1]), "", _original(parts[-1], name), None, None, member) if above else None


def _readable(info: zipfile.ZipInfo) -> str:
    """The name of a file. Where the archive does not say how it is written, Python takes it for DOS, and a Mac writes
    UTF-8: that is tried first."""
    dos = info.filename
    if info.flag_bits & 0x800 or dos.isascii():
        return dos
    with contextlib.suppress(UnicodeError):
        return dos.encode("cp437").decode()
    return dos


def _original(file: str, name: str) -> str:
    """Canvas calls the second hand-in of a file name-1.ipynb, and a browser a second download name (1).ipynb."""
    return f"{name}.ipynb" if re.fullmatch(re.escape(name) + r"(-\d+| ?\(\d+\))\.ipynb", file) else _safe(file)


def _slug(who: str) -> str:
    return _safe(re.sub(r"[^\w.-]+", "-", who).strip("-."))


def _safe(file: str) -> str:
    """A name that every file system takes (255 bytes): of a longer one its start."""
    name = re.sub(r"[^\w. -]+", "-", file).lstrip(".") or "unnamed"
    return name.encode()[:200].decode(errors="ignore")


def _notebooks(content: zipfile.ZipFile, entries: list[Entry], name: str) -> dict[str, bytes]:
    """The notebooks of a student, by their names. What was put right is noted in the entries."""
    found = [(e, file, data) for e in entries for file, data in mending.notebooks(e.file, content.read(e.member))]
    kept = {}
    for entry, file, data in found:
        written, letters = mending.in_utf8(data)
        said = [letters, "the name had a browser's number in it" * ("(" in PurePosixPath(entry.member).name)]
        if len(found) == 1 and entry.file != f"{name}.ipynb" and mending.is_the_assignment(file, written, name):
            said = [letters, f"it was called {_safe(file)}" * (file != f"{name}.ipynb")]
            said += [f"it came in {entry.file}" * entry.file.endswith(".zip")]
            entry.file = f"{name}.ipynb"
        if entry.file.endswith(".ipynb"):  # what is left in a zip archive is nobody's name for a notebook
            kept[entry.file] = written
        entry.note = "; ".join(filter(None, said)) if entry.file == f"{name}.ipynb" else ""
    return kept


def _replace(content: zipfile.ZipFile, student: str, entries: list[Entry], damaged: dict[str, str], name: str) -> None:
    folder = folder_of(student, name)
    notebooks = _notebooks(content, [entry for entry in entries if entry.member not in damaged], name)
    if folder.is_dir() and notebooks == {path.name: path.read_bytes() for path in folder.glob("*.ipynb")}:
        return  # graded already, perhaps: nothing new
    shutil.rmtree(folder, ignore_errors=True)
    shutil.rmtree(folders.required() / "autograded" / student / name, ignore_errors=True)
    folder.mkdir(parents=True)
    for file, text in notebooks.items():  # notebooks only: a numpy.py beside one would be imported instead of NumPy
        (folder / file).write_bytes(text)
    listing = [f"{e.file} ({damaged[e.member]})" if e.member in damaged else e.file for e in entries]
    (folder / folders.HANDED_IN).write_text("".join(line + "\n" for line in listing), encoding="utf-8")
    times = [entry.time for entry in entries if entry.time]
    if times:
        (folder / "timestamp.txt").write_text(max(times), encoding="utf-8")


def _record(name: str) -> Path:
    return folders.required() / "reports" / f"{name}-collected.json"


def _remember(name: str, taken: list[Entry]) -> None:
    ordered = sorted(taken, key=lambda entry: entry.file == f"{name}.ipynb")  # this one says where feedback goes
    known = remembered(name) | {entry.student: asdict(entry) for entry in ordered}
    folders.keep(_record(name), known)
