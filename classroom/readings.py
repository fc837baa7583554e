"""What a teacher gave by hand stays when a submission is graded again, as long as it is for the same answer.

nbgrader's own step asks for every such grade once more, whatever was handed in. Here a grade waits only where there is
something to read: a written answer that has no points yet, or another answer than the one that the points were given
for. The reasons stand in the graded notebook, `notebook.metadata["waits"]`, for the table of grades.
"""

import hashlib
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import SaveAutoGrades

from classroom import cleaning, folders, judge

# What a table says behind the name of the cell
CHANGED = ": another answer than the one that you gave points for"
UNKNOWN = ": whether the answer is the one that you gave points for is not known"
ELSEWHERE = " is as it was handed out, and there is text of their own elsewhere in the notebook"


class SaveGrades(SaveAutoGrades):
    """Saves the points of a run, and decides which grades wait for the teacher."""

    def preprocess(self, notebook, resources):
        name, student = (resources["nbgrader"][key] for key in ("assignment", "student"))
        path = folders.required() / "reports" / f"{name}-answers" / f"{student}.json"
        released = folders.required() / "release" / name / f"{name}.ipynb"
        self.before, self.answers, self.waits = folders.kept(path) or {}, {}, {}
        self.code = own_code(notebook)
        self.text = own_text(notebook, nbformat.read(released, as_version=4))
        notebook, resources = super().preprocess(notebook, resources)
        notebook.metadata["waits"] = self.waits
        folders.keep(path, self.answers)
        return notebook, resources

    def _add_score(self, cell, resources):
        name = judge.mark(cell, "grade_id")
        grade = self.gradebook.find_grade(name, self.notebook_id, self.assignment_id, self.student_id)
        waited = grade.needs_manual_grade
        super()._add_score(cell, resources)
        untouched = grade.auto_score == 0 and not judge.is_test(cell)
        # points for code are for all of it, and for what the grader said; those for a text are for the text
        answer = f"{self.code} {grade.auto_score}" if judge.is_test(cell) else self.text if untouched else cell.source
        self.answers[name] = hashlib.sha256(answer.encode()).hexdigest()
        if untouched and self.text:
            grade.auto_score, grade.needs_manual_grade = None, True
            self.waits[name] = ELSEWHERE
        if grade.manual_score is not None:
            grade.needs_manual_grade = waited or self.answers[name] != self.before.get(name)
            self.waits[name] = CHANGED if name in self.before else UNKNOWN
        self.gradebook.db.commit()

    def _add_comment(self, cell, resources):
        super()._add_comment(cell, resources)
        if self.text and judge.mark(cell, "grade"):  # there is a response, though it is not in this cell
            name = judge.mark(cell, "grade_id")
            comment = self.gradebook.find_comment(name, self.notebook_id, self.assignment_id, self.student_id)
            comment.auto_comment = None
            self.gradebook.db.commit()


def own_code(notebook: NotebookNode) -> str:
    """All code that a student may change."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code" and not judge.mark(cell, "locked")]
    return "\n".join(cell.source for cell in cells)


def own_text(notebook: NotebookNode, released: NotebookNode) -> str:
    """What a student wrote into other cells of text than the marked one: new ones, and changed ones of ours."""
    ours = [cell.source for cell in released.cells if cell.cell_type != "code"]
    handed_out = {_words(source) for source in [*ours, *map(cleaning.markdown, ours), ""]}
    cells = [cell for cell in notebook.cells if cell.cell_type != "code" and not judge.mark(cell, "grade_id")]
    return "\n".join(cell.source for cell in cells if _words(cell.source) not in handed_out)


def _words(text: str) -> str:
    """The same for all that differs in spaces and ends of lines alone, as editors write them."""
    return " ".join(text.split())


def why_waiting(graded: Path, waiting: set[str]) -> list[str]:
    """Of the grades that wait, what is to know besides that nobody has read them."""
    waits = nbformat.read(graded, as_version=4).metadata.get("waits", {})
    return [f"{name.removeprefix('test_')}{why}" for name, why in waits.items() if name in waiting]
