"""The clinic of notebook 18: each run is sick as it says, other mends are accepted, what only looks mended is not.

The sick runs are those of the page's own cells.
"""

import json
import re

import pytest
import torch
from conftest import code_cell
from mended_runs import DODGES, MENDS, RETURN_7, run_of

from lora_course.checking.grading import WrongAnswer
from lora_course.nb18 import check, lab
from lora_course.nb18.check_doubts import broken_after_one_step
from lora_edu.lora import lora_layers

QUICK = {"somebody else's", "rate of zero", "copied by hand", "only B", "weighted means", "never divided"}
QUICK |= {"all rows, by another door", "left apart"}


def diagnosis(number):
    return getattr(check, f"run_{number}")


def letter(number):
    """Of the right cause."""
    return diagnosis(number).cause


def cases(those):
    """A case each, by name; what takes seconds of training waits for `make test-all`, but for one or two a run."""
    slow = pytest.mark.slow
    return [pytest.param(*case, id=f"{case[0]} {case[1]}", marks=[slow] * (case[1] not in QUICK)) for case in those]


def refused(number, cause, mended):
    with pytest.raises(WrongAnswer) as error:
        diagnosis(number)(cause, mended)
    return str(error.value)


def seen(number):
    """The sick run, run once for all tests."""
    if number not in lab.KEPT:
        lab.see(number, run_of(number))
    return lab.KEPT[number]


@pytest.mark.parametrize(("number", "name", "pieces"), cases(MENDS))
def test_another_honest_mend_is_accepted(number, name, pieces, capsys):
    diagnosis(number)(letter(number), run_of(number, pieces))
    assert capsys.readouterr().out == f"Exercise 18.{number}: correct\n"


@pytest.mark.parametrize(("number", "name", "pieces", "said"), cases(DODGES))
def test_what_only_looks_mended_is_not(number, name, pieces, said):
    with pytest.raises((WrongAnswer, KeyError)) as error:
        diagnosis(number)(letter(number), run_of(number, pieces))
    assert said in str(error.value)


SLOW = [pytest.param(number, marks=[pytest.mark.slow] * (number not in (3, 6))) for number in range(1, 9)]


NUMBERS = {
    1: "0 of its 73,728 numbers have left it",
    2: "With its adapter off it has 2.68 held out. The log begins, B still 0, with 7.2",
    3: "Trained it had 1.605. 73,728 of 73,728 numbers of B are not 0 in the file, 0 here",
    4: "numbers of A and B, in torch.float16, are not finite",
    5: "The chance of END where a speech ends: ",
    6: "have a cosine of 0.8",
    7: "147,456 of 147,456 numbers of A and B came back, equal in every bit; at strength 0, 0.5, 2 and 1 it has 2.68",
    8: "Apart it had 2.50",
}


@pytest.mark.parametrize("number", SLOW)
def test_the_sick_run_is_sick_and_a_wrong_cause_meets_its_number(number):
    kept, one = seen(number), "f"
    said = refused(number, one, None)
    assert said.startswith(f"Exercise 18.{number}: not this: {check.CAUSES[one]}. ") and NUMBERS[number] in said
    assert "the cause is right" in refused(number, letter(number), run_of(number))  # the sick run is no mend
    assert lab.KEPT[number] is kept  # and nothing was run again


def test_a_wrong_cause_is_answered_from_the_run_that_was_kept():
    """Another run of the same number, another sentence."""
    said = {refused(3, "i", None) for _ in range(2) if seen(3)}
    lab.KEPT[3].facts["trained"] = 1.234
    assert "1.234" in refused(3, "i", None) and len(said) == 1
    del lab.KEPT[3]
    assert "first run the cell of the sick run" in refused(3, "i", None)


def test_a_stub_and_a_slip(capsys):
    check.run_3(..., lambda folder: ...)
    assert capsys.readouterr().out == "Exercise 18.3: not done yet\n"
    assert "is no letter of the list, which goes from a to m" in refused(3, "z", None)
    assert "returns `...` yet" in refused(3, letter(3).upper(), lambda folder: ...)
    assert "did you forget `return`?" in refused(3, letter(3), lambda folder: None)


def test_a_log_falls_in_four_of_the_five_runs_that_train():
    """The claim of the page, of the stored outputs; of run 7, whose log it does not show, that it learns."""
    outputs = {n: "".join(json.dumps(code_cell("18_clinic", f"def sick_{n}(").outputs)) for n in (1, 2, 4, 5)}
    logs = {n: re.search(r"The log: (\d\.\d+)(?: -> |, )(\d\.\d+|nan)", text).groups() for n, text in outputs.items()}
    assert all(float(first) > float(last) for n, (first, last) in logs.items() if n != 4)
    assert logs[4][1] == "nan"


@pytest.mark.slow
def test_the_log_of_run_7_falls_too():
    log = run_of(7, {"    loop(": "    log = loop(", RETURN_7: "return log"})(0)
    assert sum(log[-5:]) < sum(log[:5]) - 0.5


@pytest.mark.slow
def test_a_float16_adapter_does_not_survive_a_step_at_any_rate():
    """What the page says of run 4: all of A is lost, whatever the rate."""
    assert all(broken_after_one_step(lr) > 73_728 for lr in (1e-5, 1e-2))


def test_where_the_true_ends_are_masked_no_label_asks_for_one():
    rows, lengths = next(lab.speeches())
    behind = torch.arange(rows.shape[1]) >= lengths[:, None]
    assert (rows[torch.arange(8), lengths - 1] == lab.END).all() and (rows[~behind] == lab.END).sum() == 8


def test_what_a_check_gives_is_not_what_the_reader_had():
    for number in (3, 6, 8):
        one, other = lab.given(number, 0), lab.given(number, 1)
        assert not any(first is second for first, second in zip(one, other, strict=True))
    strengths = [next(iter(lora_layers(lab.given(8, draw)[0]).values())).scaling for draw in (0, 1)]
    assert strengths == pytest.approx([0.2, 0.24])
