"""The assignments' graders, proven: right answers lose nothing, wrong ones exactly what is stated."""

import pytest

from lora_edu.assignments import core
from lora_edu.classroom import proof
from lora_edu.classroom.solutions import load_solutions

NAMES = core.names()


@pytest.mark.parametrize("cohort", proof.COHORTS)
@pytest.mark.parametrize("name", NAMES)
def test_the_graders_are_right(name, cohort):
    assert proof.prove(name, cohort) == []


@pytest.mark.parametrize("name", NAMES)
def test_every_cohort_has_its_own_constants(name):
    drawn = {repr(core.constants(name, f"class-{i}")) for i in range(8)}
    assert len(drawn) > 1
    assert core.constants(name, "2026a") == core.constants(name, "2026a")


@pytest.mark.parametrize("name", NAMES)
def test_the_list_of_mistakes_names_some(name):
    for number, solutions in load_solutions(name).items():
        assert any(wrong.sentence for wrong in solutions.wrong), number
        assert len(solutions.wrong) >= 6, number
