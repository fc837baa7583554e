"""What an answer can do to a grader, what a student is told, and how an observation becomes points."""

import dataclasses
import json
import os
import sys
import time
import warnings

import nbformat
import numpy as np
import pytest
import torch

from classroom import folders, judge, proof
from classroom.expecting import task_expectations, work
from classroom.sandbox import SubmissionError
from classroom.solutions import Solutions, Wrong, load_solutions
from lora_edu.assignments import checking, core, observing, verdict
from lora_edu.assignments.core import Assignment, Constants, Task
from lora_edu.exercises import comparing, grading
from lora_edu.exercises.probing import overwritten


def observe(answer, c, x):
    seen = observing.observed(answer, x)
    return {"value": seen.value, "type": seen.dtype, "manners": seen.manners}


DOUBLE = Task(
    number="9.1",
    name="scaled",
    title="Scale",
    minutes=5,
    parts={"value": 2, "type": 1, "manners": 1},
    cases=lambda c, rng: [(rng.normal(size=shape).astype(np.float32),) for shape in ((2, 3), (4,))],
    observe=observe,
    seconds=0.5,
)
ASSIGNMENT = Assignment("a9_test", "A test", "here", Constants(factor=3), {"9.1": DOUBLE})
SOLUTIONS = Solutions(
    reference=lambda c: lambda x: x * c.factor,
    wrong=[Wrong("adds", lambda c: lambda x: x + c.factor, 0, "this adds.", "notebook 00, section 1")],
)
WORD = "a secret word"
HIDDEN = task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, WORD)
HIDDEN["work"] = work(HIDDEN, task_expectations(ASSIGNMENT, "9.1", SOLUTIONS), SOLUTIONS)


def judged(answer):
    got = observing.observe_all(ASSIGNMENT, "9.1", answer, WORD)
    return verdict.judge(DOUBLE, json.loads(json.dumps(got)), HIDDEN)


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
    os.write(2, b"from compiled code")
    warnings.warn("look out", stacklevel=1)
    return x * 3


@pytest.mark.parametrize(
    ("answer", "points", "message"),
    [
        (lambda x: x * 3, 4, "correct, 4 of 4 points"),
        (noisy, 4, "correct"),
        (lambda x: (x * 3).astype(np.float64), 3, "Lost: type (1). case 1, type: expected 'float32', got 'float64'"),
        (in_place, 3, "an input was changed"),
        (lambda x: x, 0, "Lost: value (2)"),
        (lambda x: x + 3, 0, "this adds. See notebook 00, section 1."),
        (lambda x: ..., 0, "not done"),
        (lambda x: None, 0, "gave None"),
        (lambda x: 3, 0, ", got one number"),
        (lambda x: {"shape": [2, 3], "values": ["x"] * 6}, 0, "the result should be numbers, got dict"),
        (lambda x: {"error": "NotDone"}, 0, "the result should be numbers, got dict"),
        (lambda x: sys.exit(), 0, "SystemExit"),
        (lambda x: x / [], 0, "ValueError"),
        (lambda x: [0] * 10**14, 0, "MemoryError"),
        (lambda x: np.zeros(10**6), 0, "array of 1000000 numbers"),
        ("not a function", 0, "TypeError"),
    ],
)
def test_points_and_words(answer, points, message, capfd):
    result = judged(answer)
    assert result["points"] == points and message in result["message"]
    assert capfd.readouterr() == ("", "")


def test_a_result_that_is_an_input_is_seen():
    x = np.arange(6.0).reshape(2, 3)
    t = torch.arange(6.0).reshape(2, 3)
    for given in (x, t):
        assert observing.observed(lambda a: a[0], given).manners == "the result shares memory with an input"
        assert observing.observed(lambda a: a[0] + 0, given).manners == "good"
        assert observing.observed(lambda a: {"out": [a.T]}, given).memory == "shared with an input"
        assert (
            observing.observed(lambda a: a.fill(0) if hasattr(a, "fill") else a.zero_() * 2, given).inputs == "changed"
        )
    assert observing.observed(lambda a: torch.from_numpy(a), x).memory == "shared with an input"
    assert x.sum() == t.sum() == 15  # the answer worked on copies


def test_an_endless_loop_costs_its_time_once():
    start = time.monotonic()
    result = judged(loop)
    assert time.monotonic() - start < 3 and result["points"] == 0 and "TooSlow" in result["message"]


