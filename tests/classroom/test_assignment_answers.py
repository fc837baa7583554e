"""Answers that nobody had foreseen, judged as the text of their exercise says, and told nothing that is false.

`points` looks at cases that are drawn here, `said` is the visible check of the practice version. At the end what
assignment 3 says about its format, held against the format.
"""

import itertools
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from classroom import proof
from classroom.expecting import task_expectations, work
from classroom.solutions import load_solutions
from lora_course.assignments import a3_nf4, core
from lora_course.assignments.looking import observe_all, observe_case, silence
from lora_course.assignments.verdict import earned, judge
from lora_course.assignments.visible import stored_checks
from lora_edu import nf_codebook, quantize
from lora_edu.measures import relative_error

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
    return earned(*seen, task)


def said(number, make):
    """What the check of the practice version says."""
    name = NAMES[number[0]]
    return proof.what_the_check_says(core.load(name), number, make, stored_checks(name, "formative")["tasks"][number])


def right(number):
    return load_solutions(NAMES[number[0]])[number].reference


# --- what an answer loses ---------------------------------------------------------------------------------------------


def table_of_shapes(c):
    """Right in the cases that were seen once, whatever the numbers."""
    rank, task = right("1.1")(c), core.load("a1_lora_numpy").tasks["1.1"]
    table = {matrix.shape: rank(matrix) for (matrix,) in task.cases(c, np.random.default_rng(1))}
    return lambda matrix: table.get(matrix.shape, 1)


# number, the answer, or what is edited in the right one; what it loses
LOSES = [
    ("1.1", table_of_shapes, {"rank", "inputs"}),
    ("2.3", ".copy_(layer.first_weight.float() -> .data = (layer.first_weight.float()", {"back", "rounding"}),
    # takes off what the turn before put on: right in float32, up to rounding
    ("2.3", "layer.first_weight.float() + strength * update) -> layer.base.weight.float() + strength * update "
            "- getattr(layer, 'old', 0) / 3 * (3 * update)); layer.old = strength", {"back"}),
    ("3.2", "scaled = -> values.view(-1, block_size); scaled =", {"codes"}),  # it stops where the last block is short
    ("4.5", "return leaked, -> return torch.isin(torch.arange(16), torch.tensor(leaked).long()),", {"leaked"}),
    ("4.5", "[row for row, x in enumerate(test) if x in training] -> []", {"leaked", "clean"}),
]  # fmt: skip


# B A formed where torch counts nothing; and the same outside of torch, without B A
FORWARD, X, FACTORS = "scaling * (x @ A.T) @ B.T", "x.detach().numpy()", "(B.detach().numpy() @ A.detach().numpy())"
BESIDE_X = f"torch.from_numpy({X} @ A.detach().numpy().T @ B.detach().numpy().T)"
LOSES += [
    ("4.3", f"{FORWARD} -> torch.from_numpy(({X} @ {FACTORS}.T)) * scaling", {"products"}),
    ("4.3", f"{FORWARD} -> scaling * {BESIDE_X}", set()),
]


@pytest.mark.parametrize(("number", "answer", "lost"), LOSES)
def test_an_answer_loses_the_parts_that_the_text_says(number, answer, lost):
    make = right(number).edited(answer) if isinstance(answer, str) else answer
    assert {part for part, value in points(number, make).items() if not value} == lost


UPDATE, SUM = "update = layer.scaling", "layer.first_weight.float() + strength * update"
UNFORESEEN = [
    ("2.3", f"{UPDATE} -> update = layer.scaling / 2", 2),
    ("2.3", f"{SUM} -> layer.first_weight.float() - strength * update", 2),
    ("2.3", f"{SUM} -> 99 * strength * update", 0),  # without the weight: a product of two inputs
    ("4.2", "c.reach * block -> 1 / c.reach * block", 2),
    ("4.2", "c.reach * block.abs().max() -> c.reach * absmax.max()", 2),
    ("4.2", "torch.stack(scales), offset -> 0 * torch.stack(scales), 2 * offset", 3),  # codes and storage
    (
        "4.2",
        "return torch.cat(codes) -> codes, scales = [torch.arange(len(absmax))], [absmax[0]]; return torch.cat(codes)",
        0,
    ),
]


@pytest.mark.parametrize(("number", "change", "kept"), UNFORESEEN)
def test_an_unforeseen_mistake_keeps_what_is_right_beside_it(number, change, kept):
    assignment, solutions = core.load(NAMES[number[0]]), load_solutions(NAMES[number[0]])[number]
    visible, hidden = (task_expectations(assignment, number, solutions, word) for word in (core.VISIBLE, "hidden"))
    hidden["work"] = work(assignment, number, solutions, "hidden", visible)
    got = observe_all(assignment, number, right(number).edited(change)(assignment.constants), "hidden")
    assert judge(assignment.tasks[number], got, hidden)["points"] == kept


