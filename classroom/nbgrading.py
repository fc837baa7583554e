"""nbgrader in the teacher's folder, as a program of its own, since its settings change the process that reads them.

As a program, `python -m classroom.nbgrading NAME` computes the points off for being late once more, from the whole
score. nbgrader takes them off while it autogrades: then no written answer has a grade yet, and due time and percentage
are those of that moment.
"""

import importlib.util
import os
import re
import subprocess
import sys
import sysconfig

from classroom import folders

# `python -m`, without the second and a half in which jsonschema reads grammars of addresses that no notebook has
MODULE = """import runpy, sys
sys.modules["rfc3987_syntax"] = None
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)"""


class NbgraderFailed(RuntimeError):
    """nbgrader ended with an error; the message has its last lines."""


def run(module: str, *arguments: str, **environment: str) -> None:
    """Run `python -m module ...` from the teacher's folder. Raises NbgraderFailed if it ends with an error."""
    done = program(module, *arguments, **environment)
    if done.returncode:
        raise NbgraderFailed(f"{module} {arguments[0]} failed:\n" + "\n".join(done.stdout.splitlines()[-12:]))


def program(module: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run `python -m module ...` from the teacher's folder; stdout has what it said, errors included.

    Raises ModuleNotFoundError where nbgrader is missing.
    """
    if importlib.util.find_spec("nbgrader") is None:
        raise ModuleNotFoundError('nbgrader is missing: pip install "lora-edu[classroom]"')
    ours = os.pathsep.join(filter(None, [str(folders.CLONE), os.environ.get("PYTHONPATH")]))
    # nbgrader calls alembic by its name, and .venv may not be active
    programs = os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)])
    return subprocess.run(
        [sys.executable, "-c", MODULE, module, *arguments],
        cwd=folders.required(),
        # nbgrader's configuration and the hidden tests import `classroom`
        env={**os.environ, "PATH": programs, "PYTHONPATH": ours, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )


def _settings():
    from traitlets.config.loader import PyFileConfigLoader

    return PyFileConfigLoader("nbgrader_config.py", path=".").load_config()


def api():
    """nbgrader's own, with the settings of the folder in which this process was started."""
    from nbgrader.apps import NbGraderAPI

    return NbGraderAPI(config=_settings())


def gradebook():
    """nbgrader's gradebook of the teacher's folder, as a context manager."""
    from nbgrader.api import Gradebook

    root = folders.required()
    settings = (root / "nbgrader_config.py").read_text(encoding="utf-8")
    course = re.search(r"""course_id\s*=\s*["'](.+?)["']""", settings)
    return Gradebook(f"sqlite:///{root / 'gradebook.db'}", course_id=course[1] if course else "")


def main() -> None:
    from nbgrader.preprocessors import AssignLatePenalties

    step = AssignLatePenalties(config=_settings())
    step.init_plugin()
    with gradebook() as book:
        for submission in book.assignment_submissions(sys.argv[1]):
            late, student = submission.total_seconds_late, submission.student.id
            for notebook in submission.notebooks:
                off = late > 0 and step.plugin_inst.late_submission_penalty(student, notebook.score, late)
                notebook.late_submission_penalty = min(max(off, 0), notebook.score) if off else None
        book.db.commit()


if __name__ == "__main__":
    main()
