"""Answers that nobody had foreseen, judged as the text of their exercise says, and told nothing that is false.

`points` looks at cases that are drawn here, `said` is the visible check of the practice version.
"""

import json
import re

import numpy as np
import pytest
import torch

from classroom.solutions import load_solutions
from lora_edu.assignments import core
from lora_edu.assignments.checking import practice_folder, stored_checks
from lora_edu.assignments.observing import observe_all, observe_case, silence
from lora_edu.assignments.verdict import earned, explanation

NAMES = {"1": "a1_lora_numpy", "2": "a2_lora_torch", "3": "a3_nf4", "4": "a4_qlora"}


def points(number, make, seed=5):
    """What is left of each part; and that of the reference."""
    assignment = core.load(NAMES[number[0]])
    task, c = assignment.tasks[number], assignment.constants
    seen = []
    for maker in (make, right(number)):
        with silence():
            cases = task.cases(c, np.random.default_rng(seed))
            seen.append([observe_case(task, c, maker(c), case) for case in cases])
    return earned(*seen, task.parts, task.tolerance)


def said(number, make):
    assignment = core.load(NAMES[number[0]])
    got = observe_all(assignment, number, make(assignment.constants), "visible")
    stored = stored_checks(assignment.name, "formative")["tasks"][number]
    return explanation(got, stored, assignment.tasks[number].tolerance)


def named(number, name):
    return next(wrong for wrong in load_solutions(NAMES[number[0]])[number].wrong if wrong.name == name)


def right(number):
    return load_solutions(NAMES[number[0]])[number].reference


def statement(number):
    name = NAMES[number[0]]
    cells = json.loads((practice_folder(name) / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    start = next(i for i, text in enumerate(texts) if f"Exercise {number} " in text)
    return "\n".join(texts[start : start + 2])


# --- what an answer loses ---------------------------------------------------------------------------------------------


def table_of_shapes(c):
    """Right in the cases that were seen once, whatever the numbers."""
    task = core.load("a1_lora_numpy").tasks["1.1"]
    rank = right("1.1")(c)
    table = {matrix.shape: rank(matrix) for (matrix,) in task.cases(c, np.random.default_rng(1))}
    return lambda matrix: table.get(matrix.shape, 1)


def base_in_float32(c):
    def dial(layer, strength):
        if not hasattr(layer, "first"):
            layer.first = layer.base.weight.detach().clone()
        layer.base.weight.data = layer.first.float() + strength * (layer.scaling * layer.down @ layer.up).T.detach()

    return dial


def incremental_dial(c):
    """Takes off what the turn before put on: right in float32, up to rounding."""

    @torch.no_grad()
    def dial(layer, strength):
        change, before = layer.scaling * (layer.down @ layer.up).T, getattr(layer, "strength", 0.0)
        layer.base.weight.copy_(layer.base.weight.float() + strength * change - before / 3 * (3 * change))
        layer.strength = strength

    return dial


def in_whole_blocks(c):
    """`view`, which stops where the last block is short."""
    change = "scaled = -> values.view(-1, block_size); scaled ="
    return right("3.2").edited(change)(c)


def mask_of_leaked_rows(c):
    """The right rows, in another type."""
    change = "return leaked, -> return torch.isin(torch.arange(16), torch.tensor(leaked, dtype=torch.long)),"
    return right("4.5").edited(change)(c)


def none_leaked(c):
    """A helper that finds no row: what follows from it is measured on all rows."""
    return right("4.5").edited("[row for row, x in enumerate(test) if x in training] -> []")(c)


CASES = {
    table_of_shapes: ("1.1", {"rank", "inputs"}),
    base_in_float32: ("2.3", {"back", "rounding"}),
    incremental_dial: ("2.3", {"back"}),
    in_whole_blocks: ("3.2", {"codes"}),
    mask_of_leaked_rows: ("4.5", {"leaked"}),
    none_leaked: ("4.5", {"leaked", "clean"}),
}


@pytest.mark.parametrize("make", CASES, ids=lambda make: make.__name__)
def test_an_answer_loses_the_parts_that_the_text_says(make):
    number, lost = CASES[make]
    assert {part for part, value in points(number, make).items() if not value} == lost


@pytest.mark.parametrize(
    "number, name, lost",
    [
        ("1.3", "a second merge undoes the first", {"twice"}),
        ("2.4", "sizes compared", {"refuses"}),
        ("3.2", "the guard of an absmax", {"codes"}),
    ],
)
def test_a_mistake_costs_the_part_that_it_is_about(number, name, lost):
    assert {part for part, value in points(number, named(number, name).make).items() if not value} == lost


@pytest.mark.parametrize("number, name", [("2.5", "a repaired copy"), ("4.5", "tensors, a repaired copy")])
def test_a_repair_may_return_a_copy_and_the_text_says_so(number, name):
    assert all(points(number, load_solutions(NAMES[number[0]])[number].right[name]).values())
    assert re.search(r"mended\s+copy over with `return` is judged by that copy", statement(number))


def test_a_part_that_counts_beside_another_says_so():
    assert re.search(r"`storage`.*counts only with another part", statement("4.2"))
    assert re.search(r"`chosen`.*counts, like `inside`, only with", statement("2.2"))


# --- what it is told --------------------------------------------------------------------------------------------------


EDITS = {
    "only B moves": ("1.4", "A - lr * -> A - 0 * & c.ratio * lr -> 3 * lr"),
    "a discarded linear layer": ("2.1", "self.base = base -> nn.Linear(3, 3); self.base = base"),
    "an empty list, and nothing done": ("2.2", "modules = dict -> return []\n    modules = dict"),
    "another rate": ("2.5", "run.reentrant = False -> run.reentrant, run.rate = False, run.rate * 1.5"),
    "the product twice": ("4.3", "ctx.save_for_backward(x, -> x @ decode(stored); ctx.save_for_backward(x,"),
}  # fmt: skip


@pytest.mark.parametrize(
    "edit, true, false",
    [
        ("only B moves", "A is where it was", "a step less"),
        ("a discarded linear layer", "as nn.Linear does when it is built", "this sets the seed"),
        ("an empty list, and nothing done", "no adapter was put in", "pooler"),
        ("another rate", "what was not wrong: rate", "entry ["),
        ("the product twice", "times as many as needed", "B A is formed"),
    ],
)
def test_a_message_is_true(edit, true, false):
    number, change = EDITS[edit]
    text = said(number, right(number).edited(change))
    assert true in text and false not in text, text