# --- what it is told --------------------------------------------------------------------------------------------------


# number, the answer, or what is edited in the right one; what is true of it, what is not
USED, STOPPED = "cannot be used: ValueError", "your answer stopped with ValueError"
TOLD = [
    ("1.2", lambda c: lambda M, r: (np.ones((len(M), r)), np.ones((r, M.shape[1]))), USED, STOPPED),
    ("1.2", lambda c: lambda M, r: np.ones(r) @ M @ M @ M, STOPPED, USED),
    ("2.2", lambda c: lambda *_: None, "nothing was replaced in the model that was given", "your answer stopped"),
    ("1.4", "A - lr * -> A - 0 * & c.ratio * lr -> 3 * lr", "A is where it was", "a step less"),
    ("2.1", "self.base = base -> nn.Linear(3, 3); self.base = base", "as nn.Linear does when it is", "sets the seed"),
    ("2.2", "modules = dict -> return []\n    modules = dict", "no adapter was put in", "pooler"),
    ("2.5", "reentrant = False -> reentrant, run.rate = False, run.rate * 1.5", "what was not wrong: rate", "entry ["),
    ("4.3", "ctx.save_for -> x @ decode(stored); ctx.save_for", "times as many as needed", "B A is formed"),
]


@pytest.mark.parametrize(("number", "answer", "true", "false"), TOLD)
def test_a_message_is_true(number, answer, true, false):
    text = said(number, right(number).edited(answer) if isinstance(answer, str) else answer)
    assert true in text and false not in text, text


# --- the format of assignment 3, for every cohort ---------------------------------------------------------------------

ANSWERS = {number: task.reference({}) for number, task in load_solutions("a3_nf4").items()}
quantile_codebook, encode, refit = ANSWERS.values()


def signed_constants(weight, block_size):
    return torch.stack([block[block.abs().argmax()] for block in weight.flatten().split(block_size)])


def decode(codes, constants, codebook, block_size, shape):
    return (codebook[codes.long()] * constants.repeat_interleave(block_size)[: len(codes)]).view(shape)


def drawn_constants() -> list[SimpleNamespace]:
    """Every set of constants that a cohort can have: found by drawing until nothing new comes."""
    rng, found = random.Random(0), {}
    for _ in range(8000):
        drawn = a3_nf4.draw(rng)
        found[tuple(drawn.values())] = SimpleNamespace(**drawn)
    assert len(found) == 4 * 4 * 5 * 3  # 3 bits, and 5 bits with 16 or 17 levels below 0
    return list(found.values())


def codebook_of(c):
    return torch.as_tensor(quantile_codebook(c.levels_below, c.levels_above, c.offset_below, c.offset_above)).float()


def restored(weight, codebook, c):
    constants = signed_constants(weight, c.block_size)
    codes = encode(weight, constants, codebook, c.block_size)
    return codes, decode(codes, constants, codebook, c.block_size, weight.shape)


@pytest.fixture(scope="module")
def weight():
    return torch.randn(60, 250, generator=torch.Generator().manual_seed(0))


def test_the_format_beats_the_packages_codebook_of_as_many_bits_for_every_cohort(weight):
    library = {
        (bits, size): relative_error(weight, quantize(weight, f"nf{bits}", size).dequantize())
        for bits, size in itertools.product((3, 5), (24, 40, 48, 56, 80))
    }
    for c in drawn_constants():
        assert c.offset_below < c.offset_above and c.levels_below > c.levels_above
        assert relative_error(weight, restored(weight, codebook_of(c), c)[1]) < library[c.bits, c.block_size], c


def test_the_claim_of_the_control_is_refuted_by_the_sign_alone(weight):
    """What the rubric says: with the library's codebook the sign changes nothing; the rest of the gap is block size."""
    for bits in (3, 5):
        c = next(c for c in drawn_constants() if c.bits == bits and c.block_size == 48)
        library = torch.as_tensor(nf_codebook(bits)).float()

        def error(codebook, block_size, signed):
            constants = signed_constants(weight if signed else weight.abs(), block_size)
            codes = encode(weight, constants, codebook, block_size)
            return relative_error(weight, decode(codes, constants, codebook, block_size, weight.shape))

        friends, ours = error(library, 4 * c.block_size, False), error(codebook_of(c), c.block_size, True)
        without, alone = error(library, c.block_size, False), error(library, c.block_size, True)
        assert abs(alone / without - 1) < 0.01 and ours < 0.98 * without
        assert (friends - without > without - ours) == (bits == 3)  # with 5 bits, blocks matter less