def test_an_import_is_not_cut_off(tmp_path, monkeypatch):
    """A compiled library whose import is interrupted can take the kernel down, and the whole submission with it."""
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(0.8)\nready = True")
    monkeypatch.syspath_prepend(tmp_path)

    def answer(x):
        import slow_library

        return x * 3 if slow_library.ready else loop(x)

    seen = observing.observe_all(ASSIGNMENT, "9.1", answer, "hidden")
    assert sys.modules["slow_library"].ready  # though 0.5 seconds had passed
    assert {part["error"] for case in seen for part in case.values() if isinstance(part, dict) and "error" in part} <= {
        "TooSlow"
    }


def test_an_error_in_one_part_costs_that_part_alone():
    def lazy(answer, c, x):
        return {"value": answer(x), "type": lambda: 1 / 0, "manners": lambda: "good"}

    task = Task("9.2", "lazy", "", 1, {"value": 2, "type": 1, "manners": 1}, DOUBLE.cases, lazy)
    seen = observing.observe_case(task, None, lambda x: 3 * x, (np.ones(2),))
    assert seen["type"]["error"] == "ZeroDivisionError" and seen["manners"] == "good"
    assert seen["value"] == {"shape": [2], "values": [3.0, 3.0]}


@pytest.mark.parametrize(
    ("name", "number", "answer", "message"),
    [
        (
            "a1_lora_numpy",
            "1.2",
            lambda M, r: (np.ones((len(M), r)), np.ones((r, M.shape[1]))),
            "cannot be used: ValueError",
        ),
        ("a1_lora_numpy", "1.2", lambda M, r: np.ones(r) @ M @ M @ M, "your answer stopped with ValueError"),
        ("a1_lora_numpy", "1.1", lambda M: 1, "rank: expected "),  # one is no share of the energy
        ("a2_lora_torch", "2.2", lambda *_: None, "nothing was replaced in the model that was given"),
    ],
)
def test_what_stopped_is_the_answer_or_what_looks_at_it(name, number, answer, message):
    assignment, solutions = core.load(name, "2026a"), load_solutions(name)[number]
    said = proof.what_the_check_says(
        assignment, number, lambda c: answer, task_expectations(assignment, number, solutions, "visible")
    )
    assert message in said and (message.startswith("your") or "your answer stopped" not in said)


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


@pytest.mark.parametrize("part", ["error", "shape", "unknown", "values", "value"])
def test_a_part_may_have_any_name(part):
    """A mistake is recognized, whatever the thing that is observed is called."""
    task = Task("9.3", "named", "", 1, {part: 2}, DOUBLE.cases, lambda answer, c, x: {part: answer(x)})
    assignment = Assignment("a9_test", "A test", "here", Constants(factor=3), {"9.3": task})
    stored = task_expectations(assignment, "9.3", SOLUTIONS, "hidden")
    for answer, message in [
        (lambda x: (x + 3) * (1 + 1e-7), "this adds."),
        (lambda x: x - 3, "entry ["),
        (lambda x: 1 / 0, "ZeroDivisionError"),
    ]:
        got = json.loads(json.dumps(observing.observe_all(assignment, "9.3", answer, "hidden")))
        result = verdict.judge(task, got, stored)
        assert result["points"] == 0 and message in result["message"]
    got = observing.observe_all(assignment, "9.3", lambda x: x * 3, "hidden")
    assert verdict.judge(task, got, stored)["points"] == 2


def test_the_check_of_the_student(capsys):
    visible = task_expectations(ASSIGNMENT, "9.1", SOLUTIONS, "visible")
    check = checking.Check(ASSIGNMENT, "9.1", json.loads(json.dumps(visible)))
    check(lambda x: x * 3)
    check(lambda x: ...)
    assert capsys.readouterr().out == "Exercise 9.1: correct\nExercise 9.1: not done yet\n"
    for answer, message in [
        (lambda x: x + 3, r"Exercise 9.1: this adds\. See notebook 00, section 1\."),
        (lambda x: x * 2, r"for \(array of shape \(2, 3\)\), value: entry \[\d, \d\] should be"),
        (lambda x: x @ x, r"your answer stopped with ValueError"),
        (lambda x: print(x), r"hands its result over with `return`"),
        (in_place, "an input was changed"),
    ]:
        with pytest.raises(AssertionError, match=message):
            check(answer)
    assert grading._results["9.1"] == "correct (last try: not right)"

    def stopped(x):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(stopped)


