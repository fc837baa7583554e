"""What a wrong answer keeps: each part that the table of its exercise promises it, and what it is told.

The answers are edits of the right ones. They are graded as in the box, on hidden cases.
"""

import functools

import pytest

from classroom.expecting import task_expectations, work
from classroom.proof import what_the_check_says
from classroom.solutions import load_solutions
from lora_course.assignments import core
from lora_course.assignments.looking import observe_all
from lora_course.assignments.verdict import earned

NAMES = {"1": "a1_lora_numpy", "2": "a2_lora_torch", "3": "a3_nf4", "4": "a4_qlora"}


@functools.cache
def expected(number):
    """The assignment, what the visible check expects, and what the grade does."""
    assignment, solutions = core.load(NAMES[number[0]]), load_solutions(NAMES[number[0]])[number]
    visible, hidden = (task_expectations(assignment, number, solutions, word) for word in (core.VISIBLE, "hidden"))
    hidden["work"] = work(assignment, number, solutions, "hidden", visible)
    return assignment, visible, hidden


def answer(number, change):
    """The right answer with this edit, or another one."""
    return load_solutions(NAMES[number[0]])[number].reference.edited(change) if isinstance(change, str) else change


def kept(number, change):
    """The parts that earn their points."""
    assignment, _, hidden = expected(number)
    got = observe_all(assignment, number, answer(number, change)(assignment.constants), "hidden")
    points = earned(got, hidden["expected"], assignment.tasks[number], hidden["work"])
    return {part for part, value in points.items() if value}


def said(number, change):
    """What the visible check says."""
    assignment, visible, _ = expected(number)
    return what_the_check_says(assignment, number, answer(number, change), visible)


# --- 2.4: a file is loaded, and what does not fit is not refused ------------------------------------------------------

NAMES_COMPARED, ALPHA_COMPARED = "tensors.keys() != slots.keys()", "if any(layer.alpha != alpha"
SHAPES_COMPARED = "if tensors[name].shape != slot.shape"
NOTHING_REFUSED = (
    f"if {NAMES_COMPARED} -> if False & {SHAPES_COMPARED} -> if False & {ALPHA_COMPARED} -> if False and any(False"
)
REFUSES = {
    "nothing": NOTHING_REFUSED,
    "another number of tensors": f"{NAMES_COMPARED} -> len(tensors) != len(slots) & {SHAPES_COMPARED} -> if False",
    "with assert": f"if {NAMES_COMPARED}: -> assert tensors.keys() == slots.keys()\n    if False:",
    "by KeyError": f"if {NAMES_COMPARED}: -> [tensors[name] for name in slots]\n    if False:",
}


@pytest.mark.parametrize("change", REFUSES.values(), ids=REFUSES)
def test_who_loads_a_file_keeps_that_point_whatever_is_refused(change):
    assert kept("2.4", change) == {"loads"}


# --- 2.2: the right layers, and another list of them ------------------------------------------------------------------

LISTED = {
    "in another order": "sorted(chosen)[::-1]",
    "the modules": "[modules[path] for path in chosen]",
    "nothing": "None",
    "a number": "len(chosen)",
}


@pytest.mark.parametrize("listed", LISTED.values(), ids=LISTED)
def test_another_list_of_the_right_layers_costs_what_is_about_the_list(listed):
    assert kept("2.2", f"return chosen -> return {listed}") == {"intact", "refused"}


def test_rank_and_alpha_exchanged_cost_no_more_than_the_layers():
    exchanged = "wrapper(modules[path], rank, alpha) -> wrapper(modules[path], alpha, rank)"
    assert kept("2.2", exchanged) == {"intact", "refused"}


def test_the_right_layers_count_alone():
    assert kept("2.2", "if not chosen: -> if False: & .train(model.training) -> .train()") == {"chosen", "inside"}


# --- 3.3: another constant, and an error that is right for it ---------------------------------------------------------

BEST = "(w * q).sum() / (q * q).sum().clamp(min=1e-30)"
CONSTANTS = {
    "the signed absmax": "w[w.abs().argmax()]",
    "the absmax": "w.abs().max()",
    "sum of w / sum of q": "torch.where(q.sum() == 0, 0, w.sum() / q.sum())",
    "sum of w q / sum of q": "torch.where(q.sum() == 0, 0, (w * q).sum() / q.sum())",
    "divided by the squares of w": "w @ q / w.norm() ** 2",
    "divided by how many there are": "(w * q).mean()",
    "the mean of w / q": "(w / q)[q != 0].mean().nan_to_num()",
    "the ratio of the norms": "w.norm() / q.norm().clamp(min=1e-30) * q.any()",
}


@pytest.mark.parametrize("formula", CONSTANTS.values(), ids=CONSTANTS)
def test_the_error_of_wrong_constants_counts_where_it_is_computed_right(formula):
    assert kept("3.3", f"{BEST} -> {formula}") == {"relative error", "safe"}
    text = said("3.3", f"{BEST} -> {formula}")
    assert "should be" not in text and "relative error" not in text, text


def test_a_wrong_constant_that_nobody_knows_keeps_the_error_as_well():
    assert kept("3.3", f"{BEST} -> 0.7 * {BEST} + 0.1") == {"relative error", "safe"}


def test_an_error_that_does_not_fit_its_own_constants_counts_for_nothing():
    wrong = f"{BEST} -> w.abs().max() & "
    assert kept("3.3", wrong + "(flat - rounded).norm() / flat.norm() -> (flat - rounded).norm()") == set()
    assert kept("3.3", wrong + "return constants, -> return 0 * constants, 1.0 or") == set()
    assert kept("3.3", f"return constants, -> return 0 * constants, {'1.0 + 0 *'}") == set()


@pytest.mark.parametrize("end", ["return constants; ", "return constants.tolist(); ", "return constants.numpy(); "])
def test_constants_alone_keep_their_points_and_are_told_what_is_missing(end):
    assert kept("3.3", f"return constants, -> {end}0,") == {"constants", "zeros", "safe"}
    text = said("3.3", f"return constants, -> {end}0,")
    assert "relative error: only the constants came back" in text and "constants:" not in text, text
