"""Whole submissions through real nbgrader: release, collect, autograde, feedback, grades."""

import os
import zipfile

import classroom_folder
import nbformat
import pytest
from classroom_folder import NAME, archive, collect

from classroom import autograding, collecting, folders, grades, nbgrading, releasing
from lora_course.assignments import core

pytestmark = pytest.mark.slow  # one submission goes through in test_assignments
DUE = "2026-03-06 18:00"
A_DAY_LATE = (2026, 3, 7, 12, 0, 0)

TRAIN = """def train(x, target, W, A, B, alpha, lr, steps):
    s = SCALING
    for _ in range(steps):
        g = s * (x @ W + s * x @ A @ B.T - target) / len(x)
        A, B = A - lr * x.T @ g @ B, B - RATIO * lr * g.T @ x @ A
    return A, B"""
WRONG_SCALING = TRAIN.replace("SCALING", "alpha").replace("RATIO", "c.ratio")
ONE_RATE = TRAIN.replace("SCALING", "alpha / A.shape[1] ** c.power").replace("RATIO", "1")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = classroom_folder.make(tmp_path_factory.mktemp("loop"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(folders.VARIABLE, str(folder))
        patch.setenv("PATH", os.defpath)  # as `make assignments` runs: .venv is not activated
        releasing.release(NAME, "2026a", due=DUE)
        yield folder


def made(root, **answers):
    released = root / "release" / NAME / f"{NAME}.ipynb"
    return classroom_folder.handed_in(released, releasing.solution(NAME, "2026a"), **answers)


def without_tests(notebook):
    ours = ("test_", "check_", "setup")
    notebook.cells = [cell for cell in notebook.cells if not classroom_folder.grade_id(cell).startswith(ours)]
    return notebook


def changed(notebook, start, change):
    """The notebook with another source in the cells whose name begins so."""
    for cell in notebook.cells:
        if classroom_folder.grade_id(cell).startswith(start):
            cell.source = change.format(cell.source)
    return notebook


OTHER_COHORT = f'COHORT = "formative"\nc = constants("{NAME}", COHORT)\n{{}}'  # right for the numbers that are public


def forger(root):
    """What gave full marks, or others' points, before submissions ran in a box of their own."""
    return f"""
import json, os, pathlib, sqlite3
json.dumps = lambda *_, **__: '{{"points": 3.0, "message": "correct"}}'
root = pathlib.Path({str(root)!r})
for path in [*root.glob("*/*/*.ipynb"), *root.glob("*/*/*/*.ipynb")]:
    path.write_text("{{}}")
if root.exists():
    sqlite3.connect(root / "gradebook.db").execute("update grade set auto_score = 8").connection.commit()
def needed_rank(matrix):
    return ...
"""


def submissions(root):
    """Student -> the text of a notebook: what every teacher has seen."""
    blank = {name: None for name in ("needed_rank", "split", "adapter", "train")}
    notebooks = {
        "Ada Right": made(root, predictions="0, for B is zero; 4 ** (1 - 2p); 2."),
        "Bo Blank": made(root, **blank),
        "Cy Scaling": made(root, train=WRONG_SCALING, adapter=None, predictions="0, 1, 8."),
        "Di Parts": changed(made(root, train=ONE_RATE), "test_", "100.0"),
        "Ed Loop": made(root, needed_rank="def needed_rank(matrix):\n    while True:\n        pass"),
        "Flo Exit": made(root, split="def split(matrix, rank):\n    raise SystemExit"),
        "Gus Dead": made(root, train="import os\ndef train(*case):\n    os._exit(1)"),
        "Hal Memory": made(root, train="def train(*case):\n    return [bytearray(10**9) for _ in range(10**6)]"),
        "Ina Deleted": without_tests(made(root)),
        "Mo Cohort": changed(made(root), "needed_rank", OTHER_COHORT),
        "Pat Forger": made(root, **blank | {"needed_rank": forger(root)}),
    }
    return {who: nbformat.writes(notebook) for who, notebook in notebooks.items()} | {"Lu Broken": "{not json"}


def test_from_the_release_to_the_grades(root, tmp_path):
    handed_in = submissions(root).items()
    who = {
        f"{name}_{n}_assignsubmission_file_/{NAME}.ipynb": text for n, (name, text) in enumerate(handed_in, start=100)
    }
    late = {file: A_DAY_LATE for file in who if file.startswith("Cy Scaling")}
    other = {"moemia_7_9_My answers.ipynb": nbformat.writes(made(root))}
    archives = [archive(tmp_path / "moodle.zip", who, late), archive(tmp_path / "canvas.zip", other)]
    collecting.collect(NAME, archives)
    problems = autograding.autograde(NAME, unboxed=True)
    rows = classroom_folder.table(grades.write_grades(NAME))

    for student, reason in {
        "Gus-Dead": "the kernel died",
        "Pat-Forger": "the run ended early, and left nothing to grade",
        "Lu-Broken": "broken file",
        "moemia_7": "there is no a1_lora_numpy.ipynb; handed in: My answers.ipynb",
    }.items():
        row = rows[student]
        assert reason in problems.pop(student) and reason in row["reason"]
        assert (row["score"], row["status"]) == ("", "not graded")
    assert problems == {}

    everything = {"needed_rank": 3, "split": 4, "adapter": 8, "train": 9}
    for student, lost in {
        "Ada-Right": {},
        "Bo-Blank": everything,
        "Cy-Scaling": {"adapter": 8, "train": 6},
        "Di-Parts": {"train": 3},  # its tests said 100 points; they were put right
        "Ed-Loop": {"needed_rank": 3},
        "Flo-Exit": {"split": 4},
        "Hal-Memory": {"train": 9},
        "Ina-Deleted": {},
        "Mo-Cohort": {},  # the numbers are set anew before each test
    }.items():
        got = {task: float(rows[student][task]) for task in everything}
        assert got == {task: points - lost.get(task, 0) for task, points in everything.items()}, student

    ada, cy, bo = rows["Ada-Right"], rows["Cy-Scaling"], rows["Bo-Blank"]
    assert (ada["score"], ada["needs_manual_grade"], ada["predictions"]) == ("", "yes", "")  # nobody has read it yet
    assert (cy["score"], cy["late_penalty"], cy["late_hours"]) == ("", "1", "18.0")  # so far 10 points, 10% off
    assert (bo["score"], bo["status"], bo["late_hours"], bo["max_score"]) == ("0", "graded", "", "30")
    assert ada["lms_number"] == "100"
    path, waiting = grades.write_feedback(NAME)
    assert waiting == ["Ada-Right", "Cy-Scaling"]  # their pages would say 0 for what nobody has read
    assert len(zipfile.ZipFile(path).namelist()) == 7
    look_at = rows["Pat-Forger"]["look_at"].replace(".dumps =", ".dumps=").split()
    assert set(look_at) == {"gradebook", "sqlite", ".dumps=", ".ipynb"}

    with nbgrading.gradebook() as book:  # what the form in nbgrader's Formgrader does
        for student in waiting:
            grade = book.find_grade("predictions", NAME, NAME, student)
            grade.manual_score, grade.needs_manual_grade = 4.5, False
        book.db.commit()
    rows = classroom_folder.table(grades.write_grades(NAME))
    assert rows["Ada-Right"]["score"] == "28.5"
    assert rows["Ada-Right"]["weighted"] == "16.15"  # 17 of 25 count for 30 points
    assert rows["Cy-Scaling"]["weighted"] == "7.395"  # 17 * 14.5 / 30 less the 10 percent for the day
    assert (rows["Cy-Scaling"]["score"], rows["Cy-Scaling"]["late_penalty"]) == ("13.05", "1.45")  # 10% of all of it
    path, waiting = grades.write_feedback(NAME)
    assert waiting == []
    check_feedback(path)
    forged(rows)


def forged(rows):
    """Somebody writes into the gradebook: the difference is reported by name, and the field left blank."""
    with nbgrading.gradebook() as book:
        book.find_grade("test_train", NAME, NAME, "Cy-Scaling").auto_score = 5
        book.find_grade("test_train", NAME, NAME, "Bo-Blank").auto_score = 500
        book.db.commit()
    after = classroom_folder.table(grades.write_grades(NAME))
    assert after["Cy-Scaling"]["score"] == after["Cy-Scaling"]["train"] == after["Bo-Blank"]["score"] == ""
    assert "train: 5.0 in the gradebook, 3 in the notebook" in after["Cy-Scaling"]["reason"]
    assert after["Ada-Right"] == rows["Ada-Right"]
    path, _ = grades.write_feedback(NAME)
    assert not any("Cy Scaling" in page for page in zipfile.ZipFile(path).namelist())


def check_feedback(path):
    with zipfile.ZipFile(path) as content:
        pages = {name: content.read(name).decode() for name in content.namelist()}
    assert len(pages) == 9
    for page in pages.values():
        assert "Content-Security-Policy" in page
        assert not any(word in page for word in ("<script", "<link", 'src="http', 'href="http'))
        assert "checking.py" not in page and str(classroom_folder.ASSIGNMENTS.parent) not in page
    page = pages[f"Cy Scaling_102_assignsubmission_file_/{NAME}.html"]
    assert "this scales by alpha. The scaling is s = alpha / rank**c.power. See notebook 02, section 2." in page
    assert "(Score: 13.05 / 30.0)" in page
    assert "needed_rank (0)" not in page and not any("Gus Dead" in name for name in pages)


@pytest.mark.parametrize("name", core.names())
def test_every_assignment_goes_through_nbgrader(root, tmp_path, name):
    releasing.release(name, "2026a")
    blank = (root / "release" / name / f"{name}.ipynb").read_text(encoding="utf-8")
    files = {"right": releasing.solution(name, "2026a").read_text(encoding="utf-8"), "blank": blank}
    collect(tmp_path, {f"{student}/{name}.ipynb": text for student, text in files.items()}, name=name)
    assert not files.keys() & autograding.autograde(name, unboxed=True).keys()
    rows = classroom_folder.table(grades.write_grades(name))
    for task in core.load(name).tasks.values():
        assert float(rows["right"][task.name]) == task.points and float(rows["blank"][task.name]) == 0
    assert (rows["right"]["status"], rows["blank"]["score"]) == ("waits for a written answer's grade", "0")
    path, waiting = grades.write_feedback(name)
    pages = zipfile.ZipFile(path).namelist()
    assert "right" in waiting and f"blank/{name}.html" in pages and f"right/{name}.html" not in pages
