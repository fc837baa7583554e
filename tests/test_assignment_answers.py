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
    rank, task = right("1.1")(c), core.load("a1_lora_numpy").tasks["1.1"]
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


def edited(number, change):
    return right(number).edited(change)


# number, the answer, what it loses
LOSES = {
    "a table of shapes": ("1.1", table_of_shapes, {"rank", "inputs"}),
    "the base in float32": ("2.3", base_in_float32, {"back", "rounding"}),
    "an incremental dial": ("2.3", incremental_dial, {"back"}),
    "`view`, which stops where the last block is short": (
        "3.2",
        edited("3.2", "scaled = -> values.view(-1, block_size); scaled ="),
        {"codes"},
    ),
    "the right rows, in another type": (
        "4.5",
        edited("4.5", "return leaked, -> return torch.isin(torch.arange(16), torch.tensor(leaked).long()),"),
        {"leaked"},
    ),
    "a helper that finds no row": (
        "4.5",
        edited("4.5", "[row for row, x in enumerate(test) if x in training] -> []"),
        {"leaked", "clean"},
    ),
    "a second merge": ("1.3", named("1.3", "a second merge undoes the first").make, {"twice"}),
    "sizes compared": ("2.4", named("2.4", "sizes compared").make, {"refuses"}),
    "the guard of an absmax": ("3.2", named("3.2", "the guard of an absmax").make, {"codes"}),
}


@pytest.mark.parametrize(("number", "make", "lost"), LOSES.values(), ids=LOSES)
def test_an_answer_loses_the_parts_that_the_text_says(number, make, lost):
    assert {part for part, value in points(number, make).items() if not value} == lost


@pytest.mark.parametrize("number, name", [("2.5", "a repaired copy"), ("4.5", "tensors, a repaired copy")])
def test_a_repair_may_return_a_copy_and_the_text_says_so(number, name):
    assert all(points(number, load_solutions(NAMES[number[0]])[number].right[name]).values())
    assert re.search(r"mended\s+copy over with `return` is judged by that copy", statement(number))


# --- what it is told --------------------------------------------------------------------------------------------------


# what is done: number, the edit, what is true of it, what is not
TOLD = {
    "only B moves": ("1.4", "A - lr * -> A - 0 * & c.ratio * lr -> 3 * lr", "A is where it was", "a step less"),
    "a discarded layer": (
        "2.1",
        "self.base = base -> nn.Linear(3, 3); self.base = base",
        "as nn.Linear does when it is built",
        "this sets the seed",
    ),
    "an empty list": ("2.2", "modules = dict -> return []\n    modules = dict", "no adapter was put in", "pooler"),
    "another rate": (
        "2.5",
        "run.reentrant = False -> run.reentrant, run.rate = False, run.rate * 1.5",
        "what was not wrong: rate",
        "entry [",
    ),
    "the product twice": (
        "4.3",
        "ctx.save_for_backward(x, -> x @ decode(stored); ctx.save_for_backward(x,",
        "times as many as needed",
        "B A is formed",
    ),
}


@pytest.mark.parametrize(("number", "change", "true", "false"), TOLD.values(), ids=TOLD)
def test_a_message_is_true(number, change, true, false):
    text = said(number, edited(number, change))
    assert true in text and false not in text, text
