"""What an answer can do to a grader, what a student is told, and how an observation becomes points."""

import ast
import dataclasses
import json
import signal
import sys
import time
import warnings
from types import SimpleNamespace

import nbformat
import numpy as np
import pytest
import torch

from classroom import folders, judge, proof
from classroom.expecting import task_expectations, work
from classroom.sandbox import SubmissionError
from classroom.solutions import Solutions
from lora_course.assignments import looking as observing
from lora_course.assignments import verdict
from lora_course.assignments import visible as checking
from lora_course.assignments.core import Assignment, Constants, Task
from lora_course.checking import comparing, grading, stopping


def observe(answer, c, x):
    seen = observing.observed(answer, x)
    return {"value": seen.value, "type": seen.dtype, "manners": seen.manners}


def drawn(c, rng):
    return [(rng.normal(size=shape).astype(np.float32),) for shape in ((2, 3), (4,))]


DOUBLE = Task(
    "9.1", "scaled", "Scale", 5, {"value": 2, "type": 1, "manners": 1}, drawn, observe, seconds=0.5, names="x"
)
ASSIGNMENT = Assignment("a9_test", "A test", "here", Constants(factor=3), {"9.1": DOUBLE})
SOLUTIONS = Solutions(
    reference=lambda c: lambda x: x * c.factor,
    wrong=[("adds", lambda c: lambda x: x + c.factor, 0, "this adds.", "notebook 00, section 1")],
)
WORD = "a secret word"
HIDDEN = task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, WORD)
HIDDEN["work"] = work(ASSIGNMENT, "9.1", SOLUTIONS, WORD, task_expectations(ASSIGNMENT, "9.1", SOLUTIONS))


def judged(answer, assignment=ASSIGNMENT, stored=HIDDEN):
    got = observing.observe_all(assignment, "9.1", answer, WORD)
    return verdict.judge(assignment.tasks["9.1"], json.loads(json.dumps(got)), stored)


def in_place(x):
    x *= 3
    return x


def loop(x):
    while True:
        try:
            time.sleep(0.01)
        except Exception:
            pass


def noisy(x):
    print("x" * 100_000)
    print("careful", file=sys.stderr)
    warnings.warn("look out", stacklevel=1)
    return x * 3


POINTS = [
    (lambda x: x * 3, 4, "correct, 4 of 4 points"),
    (noisy, 4, "correct"),
    (lambda x: (x * 3).astype(np.float64), 3, "Lost: type (1). case 1, type: expected 'float32', got 'float64'"),
    (in_place, 3, "an input was changed"),
    (lambda x: x, 0, "Lost: value (2)"),
    (lambda x: x + 3, 0, "this adds. See notebook 00, section 1."),
    (lambda x: ..., 0, "not done"),
    (lambda x: 3, 0, ", got one number"),
    (lambda x: {"error": "NotDone"}, 0, "the result should be numbers, got dict"),
    (lambda x: sys.exit(), 0, "SystemExit"),
    (lambda x: [0] * 10**14, 0, "MemoryError"),
    (lambda x: np.zeros(10**6), 0, "array of 1000000 numbers"),
    ("not a function", 0, "TypeError"),
]


@pytest.mark.parametrize(("answer", "points", "message"), POINTS)
def test_points_and_words(answer, points, message, capfd):
    result = judged(answer)
    assert result["points"] == points and message in result["message"]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("given", [np.arange(6.0).reshape(2, 3), torch.arange(6.0).reshape(2, 3)])
def test_a_result_that_is_an_input_is_seen(given):
    assert observing.observed(lambda a: a[0], given).manners == "the result shares memory with an input"
    assert observing.observed(lambda a: a[0] + 0, given).manners == "good"
    assert observing.observed(lambda a: {"out": [a.T]}, given).memory == "shared with an input"
    assert observing.observed(lambda a: a.__imul__(0), given).inputs == "changed"
    assert observing.observed(lambda a: torch.as_tensor(a), given).memory == "shared with an input"
    assert given.sum() == 15  # the answer worked on copies


def spin(x):
    while True:
        try:
            x = x + 0
        except Exception:
            pass


@pytest.fixture
def busy(monkeypatch):
    """A machine that is busy with other things: only the time of the processor says how long an answer takes."""
    monkeypatch.setattr(stopping, "time", SimpleNamespace(thread_time=time.thread_time, monotonic=lambda: 0.0))


