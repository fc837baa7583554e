"""The teacher's commands, piece by piece: what cannot be graded, points off for being late, what is released."""

import json
import os
import re
import shutil
from datetime import datetime
from types import SimpleNamespace

import classroom_folder
import nbformat
import pytest
from classroom_folder import NAME, collect

from classroom import __main__ as commands
from classroom import autograding, grades, judge, nbgrading, plugins, releasing, sandbox
from classroom import obstacles as inspecting
from lora_course.assignments import checks, core


def strange_marks(notebook):
    notebook.cells[1].metadata["nbgrader"] = ["a list"]
    return notebook


HOSTILE = {
    "cut off": (lambda path: path.write_text('{"cells": ['), "broken file"),
    "no cells": (lambda path: path.write_text('{"cells": 3, "nbformat": 4, "metadata": {}}'), "not a valid notebook"),
    "deep": (lambda path: path.write_text("[" * 100_000 + "]" * 100_000), "a valid notebook"),
    "huge": (lambda path: path.write_text(" " * (inspecting.LARGEST + 1)), "more than 20: clear its outputs"),
    "link": (lambda path: path.symlink_to("/etc/passwd"), "is no regular file"),
    "fifo": (os.mkfifo, "is no regular file"),
    "marks": (lambda path: nbformat.write(strange_marks(released()), path), "marks that nbgrader cannot read"),
}


