"""nbgrader's autograde over all submissions, and who could not be graded: by student, with a reason."""

import contextlib
import ctypes
import math
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
import psutil

from classroom import folders, nbgrading, sandbox
from classroom import obstacles as inspecting
from classroom.expecting import read_hidden
from classroom.releasing import released_cohort


def autograde(
    name: str, force: bool = False, unboxed: bool = False, jobs: int = 1, student: str | None = None
) -> dict[str, str]:
    """Grade what is in submitted/. Returns student -> reason for each submission that could not be graded.

    What is graded already is passed over, so that a run that was interrupted goes on; force: grade all again. student:
    this one alone, again. A submission that stops nbgrader does not stop the others, and an answer that took too long
    is tried once more, alone. unboxed: where no box holds, go on without; each reason then says so. jobs: so many
    nbgraders run side by side. Raises FileNotFoundError, before anything runs, if the assignment was not released here,
    or there is no such student, and NoBox if no box holds.
    """
    root = folders.required()
    released = _released(name)
    submitted = {path.parent.name: path for path in sorted((root / "submitted").glob(f"*/{name}"))}
    if student:
        submitted, force = {s: path for s, path in submitted.items() if s == student}, True
        if not submitted:
            raise FileNotFoundError(f"there is no submission {root / 'submitted' / student / name}")
    if not submitted:
        raise FileNotFoundError(f"no submissions: {root / 'submitted'} has no folder <student>/{name}")
    box = sandbox.box(unboxed)
    if not student:
        shutil.rmtree(inspecting.notes(name), ignore_errors=True)
    waiting = []
    for s, path in submitted.items():
        inspecting.note(s, name, reason := inspecting.before(path, name, released))
        waiting += [] if reason else [s]
        if not reason and graded(s, name).exists() and inspecting.after(graded(s, name)):
            shutil.rmtree(graded(s, name).parent)  # cut off while it was written: again
    start = time.time()
    _run(name, waiting, force, jobs, box, progress=True)
    fresh = [s for s in waiting if graded(s, name).exists() and graded(s, name).stat().st_mtime > start]
    missed = [s for s in waiting if not graded(s, name).exists() and s not in inspecting.noted(name)]
    # once more, alone: side by side, one may have been slow, or have waited for the gradebook too long
    _run(name, [s for s in fresh if inspecting.was_slow(graded(s, name))] + missed, True, 1, box)
    for s in waiting:
        gave_up = inspecting.noted(name).get(s, "nbgrader gave up, see its log in reports/")
        if reason := inspecting.after(graded(s, name)) if graded(s, name).exists() else gave_up:
            inspecting.note(s, name, f"{reason}; {sandbox.OPEN}" if box == sandbox.UNBOXED else reason)
    return {s: reason for s, reason in inspecting.noted(name).items() if s in submitted}


def _released(name: str) -> nbformat.NotebookNode:
    cohort, path = released_cohort(name), folders.required() / "release" / name / f"{name}.ipynb"
    if cohort is None or not path.exists() or not folders.hidden_file(name, cohort).exists():
        raise FileNotFoundError(
            f"{name} was not released in {folders.required()}: run `python -m classroom release` with the "
            "cohort that was handed out; the hidden tests compare with what it writes"
        )
    read_hidden(name, cohort)  # refuses one of an earlier version
    return nbformat.read(path, as_version=4)


def _run(name: str, students: list[str], force: bool, jobs: int, box: str, progress: bool = False) -> None:
    """nbgrader's autograde of these students, some side by side, each in a process that takes one after the other."""
    begun, start, said = [s for s in students if force or not graded(s, name).exists()], time.time(), 0

    def one(job: int) -> None:
        if share := students[job::jobs]:
            done = nbgrading.program(__name__, name, str(force), *share, **{sandbox.VARIABLE: box})
            folders.keep(folders.required() / "reports" / f"{name}-autograde{job or ''}.log", done.stdout)

    with ThreadPoolExecutor(jobs) as pool, _ending_what_runs():
        working = [pool.submit(one, job) for job in range(jobs)]
        while wait(working, timeout=2).not_done:
            files = [path for s in begun for path in (graded(s, name), inspecting.notes(name) / f"{s}.txt")]
            done = sum(path.exists() and path.stat().st_mtime > start for path in files)
            if progress and done > said:
                left = math.ceil((time.time() - start) / done * (len(begun) - done) / 60)
                print(f"{done} of {len(begun)} done{f', about {left} min left' * (left > 0)}", flush=True)
                said = done
        for each in working:
            each.result()


@contextlib.contextmanager
def _ending_what_runs() -> Iterator[None]:
    """When somebody presses Ctrl-C, the processes that grade are ended, each with its box and what is half written."""
    try:
        yield
    except KeyboardInterrupt:
        for process in psutil.Process().children():
            process.terminate()
        raise


def main() -> None:
    name, force, *students = sys.argv[1:]
    nbgrader, ended = nbgrading.api(), []

    def end(*_) -> None:
        ended.append(True)
        raise KeyboardInterrupt  # ends the box, and what nbgrader had half written

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, lambda *_: None)  # Ctrl-C reaches this process too: the teacher's one decides
    with contextlib.suppress(AttributeError, OSError):  # on Linux: when the teacher's process ends, this one does
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    for student in students:
        if ended:
            break
        found = nbgrader.autograde(name, student, force=force == "True")
        print(found.get("log", ""), found.get("error", ""), flush=True)


def graded(student: str, name: str) -> Path:
    return folders.required() / "autograded" / student / name / f"{name}.ipynb"


if __name__ == "__main__":
    main()