@pytest.mark.parametrize(
    ("endless", "words", "clock"),
    [(loop, "did not end in 2.5 seconds", "monotonic"), (spin, "0.5 seconds of the processor", "thread_time")],
)
def test_an_endless_loop_costs_its_time_once(endless, words, clock, request):
    if endless is spin:
        request.getfixturevalue("busy")
    start = getattr(time, clock)()
    result = judged(endless)
    assert getattr(time, clock)() - start < {"monotonic": 4, "thread_time": 0.9}[clock] and result["points"] == 0
    assert f"your answer was stopped: it {'took more than ' * (endless is spin)}{words}" in result["message"]


def test_time_that_other_programs_take_costs_nothing():
    assert judged(lambda x: time.sleep(0.4) or x * 3)["message"].startswith("correct")  # in both cases


def test_an_import_is_not_cut_off(tmp_path, monkeypatch):
    """A compiled library whose import is interrupted can take the kernel down, and the whole submission with it."""
    spinning = "while time.thread_time() < end: pass"
    (tmp_path / "slow_library.py").write_text(f"import time\nend = time.thread_time() + 0.8\n{spinning}\nready = True")
    monkeypatch.syspath_prepend(tmp_path)

    def answer(x):
        import slow_library

        return x * 3 if slow_library.ready else loop(x)

    message = judged(answer)["message"]
    assert sys.modules["slow_library"].ready  # though 0.5 seconds had passed
    assert message.startswith("correct")  # what is imported costs no time


def test_an_error_in_one_part_costs_that_part_alone():
    def lazy(answer, c, x):
        return {"value": answer(x), "type": lambda: 1 / 0, "manners": lambda: "good"}

    task = dataclasses.replace(DOUBLE, observe=lazy)
    seen = observing.observe_case(task, None, lambda x: 3 * x, (np.ones(2),))
    assert seen["type"]["error"] == "ZeroDivisionError" and seen["manners"] == "good"
    assert seen["value"] == {"shape": [2], "values": [3.0, 3.0]}


def test_plain_values_and_their_equality():
    plain, equal = comparing.plain, comparing.equal
    assert plain(torch.tensor([1, 2], dtype=torch.uint8)) == plain([1, 2]) == plain(np.array([1.0, 2.0]))
    assert plain(True) == plain(1.0) and plain(None) is None and plain("x") == "x"
    assert plain(torch.ones(2, requires_grad=True))["values"] == [1, 1]
    assert not equal(plain(object()), plain(object()))  # nobody knows what it is
    assert equal(plain(1 + 9e-6), plain(1)) and not equal(plain(1 + 2e-5), plain(1))
    assert equal(plain([1000, 0.009]), plain([1000, 0.0])) and not equal(plain([1000, 0.02]), plain([1000, 0.0]))
    assert equal(plain(float("inf")), plain(float("inf"))) and not equal(plain(float("nan")), plain(1.0))
    assert not equal(plain(3), plain(4), tolerance=0) and equal(plain(3), plain(3), tolerance=0)
    assert not equal(plain([1]), plain(1)) and not equal("1", plain(1))


CHECKED = [
    (lambda x: x + 3, r"Exercise 9.1: this adds\. See notebook 00, section 1\."),
    (lambda x: x * 2, r"for \(x \(2, 3\)\), value: entry \[\d, \d\] should be"),
    (lambda x: np.where(np.indices(x.shape)[-1] == 2, np.nan, x * 3), r"entry \[0, 2\] should be \S+, got nan"),
    (lambda x: "six", "the result should be numbers, got str"),
    (lambda x: 3 * x.T, r"the result should have shape \(2, 3\), got \(3, 2\)"),
    (lambda x: x @ x, r"your answer stopped with ValueError"),
    (print, r"hands its result over with `return`"),
    (in_place, "an input was changed"),
]


def test_the_check_of_the_student(capsys):
    visible = task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, "visible")
    check = checking.Check(ASSIGNMENT, "9.1", json.loads(json.dumps(visible)))
    check(lambda x: x * 3)
    check(lambda x: ...)
    assert capsys.readouterr().out == "Exercise 9.1: correct\nExercise 9.1: not done yet\n"
    for answer, message in CHECKED:
        with pytest.raises(AssertionError, match=message):
            check(answer)
    assert grading._results["9.1"] == "correct (last try: not right)"
    with pytest.raises(KeyboardInterrupt):
        check(lambda x: signal.raise_signal(signal.SIGINT))


