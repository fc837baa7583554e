"""nbgrader's autograde over all submissions, and who could not be graded: by student, with a reason."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from classroom import folders, nbgrading, sandbox
from classroom import obstacles as inspecting
from classroom.expecting import read_hidden
from classroom.releasing import released_cohort
from lora_edu.records import staging


def autograde(name: str, force: bool = False, unboxed: bool = False, jobs: int = 1) -> dict[str, str]:
    """Grade what is in submitted/. Returns student -> reason for each submission that could not be graded.

    force: grade those again that are graded already. A submission that stops nbgrader does not stop the others.
    unboxed: where no box holds, go on without; each reason then says so. jobs: so many nbgraders run side by side.
    Raises FileNotFoundError, before anything runs, if the assignment was not released here, and NoBox if no box holds.
    """
    root = folders.required()
    released = _released(name)
    submitted = {path.parent.name: path for path in sorted((root / "submitted").glob(f"*/{name}"))}
    if not submitted:
        raise FileNotFoundError(f"no submissions: {root / 'submitted'} has no folder <student>/{name}")
    box = sandbox.box(unboxed)
    problems = {s: reason for s, path in submitted.items() if (reason := inspecting.before(path, name, released))}
    unread, waiting = set(problems), sorted(set(submitted) - set(problems))
    _run(name, waiting, force, jobs, box)
    missed = [s for s in waiting if not graded(s, name).exists() and inspecting.noted(s, name) is None]
    _run(name, missed, False, 1, box)  # side by side, one may have waited for the gradebook too long: again, alone
    for student in waiting:
        done = graded(student, name)
        gave_up = inspecting.noted(student, name) or "nbgrader gave up, see its log in reports/"
        if reason := inspecting.after(done) if done.exists() else gave_up:
            problems[student] = reason
    if box == sandbox.UNBOXED:
        problems |= {s: f"{problems[s]}; {sandbox.OPEN}" for s in set(problems) - unread}
    with staging(_problems(name)) as part:
        part.write_text(json.dumps(dict(sorted(problems.items())), indent=1), encoding="utf-8")
    return problems


def ungraded(name: str) -> dict[str, str]:
    """What the last `autograde` could not grade: student -> reason."""
    path = _problems(name)
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _released(name: str) -> nbformat.NotebookNode:
    cohort, path = released_cohort(name), folders.required() / "release" / name / f"{name}.ipynb"
    if cohort is None or not path.exists() or not folders.hidden_file(name, cohort).exists():
        raise FileNotFoundError(
            f"{name} was not released in {folders.required()}: run `python -m classroom release` with the "
            "cohort that was handed out; the hidden tests compare with what it writes"
        )
    read_hidden(name, cohort)  # before several do it side by side: one of an earlier version is written anew
    return nbformat.read(path, as_version=4)


def _run(name: str, students: list[str], force: bool, jobs: int, box: str) -> None:
    """nbgrader's autograde of these students, some side by side, each in a process that takes one after the other."""

    def one(job: int) -> None:
        if share := students[job::jobs]:
            done = nbgrading.program(__name__, name, str(force), *share, **{sandbox.VARIABLE: box})
            with staging(folders.required() / "reports" / f"{name}-autograde{job or ''}.log") as part:
                part.write_text(done.stdout, encoding="utf-8")

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(one, range(jobs)))


def main() -> None:
    name, force, *students = sys.argv[1:]
    nbgrader = nbgrading.api()
    for student in students:
        found = nbgrader.autograde(name, student, force=force == "True")
        print(found.get("log", ""), found.get("error", ""), flush=True)


def graded(student: str, name: str) -> Path:
    return folders.required() / "autograded" / student / name / f"{name}.ipynb"


def _problems(name: str) -> Path:
    return folders.required() / "reports" / f"{name}-not-graded.json"


if __name__ == "__main__":
    main()
