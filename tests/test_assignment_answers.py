"""Answers that nobody had foreseen, judged as the text of their exercise says, and told nothing that is false.

`points` looks at cases that are drawn here, `said` is the visible check of the practice version.
"""

import json
import re

import numpy as np
import pytest
import torch
from torch import nn

from classroom.graders import a1_adapters, a2_dial, a2_layer, a2_runs, a3_codes, a4_qlora_layers, a4_qlora_tuning
from classroom.graders import a4_studies as studies
from classroom.graders.a1_training import _with as trained_with
from classroom.graders.a2_inject import injected
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
    for maker in (make, load_solutions(assignment.name)[number].reference):
        with silence():
            cases = task.cases(c, np.random.default_rng(seed))
            seen.append([observe_case(task, c, maker(c), case) for case in cases])
    return earned(*seen, task.parts, task.tolerance)


def said(number, make):
    assignment = core.load(NAMES[number[0]])
    got = observe_all(assignment, number, make(assignment.constants), "visible")
    stored = stored_checks(assignment.name, "formative")["tasks"][number]
    return explanation(got, stored, assignment.tasks[number].tolerance)


def statement(number):
    name = NAMES[number[0]]
    cells = json.loads((practice_folder(name) / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    start = next(i for i, text in enumerate(texts) if f"Exercise {number} " in text)
    return "\n".join(texts[start : start + 2])


# --- what an answer loses ---------------------------------------------------------------------------------------------


def three_functions(c):
    """Classes inside the function, some kilobytes of Python each."""

    def qlora_layer(x, stored, decode, lora_A, lora_B, alpha):
        s, rows = alpha / len(lora_A) ** c.power, a4_qlora_layers.rows

        class Base(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, stored):
                ctx.save_for_backward(stored)
                return x @ decode(stored)

            @staticmethod
            def backward(ctx, grad_y):
                return grad_y @ decode(*ctx.saved_tensors).T, None

        class Branch(torch.autograd.Function):
            @staticmethod
            def forward(ctx, x, A, B):
                ctx.save_for_backward(x, A, B)
                return s * (x @ A.T) @ B.T

            @staticmethod
            def backward(ctx, grad_y):
                x, A, B = ctx.saved_tensors
                G = s * grad_y
                return G @ B @ A, rows(G @ B).T @ rows(x), rows(G).T @ rows(x @ A.T)

        class Sum(torch.autograd.Function):
            @staticmethod
            def forward(ctx, one, other):
                return one + other

            @staticmethod
            def backward(ctx, grad_y):
                return grad_y, grad_y

        return Sum.apply(Base.apply(x, stored), Branch.apply(x, lora_A, lora_B))

    return qlora_layer


def table_of_shapes(c):
    """Right in the cases that were seen once, whatever the numbers."""
    task = core.load("a1_lora_numpy").tasks["1.1"]
    right = load_solutions("a1_lora_numpy")["1.1"].reference(c)
    table = {matrix.shape: right(matrix) for (matrix,) in task.cases(c, np.random.default_rng(1))}
    return lambda matrix: table.get(matrix.shape, 1)


def base_in_float32(c):
    def dial(layer, strength):
        if not hasattr(layer, "first"):
            layer.first = layer.base.weight.detach().clone()
        layer.base.weight.data = layer.first.float() + strength * a2_dial._change(layer).detach()

    return dial


def in_whole_blocks(c):
    """`view`, which stops where the last block is short."""

    def encode(values, constants, codebook, block_size):
        scaled = values.reshape(-1, block_size) / a3_codes.guarded(constants)[:, None]
        return a3_codes.nearest_code(scaled.flatten(), codebook)

    return encode


def mask_of_leaked_rows(c):
    """The right rows, in another type."""

    def review(study):
        taken, clean, best = studies.review(study)
        return torch.isin(torch.arange(16), torch.tensor(taken, dtype=torch.long)), clean, best

    return review, studies.repair


def none_leaked(c):
    """A helper that finds no row: what follows from it is measured on all rows."""

    def review(study):
        return [], *studies.review(study, clean=lambda study, taken: slice(None))[1:]

    return review, studies.repair


def changed_rate(c):
    def repair(run):
        a2_runs.repair(run)
        run.rate *= 1.5

    return a2_runs.evidence, repair


def incremental_dial(c):
    """Takes off what the turn before put on: right in float32, up to rounding."""

    @torch.no_grad()
    def dial(layer, strength):
        change, before = a2_dial._change(layer), getattr(layer, "strength", 0.0)
        layer.base.weight.copy_(layer.base.weight.float() + strength * change - before / 3 * (3 * change))
        layer.strength = strength

    return dial


up_alone = a2_runs._repair(a2_runs.repair_steps_up_alone)
CASES = {
    three_functions: ("4.3", set()),
    table_of_shapes: ("1.1", {"rank", "inputs"}),
    base_in_float32: ("2.3", {"back", "rounding"}),
    incremental_dial: ("2.3", {"back"}),
    in_whole_blocks: ("3.2", {"codes"}),
    mask_of_leaked_rows: ("4.5", {"leaked"}),
    none_leaked: ("4.5", {"leaked", "clean"}),
    changed_rate: ("2.5", {"base repaired", "adapters repaired"}),
    up_alone: ("2.5", {"adapters repaired"}),
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
    wrong = next(wrong for wrong in load_solutions(NAMES[number[0]])[number].wrong if wrong.name == name)
    assert {part for part, value in points(number, wrong.make).items() if not value} == lost


@pytest.mark.parametrize("number, name", [("2.5", "a repaired copy"), ("4.5", "masks, a repaired copy")])
def test_a_repair_may_return_a_copy_and_the_text_says_so(number, name):
    assert all(points(number, load_solutions(NAMES[number[0]])[number].right[name]).values())
    assert re.search(r"mended\s+copy over with `return` is judged by that copy", statement(number))


def test_a_part_that_counts_beside_another_says_so():
    assert re.search(r"`storage`.*counts only with another part", statement("4.2"))
    assert re.search(r"`chosen`.*counts, like `inside`, only with", statement("2.2"))


# --- what it is told --------------------------------------------------------------------------------------------------


def discarded_linear(c):
    class Layer(a2_layer.Layer):
        def __init__(self, *arguments):
            super().__init__(c, *arguments)
            nn.Linear(3, 3)

    return Layer


def product_twice(c):
    class Twice(a4_qlora_layers.DecodesTwice):
        @staticmethod
        def forward(ctx, x, stored, decode, *others):
            x @ decode(stored)
            return a4_qlora_layers.DecodesTwice.forward(ctx, x, stored, decode, *others)

    return a4_qlora_layers.applied(Twice)(c)


def other_names(c):
    """Adapters that the check does not find."""

    def fine_tune(*case):
        model = a4_qlora_tuning.tuned(c, *case)
        for layer in [module for module in model.modules() if hasattr(module, "lora_A")]:
            for name in ("A", "B"):
                layer.register_parameter(f"factor_{name}", layer._parameters.pop(f"lora_{name}"))
        return model

    return fine_tune


def flag_alone(c):
    return a1_adapters._changed(unmerge=a1_adapters._clear_the_flag)(c)


def three_results(c):
    return lambda *case: (*trained_with()(c)(*case), 0.0)


def only_B_moves(c):
    return trained_with(rates=lambda lr, ratio: (0, 3 * lr))(c)


def no_match_accepted(c):
    return injected(refuse="twice")(c)


def empty_list(c):
    return lambda model, wrapper, rank, alpha: []


def empty_list_of_a_right_injection(c):
    right = injected()(c)
    return lambda *case: right(*case)[:0]


@pytest.mark.parametrize(
    "number, make, true, false",
    [
        ("1.3", flag_alone, "leaves the update in the weight", "merging twice adds"),
        ("1.4", only_B_moves, "A is where it was", "a step less"),
        ("1.4", three_results, "2 results are asked for, in this order: A, B; there are 3", "locals"),
        ("2.1", discarded_linear, "as nn.Linear does when it is built", "this sets the seed"),
        ("2.2", no_match_accepted, "the rule chooses nothing is not refused", "pooler"),
        ("2.2", empty_list, "no adapter was put in", "pooler"),
        ("2.2", empty_list_of_a_right_injection, "returned was nothing", "pooler"),
        ("2.5", changed_rate, "the rate", "entry ["),
        ("2.5", up_alone, "`down` stays", "correct"),
        ("4.3", product_twice, "times as many as needed", "B A is formed"),
        ("4.4", other_names, "no parameter has a name that ends in lora_A", "zero"),
    ],
)
def test_a_message_is_true(number, make, true, false):
    text = said(number, make)
    assert true in text and false not in text, text