def test_the_check_tries_a_slow_answer_once_more(capsys, busy):
    quick = dataclasses.replace(ASSIGNMENT, tasks={"9.1": dataclasses.replace(DOUBLE, seconds=0.1)})
    check = checking.Check(quick, "9.1", task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, "visible"))
    tries = iter([spin])
    check(lambda x: next(tries, lambda x: x * 3)(x))
    assert capsys.readouterr().out == "Exercise 9.1: correct\n"
    with pytest.raises(AssertionError, match="took more than 0.1 seconds of the processor"):
        check(spin)


def cell_of_a_test(source='points("a9_test", "9.1", scaled, "here")'):
    marks = {"grade_id": "test_scaled", "grade": True, "solution": False, "locked": True, "points": 4}
    return nbformat.v4.new_code_cell(source, metadata={"nbgrader": marks})


@pytest.fixture
def stored(folder, monkeypatch):
    """What is expected, in the teacher's folder."""
    path = folder / "hidden" / "here" / "a9_test.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"word": WORD, "form": 2, "tasks": {"9.1": HIDDEN}}))
    monkeypatch.setattr(judge, "load", lambda name, cohort: ASSIGNMENT)
    return path


def sent(answer):
    return observation(json.dumps(observing.observe_all(ASSIGNMENT, "9.1", answer, WORD)))


def observation(text):
    return nbformat.v4.new_output("display_data", {observing.MIME: text})


def points_and_words(*outputs):
    words, score = judge.scored(cell_of_a_test(), list(outputs))
    return float(score.data["text/plain"]), words.text


def test_the_points_come_from_the_observation_and_from_nothing_that_is_printed(stored):
    shout = nbformat.v4.new_output("stream", name="stdout", text="4.0")
    result = nbformat.v4.new_output("execute_result", {"text/plain": "4.0"}, execution_count=1)
    error = nbformat.v4.new_output("error", ename="NameError", evalue="scaled is not defined", traceback=[])
    assert points_and_words(sent(lambda x: 3 * x)) == (4.0, "Exercise 9.1: correct, 4 of 4 points\n")
    assert points_and_words(shout, sent(lambda x: x + 3), result)[0] == 0.0
    points, words = points_and_words(result, error)
    assert points == 0.0 and "the test stopped with NameError: scaled is not defined" in words
    failed = nbformat.v4.new_output("error", ename="SyntaxError", evalue="'(' was never closed", traceback=[])
    words = judge.scored(cell_of_a_test(), [error], failed)[0].text
    assert "the cell of the answer stopped with SyntaxError: '(' was never closed" in words


def test_an_observation_that_is_none_is_no_zero_and_no_points(stored):
    right = sent(lambda x: 3 * x)
    for outputs in ([], [right, right], [observation("{")], [observation("[" * 99_999)]):
        with pytest.raises(SubmissionError, match="exercise 9.1"):
            judge.scored(cell_of_a_test(), outputs)
    flat, huge = {"shape": [2, 3], "values": [0.0] * 5}, {"shape": [1], "values": [10**400]}
    parts = (flat, huge, {"shape": [-1], "values": []}, 10**400, ["x"], {"error": 3})
    whole = [json.dumps([{"value": part, "type": part, "manners": part}] * 2) for part in parts]
    for text in (*whole, "[]", "{}", "3", '[{"value": 1}]', "[[]]"):
        assert points_and_words(observation(text))[0] == 0.0


def test_a_grader_that_fails_says_so(stored, monkeypatch):
    with pytest.raises(judge.CannotGrade, match="test_scaled has no line points"):
        judge.scored(cell_of_a_test("4.0"), [])
    later = dataclasses.replace(ASSIGNMENT, tasks={"9.1": dataclasses.replace(DOUBLE, edition=2)})
    monkeypatch.setattr(judge, "load", lambda name, cohort: later)
    with pytest.raises(judge.CannotGrade, match=r"exercise 9.1 .* install the version"):
        points_and_words(sent(lambda x: 3 * x))  # what was stored is of another edition
    stored.write_text('{"word": "another", "form": 2}')
    with pytest.raises(judge.CannotGrade, match="KeyError"):
        judge.scored(cell_of_a_test(), [])


