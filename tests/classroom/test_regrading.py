"""What a teacher gave by hand, when submissions are graded again; and written answers outside the marked cell."""

import contextlib
import csv
import os
import re
import signal
import subprocess
import sys
import time
import zipfile

import classroom_folder
import nbformat
import psutil
import pytest
from classroom_folder import NAME, collect

from classroom import autograding, cleaning, folders, grades, nbgrading, plugins, readings, releasing

ONE_RATE = """def train(x, target, W, A, B, alpha, lr, steps):
    s = alpha / A.shape[1] ** c.power
    for _ in range(steps):
        g = s * (x @ W + s * x @ A @ B.T - target) / len(x)
        A, B = A - lr * x.T @ g @ B, B - lr * g.T @ x @ A
    return A, B"""
OWN = "My reasoning: B starts at zero, so the gradient of A is 0 in the first step."
CODE = {"ann": 24, "bea": 21, "eve": 24}  # what the grader gives for it
GIVEN = {("ann", "predictions"): 4.5, ("bea", "predictions"): 3, ("bea", "test_train"): 8, ("eve", "predictions"): 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = classroom_folder.make(tmp_path_factory.mktemp("regrading"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(folders.VARIABLE, str(folder))
        releasing.release(NAME, "2026a")
        yield folder


def made(root, own=None, **answers):
    """The text of a hand-in. own: a Markdown cell of the student's, above the one in which the answer belongs."""
    released = root / "release" / NAME / f"{NAME}.ipynb"
    notebook = classroom_folder.handed_in(released, releasing.solution(NAME, "2026a"), **answers)
    place = [classroom_folder.grade_id(cell) for cell in notebook.cells].index("predictions")
    notebook.cells[place:place] = [nbformat.v4.new_markdown_cell(own)] if own else []
    return nbformat.writes(notebook)


def handed_in(root, tmp_path, **students):
    collect(tmp_path, {f"{student}/{NAME}.ipynb": text for student, text in students.items()})


def graded(**how):
    assert autograding.autograde(NAME, unboxed=True, **how) == {}
    return classroom_folder.table(grades.write_grades(NAME))


def pages(**how):
    path, _ = grades.write_feedback(NAME, **how)
    with zipfile.ZipFile(path) as content:
        return {name.partition("/")[0]: content.read(name).decode() for name in content.namelist()}


def read_by_the_teacher():
    """What Formgrader does with points and a comment."""
    with nbgrading.gradebook() as book:
        for (student, cell), points in GIVEN.items():
            grade = book.find_grade(cell, NAME, NAME, student)
            grade.manual_score, grade.needs_manual_grade = points, False
        book.find_comment("predictions", NAME, NAME, "ann").manual_comment = "Well reasoned."
        book.db.commit()


@pytest.mark.slow
def test_what_was_read_stays_read_until_the_answer_changes(root, tmp_path):
    answers = {
        "ann": made(root, predictions="0, for B is zero."),
        "bea": made(root, predictions="0, 1, 8.", train=ONE_RATE),
        "eve": made(root, own=OWN),
    }
    handed_in(root, tmp_path, **answers)
    first = graded()
    waiting = {student for student, row in first.items() if row["status"] == "waits for a written answer's grade"}
    assert waiting == {"ann", "bea", "eve"}
    assert "predictions is as it was handed out, and there is text of their own elsewhere" in first["eve"]["reason"]
    assert first["ann"]["reason"] == "" and OWN in autograding.graded("eve", NAME).read_text(encoding="utf-8")

    code = {student: re.search(r"\((code: .*?)\)</h4>", page)[1] for student, page in pages(code_only=True).items()}
    said = {student: f"code: {points} / 24, written answer: not read yet" for student, points in CODE.items()}
    assert code == said
    with open(root / "grades" / f"{NAME}-mistakes.csv", newline="", encoding="utf-8") as file:
        assert [(row["exercise"], row["students"]) for row in csv.DictReader(file)] == [("1.4", "1")]

    read_by_the_teacher()
    read = classroom_folder.table(grades.write_grades(NAME))
    assert {student: row["score"] for student, row in read.items()} == dict(ann="28.5", bea="26", eve="26")
    assert pages().keys() == answers.keys()
    assert graded(student="ann") == read
    releasing.release(NAME, "2026a")  # as after a grader was mended
    assert graded(force=True) == read
    again = pages()
    assert again.keys() == answers.keys() and "Well reasoned." in again["ann"] and "No response." not in again["eve"]

    changed = {
        "ann": made(root, predictions="0, for B is zero. Then it moves."),
        "bea": made(root, predictions="0, 1, 8.", train=ONE_RATE + "\n"),
        "eve": made(root, own=OWN + " And 2."),
    }
    handed_in(root, tmp_path, **changed)
    for how in ({}, {"student": "bea"}):  # and it waits until somebody has read it, however often it is graded
        after = graded(**how)
        for student, cell in {"ann": "predictions", "bea": "train", "eve": "predictions"}.items():
            row = after[student]
            assert (row["score"], row["needs_manual_grade"], row[cell]) == ("", "yes", ""), student
            assert f"{cell}: another answer than the one that you gave points for" in row["reason"]
        assert after["bea"]["status"] == "waits for points given by hand" and after["bea"]["predictions"] == "3"
    assert pages().keys() == set() and pages(code_only=True).keys() == {"ann", "eve"}  # bea's points for code wait
    with nbgrading.gradebook() as book:
        assert book.find_grade("predictions", NAME, NAME, "ann").manual_score == 4.5  # still filled in


@pytest.mark.slow
def test_ctrl_c_ends_what_runs_and_says_so_in_a_sentence(root, tmp_path):
    endless = nbformat.reads(made(root), as_version=4)
    endless.cells.insert(2, nbformat.v4.new_code_cell("while True: pass"))
    handed_in(root, tmp_path, zoe=nbformat.writes(endless))
    command = [sys.executable, "-m", "classroom", "autograde", NAME, "--unboxed", "--student", "zoe"]
    here = {**os.environ, "PYTHONPATH": str(folders.CLONE)}
    with subprocess.Popen(
        command, cwd=root, env=here, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as run:
        teacher, end = psutil.Process(run.pid), time.monotonic() + 120
        while not (kernels := running(teacher, "ipykernel")) and time.monotonic() < end:
            time.sleep(0.5)
        assert kernels
        started = teacher.children(recursive=True)
        run.send_signal(signal.SIGINT)
        said = run.communicate(timeout=60)
    assert run.returncode == 130 and "about 0 min" not in said[0]
    assert said[1].strip() == "stopped: what is graded stays, and the same command goes on from there"
    _, alive = psutil.wait_procs(started, timeout=10)
    assert not alive and not autograding.graded("zoe", NAME).exists()


def running(process, word):
    """What a process has started, and what that has started, with this word in its command."""
    with contextlib.suppress(psutil.Error):
        return [each for each in process.children(recursive=True) if word in " ".join(each.cmdline())]


def practice():
    return nbformat.read(classroom_folder.ASSIGNMENTS / NAME / f"{NAME}.ipynb", as_version=4)


def test_our_text_is_read_only_and_nothing_else_becomes_so():
    notebook = nbformat.read(classroom_folder.ASSIGNMENTS / "source" / NAME / f"{NAME}.ipynb", as_version=4)
    locked, _ = plugins.LockText().preprocess(notebook, {})
    ours = [cell for cell in locked.cells if cell.metadata.get("editable") is False]
    assert {cell.cell_type for cell in ours} == {"markdown"} and len(ours) == 8
    assert any(cell.source.startswith("**Your reasoning, written before") for cell in ours)
    assert not any("nbgrader" in cell.metadata for cell in ours)


def edited(notebook, start, text):
    [cell] = [cell for cell in notebook.cells if cell.source.startswith(start)]
    cell.source += text
    return notebook


def with_a_cell(notebook, kind, text):
    notebook.cells.append(nbformat.from_dict({"cell_type": kind, "metadata": {}, "source": text}))
    return notebook


def windows_lines(notebook):
    for cell in notebook.cells:
        cell.source = cleaning.markdown(cell.source.replace("\n", "\r\n") + " ")
    return notebook


OWN_TEXT = [
    (lambda notebook: notebook, ""),
    (windows_lines, ""),
    (lambda notebook: edited(notebook, "*Your answer", "It is 0."), ""),  # the marked cell is graded as it is
    (lambda notebook: with_a_cell(notebook, "markdown", " \n"), ""),
    (lambda notebook: with_a_cell(notebook, "code", "# my answer"), ""),
    (lambda notebook: with_a_cell(notebook, "markdown", "It is 0."), "It is 0."),
    (lambda notebook: with_a_cell(notebook, "raw", "It is 0."), "It is 0."),
    (lambda notebook: edited(notebook, "### 1.5", "\n\nIt is 0."), "It is 0."),
]


@pytest.mark.parametrize(("change", "text"), OWN_TEXT)
def test_text_of_their_own_is_what_was_not_handed_out(change, text):
    found = readings.own_text(change(practice()), practice())
    assert found.endswith(text) and bool(found) == bool(text)
