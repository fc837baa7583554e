"""What a check shows and keeps: the smallest failing case, symptoms, cards, and progress over kernels and copies."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT

from lora_course.checking import cards, describing, grading
from lora_course.checking.exercise import exercise
from lora_course.checking.grading import WrongAnswer
from lora_course.drawing import tables
from lora_course.setup import working_copy


@exercise("1.1", [(np.ones((2, 3)), 2.0)], taught={"x * k -> x + k": "this adds."})
def EXAMPLE(x, k):
    return x * k  # the product


ARGUMENTS = [
    (2.5, "2.5"),
    ((64, 48), "(64, 48)"),
    ([0.0] * 5, "list of shape (5,)"),
    ({"a": torch.zeros(2, 3), "b": [1, 2]}, "{'a': array of shape (2, 3), 'b': [1, 2]}"),
    ([("linear", (67, 49), False)], "[('linear', (67, 49), False)]"),
    (list("abcdefgh"), "['a', 'b', 'c', 'd', ... 8 in all]"),
]


@pytest.mark.parametrize(("argument", "text"), ARGUMENTS)
def test_an_argument_is_shown_in_a_few_words(argument, text):
    assert describing.describe(argument) == text


def test_a_guess_stands_beside_the_measurement(capsys):
    grading.beside(None, "3 GB")
    grading.beside(5, "3 GB")
    assert capsys.readouterr().out == "what was measured:\n3 GB\nwhat was measured:\n3 GB     your guess: 5\n"
    grading.beside(None, {"rank 1": "51%", "rank 8": "80%"})
    assert capsys.readouterr().out == "what was measured:\nrank 1: 51%, rank 8: 80%\n"


@exercise("1.1", [(torch.arange(3.0),)])
def CENTERED(x):
    return x - x.mean()  # the numbers without their mean


def test_a_function_that_changes_its_inputs_fools_nobody():
    for wrong in (lambda x: x.zero_(), lambda x: x.add_(1)):  # a reference run on what is left would agree
        with pytest.raises(WrongAnswer, match="entry.*Besides, your function changes `x`"):
            CENTERED(wrong)
    for _ in range(2):  # a right answer in place is right, as often as it is checked
        CENTERED(lambda x: x.sub_(x.mean()))


@pytest.fixture
def notebook(monkeypatch, tmp_path):
    """As if in a notebook: what is displayed, and an empty cache."""
    shown = []
    monkeypatch.setattr(cards.InteractiveShell, "initialized", lambda: True)
    monkeypatch.setattr(tables, "display", lambda bundle, raw, metadata: shown.append(bundle))
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    monkeypatch.setattr(grading, "_results", {})
    monkeypatch.setattr(grading, "_announced", {})
    return shown


def test_a_card_has_an_icon_words_and_a_text_beside_it(notebook):
    grading.record("9.1", "correct")
    with pytest.raises(WrongAnswer) as error:
        EXAMPLE(lambda x, k: x + k)
    assert len(notebook) == 1  # nothing yet for an error that somebody may catch
    (line,) = error.value._render_traceback_()
    assert "see the card" in line
    error.value._render_traceback_()  # IPython asks twice; the card is shown once
    for bundle, icon, text in zip(notebook, "✓✗", ("Exercise 9.1: correct", "Exercise 1.1: this adds."), strict=True):
        assert bundle["text/plain"].startswith(text) and text in bundle["text/html"] and icon in bundle["text/html"]


def test_a_sentence_in_a_card_cannot_be_html():
    shown = cards._with_code("use `x < 1` & not <b>")
    assert shown == "use <code>x &lt; 1</code> &amp; not &lt;b&gt;"
    assert cards._with_code("one ` alone") == "one ` alone"


def test_progress_survives_a_restart_and_once_right_stays_right(notebook, monkeypatch):
    for number, result in (("0.1", "correct"), ("0.1", "not right yet"), ("0.2", "not right yet")):
        grading._keep(number, result)
    known = grading._known_numbers()
    for _ in range(2):  # in this kernel, and in a new one, in which the notebook is run again
        grading.progress()
        done, head, first, *_ = notebook[-1]["text/plain"].splitlines()
        assert head.split() == ["notebook", "✓", "correct", "✗", "not", "right", "yet", "○", "not", "done", "yet"]
        assert first.find("0.1 (last try: not right)") == head.find("✓ correct") and first.startswith("00 ")
        assert first.find("0.2") == head.find("✗ not right yet")
        assert done == f"1 of {len(known)} done" and all(number in notebook[-1]["text/plain"] for number in known)
        assert cards.remembered() == {"0.1": "correct (last try: not right)", "0.2": "not right yet"}
        monkeypatch.setattr(grading, "_results", {})
        grading.record("0.1", "not done yet")
    grading._keep("0.1", "correct")
    assert cards.remembered()["0.1"] == "correct"


def test_progress_without_a_folder(notebook, monkeypatch, tmp_path):
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path / "taken"))
    grading.record("0.1", "correct")  # a folder that cannot be: nothing is said, nothing is kept
    assert cards.remembered() == {}


def test_a_number_that_no_exercise_has_counts_for_nothing(notebook, tmp_path):
    cards.write_record(tmp_path / "progress.json", {"10.1": "correct", "10.2": "correct"})
    grading.progress()
    assert notebook[-1]["text/plain"].startswith("1 of") and "10.2" not in notebook[-1]["text/plain"]


CHECKING = """
import sys
from lora_course.checking import cards
cards.InteractiveShell.initialized = staticmethod(lambda: True)
for k in range(15):
    cards.remember(f"{sys.argv[1]}.{k}", "correct")