def test_a_test_in_the_box_sets_up_again_and_names_nothing_of_the_teachers(stored):
    setup = nbformat.v4.new_code_cell("c = 1")
    setup.metadata["nbgrader"] = {"grade_id": "setup", "locked": True, "grade": False}
    boxed = judge.for_the_box(nbformat.v4.new_notebook(cells=[setup, cell_of_a_test()])).cells[1].source
    assert boxed.startswith("c = 1\n")
    assert "classroom" not in boxed.replace(str(folders.CLONE), "") and "points" not in boxed
    inside = ast.parse(boxed).body[1].value.args[0].value
    asked = {"name": "a9_test", "number": "9.1", "answer": "scaled", "cohort": "here", "word": WORD}
    asked |= {"course": str(folders.CLONE), "pieces": []}
    assert inside.endswith(f"\nhand_over(here, **{asked!r})")


def test_the_proof_sees_what_is_wrong_with_a_grader():
    bad = Solutions(
        reference=lambda c: lambda x: x * c.factor,
        right={"one": lambda c: lambda x: x * 2},
        wrong=[
            ("adds", lambda c: lambda x: x + c.factor, 1, "this adds."),
            ("right", lambda c: lambda x: 3 * x, 4),
            ("as well", lambda c: lambda x: x + 3, 0, "this adds, too."),
        ],
    )
    complaints = "\n".join(proof.prove_task(ASSIGNMENT, "9.1", bad))
    assert "1 right answers beside the reference, two are needed" in complaints and "right answer 'one'" in complaints
    assert "wrong answer 'adds' keeps 1 as stated, but" in complaints
    assert "wrong answer 'right' loses nothing" in complaints
    assert "wrong answer 'as well' is told: this adds." in complaints


def test_a_reference_that_is_too_slow_is_an_error_and_expected_of_nobody():
    slow = dataclasses.replace(SOLUTIONS, reference=lambda c: lambda x: time.sleep(2))
    with pytest.raises(RuntimeError, match=r"a9_test, exercise 9.1: the reference took longer than the 0.5 seconds"):
        task_expectations(ASSIGNMENT, "9.1", slow)


def test_a_task_that_changed_is_refused_by_name_and_the_others_work(capsys, monkeypatch):
    of_before = dict.fromkeys(("9.1", "9.2", "9.3"), task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, "visible"))
    other = {"9.2": {"name": "edited", "edition": 2}, "9.3": {"name": "parted", "parts": {"value": 2}}}
    tasks = {"9.1": DOUBLE} | {number: dataclasses.replace(DOUBLE, **keys) for number, keys in other.items()}
    monkeypatch.setattr(checking, "load", lambda *_: dataclasses.replace(ASSIGNMENT, tasks=tasks))
    monkeypatch.setattr(checking, "stored_checks", lambda *_: {"tasks": of_before})
    check = checking.checks("a9_test")
    check.scaled(lambda x: x * 3)
    assert "9.1: correct" in capsys.readouterr().out
    for number, keys in other.items():
        with pytest.raises(ValueError, match=f"exercise {number}, {keys['name']}, .* install the version"):
            getattr(check, keys["name"])(lambda x: x * 3)


def seen(a, b, manners="good"):
    return [{"a": comparing.plain(a), "b": comparing.plain(b), "manners": manners}]


def test_a_mistake_is_recognized_with_bad_manners_besides_and_in_one_part():
    a, b = np.arange(1.0, 7), np.arange(7.0, 13)
    changed, twice = "an input was changed", {"sentence": "this is twice too large.", "see": ""}
    stored = {"expected": seen(a, b), "mistakes": [twice | {"observed": seen(2 * a, 2 * b)}]}

    def said(*parts):
        return verdict.explanation(seen(*parts), stored, 1e-5)

    manners = "case 1, manners: an input was changed (expected: good)."
    assert said(2 * a, 2 * b, changed) == f"this is twice too large. {manners}"
    assert said(a, 2 * b) == "b: this is twice too large."
    assert said(a, 0 * b) == "case 1, b: entry [5] should be 12, got 0. This is zero everywhere."
    assert said(a, b, changed) == manners
    stored["mistakes"] = [twice | {"observed": seen(2 * a, 3 * b)}, twice | {"observed": seen(4 * a, 2 * b)}]
    assert said(2 * a, 2 * b) == "a: this is twice too large."  # once
    both = "case 1, a: entry [5] should be 6, got 0. This is zero everywhere. case 1, manners: an input"
    assert said(0 * a, b, changed).startswith(both)  # each part that is wrong is explained
