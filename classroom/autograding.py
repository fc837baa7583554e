"""nbgrader's autograde over all submissions, and who could not be graded: by student, with a reason."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nbformat

from classroom import folders, inspecting, nbgrading, sandbox
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
    waiting, again, unread = set(submitted) - set(problems), force, set(problems)
    while waiting:
        log = _run(name, sorted(waiting), set(submitted), again, jobs, box)
        failed = {s: inspecting.in_the_log(log, s, name) for s in waiting if not _graded(s, name).exists()}
        problems |= {s: reason for s, reason in failed.items() if reason}
        unreached = {s for s, reason in failed.items() if reason is None}
        if unreached == waiting and jobs == 1:  # nothing moved: nbgrader itself does not start
            problems |= dict.fromkeys(unreached, "nbgrader stopped before it came to this submission, see its log")
            break
        waiting, again, jobs = unreached, False, 1
    for student in sorted(set(submitted) - set(problems)):
        reason = inspecting.after(_graded(student, name))
        if reason:
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


def _run(name: str, students: list[str], known: set[str], force: bool, jobs: int, box: str) -> str:
    """What nbgrader says. Of several side by side nothing: whom they leave is tried once more, by one alone."""

    def one(job: int) -> str:
        exclude = sorted(known - set(students[job::jobs]))
        options = [f"--CourseDirectory.student_id_exclude={','.join(exclude)}"] if exclude else []
        options += ["--force"] if force else []
        log = folders.required() / "reports" / f"{name}-autograde{job or ''}.log"
        return nbgrading.run("autograde", name, *options, log=log, allow_failure=True, **{sandbox.VARIABLE: box})

    jobs = min(jobs, len(students))
    with ThreadPoolExecutor(jobs) as pool:
        logs = list(pool.map(one, range(jobs)))
    return logs[0] if jobs == 1 else ""


def _graded(student: str, name: str) -> Path:
    return folders.required() / "autograded" / student / name / f"{name}.ipynb"


def _problems(name: str) -> Path:
    return folders.required() / "reports" / f"{name}-not-graded.json"
