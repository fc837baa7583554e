"""Plug-ins for nbgrader: the cohort of a release, deleted cells put back, the sandbox, feedback, points off when late.

Needs the extra `classroom`.
"""

import html
import json
import math
import re
import tempfile
from pathlib import Path

import nbformat
from nbformat import v4
from nbgrader.plugins import BasePlugin
from nbgrader.preprocessors import NbGraderPreprocessor
from traitlets import Float, Integer, Unicode

from classroom import cleaning, folders, judge, sandbox
from classroom import obstacles as inspecting
from classroom.expecting import read_hidden

FORMATIVE = 'COHORT = "formative"'


def set_cohort(source: str, cohort: str) -> str:
    """The source of the first code cell, for a cohort."""
    return source.replace(FORMATIVE, f'COHORT = "{cohort}"')


class SetCohort(NbGraderPreprocessor):
    """Writes the cohort into the notebook that is released, and into each hidden test.

    A test that read COHORT from the notebook would grade an answer that sets it to last year's by last year's numbers.
    Raises ValueError if the line to replace is not there.
    """

    cohort = Unicode("formative", help="the cohort whose constants are drawn").tag(config=True)

    def preprocess(self, notebook, resources):
        found = [cell for cell in notebook.cells if cell.cell_type == "code" and FORMATIVE in cell.source]
        if len(found) != 1:
            raise ValueError(f"the source notebook needs exactly one line {FORMATIVE!r}, it has {len(found)}")
        found[0].source = set_cohort(found[0].source, self.cohort)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.source = re.sub(r"^(points\(.*), COHORT\)$", rf'\1, "{self.cohort}")', cell.source, flags=re.M)
        return notebook, resources


class LockText(NbGraderPreprocessor):
    """Makes our text read-only, as nbgrader's read-only cells are: an answer goes into the cell that is marked for it.

    It gives the cells no name in the gradebook, where nbgrader refuses new names once something was handed in.
    """

    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == "markdown" and "nbgrader" not in cell.metadata:
            cell.metadata |= {"deletable": False, "editable": False}
        return cell, resources


class PutBack(NbGraderPreprocessor):
    """Puts read-only cells that a student deleted (the set-up, checks, tests) back to where they were.

    nbgrader's own `add_missing_cells` stops where two of them follow each other. What a hidden test holds it puts in.
    """

    def preprocess(self, notebook, resources):
        place = 0  # behind the last released cell that is there
        for cell in nbformat.read(_released(resources["nbgrader"]["assignment"]), as_version=4).cells:
            name = judge.mark(cell, "grade_id")
            found = [i for i, theirs in enumerate(notebook.cells) if name and judge.mark(theirs, "grade_id") == name]
            if found:
                place = found[0] + 1
            elif judge.mark(cell, "locked"):
                notebook.cells.insert(place, cell)
                place += 1
        return notebook, resources


def _released(name: str) -> Path:
    return folders.required() / "release" / name / f"{name}.ipynb"


class Sandboxed(NbGraderPreprocessor):
    """Runs a submission in a box of its own, judges here what it handed over, and writes the points into its tests.

    Of the box's answer only the outputs are used. Source and marks of the cells are those that went in.
    """

    timeout = Integer(120, help="seconds a cell may run").tag(config=True)
    seconds = Integer(900, help="seconds a submission may run").tag(config=True)

    def preprocess(self, notebook, resources):
        name, student = (resources["nbgrader"][key] for key in ("assignment", "student"))
        with inspecting.noting(student, name):
            return self._graded(notebook, name), resources

    def _graded(self, notebook, name: str):
        checks = _released(name).with_name("checks.json")
        with tempfile.TemporaryDirectory() as folder:
            silent = Path(folder, "checks.json")
            stored = checks.read_text(encoding="utf-8")
            silent.write_text(judge.silent(stored), encoding="utf-8")
            executed = sandbox.run(judge.for_the_box(notebook), silent, self.timeout, self.seconds)
        word = read_hidden(name, json.loads(stored)["cohort"])["word"]
        executed = nbformat.reads(nbformat.writes(executed).replace(word, "..."), as_version=4)  # a student prints `In`
        notebook.metadata["box"] = executed.metadata["box"]
        locked, errors = {cell.source for cell in nbformat.read(_released(name), as_version=4).cells}, {}
        for cell, back in zip(notebook.cells, executed.cells, strict=True):
            found = [output for output in back.get("outputs", []) if output.output_type == "error"]
            errors |= {f"test_{judge.mark(cell, 'grade_id')}": error for error in found}
            if judge.is_test(cell):
                cell.outputs = judge.scored(cell, back.outputs, errors.get(judge.mark(cell, "grade_id")))
            elif cell.cell_type == "code":
                cell.outputs = cleaning.outputs(back.outputs)
            elif cell.source not in locked:
                cell.source = cleaning.markdown(cell.source)
        return notebook


class ForTheStudent(NbGraderPreprocessor):
    """A page of feedback begins with what was lost, and shows no line of the tests."""

    def preprocess(self, notebook, resources):
        rows = judge.lost(notebook)
        for cell in filter(judge.is_test, notebook.cells):
            cell.source = cell.source.partition("### BEGIN HIDDEN TESTS")[0].rstrip()
        notebook.cells.insert(0, v4.new_markdown_cell(_table(rows)))
        return notebook, resources


def _table(rows: list[list]) -> str:
    if not rows:
        return "**The grader took no point from the code.**"
    head = "".join(f"<th>{word}</th>" for word in ("exercise", "part", "lost", "why", "where to read"))
    rows = [[number, part, f"{points:g}", *words] for number, part, points, *words in rows]
    lines = ["".join(f"<td>{html.escape(value)}</td>" for value in row) for row in rows]
    return f"<table><tr>{head}</tr>{''.join(f'<tr>{line}</tr>' for line in lines)}</table>"


class PerDay(BasePlugin):
    """Takes a share of the score for each day that has begun after the due time; nothing within the grace time."""

    percent = Float(10, help="of the score, for each day begun").tag(config=True)
    at_most = Float(50, help="percent of the score, in all").tag(config=True)
    grace_minutes = Float(15, help="a clock may be wrong, and a network slow").tag(config=True)

    def late_submission_penalty(self, student_id: str, score: float, total_seconds_late: float) -> float:
        """The points to take off. nbgrader calls it for submissions after the due time only."""
        if total_seconds_late <= 60 * self.grace_minutes:
            return 0.0
        return score * min(self.percent * math.ceil(total_seconds_late / 86400), self.at_most) / 100
