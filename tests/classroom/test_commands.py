"""What the commands say and write: how they end, which mistakes a class makes, who speaks about the notebook."""

import csv
import json
from types import SimpleNamespace
from unittest.mock import Mock

import nbformat
import pytest
from classroom_folder import NAME

from classroom import __main__ as commands
from classroom import autograding, expecting, folders, grades, judge, mistakes, sandbox


def test_grading_ends_with_a_table_whatever_fails(monkeypatch, capsys):
    for step in ("collect", "grades"):
        monkeypatch.setattr(commands, step, Mock(return_value=0))
    for step in ("autograde", "feedback"):
        monkeypatch.setattr(commands, step, Mock(side_effect=RuntimeError("nbgrader stopped"), __name__=step))
    assert commands.grade(SimpleNamespace(unboxed=True)) == 1 and commands.collect.called and commands.grades.called
    assert capsys.readouterr().err.count("nbgrader stopped") == 2


def test_a_command_that_is_stopped_ends_with_a_sentence(monkeypatch, capsys):
    for command, said in {
        "autograde": "what is graded stays, and the same command goes on",
        "prove": "stopped",
    }.items():
        monkeypatch.setattr("sys.argv", ["classroom", command, NAME])
        monkeypatch.setitem(commands.COMMANDS, command, Mock(side_effect=KeyboardInterrupt))
        with pytest.raises(SystemExit) as end:
            commands.main()
        assert end.value.code == 130 and said in capsys.readouterr().err


@pytest.mark.parametrize(("problems", "said"), [({}, "all could"), ({"ann": "?"}, "1 submission could not")])
def test_what_was_graded_is_said_without_two_negatives(problems, said, monkeypatch, capsys):
    monkeypatch.setattr(autograding, "autograde", Mock(return_value=problems))
    monkeypatch.setattr(sandbox, "box", lambda unboxed: "unshare")
    how = SimpleNamespace(name=NAME, force=False, unboxed=False, jobs=1, student=None)
    assert commands.autograde(how) == len(problems)
    assert capsys.readouterr().out.endswith(f"{said} be graded\n")


def graded(student, lost):
    """A graded notebook in which such parts of 1.2 were lost: why, and how many points."""
    cell = nbformat.v4.new_code_cell(f'points("{NAME}", "1.2", split, "2026a")')
    cell.metadata["nbgrader"] = {"grade": True, "solution": False, "grade_id": "test_split"}
    rows = [["product", worth, why, ""] for why, worth in lost.items()]
    cell.outputs = [nbformat.v4.new_output("execute_result", {"text/plain": "1.0"}, metadata={judge.LOST: rows})]
    path = autograding.graded(student, NAME)
    path.parent.mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)


def test_the_mistakes_of_a_class_are_counted_by_their_names(folder):
    named = "the square roots are missing."
    hidden = {"form": expecting.FORM, "tasks": {"1.2": {"mistakes": [{"sentence": named}]}}}
    folders.keep(folders.hidden_file(NAME, "2026a"), hidden)
    folders.keep(folder / "release" / NAME / "checks.json", json.dumps({"cohort": "2026a"}))
    graded("ann", {named: 1, f"B: {named}": 2})  # once, though it cost two parts
    graded("bob", {f"B: {named}": 2, mistakes.BESIDE: 1})
    graded("cy", {"not done, 0 of 4 points": 4})
    graded("=dan", {"case 1, A: secret of the student's": 4})
    graded("eve", {})
    path = mistakes.write_mistakes(NAME, ["ann", "bob", "cy", "=dan", "eve"])
    with open(path, newline="", encoding="utf-8") as file:
        rows = [tuple(row.values()) for row in csv.DictReader(file)]
    assert path == folder / "grades" / f"{NAME}-mistakes.csv"
    assert rows == [("1.2", named, "2"), ("1.2", mistakes.UNNAMED, "1"), ("1.2", mistakes.NOT_DONE, "1")]


def test_the_table_of_conversations_has_all_names_and_is_written_once(folder):
    path = folder / "oral" / f"{NAME}.csv"
    assert grades.oral_points(NAME, ["ann", "bob"]) == {}
    assert path.read_text() == "student,points\nann,\nbob,\n"
    path.write_text("student,points\nann,7.5\nbob,\n")
    assert grades.oral_points(NAME, ["ann", "bob", "cy"]) == {"ann": 7.5}
    assert path.read_text() == "student,points\nann,7.5\nbob,\n"  # what a teacher typed stays