def everything_in(cases):
    """As a text, with what a case does not show of itself."""
    return repr([vars(one) if hasattr(one, "__dict__") else one for case in cases for one in case])


def same(cases, others):
    return not any(overwritten(one, other) for one, other in zip(cases, others, strict=True))


def test_visible_and_hidden_cases_differ_and_stay():
    for name in core.names():
        assignment = core.load(name, "2026a")
        for number in assignment.tasks:
            first, again = assignment.cases(number, "visible"), assignment.cases(number, "visible")
            hidden = assignment.cases(number, "hidden")
            assert same(first, again), (name, number)
            shown = everything_in(first) != everything_in(hidden)
            assert shown or not same(first, hidden), (name, number)


def cell_of_a_test(source='points("a9_test", "9.1", scaled, "here")'):
    cell = nbformat.v4.new_code_cell(source)
    cell.metadata["nbgrader"] = {
        "grade_id": "test_scaled",
        "grade": True,
        "solution": False,
        "locked": True,
        "points": 4,
    }
    return cell


@pytest.fixture
def stored(monkeypatch, tmp_path):
    """What is expected, in the teacher's folder."""
    path = tmp_path / "hidden" / "here" / "a9_test.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"word": WORD, "tasks": {"9.1": HIDDEN}}))
    monkeypatch.setenv(folders.VARIABLE, str(tmp_path))
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
    assert points_and_words(result, error) == (
        0.0,
        "Exercise 9.1: the test stopped with NameError: scaled is not defined\n",
    )


def test_an_observation_that_is_none_is_no_zero_and_no_points(stored):
    right = sent(lambda x: 3 * x)
    for outputs in ([], [right, right], [observation("{")], [observation("[" * 99_999)]):
        with pytest.raises(SubmissionError, match="exercise 9.1"):
            judge.scored(cell_of_a_test(), outputs)
    flat = {"shape": [2, 3], "values": [0.0] * 5}
    for part in (
        flat,
        {"shape": [-1], "values": []},
        {"shape": [1], "values": [10**400]},
        10**400,
        ["x"],
        {"error": 3},
    ):
        assert points_and_words(observation(json.dumps([{"value": part, "type": part, "manners": part}] * 2)))[0] == 0.0
    for text in ("[]", "{}", "3", '[{"value": 1}]', "[[]]"):
        assert points_and_words(observation(text))[0] == 0.0


def test_a_grader_that_fails_says_so(stored):
    stored.write_text('{"word": "another"}')
    with pytest.raises(judge.CannotGrade, match="KeyError"):
        judge.scored(cell_of_a_test(), [])
    with pytest.raises(judge.CannotGrade, match="test_scaled has no line points"):
        judge.scored(cell_of_a_test("4.0"), [])


def test_a_test_in_the_box_sets_up_again_and_names_nothing_of_the_teachers(stored):
    setup = nbformat.v4.new_code_cell("c = 1")
    setup.metadata["nbgrader"] = {"grade_id": "setup", "locked": True, "grade": False}
    boxed = judge.for_the_box(nbformat.v4.new_notebook(cells=[setup, cell_of_a_test()]))
    assert (
        boxed.cells[1].source.startswith("c = 1\n")
        and f"emit('a9_test', '9.1', scaled, 'here', {WORD!r})" in boxed.cells[1].source
    )
    assert "classroom" not in boxed.cells[1].source and "points" not in boxed.cells[1].source


def test_the_proof_sees_what_is_wrong_with_a_grader():
    bad = Solutions(
        reference=lambda c: lambda x: x * c.factor,
        right={"one": lambda c: lambda x: x * 2},
        wrong=[
            Wrong("adds", lambda c: lambda x: x + c.factor, 1, "this adds."),
            Wrong("right", lambda c: lambda x: 3 * x, 4),
            Wrong("as well", lambda c: lambda x: x + 3, 0, "this adds, too."),
        ],
    )
    complaints = proof.prove_task(ASSIGNMENT, "9.1", bad)
    for expected in (
        "1 right answers beside the reference, two are needed",
        "right answer 'one'",
        "wrong answer 'adds' keeps 1 as stated, but",
        "wrong answer 'right' loses nothing",
        "wrong answer 'as well' is told: this adds.",
    ):
        assert any(expected in line for line in complaints), expected