"""


def test_three_notebooks_that_check_at_once_lose_nothing(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    kernels = [subprocess.Popen([sys.executable, "-c", CHECKING, str(n)], cwd=tmp_path) for n in range(3)]
    assert [kernel.wait() for kernel in kernels] == [0, 0, 0]
    assert len(cards.remembered()) == 45


# Whatever else is no record, tests/lora_course/running/test_results_damage.py asks of the same reader.
DAMAGES = {
    "a letter": lambda path: path.write_text('{"0.1": "corrict"}'),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
    "a loop": lambda path: (path.unlink(), path.symlink_to(path.name)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_progress_file_is_kept_aside(notebook, tmp_path, damage, capsys):
    grading.record("0.1", "correct")
    damage(tmp_path / "progress.json")
    grading.record("0.2", "correct")
    assert cards.remembered() == {"0.2": "correct"} and len(list(tmp_path.glob("progress-*.json"))) == 1
    assert capsys.readouterr().out.count("progress.json is damaged") == 1


def test_progress_belongs_to_a_copy_of_the_course(notebook, tmp_path, monkeypatch):
    grading.record("0.1", "correct")  # outside of a copy
    for name in ("one", "two"):
        course = working_copy.copy_course(tmp_path / name)
        monkeypatch.chdir(course / "assignments")
        assert cards.remembered() == {}
        grading.record("0.2" if name == "one" else "0.3", "correct")
    assert cards.remembered() == {"0.3": "correct"}
    monkeypatch.chdir(tmp_path / "one")  # beside the copy, as `lora-edu progress` is called
    assert cards.remembered() == {"0.2": "correct"}
    working_copy.copy_course(tmp_path / "one", fresh=True)
    assert cards.remembered() == {}
    monkeypatch.chdir(tmp_path)
    assert cards.remembered() == {"0.1": "correct"}


def test_nothing_is_kept_outside_a_notebook(monkeypatch, tmp_path):
    monkeypatch.setenv("LORA_EDU_CACHE", str(tmp_path))
    EXAMPLE(EXAMPLE.reference)
    assert not list(tmp_path.iterdir())


def test_progress_in_an_assignment_lists_its_exercises(capsys, monkeypatch):
    monkeypatch.setattr(grading, "_results", {"7.1": "correct", "7.10": "not right yet"})
    monkeypatch.setattr(grading, "_announced", {})
    for number in ("7.1", "7.2", "7.10"):
        grading.announce(number, f"title of {number}", "5 min", "3 points")
    capsys.readouterr()
    grading.progress()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("   ")[0].strip() for line in lines] == ["1 of 3 done", "exercise", "7.1", "7.2", "7.10"]
    assert "✓ correct" in lines[2] and "○ not checked yet" in lines[3] and "✗ not right yet" in lines[4]
    assert lines[1].index("title") == lines[2].index("title") and lines[2].endswith("5 min   3 points")