@pytest.mark.parametrize(("make", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_file_gets_a_reason(tmp_path, make, reason):
    make(tmp_path / f"{NAME}.ipynb")
    assert reason in inspecting.before(tmp_path, NAME, released())
    assert inspecting.suspicious(tmp_path / f"{NAME}.ipynb") == []


# grade_id -> whether it takes an answer, whether it is graded
CELLS = {
    "setup": (False, False),
    "split": (True, False),
    "check_split": (False, False),
    "test_split": (False, True),
    "in_words": (True, True),
    "experiment": (True, False),
}


def released():
    notebook = nbformat.v4.new_notebook()
    for name, (solution, grade) in CELLS.items():
        marks = {"grade_id": name, "solution": solution, "locked": not solution, "grade": grade, "points": 1}
        marks |= {"schema_version": 3, "task": False}
        notebook.cells.append(nbformat.v4.new_code_cell("1", metadata={"nbgrader": marks}))
    return notebook


def without(notebook, *names):
    notebook.cells = [cell for cell in notebook.cells if classroom_folder.grade_id(cell) not in names]
    return notebook


def marked(cells, **marks):
    """A change of what nbgrader knows some cells by."""
    return lambda notebook: [cell.metadata.nbgrader.update(marks) for cell in notebook.cells[cells]] and notebook


CHANGED = [  # and the reason, which is in our words: nothing of the file's own is in it
    (lambda notebook: notebook, None),
    (lambda notebook: without(notebook, "setup", "check_split", "test_split"), None),  # these are put back
    (lambda notebook: without(notebook, "experiment"), None),  # "if you have time"
    (lambda notebook: without(notebook, "split"), "missing cell: split"),
    (lambda notebook: without(notebook, "in_words"), "missing cell: in_words"),
    (marked(slice(1, 2), grade_id="=cmd()"), "missing cell: split"),
    (lambda notebook: classroom_folder.with_a_cell_twice(notebook, "split"), "duplicated cell: split is there"),
    (marked(slice(2), grade_id="=cmd()"), "duplicated cell: one of their own is there"),
    (classroom_folder.stripped, "no cell carries nbgrader's metadata"),
    (marked(slice(6), schema_version=1), "another schema than 3"),
    (marked(slice(6), schema_version="=cmd()"), "another schema than 3"),
    (lambda notebook: notebook | {"cells": ["=cmd()"]}, "not a valid notebook"),
    (lambda notebook: notebook.cells[1].update(cell_type="=cmd()") or notebook, "not a valid notebook"),
]


@pytest.mark.parametrize(("change", "reason"), CHANGED)
def test_what_keeps_a_submission_from_being_graded(tmp_path, change, reason):
    (tmp_path / f"{NAME}.ipynb").write_text(json.dumps(change(released())))
    said = inspecting.before(tmp_path, NAME, released())
    assert said is None if reason is None else reason in said and "cmd" not in said


def test_why_a_submission_was_given_up_is_said_by_us_for_each_student(folder):
    ours = {"bob": sandbox.SubmissionError("the kernel died"), "cy": judge.CannotGrade("KeyError: 'x'")}
    for student, error in (ours | {"ann": KeyError("=1+1")}).items():
        with pytest.raises(type(error)), inspecting.noting(student, NAME):
            raise error
    assert inspecting.noted(NAME) == {"bob": "the kernel died", "cy": "the grader failed: KeyError: 'x'"}
    with inspecting.noting("bob", NAME):  # a second time, and all is well
        assert list(inspecting.noted(NAME)) == ["cy"]


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_of_the_table_is_no_formula(text):
    assert grades._cell(text) == "'" + text and grades._cell(f"a{text}") == f"a{text}"


def test_what_is_damaged_after_grading_is_no_zero(tmp_path):
    path = tmp_path / "a1.ipynb"
    result = nbformat.v4.new_output("execute_result", {"text/plain": "1.0"}, execution_count=1)
    error = nbformat.v4.new_output("error", ename="NameError", evalue="x", traceback=[])

    def after(of_the_test, of_the_setup=()):
        notebook = released()
        notebook.cells[3].outputs, notebook.cells[0].outputs = list(of_the_test), list(of_the_setup)
        nbformat.write(notebook, path)
        return inspecting.after(path)

    assert after([result]) is None
    assert "damaged" in after([]) and "damaged" in after([result, result])
    assert after([result], [error]) == "the cell setup failed: look into the graded notebook"
    path.write_text("{}")
    assert inspecting.after(path).startswith("the graded notebook is damaged")


TRICKS = {
    "%timeit f(x)\nmodel.eval()\nself.weight = 1\nsetattr(parent, name, layer)": [],
    "def (": [],
    "getattr(check.layer.assignment.tasks['2.1'], 'obs' + 'erve').__globals__": ["__globals__", ".assignment"],
    "import sys; sys.modules['classroom.judge'] = None": ["classroom", "sys.modules"],
}


@pytest.mark.parametrize("code", TRICKS)
def test_tricks_are_seen_in_the_students_own_cells_and_in_what_is_no_notebook(tmp_path, code):
    notebook, path = released(), tmp_path / "a1.ipynb"
    notebook.cells[1].source, notebook.cells[3].source = code, "gradebook"  # the second one is a test's
    nbformat.write(notebook, path)
    assert inspecting.suspicious(path) == TRICKS[code]
    path.write_text("{not json, but sqlite3 is in it")
    assert inspecting.suspicious(path) == ["sqlite"] and inspecting.suspicious(tmp_path / "gone.ipynb") == []


@pytest.mark.parametrize(
    ("hours", "off"), [(0, 0), (0.2, 0), (0.3, 1), (23.9, 1), (24.1, 2), (24 * 4.5, 5), (24 * 30, 5)]
)
def test_points_off_for_being_late(hours, off):
    assert plugins.PerDay().late_submission_penalty("ann", 10, hours * 3600) == off


@pytest.fixture(scope="module")
def a_day_late(tmp_path_factory):
    """A gradebook with an assignment that is due, and a student who is a day late. Making one takes seconds."""
    from nbgrader.api import Gradebook

    path = tmp_path_factory.mktemp("gradebook") / "gradebook.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nbgrader.api.get_alembic_version", lambda: "any")  # a program of its own, for two seconds
        with Gradebook(f"sqlite:///{path}") as book:
            book.add_assignment(NAME, duedate=datetime(2026, 3, 6, 18))
            book.add_student("Kim-Lee")
            book.add_submission(NAME, "Kim-Lee", timestamp=datetime(2026, 3, 7, 18))
    return path


@pytest.fixture
def with_a_due_time(folder, a_day_late):
    (folder / "release" / NAME).mkdir(parents=True)
    (folder / "release" / NAME / "checks.json").write_text(json.dumps({"cohort": "2026a"}))
    (folder / "nbgrader_config.py").write_text("")
    shutil.copy(a_day_late, folder)
    return folder


def hours_late(student):
    with nbgrading.gradebook() as book:
        return book.find_submission(NAME, student).total_seconds_late / 3600


def test_an_extension_for_one_student(with_a_due_time):
    releasing.extend(NAME, "Kim-Lee", "2026-03-07 06:00+00:00")
    assert hours_late("Kim-Lee") == 12
    releasing.extend(NAME, "Kim-Lee", "2026-03-08 06:00+00:00")  # the last one counts
    assert hours_late("Kim-Lee") == 0
    collect(with_a_due_time, {f"ann/{NAME}.ipynb": "a"})
    releasing.extend(NAME, "ann", "2026-03-08 06:00+00:00")  # collected, and not graded yet
    assert hours_late("ann") == 0


@pytest.mark.parametrize(
    ("student", "until", "message"),
    [
        ("Kim", "2026-03-08 18:00", "there is no student 'Kim': take the name that the table"),
        ("Kim-Lee", "2026-03-05 18:00", "ends after the due time, which is 2026-03-06 18:00 UTC"),
        ("Kim-Lee", "soon", "written like"),
    ],
)
def test_what_is_no_extension_changes_nothing(with_a_due_time, student, until, message):
    with pytest.raises(ValueError, match=message):
        releasing.extend(NAME, student, until)
    assert hours_late("Kim-Lee") == 24


@pytest.mark.parametrize("jobs", [1, 3, 9])
def test_side_by_side_each_student_is_graded_once(folder, monkeypatch, jobs):
    students, graded = ["ann", "bob", "cy", "dan"], []

    def program(module, name, force, *share, LORA_EDU_BOX):
        graded.extend(share)
        return SimpleNamespace(stdout="what it says")

    monkeypatch.setattr(nbgrading, "program", program)
    autograding._run(NAME, students, False, jobs, "unshare")
    assert sorted(graded) == students


def test_a_run_goes_on_grades_damage_and_slow_answers_again_or_one_student_alone(folder, monkeypatch):
    for student in ("ann", "bob"):
        (folder / "submitted" / student / NAME).mkdir(parents=True)
    (damaged := autograding.graded("ann", NAME)).parent.mkdir(parents=True)
    damaged.write_text("{")
    runs = []

    def run(name, students, force, *_, **__):
        runs.append((students, force))
        for student in students:
            autograding.graded(student, name).parent.mkdir(parents=True, exist_ok=True)
            nbformat.write(nbformat.v4.new_notebook(), autograding.graded(student, name))

    monkeypatch.setattr(autograding, "_run", run)
    monkeypatch.setattr(autograding, "_released", lambda *_: None)
    monkeypatch.setattr(inspecting, "before", lambda *_: None)
    monkeypatch.setattr(inspecting, "was_slow", lambda path: path.parent.parent.name == "bob")
    monkeypatch.setattr(sandbox, "box", lambda unboxed: "unshare")
    assert autograding.autograde(NAME) == {}
    assert runs[:2] == [(["ann", "bob"], False), (["bob"], True)]
    assert autograding.autograde(NAME, student="ann") == {} and runs[2] == (["ann"], True)
    with pytest.raises(FileNotFoundError, match="there is no submission .*cy"):
        autograding.autograde(NAME, student="cy")


def test_points_of_a_conversation_are_read_or_refused_by_line(folder):
    path = folder / "oral" / f"{NAME}.csv"
    path.parent.mkdir()
    path.write_text("student,points\nann,7.5\nbob,\n")
    assert grades.oral_points(NAME, ["ann", "bob"]) == {"ann": 7.5}
    for row, message in {"cy,3": "no student 'cy'", "ann,9": "are 0 to 8, got '9'", "ann,x": "got 'x'"}.items():
        path.write_text(f"student,points\n{row}\n")
        with pytest.raises(ValueError, match=rf"line 2: .*{message}"):
            grades.oral_points(NAME, ["ann", "bob"])


def test_the_page_begins_with_what_was_lost_and_shows_no_test():
    hidden = '### BEGIN HIDDEN TESTS\npoints("a1", "1.2", split, "2026a")\n### END HIDDEN TESTS'
    cell = nbformat.v4.new_code_cell(f"# Graded: exercise 1.2.\n{hidden}")
    cell.metadata["nbgrader"] = {"grade": True, "solution": False, "grade_id": "test_split"}
    lost = [["product", 2, "should be 1 <script>", ""], ["manners", 1.0, "an input was changed", "notebook 02"]]
    result = nbformat.v4.new_output("execute_result", {"text/plain": "1.0"}, metadata={judge.LOST: lost})
    cell.outputs = [result]
    page, _ = plugins.ForTheStudent().preprocess(nbformat.v4.new_notebook(cells=[cell]), {})
    table = re.findall(r"<t[dh]>(.*?)</t[dh]>", page.cells[0].source)
    assert table[:5] == ["exercise", "part", "lost", "why", "where to read"]
    assert table[5:10] == ["1.2", "product", "2", "should be 1 &lt;script&gt;", ""]
    assert table[10:] == ["1.2", "manners", "1", "an input was changed", "notebook 02"]
    assert page.cells[1].source == "# Graded: exercise 1.2."
    cell.outputs[0].metadata, cell.source = {}, hidden.splitlines()[1]
    page, _ = plugins.ForTheStudent().preprocess(nbformat.v4.new_notebook(cells=[cell]), {})
    assert "took no point" in page.cells[0].source


def test_the_cohort_is_written_into_one_cell():
    assert plugins.set_cohort('COHORT = "formative"\nx', "2026a") == 'COHORT = "2026a"\nx'
    with pytest.raises(ValueError, match="exactly one line"):
        plugins.SetCohort(cohort="2026a").preprocess(released(), {})


@pytest.mark.parametrize("cohort", ["", "../up", "a b", 'x"; y', ".hidden"])
def test_a_cohort_is_a_word(folder, cohort):
    with pytest.raises(ValueError, match="a cohort is letters"):
        releasing.release(NAME, cohort)


def test_another_cohort_does_not_replace_one_with_submissions(folder):
    (folder / "release" / NAME).mkdir(parents=True)
    (folder / "release" / NAME / "checks.json").write_text(json.dumps({"cohort": "2025b"}))
    (folder / "submitted" / "ann" / NAME).mkdir(parents=True)
    with pytest.raises(RuntimeError, match="submissions of cohort '2025b'"):
        releasing.release(NAME, "2026a")


def test_leaks_are_seen(tmp_path):
    folder = tmp_path / NAME
    folder.mkdir()
    notebook = released()
    notebook.cells[1].source = "### BEGIN SOLUTION"
    notebook.cells[3].outputs = [nbformat.v4.new_output("stream", name="stdout", text="6.0")]
    nbformat.write(notebook, folder / f"{NAME}.ipynb")
    (folder / "solution.py").touch()
    assert releasing.leaks(folder) == ["the file solution.py", "'BEGIN SOLUTION' in a cell", "the output of a cell"]


@pytest.mark.parametrize(
    ("cohort", "tasks", "message"),
    [("2025b", {}, "take both from the same hand-out"), ("2026a", {"1.1": {}}, "install the version that the assign")],
)
def test_a_student_without_the_teachers_folder_gets_one_clear_line(tmp_path, monkeypatch, cohort, tasks, message):
    monkeypatch.chdir(tmp_path)
    practice = vars(checks(NAME)).values()  # travels with the course
    assert {check.assignment.cohort for check in practice} == {"formative"}
    with pytest.raises(FileNotFoundError, match="checks.json was not found"):
        checks(NAME, "2026a")
    (tmp_path / "checks.json").write_text(json.dumps({"assignment": NAME, "cohort": cohort, "tasks": tasks}))
    with pytest.raises(ValueError, match=message):
        checks(NAME, "2026a")


def test_the_teachers_page_names_commands_links_and_assignments_that_exist():
    page = (classroom_folder.ASSIGNMENTS / "README.md").read_text(encoding="utf-8")
    used = set(re.findall(r"python -m classroom (\w+)", page))
    assert {"grade", "grades", "feedback", "prove", "autograde"} <= used <= set(commands.COMMANDS)
    for name in core.names():
        points = sum(task.points for task in core.load(name).tasks.values())
        row = next(line for line in page.splitlines() if f"({name}/" in line)
        written = int(re.search(r"\| (\d+) \| [^|]*h \|$", row)[1]) - points
        assert 2 <= written <= 7, row


def test_the_recipe_for_a_public_fork_takes_every_solution_along():
    repository = classroom_folder.ASSIGNMENTS.parent.parent
    page = (classroom_folder.ASSIGNMENTS / "README.md").read_text(encoding="utf-8")
    patterns = " ".join(re.findall(r"^rm -rf (.*)$", page, re.M)).split()
    removed = {path for pattern in patterns for path in repository.glob(pattern)}
    assert {classroom_folder.ASSIGNMENTS / "source", repository / "classroom"} <= removed and ".git" in patterns
    assert all(list(repository.glob(pattern)) for pattern in patterns if pattern != ".git")
    words = ("classroom_folder", "from classroom", "BEGIN SOLUTION")
    tests = repository.glob("tests/**/*.py")
    telling = [path for path in tests if any(word in path.read_text("utf-8") for word in words)]
    assert len(telling) >= 4 and all(removed & {path, *path.parents} for path in telling)