def test_what_was_stored_for_another_edition_grades_nobody(stored, monkeypatch):
    later = dataclasses.replace(ASSIGNMENT, tasks={"9.1": dataclasses.replace(DOUBLE, edition=2)})
    monkeypatch.setattr(judge, "load", lambda name, cohort: later)
    with pytest.raises(judge.CannotGrade, match=r"exercise 9.1 .* install the version"):
        points_and_words(sent(lambda x: 3 * x))


def test_a_reference_that_is_too_slow_is_an_error_and_expected_of_nobody():
    slow = dataclasses.replace(SOLUTIONS, reference=lambda c: lambda x: time.sleep(2))
    with pytest.raises(RuntimeError, match=r"a9_test, exercise 9.1: the reference took longer than the 0.5 seconds"):
        task_expectations(ASSIGNMENT, "9.1", slow)


def test_a_task_that_changed_is_refused_by_name_and_the_others_work(capsys):
    """A release of before, shortened: 2.2 and 2.4 had other parts, 2.1 an output of another kind; 2.3 is as it was."""
    stored = checking.stored_checks("a2_lora_torch", "formative")
    before = {number: {"expected": task["expected"], "mistakes": []} for number, task in stored["tasks"].items()}
    parts = ("chosen", "inside", "frozen", "intact", "refused")
    before["2.2"] = {"expected": [dict.fromkeys(parts, "-")] * 3, "mistakes": []}
    before["2.4"] = {"expected": [dict.fromkeys(("keys", "values", "loads", "refuses"), "-")] * 2, "mistakes": []}
    check = checking.Checks(core.load("a2_lora_torch"), stored | {"tasks": before})
    c, solutions = check.assignment.constants, load_solutions("a2_lora_torch")
    check.dial(solutions["2.3"].reference(c))
    assert "2.3: correct" in capsys.readouterr().out
    for number in ("2.1", "2.2", "2.4"):
        task = check.assignment.tasks[number]
        with pytest.raises(ValueError, match=f"exercise {number}, {task.name}, .* install the version"):
            getattr(check, task.name)(solutions[number].reference(c))


def test_a_mistake_is_recognized_with_bad_manners_besides_and_in_one_part():
    def seen(a, b, manners="good"):
        return [{"a": comparing.plain(a), "b": comparing.plain(b), "manners": manners}]

    a, b = [1.0, 2, 3, 4, 5, 6], [7.0, 8, 9, 10, 11, 12]
    twice = {
        "sentence": "this is twice too large.",
        "see": "",
        "observed": seen([2 * v for v in a], [2 * v for v in b]),
    }
    stored = {"expected": seen(a, b), "mistakes": [twice]}

    def said(got):
        return verdict.explanation(got, stored, 1e-5)

    both = said(seen([2 * v for v in a], [2 * v for v in b], "an input was changed"))
    assert both == "this is twice too large. case 1, manners: an input was changed (expected: good)."
    assert said(seen(a, [2 * v for v in b])) == "b: this is twice too large."
    assert said(seen(a, [0.0] * 6)) == "case 1, b: entry [5] should be 12, got 0. This is zero everywhere."
    assert said(seen(a, b, "an input was changed")) == "case 1, manners: an input was changed (expected: good)."
    stored["mistakes"] = [twice | {"observed": seen([2 * v for v in a], [3 * v for v in b])}, dict(twice)]
    stored["mistakes"][1]["observed"] = seen([4 * v for v in a], [2 * v for v in b])
    assert said(seen([2 * v for v in a], [2 * v for v in b])) == "a: this is twice too large."  # once
    both = said(seen([0.0] * 6, b, "an input was changed"))  # each part that is wrong is explained
    assert both.startswith(
        "case 1, a: entry [5] should be 6, got 0. This is zero everywhere. case 1, manners: an input"
    )


def test_a_case_in_a_message_has_the_names_of_its_parts():
    case = (np.ones((2, 3)), 4, {"x": 1})
    assert checking.described(case, ["x", "rank", "state"]) == "x (2, 3), rank 4, state {'x': 1}"
    assert checking.described(case[:2], []) == "array of shape (2, 3), 4"
