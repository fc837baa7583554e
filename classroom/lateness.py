"""Points off for being late, from the whole score: python -m classroom.lateness NAME, in nbgrader's folder.

nbgrader takes them off while it autogrades, when no written answer has a grade yet, and with the due time and the
percentage of that moment. This program, which `grades` and `feedback` start, does it once more. It is a program of its
own because nbgrader's configuration changes the process that reads it.
"""

import sys

from classroom import nbgrading


def main() -> None:
    from nbgrader.preprocessors import AssignLatePenalties
    from traitlets.config.loader import PyFileConfigLoader

    step = AssignLatePenalties(config=PyFileConfigLoader("nbgrader_config.py", path=".").load_config())
    step.init_plugin()
    with nbgrading.gradebook() as book:
        for submission in book.assignment_submissions(sys.argv[1]):
            for notebook in submission.notebooks:
                notebook.late_submission_penalty = _penalty(step, submission, notebook)
        book.db.commit()


def _penalty(step, submission, notebook) -> float | None:
    if submission.total_seconds_late <= 0:
        return None
    off = step.plugin_inst.late_submission_penalty(submission.student.id, notebook.score, submission.total_seconds_late)
    return None if off is None else min(max(off, 0), notebook.score)


if __name__ == "__main__":
    main()
